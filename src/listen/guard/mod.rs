//! Stands between a client's socket and hyper's HTTP/1 server and follows the framing of what the
//! client sends. hyper overlooks what smugglers use (a Content-Length beside a Transfer-Encoding,
//! bare LF, a missing Host) and answers some errors by itself; here each head is judged before hyper
//! sees a byte of it, and a refused one reaches the service as an ordinary call that knows why.
//!
//! `head`, `chunked` and `framing` decide and do no I/O; `io` does what they say.
//!
//! It also keeps the upper and lower case of field names, which hyper does at a price: `shared` has
//! the names of each request for the service, and `answers` writes heads with those that the service
//! asks for.

mod answers;
mod chunked;
mod framing;
mod head;
mod io;
mod rejection;
mod shared;
mod syntax;
mod timer;

#[cfg(test)]
mod tests;

pub use framing::{Messages, Scan, Stop};
pub use head::{Framing, Head, HeadLimits, check};
pub use io::GuardedIo;
pub use rejection::Rejection;
pub use shared::{RequestLine, Shared};
