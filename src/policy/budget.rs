//! The budget of a service for requests that are sent a second time: a share of its requests plus a
//! floor, over the last ten seconds. It keeps a failing service from drowning in repetitions.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::clock::Instant;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetLimits {
    /// Share of the requests that may be sent again, 0 to 1.
    pub ratio: f64,
    pub min_per_second: u32,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10 }
    }
}

const WINDOW_SECONDS: u64 = 10;

/// Counts of the last ten seconds, shared by the workers and kept across reloads by service name.
/// Each slot packs the second it counts (upper half) and the count (lower half), so that a slot is
/// emptied and used by one atomic write.
#[derive(Debug, Default)]
pub struct Budget {
    requests: [AtomicU64; WINDOW_SECONDS as usize],
    resends: [AtomicU64; WINDOW_SECONDS as usize],
    /// Held while it is seen whether there is room, and that is taken: two workers see the last of it at once.
    withdrawing: Mutex<()>,
}

impl Budget {
    /// Notes a request that is sent for the first time. Only its second counts.
    pub fn deposit(&self, now: Instant) {
        add(&self.requests, second_of(now));
    }

    /// Whether one more request may be sent again; if so it is counted.
    pub fn withdraw(&self, now: Instant, limits: BudgetLimits) -> bool {
        let _guard = self.withdrawing.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = self.has_room(now, limits);
        if granted {
            add(&self.resends, second_of(now));
        }
        granted
    }

    /// Whether [`Budget::withdraw`] would be granted.
    pub fn has_room(&self, now: Instant, limits: BudgetLimits) -> bool {
        let second = second_of(now);
        let allowed = limits.ratio * sum(&self.requests, second) as f64
            + (u64::from(limits.min_per_second) * WINDOW_SECONDS) as f64;
        ((sum(&self.resends, second) + 1) as f64) <= allowed
    }
}

fn second_of(now: Instant) -> u64 {
    now.0 / 1_000_000_000
}

fn add(slots: &[AtomicU64], second: u64) {
    let slot = &slots[(second % WINDOW_SECONDS) as usize];
    // Never fails: the closure always gives a value.
    let _ = slot.fetch_update(Relaxed, Relaxed, |packed| {
        Some(if packed >> 32 == second & 0xffff_ffff { packed + 1 } else { (second << 32) + 1 })
    });
}

fn sum(slots: &[AtomicU64], second: u64) -> u64 {
    let counted = slots.iter().map(|slot| slot.load(Relaxed));
    counted
        .filter(|packed| (second & 0xffff_ffff).wrapping_sub(packed >> 32) < WINDOW_SECONDS)
        .map(|packed| packed & 0xffff_ffff)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: u64) -> Instant {
        Instant(second * 1_000_000_000)
    }

    const LIMITS: BudgetLimits = BudgetLimits { ratio: 0.2, min_per_second: 10 };

    #[test]
    fn the_floor_is_there_without_any_request() {
        let budget = Budget::default();
        let now = at(3600);
        let granted = (0..500).filter(|_| budget.withdraw(now, LIMITS)).count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn what_was_spent_returns_after_the_window() {
        let budget = Budget::default();
        let spent = (0..500).filter(|_| budget.withdraw(at(50), LIMITS)).count();
        assert_eq!(spent, 100);
        assert!(!budget.withdraw(at(59), LIMITS));
        assert!(budget.withdraw(at(60), LIMITS));
    }

    #[test]
    fn zero_means_never() {
        let budget = Budget::default();
        budget.deposit(at(1));
        assert!(!budget.withdraw(at(1), BudgetLimits { ratio: 0.0, min_per_second: 0 }));
    }

    #[test]
    fn not_by_many_threads_either() {
        for round in 0..50 {
            let (budget, now) = (Budget::default(), at(1000 + 20 * round));
            (0..100).for_each(|_| budget.deposit(now));
            let limits = BudgetLimits { ratio: 0.2, min_per_second: 0 };
            let granted = std::thread::scope(|scope| {
                let take = || (0..20).filter(|_| budget.withdraw(now, limits)).count();
                let takers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
                takers.into_iter().map(|taker| taker.join().expect("a count")).sum::<usize>()
            });
            assert_eq!(granted, 20);
        }
    }

    proptest! {
        /// In any window of ten seconds the resends stay within share and floor of that window.
        #[test]
        fn never_exceeded(events in prop::collection::vec((0u64..3, any::<bool>()), 1..400)) {
            let limits = BudgetLimits { ratio: 0.5, min_per_second: 1 };
            let budget = Budget::default();
            let (mut second, mut log) = (100, Vec::new());
            for (step, is_request) in events {
                second += step;
                let now = at(second);
                if is_request {
                    budget.deposit(now);
                    log.push((second, true));
                } else if budget.withdraw(now, limits) {
                    log.push((second, false));
                    let recent = log.iter().filter(|(at, _)| second - at < WINDOW_SECONDS);
                    let (requests, resends): (Vec<(u64, bool)>, Vec<_>) = recent.partition(|(_, r)| *r);
                    let allowed = requests.len() as f64 * 0.5 + WINDOW_SECONDS as f64;
                    prop_assert!(resends.len() as f64 <= allowed);
                }
            }
        }
    }
}
