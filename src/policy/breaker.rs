//! The circuit breaker: it stops calling what fails, and finds out now and then whether it still does.
//!
//! A state machine over `(now, random, outcome)`: closed, it counts; tripped, it is open for a time that grows
//! with each trip in a row; then it is half-open and admits a number of probes, exactly that number, whose
//! outcome closes or opens it again. What began before it changed its state says nothing about the state after.

use std::time::Duration;

use super::{Conditions, Mode};
use crate::clock::Instant;

mod shared;
mod window;

#[cfg(test)]
mod tests;

pub use shared::{Admission, SharedBreaker};
use window::Window;
pub use window::WindowKind;

/// What a breaker is told to watch. A grade that is `None` is not watched.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerConfig {
    pub mode: Mode,
    pub scope: BreakerScope,
    /// Trips after so many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// Trips at so many failures in the window.
    pub failure_count: Option<u32>,
    /// Trips at this share of failures in the window, 0 to 1.
    pub failure_rate: Option<f64>,
    /// Trips at this share of slow calls in the window, 0 to 1.
    pub slow_call_rate: Option<f64>,
    /// A call that takes longer is slow.
    pub slow_call: Duration,
    pub window: WindowKind,
    /// With fewer calls in the window no share means anything.
    pub min_calls: u32,
    pub open_for: Duration,
    pub max_open_for: Duration,
    /// A probe that has told nothing for so long loses its place to another one.
    pub probe_patience: Duration,
    /// Calls that a half-open breaker admits.
    pub probes: u32,
    pub failures: Conditions,
}

/// What has a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerScope {
    /// Each endpoint: the others get its calls.
    Endpoint,
    /// The service as a whole: its calls are refused.
    Service,
    Both,
}

impl BreakerScope {
    pub fn has_endpoint(self) -> bool {
        self != Self::Service
    }

    pub fn has_service(self) -> bool {
        self != Self::Endpoint
    }
}

impl BreakerConfig {
    /// 50 % of at least 20 calls in 10 s, open for 5 s growing to 60 s, one probe.
    pub fn of_failure_rate() -> Self {
        Self {
            mode: Mode::Enforce,
            scope: BreakerScope::Endpoint,
            consecutive_failures: None,
            failure_count: None,
            failure_rate: Some(0.5),
            slow_call_rate: None,
            slow_call: Duration::from_secs(1),
            window: WindowKind::Time(Duration::from_secs(10)),
            min_calls: 20,
            open_for: Duration::from_secs(5),
            max_open_for: Duration::from_secs(60),
            probe_patience: Duration::from_secs(5),
            probes: 1,
            failures: Conditions::failures(),
        }
    }

    /// Whether its calls are counted in a window at all.
    fn has_window(&self) -> bool {
        self.failure_count.is_some() || self.failure_rate.is_some() || self.slow_call_rate.is_some()
    }
}

