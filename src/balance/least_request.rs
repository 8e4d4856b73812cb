//! Two choices by the requests in flight for a unit of weight.

use super::weighted::Shares;
use super::{Candidate, two_choices};

pub(super) fn pick(
    shares: &Shares,
    candidates: &[Candidate],
    random: &mut fastrand::Rng,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    two_choices::pick(shares, random, skip, |first, second| {
        relieves(&candidates[first], &candidates[second])
    })
}

/// Whether `second`, with this request, is still no fuller than `first` is without it:
/// `(in_flight + 1) / weight <= in_flight / weight`. For equal weights that is: fewer in flight.
/// For others it keeps a light endpoint from taking each request that finds the heavy one busy.
fn relieves(first: &Candidate, second: &Candidate) -> bool {
    let load = |candidate: &Candidate| u64::from(candidate.state.in_flight());
    let weight = |candidate: &Candidate| u64::from(candidate.weight);
    let with = (load(second) + 1).saturating_mul(weight(first));
    with <= load(first).saturating_mul(weight(second))
}
