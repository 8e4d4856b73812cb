//! Which of the endpoints that a key leads to takes it: the first that is available and, where the load
//! is bounded, has room.
//!
//! Bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam 2016): nobody has more than a factor of the
//! mean of the requests in flight, by weight and rounded up, the new request among them. What does not
//! fit goes on to the next in the key's own order, so that a busy key spreads over few endpoints and
//! the keys of others stay where they are.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use crate::endpoint::{Endpoint, Load};

/// How far the order of the ring or the table is followed. It meets an endpoint several times, and goes
/// on for ever: what is further away is found by number.
const STEPS: usize = 64;

/// How much of the load each may have.
#[derive(Debug)]
pub(super) struct Bound {
    /// The factor of the mean, by the sum of the weights.
    per_weight: f64,
    load: Arc<Load>,
}

impl Bound {
    /// `factor` is above 1. `load` counts what is in flight to all of `endpoints`.
    pub(super) fn new(factor: f64, endpoints: &[Arc<Endpoint>], load: Arc<Load>) -> Self {
        let weights: f64 = endpoints.iter().map(|endpoint| weight(endpoint)).sum();
        Self { per_weight: factor / weights.max(1.0), load }
    }

    /// How many requests an endpoint of weight 1 may have, before rounding up, with the new one.
    fn share(&self) -> f64 {
        self.per_weight * (f64::from(self.load.in_flight()) + 1.0)
    }
}

fn weight(endpoint: &Endpoint) -> f64 {
    f64::from(endpoint.weight.max(1))
}

/// The endpoint that takes the key: `walk` is its order, which may repeat and does not end. `None`: all
/// are skipped. Where nobody of those looked at has room, the one that has most of it takes the key.
pub(super) fn choose(
    endpoints: &[Arc<Endpoint>],
    walk: impl Iterator<Item = usize>,
    hash: u64,
    bound: Option<&Bound>,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    // The low half: the high one was used for the place in the order.
    let start = (((hash & u64::from(u32::MAX)) * endpoints.len() as u64) >> 32) as usize;
    let by_number = || (start..endpoints.len()).chain(0..start);
    let mut order = walk.take(STEPS);
    let Some(bound) = bound else {
        return order.find(|index| !skip(*index)).or_else(|| by_number().find(|i| !skip(*i)));
    };
    let share = bound.share();
    let mut roomiest: Option<(f64, usize)> = None;
    for index in order.chain(by_number().take(STEPS)) {
        if skip(index) {
            continue;
        }
        let endpoint = &endpoints[index];
        let load = f64::from(endpoint.state.in_flight());
        // Of a share of three, rounding may make a little more, which is not to become four.
        if load + 1.0 <= (share * weight(endpoint) - 1e-9).ceil() {
            return Some(index);
        }
        let load = load / weight(endpoint);
        if roomiest.is_none_or(|(least, _)| load < least) {
            roomiest = Some((load, index));
        }
    }
    roomiest.map(|(_, index)| index).or_else(|| by_number().find(|index| !skip(*index)))
}

/// Tells endpoints with their weights and order from others: a table that was made of the same is the
/// same.
pub(super) fn fingerprint(endpoints: &[Arc<Endpoint>], size: u32) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&size.to_le_bytes());
    for endpoint in endpoints {
        hasher.update(&endpoint.weight.to_le_bytes());
        hasher.update(endpoint.label.as_bytes());
        hasher.update(&[0]);
    }
    hasher.digest()
}
