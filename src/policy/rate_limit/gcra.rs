//! The token bucket as GCRA (the generic cell rate algorithm, ITU-T I.371): a bucket is one number, the
//! theoretical arrival time, at which all of it would be there again. A request that is let pass moves it
//! by the time that one token takes; one that would move it too far beyond `now` is refused.
//!
//! Times are nanoseconds since a fixed instant of this process ([`crate::clock::Instant`]), which is never 0:
//! a bucket of 0 is a full one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// So many requests in so much time, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Nanoseconds that one token takes, at least 1.
    interval: u64,
    /// Tokens of a full bucket, at least 1.
    burst: u32,
}

impl Rate {
    /// `requests` and `burst` of 0 count as 1. A token takes whole nanoseconds, rounded up: a rate is
    /// never more than what was asked for.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let interval = per.as_nanos().div_ceil(u128::from(requests.max(1)));
        Self { interval: u64::try_from(interval).unwrap_or(u64::MAX).max(1), burst: burst.max(1) }
    }

    /// The share of one of `instances`, which have the whole rate together. Each may have one request at
    /// once, however many there are.
    pub fn shared_by(self, instances: u32) -> Self {
        if instances <= 1 {
            return self;
        }
        Self {
            interval: self.interval.saturating_mul(u64::from(instances)),
            burst: (self.burst / instances).max(1),
        }
    }

    /// Where a token takes a multiple of `nanos`, rounded up.
    pub fn in_steps_of(self, nanos: u64) -> Self {
        Self { interval: self.interval.div_ceil(nanos).saturating_mul(nanos), ..self }
    }

    /// Nanoseconds that one token takes.
    pub fn interval(self) -> u64 {
        self.interval
    }

    pub fn burst(self) -> u32 {
        self.burst
    }

    /// How long an empty bucket takes to be full.
    pub fn refill(self) -> Duration {
        Duration::from_nanos(self.interval.saturating_mul(u64::from(self.burst)))
    }

    /// The most debt with which one more request is let pass.
    fn tolerance(self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst) - 1)
    }

    /// What becomes of a bucket with a request at `now`, and of the request.
    pub fn decide(self, bucket: u64, now: u64) -> (u64, Decision) {
        let debt = bucket.saturating_sub(now);
        if debt > self.tolerance() {
            return (bucket, Decision { allowed: false, debt });
        }
        let debt = debt.saturating_add(self.interval);
        (now.saturating_add(debt), Decision { allowed: true, debt })
    }
}

/// What was decided of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Nanoseconds until the bucket is full.
    pub debt: u64,
}

impl Decision {
    /// What a client is told of it.
    pub fn quota(self, rate: Rate) -> Quota {
        let capacity = rate.interval.saturating_mul(u64::from(rate.burst));
        // Of what is being refilled only whole tokens are there.
        let remaining = capacity.saturating_sub(self.debt) / rate.interval;
        let wait = self.debt.saturating_sub(rate.tolerance());
        Quota {
            limit: rate.burst,
            remaining: if self.allowed {
                u32::try_from(remaining).unwrap_or(rate.burst)
            } else {
                0
            },
            reset: Duration::from_nanos(self.debt),
            retry_after: (!self.allowed).then(|| Duration::from_nanos(wait)),
        }
    }
}

/// The state of a bucket after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Tokens of a full bucket.
    pub limit: u32,
    /// Tokens that are left.
    pub remaining: u32,
    /// Until the bucket is full.
    pub reset: Duration,
    /// Until the next request is let pass, where this one was not.
    pub retry_after: Option<Duration>,
}

