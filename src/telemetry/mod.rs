//! What Pilotfish tells about its work: metrics, access log, trace context.
//!
//! | file | holds |
//! |---|---|
//! | `trace` | reading and writing of trace contexts; pure |
//! | `flags` | the response flags |
//! | `access_log` | one record as a line of text or JSON; pure |
//! | `worker_log` | a worker's side of the log: lines into batches |
//! | `log_writer` | the thread that owns the log's file |
//! | `decisions` | what is said of ejections and of shadow mode |
//! | `metrics` | a shard of series a worker, gathered on control |

pub mod access_log;
mod decisions;
pub mod flags;
pub mod log_writer;
pub mod metrics;
pub mod picks;
pub mod trace;
pub mod worker_log;

/// The side of the app that a connection or request is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From others to the app; a gateway's requests too.
    Inbound,
    /// From the app to others.
    Outbound,
}

impl Direction {
    /// Both, in the order of [`Direction::index`].
    pub const ALL: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

    /// The value of the label `direction` and of the log's key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }

    /// A place in a table of two.
    pub const fn index(self) -> usize {
        self as usize
    }
}
