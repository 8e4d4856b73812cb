//! How long one may wait in a queue, by how long those before had to (controlled delay). A queue that is
//! never empty only delays: while everyone waits longer than a target, nobody may wait much longer than it,
//! so that what is answered is answered in time.

use std::time::Duration;

use crate::clock::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodelLimits {
    /// The wait that is no harm.
    pub target: Duration,
    /// If everyone waited longer for so long, the queue stands.
    pub interval: Duration,
}

impl Default for CodelLimits {
    fn default() -> Self {
        Self { target: Duration::from_millis(5), interval: Duration::from_millis(100) }
    }
}

/// The shortest wait of one interval after another.
#[derive(Debug, Default)]
pub struct Codel {
    ends: Instant,
    least: Option<Duration>,
    stands: bool,
}

impl Codel {
    /// One left the queue after `waited`. Nothing, where the queue is empty.
    pub fn observe(&mut self, limits: CodelLimits, now: Instant, waited: Duration) {
        self.turn(limits, now);
        self.least = Some(self.least.map_or(waited, |least| least.min(waited)));
    }

    /// The longest that one may wait, of `longest` at most.
    pub fn patience(&mut self, limits: CodelLimits, now: Instant, longest: Duration) -> Duration {
        self.turn(limits, now);
        if self.stands { longest.min(limits.target * 2) } else { longest }
    }

    fn turn(&mut self, limits: CodelLimits, now: Instant) {
        if now >= self.ends {
            self.stands = self.least.is_some_and(|least| least > limits.target);
            self.least = None;
            self.ends = Instant(now.0.saturating_add(limits.interval.as_nanos() as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const LIMITS: CodelLimits =
        CodelLimits { target: Duration::from_millis(5), interval: Duration::from_millis(100) };
    const LONGEST: Duration = Duration::from_secs(1);

    fn at(milliseconds: u64) -> Instant {
        Instant(milliseconds * MS)
    }

    #[test]
    fn a_queue_that_stands_for_an_interval_shortens_the_patience() {
        let mut codel = Codel::default();
        for time in 0..=100 {
            assert_eq!(
                codel.patience(LIMITS, at(1000 + time), LONGEST),
                LONGEST.min(if time < 100 { LONGEST } else { LIMITS.target * 2 })
            );
            codel.observe(LIMITS, at(1000 + time), Duration::from_millis(20));
        }
        // One that hardly waited: the interval after it is patient again.
        codel.observe(LIMITS, at(1150), Duration::ZERO);
        assert_eq!(codel.patience(LIMITS, at(1199), LONGEST), LIMITS.target * 2);
        assert_eq!(codel.patience(LIMITS, at(1200), LONGEST), LONGEST);
    }

    #[test]
    fn silence_is_no_queue() {
        let mut codel = Codel::default();
        codel.observe(LIMITS, at(1000), Duration::from_millis(50));
        assert_eq!(codel.patience(LIMITS, at(1100), LONGEST), LIMITS.target * 2);
        assert_eq!(codel.patience(LIMITS, at(1200), LONGEST), LONGEST);
    }

    proptest! {
        /// The patience is short exactly where everyone in the interval before waited longer than the target.
        #[test]
        fn short_where_the_least_wait_was_long(waits in prop::collection::vec((0u64..60, 0u64..12), 1..200)) {
            let mut codel = Codel::default();
            let mut now = 1000;
            let (mut ends, mut this, mut stands) = (0, Vec::new(), false);
            for (step, waited) in waits {
                now += step;
                if now >= ends {
                    stands = !this.is_empty() && this.iter().all(|waited| *waited > 5);
                    this.clear();
                    ends = now + 100;
                }
                let patience = codel.patience(LIMITS, at(now), LONGEST);
                prop_assert_eq!(patience, if stands { LIMITS.target * 2 } else { LONGEST });
                codel.observe(LIMITS, at(now), Duration::from_millis(waited));
                this.push(waited);
            }
        }
    }
}
