mod framing;
mod head;
mod io;
mod names;
mod properties;
