//! What governs a request besides where it goes: one file a policy.
//!
//! A request meets them in this order, and `proxy::handle` is where the order is written down:
//! the limit of the body, the headers on the way in, the timeouts around each attempt, the budget of
//! what is sent again, the headers on the way out.

pub mod breaker;
mod budget;
mod condition;
pub mod deadline;
mod header_ops;
mod mode;
pub mod outlier;
pub mod retry;

use std::time::Duration;

pub use budget::{Budget, BudgetLimits};
pub use condition::{Conditions, End, GRPC_NAMES};
pub use header_ops::HeaderOps;
pub use mode::{Mode, Would};
pub use retry::Retry;

/// The policy of one route towards one service, every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub retry: Retry,
    /// Longest request body in bytes.
    pub max_body: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the head of the response.
    pub request: Option<Duration>,
    pub connect: Duration,
    /// Longest silence of a body, in either direction.
    pub stream_idle: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeouts: Timeouts {
                request: Some(Duration::from_secs(15)),
                connect: Duration::from_secs(1),
                stream_idle: Some(Duration::from_secs(300)),
            },
            retry: Retry::default(),
            max_body: None,
        }
    }
}
