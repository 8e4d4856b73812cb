mod framing;
mod head;
mod io;
mod properties;