/// How a call ended, as its breaker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub failed: bool,
    pub slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A call that was admitted. It is to be given back by [`Breaker::record`] or [`Breaker::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The state in which it was admitted; each change of the state begins another one.
    epoch: u32,
}

#[derive(Debug)]
pub struct Breaker {
    phase: Phase,
    epoch: u32,
    window: Window,
    /// Failures in a row.
    failures: u32,
    /// Trips in a row: the open time doubles with each.
    trips: u32,
    closed_at: Instant,
    last_open: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen(Probes),
}

/// What is known of the probes of one half-open time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Probes {
    admitted: u32,
    /// Of these, whose places were given to others because they told nothing.
    given_up: u32,
    ended: u32,
    failed: u32,
    slow: u32,
    /// When the last one was admitted.
    last: Instant,
}

impl Breaker {
    pub fn new(config: &BreakerConfig) -> Self {
        Self {
            phase: Phase::Closed,
            epoch: 0,
            window: Window::new(config.window),
            failures: 0,
            trips: 0,
            closed_at: Instant(0),
            last_open: Duration::ZERO,
        }
    }

    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }

    /// Until when no call is admitted, as far as that is known now; 0 where one is.
    pub fn blocked_until(&self, config: &BreakerConfig) -> Instant {
        match self.phase {
            Phase::Open { until } => until,
            Phase::HalfOpen(probes) if probes.admitted >= config.probes => {
                probes.last + config.probe_patience
            }
            Phase::HalfOpen(_) | Phase::Closed => Instant(0),
        }
    }

    /// Asks for a call; none while it is open, or half-open with all of its probes out. A probe that has
    /// told nothing for too long loses its place to another one: a stream without an end must not keep an
    /// endpoint away for ever.
    pub fn admit(&mut self, now: Instant, config: &BreakerConfig) -> Option<Pass> {
        if now < self.blocked_until(config) {
            return None;
        }
        if let Phase::Open { .. } = self.phase {
            self.enter(Phase::HalfOpen(Probes::default()));
        }
        if let Phase::HalfOpen(probes) = &mut self.phase {
            if probes.admitted < config.probes {
                probes.admitted += 1;
            } else {
                probes.given_up += 1;
            }
            probes.last = now;
        }
        Some(Pass { epoch: self.epoch })
    }

    /// Takes in how an admitted call ended. `chance` is uniform in 0 to 1.
    pub fn record(
        &mut self,
        pass: Pass,
        seen: Seen,
        now: Instant,
        chance: f64,
        config: &BreakerConfig,
    ) {
        if pass.epoch != self.epoch {
            return;
        }
        match &mut self.phase {
            Phase::Closed => {
                self.failures = if seen.failed { self.failures.saturating_add(1) } else { 0 };
                if config.has_window() {
                    self.window.add(now, seen);
                }
                if self.trips_by(config) {
                    self.trip(now, chance, config);
                }
            }
            Phase::HalfOpen(probes) => {
                probes.ended += 1;
                probes.failed += u32::from(seen.failed);
                probes.slow += u32::from(seen.slow);
                let probes = *probes;
                self.judge(probes, now, chance, config);
            }
            // A pass of this epoch was given by another phase.
            Phase::Open { .. } => {}
        }
    }

    /// An admitted call ended without telling anything: its client left. A probe's place is free again.
    pub fn cancel(&mut self, pass: Pass) {
        if let Phase::HalfOpen(probes) = &mut self.phase
            && pass.epoch == self.epoch
        {
            match probes.given_up {
                0 => probes.admitted -= 1,
                _ => probes.given_up -= 1,
            }
        }
    }

    fn trips_by(&self, config: &BreakerConfig) -> bool {
        let reached = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        if reached(config.consecutive_failures, self.failures) {
            return true;
        }
        let counts = self.window.counts();
        if reached(config.failure_count, counts.failed) {
            return true;
        }
        let share = |limit: Option<f64>, count: u32| {
            limit.is_some_and(|limit| f64::from(count) >= limit * f64::from(counts.calls))
        };
        counts.calls >= config.min_calls.max(1)
            && (share(config.failure_rate, counts.failed) && counts.failed > 0
                || share(config.slow_call_rate, counts.slow) && counts.slow > 0)
    }

    /// As soon as it is certain, whatever the probes that are still out bring.
    fn judge(&mut self, probes: Probes, now: Instant, chance: f64, config: &BreakerConfig) {
        // The fewest that are too many: by the rate where there is one, otherwise the first.
        let too_many = |rate: Option<f64>| {
            rate.map_or(1, |rate| (rate * f64::from(config.probes)).ceil().max(1.0) as u32)
        };
        let slow_counts = config.slow_call_rate.is_some();
        if probes.failed >= too_many(config.failure_rate)
            || slow_counts && probes.slow >= too_many(config.slow_call_rate)
        {
            self.trip(now, chance, config);
        } else if probes.ended >= config.probes {
            self.window.clear();
            self.failures = 0;
            self.closed_at = now;
            self.enter(Phase::Closed);
        }
    }

    fn trip(&mut self, now: Instant, chance: f64, config: &BreakerConfig) {
        // What fails again before it was well for as long as it was away is the same trouble.
        let again = self.last_open > Duration::ZERO
            && (self.phase != Phase::Closed
                || now.saturating_duration_since(self.closed_at) < self.last_open);
        self.trips = if again { self.trips.saturating_add(1) } else { 0 };
        let grown = config.open_for.saturating_mul(2_u32.saturating_pow(self.trips.min(16)));
        // Up to half longer, so that a fleet does not come back all at once: at the cap as well.
        let most = config.max_open_for.max(config.open_for);
        let least = grown.min(most.mul_f64(2.0 / 3.0)).max(config.open_for);
        let open = least.mul_f64(1.0 + 0.5 * chance).min(most);
        self.last_open = open;
        self.window.clear();
        self.failures = 0;
        self.enter(Phase::Open { until: now + open });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        // 31 bits, as much as there is room for beside a flag.
        self.epoch = (self.epoch + 1) & (u32::MAX >> 1);
    }
}
