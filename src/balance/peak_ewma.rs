//! Two choices by the wait to be expected: latency times the requests that are in front of ours and
//! ours.
//!
//! An endpoint never measured costs nothing while it has no request and more than any measured one
//! while it has some: each new one gets a first request soon, and a second when it answered. One
//! that was slow or failed fades back in the same manner, see [`crate::endpoint::latency`].

use super::weighted::Shares;
use super::{Candidate, two_choices};
use crate::clock::Instant;

/// Latency, in nanoseconds, of an endpoint that was asked and has never answered: an hour.
const UNKNOWN: f32 = 3.6e12;

/// `mean_weight` is that of `candidates`.
pub(super) fn pick(
    shares: &Shares,
    mean_weight: f32,
    candidates: &[Candidate],
    random: &mut fastrand::Rng,
    now: Instant,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    two_choices::pick(shares, random, skip, |first, second| {
        let first = Seen::new(&candidates[first], mean_weight, now);
        let second = Seen::new(&candidates[second], mean_weight, now);
        second.wait_instead_of(&first) < first.wait()
    })
}

struct Seen {
    latency: f32,
    in_flight: f32,
    /// What one request takes of the endpoint's capacity, 1 where weights are equal.
    share: f32,
}

impl Seen {
    #[allow(clippy::cast_precision_loss)]
    fn new(candidate: &Candidate, mean_weight: f32, now: Instant) -> Self {
        let in_flight = candidate.state.in_flight();
        let latency = match candidate.state.latency_nanos(now) {
            Some(latency) => latency,
            None if in_flight == 0 => 0.0,
            None => UNKNOWN,
        };
        Self { latency, in_flight: in_flight as f32, share: mean_weight / candidate.weight as f32 }
    }

    fn wait(&self) -> f32 {
        self.latency * (1.0 + self.in_flight * self.share)
    }

    /// The wait of the second choice, on the scale of the first's [`Seen::wait`]: a request that
    /// takes more of it than it would of the first counts for the difference, or else a light
    /// endpoint would take each request that finds the heavy one busy. For equal weights both are
    /// `latency * (1 + in_flight)`.
    fn wait_instead_of(&self, first: &Self) -> f32 {
        let queue = (self.in_flight + 1.0) * self.share - first.share;
        self.latency * (1.0 + queue.max(0.0))
    }
}
