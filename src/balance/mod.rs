//! Which endpoint of a service gets a request. One file an algorithm; each picks in constant time,
//! whatever the number of endpoints.

mod least_request;
mod peak_ewma;
mod random;
mod round_robin;
mod two_choices;
pub mod weighted;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use weighted::Shares;
pub use weighted::{Split, SplitError};

use crate::endpoint::{Endpoint, Nanos};

/// The algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Latency times requests in flight, the better of two. The default.
    #[default]
    PeakEwma,
    /// In turn.
    RoundRobin,
    /// Requests in flight, the better of two.
    LeastRequest,
    /// At random.
    Random,
}

/// How the requests to a service are spread over its endpoints. Immutable, made when the
/// configuration is compiled, shared by the workers; what a worker has to remember is in its
/// [`Cursor`].
#[derive(Debug)]
pub struct Balancer {
    kind: Kind,
    shares: Shares,
    mean_weight: f32,
}

/// A worker's place in the turns of one service. Survives a change of the endpoints.
#[derive(Debug, Clone, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// A random place, so that workers (and the sidecars of a fleet) do not all begin with the same
    /// endpoint.
    pub fn starting_at(random: &mut fastrand::Rng) -> Self {
        Self(u64::from(random.u32(..)))
    }

    fn next(&mut self) -> u64 {
        let turn = self.0;
        self.0 = turn.wrapping_add(1);
        turn
    }
}

impl Balancer {
    pub fn new(kind: Kind, endpoints: &[Arc<Endpoint>]) -> Self {
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight.max(1));
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let mean_weight =
            (weights().map(f64::from).sum::<f64>() / endpoints.len().max(1) as f64) as f32;
        Self { kind, shares: Shares::new(weights()), mean_weight }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The index in `endpoints` of the one to use; `None` only if there are none.
    ///
    /// `endpoints` are those that the balancer was made for. `tried` are the indices that this
    /// request already used: one of the others is picked, or, if it tried all, any.
    pub fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        cursor: &mut Cursor,
        random: &mut fastrand::Rng,
        now: Nanos,
        tried: &[u32],
    ) -> Option<usize> {
        debug_assert_eq!(endpoints.len(), self.shares.len(), "another balancer's endpoints");
        let shares = &self.shares;
        match shares.len() {
            0 => return None,
            1 => return Some(0),
            _ => {}
        }
        let tried = if tried_all(shares.len(), tried) { &[] } else { tried };
        Some(match self.kind {
            Kind::PeakEwma => {
                peak_ewma::pick(shares, self.mean_weight, endpoints, random, now, tried)
            }
            Kind::RoundRobin => round_robin::pick(shares, cursor, tried),
            Kind::LeastRequest => least_request::pick(shares, endpoints, random, tried),
            Kind::Random => random::pick(shares, random, tried),
        })
    }
}

fn was_tried(tried: &[u32], index: usize) -> bool {
    tried.iter().any(|tried| *tried as usize == index)
}

fn tried_all(len: usize, tried: &[u32]) -> bool {
    tried.len() >= len && (0..len).all(|index| was_tried(tried, index))
}
