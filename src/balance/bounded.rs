//! Which of the endpoints that a key leads to takes it: the first that is available and, where the load
//! is bounded, has room.
//!
//! Bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam 2016): nobody has more than a factor of the
//! mean of the requests in flight, by weight and rounded up, the new request among them. What does not
//! fit goes on to the next in the key's own order, so that a busy key spreads over few endpoints and
//! the keys of others stay where they are.

use std::sync::Arc;

use crate::endpoint::{Endpoint, Load, State};

/// How far the order of the ring or the table is followed before the rest of the endpoints, and how far those.
const STEPS: usize = 64;

/// How much of the load each may have.
#[derive(Debug)]
pub(super) struct Bound {
    /// What is in flight to all of them.
    load: Arc<Load>,
    /// By index of the endpoint; side by side, because they are read at random.
    seats: Box<[Seat]>,
}

#[derive(Debug)]
struct Seat {
    state: Arc<State>,
    /// What part of the load it may have, which is the factor times what part of the weights it has.
    part: f64,
}

impl Bound {
    /// `factor` is above 1. `load` counts what is in flight to all of `endpoints`.
    pub(super) fn new(factor: f64, endpoints: &[Arc<Endpoint>], load: Arc<Load>) -> Self {
        let weight = |endpoint: &Arc<Endpoint>| f64::from(endpoint.weight.max(1));
        let sum: f64 = endpoints.iter().map(weight).sum();
        let seat = |endpoint: &Arc<Endpoint>| Seat {
            state: endpoint.state.clone(),
            part: factor * weight(endpoint) / sum,
        };
        Self { load, seats: endpoints.iter().map(seat).collect() }
    }
}

/// The endpoint that takes the key: `walk` is its order, which may repeat and does not end; `rest` has each
/// endpoint once. `None`: all are skipped. Where nobody of those looked at has room, the one that has most of
/// it takes the key.
pub(super) fn choose<W: Iterator<Item = usize>, R: Iterator<Item = usize>>(
    walk: W,
    rest: impl Fn() -> R,
    bound: Option<&Bound>,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    let available = |index: &usize| !skip(*index);
    let mut order = walk.take(STEPS);
    let Some(bound) = bound else {
        return order.find(available).or_else(|| rest().find(available));
    };
    let in_flight = f64::from(bound.load.in_flight()) + 1.0;
    let mut roomiest: Option<(f64, usize)> = None;
    for index in order.chain(std::iter::once_with(&rest).flatten().take(STEPS)) {
        if skip(index) {
            continue;
        }
        let Seat { state, part } = &bound.seats[index];
        let load = f64::from(state.in_flight());
        // With the new one, at most its part rounded up. Of a part that is three, the error of floating point may
        // make a little more, which is not to become four.
        if load < part * in_flight - 1e-9 {
            return Some(index);
        }
        let load = load / part;
        if roomiest.is_none_or(|(least, _)| load < least) {
            roomiest = Some((load, index));
        }
    }
    roomiest.map(|(_, index)| index).or_else(|| rest().find(available))
}
