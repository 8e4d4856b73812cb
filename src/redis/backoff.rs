//! How long to wait before the next connection is tried.

use std::time::Duration;

/// Doubles from 100 ms to 2 s; half of it is by chance, so that the proxies of a Redis that came back do
/// not come all at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
/// After which a connection that has ended was a good one.
const GOOD: Duration = Duration::from_secs(10);

impl Backoff {
    /// The wait after a connection that lived for `lived`, 0 where none was made.
    pub fn next(&mut self, lived: Duration, random: &mut fastrand::Rng) -> Duration {
        if lived >= GOOD {
            self.failures = 0;
        }
        let longest = (FIRST * (1 << self.failures.min(10))).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + 0.5 * random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_limit_and_begins_anew_after_a_good_one() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        let mut longest = FIRST;
        for _ in 0..100 {
            let wait = backoff.next(Duration::ZERO, &mut random);
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST);
        }
        assert!(backoff.next(Duration::from_secs(9), &mut random) >= LONGEST / 2);
        assert!(backoff.next(GOOD, &mut random) <= FIRST);
        assert!(backoff.next(Duration::ZERO, &mut random) <= FIRST * 2);
    }
}
