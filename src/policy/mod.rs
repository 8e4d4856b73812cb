//! What governs a request besides where it goes: one file a policy.
//!
//! A request meets them in this order, and `proxy::handle` is where the order is written down:
//! the rate limits, before anything is spent on it; the limit of the body; whether the proxy itself has enough for it (`shed`), before anything is done for it;
//! the headers on the way in; faults on purpose, which stand for the service and so come before what guards
//! the service; the bulkhead of the service, so that what waits there waits once for all attempts; the
//! timeouts around each attempt and the bulkhead of its endpoint; the budget of what is sent again, by a
//! retry or a hedge; the fallback, which sees all that went wrong before; the headers on the way out.

pub mod adaptive;
pub mod breaker;
mod budget;
pub mod bulkhead;
pub mod codel;
mod condition;
pub mod deadline;
pub mod fallback;
pub mod fault;
mod header_ops;
pub mod health;
pub mod hedge;
pub mod mirror;
mod mode;
pub mod outlier;
pub mod percentile;
mod priority;
mod queue;
pub mod rate_limit;
pub mod retry;
pub mod shed;
pub mod slots;
pub mod slow_start;

use std::sync::Arc;
use std::time::Duration;

pub use budget::{Budget, BudgetLimits};
pub use bulkhead::{Bulkhead, BulkheadLimits};
pub use condition::{Conditions, End, GRPC_NAMES};
pub use deadline::Deadline;
pub use fallback::Fallback;
pub use fault::Fault;
pub use header_ops::HeaderOps;
pub use hedge::Hedge;
pub use mirror::Mirror;
pub use mode::{Mode, Would};
pub use priority::PriorityOf;
pub use rate_limit::RateLimit;
pub use retry::Retry;
pub use slow_start::SlowStart;

/// The policy of one route towards one service, every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub deadline: Deadline,
    pub retry: Retry,
    /// Not waiting for a slow answer alone.
    pub hedge: Option<Arc<Hedge>>,
    /// Longest request body in bytes.
    pub max_body: Option<u64>,
    pub priority: PriorityOf,
    pub fault: Option<Arc<Fault>>,
    pub fallback: Option<Arc<Fallback>>,
    pub mirror: Option<Arc<Mirror>>,
    /// All of them hold, in this order. Without one there is nothing.
    pub rate_limits: Option<Arc<[Arc<RateLimit>]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Of `request`, `stream_idle` and the timeout of an attempt. To connect is always bounded.
    pub mode: Mode,
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
                mode: Mode::Enforce,
                request: Some(Duration::from_secs(15)),
                connect: Duration::from_secs(1),
                stream_idle: Some(Duration::from_secs(300)),
            },
            deadline: Deadline::default(),
            retry: Retry::default(),
            hedge: None,
            max_body: None,
            priority: PriorityOf::default(),
            fault: None,
            fallback: None,
            mirror: None,
            rate_limits: None,
        }
    }
}