/// One bucket, for whoever asks at the same time: exactly as many are let pass as if they had come one by
/// one.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    pub fn take(&self, rate: Rate, now: u64) -> Decision {
        let mut seen = self.0.load(Relaxed);
        loop {
            let (next, decision) = rate.decide(seen, now);
            // One that is refused writes nothing: no cache line changes its owner for it.
            if next == seen {
                return decision;
            }
            match self.0.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return decision,
                Err(newer) => seen = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 3600 * SECOND;

    fn rate(requests: u32, per_seconds: u64, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(per_seconds), burst)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (rate, bucket) = (rate(10, 1, 5), Bucket::default());
        let at_once = (0..20).filter(|_| bucket.take(rate, START).allowed).count();
        assert_eq!(at_once, 5);
        let later = START + SECOND / 10;
        assert!(!bucket.take(rate, later - 1).allowed);
        assert!(bucket.take(rate, later).allowed);
        assert!(!bucket.take(rate, later).allowed);
        // After a long silence there is the burst again, not more.
        let at_once = (0..20).filter(|_| bucket.take(rate, START + 100 * SECOND).allowed).count();
        assert_eq!(at_once, 5);
    }

    #[test]
    fn what_a_client_is_told() {
        let (rate, bucket) = (rate(1, 10, 3), Bucket::default());
        let told: Vec<Quota> = (0..4).map(|_| bucket.take(rate, START).quota(rate)).collect();
        let remaining: Vec<u32> = told.iter().map(|quota| quota.remaining).collect();
        assert_eq!(remaining, [2, 1, 0, 0]);
        let reset: Vec<u64> = told.iter().map(|quota| quota.reset.as_secs()).collect();
        assert_eq!(reset, [10, 20, 30, 30]);
        assert_eq!(told[2].retry_after, None);
        assert_eq!(told[3].retry_after, Some(Duration::from_secs(10)));
        let half = bucket.take(rate, START + 15 * SECOND).quota(rate);
        assert_eq!((half.remaining, half.reset.as_secs(), half.limit), (0, 25, 3));
    }

    #[test]
    fn one_of_several_has_its_share() {
        let whole = rate(100, 1, 100);
        assert_eq!(whole.shared_by(0), whole);
        assert_eq!(whole.shared_by(1), whole);
        assert_eq!(whole.shared_by(4), rate(25, 1, 25));
        assert_eq!(whole.shared_by(1000).burst(), 1);
    }

    #[test]
    fn no_number_overflows() {
        for (requests, per, burst) in
            [(1, Duration::MAX, u32::MAX), (u32::MAX, Duration::ZERO, 1), (0, Duration::ZERO, 0)]
        {
            let rate = Rate::new(requests, per, burst).shared_by(u32::MAX);
            let bucket = Bucket::default();
            for _ in 0..3 {
                bucket.take(rate, u64::MAX - 1).quota(rate);
            }
        }
    }

    /// As many threads as like: the last token goes to one of them.
    #[test]
    fn exact_under_threads() {
        let (rate, bucket) = (rate(1, 3600, 1000), Bucket::default());
        let allowed: usize = std::thread::scope(|scope| {
            let takes = || (0..1000).filter(|_| bucket.take(rate, START).allowed).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(takes)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(allowed, 1000);
    }

    proptest! {
        /// In any window no more pass than the burst and what the rate gives in that time; and whoever is
        /// refused and waits as long as told is let pass.
        #[test]
        fn never_more_than_burst_and_rate(
            requests in 1u32..50,
            per_ms in 1u64..5_000,
            burst in 1u32..30,
            gaps in prop::collection::vec(0u64..400_000_000, 1..200),
        ) {
            let rate = Rate::new(requests, Duration::from_millis(per_ms), burst);
            let bucket = Bucket::default();
            let (mut now, mut passed) = (START, Vec::<u64>::new());
            for gap in gaps {
                now += gap;
                let decision = bucket.take(rate, now);
                let quota = decision.quota(rate);
                prop_assert!(quota.remaining < burst);
                if decision.allowed {
                    passed.push(now);
                } else {
                    let wait = quota.retry_after.unwrap().as_nanos() as u64;
                    prop_assert!(wait > 0);
                    let copy = Bucket(AtomicU64::new(bucket.0.load(Relaxed)));
                    prop_assert!(!copy.take(rate, now + wait - 1).allowed);
                    prop_assert!(copy.take(rate, now + wait).allowed);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let given = u128::from(to - from) * u128::from(requests)
                        / (u128::from(per_ms) * 1_000_000);
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + given);
                }
            }
        }

        /// What is told to be left can be taken at once, and not one more.
        #[test]
        fn what_is_left_can_be_taken(
            requests in 1u32..50,
            burst in 1u32..30,
            gaps in prop::collection::vec(0u64..100_000_000, 1..50),
        ) {
            let rate = rate(requests, 1, burst);
            let bucket = Bucket::default();
            let (mut now, mut last) = (START, bucket.take(rate, START));
            for gap in gaps {
                now += gap;
                last = bucket.take(rate, now);
            }
            let left = last.quota(rate).remaining as usize;
            let more = (0..100).filter(|_| bucket.take(rate, now).allowed).count();
            prop_assert_eq!(more, left);
        }
    }
}
