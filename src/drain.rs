//! Stopping without losing a request. Control moves through the phases; each connection follows.

use std::time::Duration;

/// How far the proxy is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// `/ready` fails, so that the others stop sending; everything is still answered.
    Lingering,
    /// What comes in over inbound connections is answered with `Connection: close`, GOAWAY goes out.
    ClosingInbound,
    /// The same for the app's own calls, which go on for as long as it may still answer others.
    ClosingAll,
    /// Time is up: what is left is cut.
    Cut,
}

/// How long a connection may stay idle after its side began to close. A client that is using it gets
/// its next answer with `Connection: close` meanwhile, instead of a reset in the moment it writes.
pub const CLOSE_IDLE_AFTER: Duration = Duration::from_millis(500);
