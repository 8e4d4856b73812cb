//! The one place where the time is read. What decides gets it as an argument, which is what makes
//! the decisions testable and tokio's paused time dependable.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

pub use tokio::time::Instant;

use crate::endpoint::Nanos;

/// Monotonic time. Follows tokio's paused clock in tests.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time: only for what people read (logs) and what the wall clock rules (certificates).
#[allow(clippy::disallowed_methods)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Time since a fixed instant of this process, for atomics that cannot hold an `Instant`.
pub fn since_start(now: Instant) -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    // An hour of head start: an instant taken just before the first call stays positive.
    const HEAD_START: Duration = Duration::from_secs(3600);
    HEAD_START + now.saturating_duration_since(*ORIGIN.get_or_init(|| now))
}

/// `now` for the atomics of an endpoint.
pub fn nanos(now: Instant) -> Nanos {
    Nanos(u64::try_from(since_start(now).as_nanos()).unwrap_or(u64::MAX))
}
