//! The one place where the time is read. What decides gets it as an argument, which is what makes
//! the decisions testable and tokio's paused time dependable.

use std::cell::Cell;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tokio::time::{self, Sleep};

/// An instant of monotonic time: nanoseconds since a fixed one of this process, the same for all workers. One
/// word, so that it fits atomics and is quick to reckon with; it lasts for 584 years. What would leave that range
/// stays at its end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to `self`; zero if it is the later one, as another worker may be a little ahead.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The instant that is so long after the first one.
impl From<Duration> for Instant {
    fn from(since_start: Duration) -> Self {
        let seconds = since_start.as_secs().saturating_mul(NANOS_PER_SECOND);
        Self(seconds.saturating_add(u64::from(since_start.subsec_nanos())))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(Self::from(later).0))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from(earlier).0))
    }
}

/// As [`Instant::saturating_duration_since`].
impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A month of head start: 0 is before all there was, an instant taken just before the first call stays positive, and
/// what the disk has of an earlier life was told at an instant too.
const HEAD_START: Instant = Instant(30 * 24 * 3600 * NANOS_PER_SECOND);

/// The first one that was asked for.
fn origin() -> time::Instant {
    static ORIGIN: OnceLock<time::Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods)]
    *ORIGIN.get_or_init(time::Instant::now)
}

/// Monotonic time. Follows tokio's paused clock in tests.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    let origin = origin();
    HEAD_START + time::Instant::now().saturating_duration_since(origin)
}

/// A timer that fires `at`.
pub fn sleep_until(at: Instant) -> Sleep {
    time::sleep_until(for_timer(at))
}

/// Sets a timer anew.
pub fn reset(timer: Pin<&mut Sleep>, at: Instant) {
    timer.reset(for_timer(at));
}

/// When a timer fires.
pub fn fires(timer: &Sleep) -> Instant {
    HEAD_START + timer.deadline().saturating_duration_since(origin())
}

fn for_timer(at: Instant) -> time::Instant {
    origin() + (at - HEAD_START)
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
