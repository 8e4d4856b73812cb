//! The one place where the time is read. What decides gets it as an argument, which is what makes
//! the decisions testable and tokio's paused time dependable.

use std::cell::Cell;
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

/// The wall-clock time of `now`, which is the present or close to it. The wall clock is asked once a
/// second, so that it is followed when it is set.
pub fn wall_at(now: Instant) -> SystemTime {
    const ASK_AFTER: Duration = Duration::from_secs(1);
    thread_local! {
        static ASKED: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }
    let fresh = |(at, _): &(Instant, SystemTime)| now.saturating_duration_since(*at) < ASK_AFTER;
    let (at, wall) = ASKED.get().filter(fresh).unwrap_or_else(|| {
        let asked = (now, wall());
        ASKED.set(Some(asked));
        asked
    });
    wall + now.saturating_duration_since(at)
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
