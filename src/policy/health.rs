//! Active health checks: what is asked, how often, and what the answers make of who is asked.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::Conditions;

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub kind: CheckKind,
    /// Another port than that of the traffic.
    pub port: Option<u16>,
    pub interval: Duration,
    /// For all of one check, from the connection to the end of the answer.
    pub timeout: Duration,
    /// By what share an interval is longer at random, so that checkers that began together do not stay together.
    pub jitter: f64,
    /// Failures in a row after which one that was well is not.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is again.
    pub healthy_after: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// GET.
    Http { path: PathAndQuery, host: Option<HeaderValue>, statuses: Conditions },
    /// A connection is made.
    Tcp,
    /// `grpc.health.v1.Health/Check` of a service, or with an empty name of the server.
    Grpc { service: String, host: Option<HeaderValue> },
}

/// Checks of a service that are begun in a second at most while its endpoints are new: ten thousand at once
/// would be an attack.
const FIRST_PER_SECOND: f64 = 200.0;

impl HealthCheck {
    /// How long after a check the next one begins. `chance` is uniform in 0 to 1, here and below.
    pub fn next(&self, chance: f64) -> Duration {
        self.interval.mul_f64(1.0 + self.jitter * chance)
    }

    /// When the first check of one of `count` new endpoints begins.
    pub fn first(&self, count: usize, chance: f64) -> Duration {
        let spread = Duration::from_secs_f64(count.saturating_sub(1) as f64 / FIRST_PER_SECOND);
        spread.min(self.interval).mul_f64(chance)
    }
}

/// What one check has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Passed,
    Failed,
    /// We could not even ask: it says nothing of who was to be asked.
    Nothing,
}

/// What the checks of one endpoint have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    healthy: bool,
    /// How the last checks ended, and how many of them did so in a row.
    last: bool,
    row: u32,
}

impl Health {
    pub fn new(healthy: bool) -> Self {
        Self { healthy, last: healthy, row: 0 }
    }

    pub fn is_healthy(self) -> bool {
        self.healthy
    }

    /// The last checks, all of which failed.
    pub fn failures(self) -> u32 {
        if self.last { 0 } else { self.row }
    }

    /// The last checks, all of which passed.
    pub fn passes(self) -> u32 {
        if self.last { self.row } else { 0 }
    }

    /// Takes in a check. Whether that has changed what is thought of it.
    pub fn record(&mut self, finding: Finding, check: &HealthCheck) -> bool {
        let passed = match finding {
            Finding::Passed => true,
            Finding::Failed => false,
            Finding::Nothing => return false,
        };
        self.row = if passed == self.last { self.row.saturating_add(1) } else { 1 };
        self.last = passed;
        let needed = if passed { check.healthy_after } else { check.unhealthy_after };
        if passed == self.healthy || self.row < needed {
            return false;
        }
        self.healthy = passed;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finding(passed: bool) -> Finding {
        if passed { Finding::Passed } else { Finding::Failed }
    }

    fn check() -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            jitter: 0.1,
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }

    #[test]
    fn some_in_a_row_change_it() {
        let mut health = Health::new(true);
        let mut changes = |passed: &[bool]| {
            let record = |passed: &bool| health.record(finding(*passed), &check());
            passed.iter().map(record).collect::<Vec<_>>()
        };
        assert_eq!(changes(&[false, false, true, false, false]), [false; 5]);
        assert_eq!(changes(&[false, false, true, false]), [true, false, false, false]);
        assert_eq!(changes(&[true, true]), [false, true]);
        assert!(health.is_healthy());
        assert_eq!((health.passes(), health.failures()), (2, 0));
    }

    #[test]
    fn who_could_not_be_asked_is_thought_of_as_before() {
        let mut health = Health::new(true);
        for finding in [Finding::Failed, Finding::Nothing, Finding::Failed, Finding::Nothing] {
            assert!(!health.record(finding, &check()));
        }
        assert_eq!((health.is_healthy(), health.failures()), (true, 2));
        assert!(health.record(Finding::Failed, &check()));
    }

    #[test]
    fn few_are_checked_at_once_and_many_one_after_the_other() {
        let check = check();
        assert_eq!(check.first(1, 0.9), Duration::ZERO);
        assert!(check.first(3, 0.9) < Duration::from_millis(10));
        assert_eq!(check.first(401, 0.5), Duration::from_secs(1));
        assert_eq!(check.first(1_000_000, 0.5), Duration::from_secs(5));
        assert_eq!(check.next(0.0), Duration::from_secs(10));
        assert_eq!(check.next(1.0), Duration::from_secs(11));
    }

    proptest! {
        /// It is what the last so many checks in a row say.
        #[test]
        fn it_is_what_enough_checks_in_a_row_say(
            passed in prop::collection::vec(any::<bool>(), 0..60),
            unhealthy_after in 1..5_u32,
            healthy_after in 1..5_u32,
        ) {
            let check = HealthCheck { unhealthy_after, healthy_after, ..check() };
            let mut health = Health::new(true);
            let mut expected = true;
            for (index, now) in passed.iter().enumerate() {
                let before = expected;
                let row = passed[..=index].iter().rev().take_while(|other| *other == now).count();
                let needed = if *now { healthy_after } else { unhealthy_after };
                // A row that began before the last change counts from there, and that was such a row itself.
                if row >= needed as usize {
                    expected = *now;
                }
                prop_assert_eq!(health.record(finding(*now), &check), before != expected);
                prop_assert_eq!(health.is_healthy(), expected);
                let (passes, failures) = if *now { (row, 0) } else { (0, row) };
                prop_assert_eq!((health.passes(), health.failures()), (passes as u32, failures as u32));
            }
        }

        /// Those that began together are apart after a while.
        #[test]
        fn nobody_stays_in_step(seed in any::<u64>()) {
            let check = check();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut times = vec![Duration::ZERO; 100];
            for _ in 0..10 {
                times.iter_mut().for_each(|time| *time += check.next(random.f64()));
            }
            times.sort();
            let tight = times.windows(50).any(|half| half[49] - half[0] < Duration::from_millis(200));
            prop_assert!(!tight);
        }
    }
}
