//! Two choices by the requests in flight for a unit of weight.

use std::sync::Arc;

use super::two_choices;
use super::weighted::Shares;
use crate::endpoint::Endpoint;

pub(super) fn pick(
    shares: &Shares,
    endpoints: &[Arc<Endpoint>],
    random: &mut fastrand::Rng,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    two_choices::pick(shares, random, skip, |first, second| {
        relieves(&endpoints[first], &endpoints[second])
    })
}

/// Whether `second`, with this request, is still no fuller than `first` is without it:
/// `(in_flight + 1) / weight <= in_flight / weight`. For equal weights that is: fewer in flight.
/// For others it keeps a light endpoint from taking each request that finds the heavy one busy.
fn relieves(first: &Endpoint, second: &Endpoint) -> bool {
    let load = |endpoint: &Endpoint| u64::from(endpoint.state.in_flight());
    let weight = |endpoint: &Endpoint| u64::from(endpoint.weight.max(1));
    let with = (load(second) + 1).saturating_mul(weight(first));
    with <= load(first).saturating_mul(weight(second))
}
