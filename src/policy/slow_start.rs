//! Slow start: an endpoint that is new, or back, gets its share little by little. Its caches are cold, and
//! all at once would be the load that it just broke down under.

use std::time::Duration;

use crate::clock::Instant;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long until it has its full share.
    pub window: Duration,
    /// The share that it has at least, 0 to 1.
    pub min_share: f64,
    /// 1: the share grows evenly; above, faster at first (Envoy's aggression).
    pub aggression: f64,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), min_share: 0.1, aggression: 1.0 }
    }
}

impl SlowStart {
    /// The part of its share that an endpoint gets at `now` that is there since `since`, up to 1.
    pub fn share(&self, since: Instant, now: Instant) -> f64 {
        let age = now.saturating_duration_since(since);
        if age >= self.window {
            return 1.0;
        }
        let passed = age.as_secs_f64() / self.window.as_secs_f64();
        passed.powf(1.0 / self.aggression).max(self.min_share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_from_its_least_to_all() {
        let slow = SlowStart { window: Duration::from_secs(10), ..SlowStart::default() };
        let at = |slow: &SlowStart, seconds: u64| {
            slow.share(Instant(5), Instant(5 + seconds * 1_000_000_000))
        };
        let shares: Vec<_> = (0..12).map(|second| at(&slow, second)).collect();
        assert_eq!(shares[..6], [0.1, 0.1, 0.2, 0.3, 0.4, 0.5]);
        assert_eq!(shares[10..], [1.0, 1.0]);
        let eager = SlowStart { aggression: 2.0, ..slow };
        assert!(at(&eager, 4) > 0.6 && at(&eager, 4) < 0.7);
    }

    proptest! {
        #[test]
        fn it_never_falls_and_never_leaves_its_bounds(
            window in 0..100_000_u64,
            min_share in 0.0..1.0_f64,
            aggression in 0.1..10.0_f64,
            mut ages in prop::collection::vec(0..200_000_u64, 1..20),
        ) {
            let slow = SlowStart { window: Duration::from_nanos(window), min_share, aggression };
            ages.sort_unstable();
            let shares: Vec<_> = ages.iter().map(|age| slow.share(Instant(7), Instant(7 + age))).collect();
            prop_assert!(shares.iter().all(|share| (min_share..=1.0).contains(share)));
            prop_assert!(shares.is_sorted());
        }
    }
}
