//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Doubles from its first wait to its longest; half of each is by chance, so that not all who were sent away
/// together come back together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// It went well: the next wait is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after a failure.
    pub fn next(&mut self, random: &mut fastrand::Rng) -> Duration {
        let longest = (self.first * (1 << self.failures.min(16))).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + 0.5 * random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_limit_and_begins_anew_after_a_good_one() {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(2);
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut longest = FIRST;
        for _ in 0..100 {
            let wait = backoff.next(&mut random);
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next(&mut random) <= FIRST);
        assert!(backoff.next(&mut random) <= FIRST * 2);
    }
}
