//! What both sides of HTTP/2 share, over the protocol's own crate `h2`.
//!
//! | file | its part |
//! |---|---|
//! | `incoming` | a body that comes on a stream |
//! | `outgoing` | a body that goes out on a stream, as fast as the peer takes it |
//! | `keep_alive` | pings |
//! | `tunnel` | a stream as bytes in both directions |
//! | `wire` | the bytes of a connection |
//!
//! Why not hyper's layer: it moves each request through a task and two channels on the way up, and through
//! futures of kilobytes on the way down. `h2` lets the one who waits for a stream poll it.

pub mod incoming;
pub mod keep_alive;
pub mod outgoing;
pub mod tunnel;
pub mod wire;

pub use incoming::Incoming;
pub use keep_alive::KeepAlive;
pub use outgoing::{Outgoing, Patient, Stopped};
pub use tunnel::TunnelStream;
pub use wire::{Seen, Wire};

/// The longest frame that we take, which is the shortest limit there may be: what waits behind a frame on the
/// same connection waits less.
pub const MAX_FRAME: u32 = 16 << 10;

/// Streams of one connection that we reset because of what the peer did wrong on them. Then the peer is told
/// to go away.
pub const MAX_ERROR_RESETS: usize = 1024;
