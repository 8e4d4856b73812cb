//! Which endpoint of a service gets a request. One file an algorithm; each picks in constant time,
//! whatever the number of endpoints.

mod available;
mod bounded;
mod hashed;
pub mod key;
mod least_request;
mod maglev;
mod owners;
mod peak_ewma;
mod random;
mod ring_hash;
mod round_robin;
mod split;
mod sticky;
mod two_choices;
mod weighted;
mod zone;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

pub use available::{Availability, NonePicked, Panic, Pick, Picked};
use bounded::Bound;
pub use hashed::Table;
pub use key::Key;
pub use maglev::{TABLE_SIZE, is_prime};
pub use split::{Split, SplitError};
use sticky::Sticky;
pub use sticky::{Cookie, SameSite};
use weighted::Shares;
use zone::Zones;

use crate::clock::Instant;
use crate::endpoint::{Endpoint, Load, State};
use crate::policy::breaker::SharedBreaker;

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
    /// By a key, on a ring.
    RingHash,
    /// By a key, from a table.
    Maglev,
}

/// How a service is balanced: an algorithm, and what it needs to know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub kind: Kind,
    /// What [`Kind::RingHash`] and [`Kind::Maglev`] go by; a request without it goes anywhere.
    pub key: Option<Key>,
    /// By what factor a hashed endpoint may have more in flight than the mean; above 1.
    pub bounded_load: Option<f64>,
    /// Slots of [`Kind::Maglev`], a prime.
    pub table_size: Option<u32>,
    /// Clients stay where their cookie says; `kind` chooses for those without. Not for hashes.
    pub sticky: Option<Arc<Cookie>>,
    /// Not for hashes: a key would lead to one endpoint in each zone.
    pub zone: Option<ZonePlan>,
}

/// The own zone first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonePlan {
    pub own: Box<str>,
    /// How many endpoints it has to have.
    pub min_endpoints: usize,
}

/// How the requests to a service are spread over its endpoints. Immutable, made when the
/// configuration is compiled, shared by the workers; what a worker has to remember is in its
/// [`Cursor`].
#[derive(Debug)]
pub struct Balancer {
    plan: Plan,
    plain: Plain,
    table: Option<Table>,
    bound: Option<Bound>,
    sticky: Option<Sticky>,
    zones: Option<Box<Zones>>,
}

/// The algorithms that know no key.
#[derive(Debug)]
struct Plain {
    kind: Kind,
    shares: Shares,
    mean_weight: f32,
    candidates: Box<[Candidate]>,
}

/// What of an endpoint is looked at to pick one.
// Picks go to random ones of maybe thousands: side by side these stay in the cache, endpoints do not.
#[derive(Debug)]
struct Candidate {
    state: Arc<State>,
    breaker: Option<Arc<SharedBreaker>>,
    weight: u32,
}

impl Candidate {
    fn of(endpoint: &Arc<Endpoint>) -> Self {
        let Endpoint { state, breaker, .. } = &**endpoint;
        Self { state: state.clone(), breaker: breaker.clone(), weight: endpoint.weight.max(1) }
    }

    /// When its breaker will let someone through again, where it lets nobody through at `now`.
    fn refuses(&self, now: Instant) -> Option<Instant> {
        self.breaker.as_ref()?.refuses(now)
    }
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
    /// With the defaults of `kind`.
    pub fn new(kind: Kind, endpoints: &[Arc<Endpoint>]) -> Self {
        Self::of(&Plan { kind, ..Plan::default() }, endpoints, None, None)
    }

    /// `load` is what is in flight to all of `endpoints`, for a bound. `before` is the table of the
    /// balancer that this one replaces.
    pub fn of(
        plan: &Plan,
        endpoints: &[Arc<Endpoint>],
        load: Option<&Arc<Load>>,
        before: Option<&Table>,
    ) -> Self {
        let weights = endpoints.iter().map(|endpoint| endpoint.weight.max(1));
        let bound = plan.bounded_load.zip(load);
        let zone = plan.zone.as_ref().filter(|_| !plan.kind.is_hash());
        let zones =
            zone.and_then(|zone| Zones::new(plan.kind, &zone.own, zone.min_endpoints, endpoints));
        let sticky = plan.sticky.as_ref().filter(|_| !plan.kind.is_hash());
        Self {
            plan: plan.clone(),
            plain: Plain::new(plan.kind, endpoints, weights),
            table: Table::new(plan, endpoints, before),
            bound: bound.map(|(factor, load)| Bound::new(factor, endpoints, load.clone())),
            sticky: sticky.map(|cookie| Sticky::new(cookie.clone(), endpoints)),
            zones: zones.map(Box::new),
        }
    }

    pub fn kind(&self) -> Kind {
        self.plan.kind
    }

    /// What it was made by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// What requests are told apart by.
    pub fn key(&self) -> Option<&Key> {
        self.plan.key.as_ref()
    }

    /// The cookie that clients of this service get.
    pub fn cookie(&self) -> Option<&Cookie> {
        self.sticky.as_ref().map(|sticky| &*sticky.cookie)
    }

    /// What of a request [`Balancer::pick`] wants to know.
    pub fn wish<S: Fn() -> IpAddr>(&self, asked: &key::Asked<'_, S>) -> Option<u64> {
        match (&self.plan.key, &self.sticky) {
            (None, None) => None,
            (Some(key), _) => key.hash(asked),
            (None, Some(sticky)) => sticky.cookie.read(asked.headers),
        }
    }

    /// The same of a connection that carries no HTTP.
    pub fn wish_of_peer(&self, peer: IpAddr) -> Option<u64> {
        self.plan.key.as_ref()?.hash_of_peer(peer)
    }

    /// The endpoint that the cookie of a client names.
    pub fn wished(&self, wish: Option<u64>) -> Option<usize> {
        self.sticky.as_ref()?.find(wish?)
    }

    /// The endpoint that a key leads to first.
    pub fn home(&self, hash: u64) -> Option<usize> {
        self.table.as_ref()?.pick(hash, None, &|_| false)
    }

    /// Whether an endpoint is in our zone, where that makes a difference.
    pub fn is_local(&self, index: usize) -> Option<bool> {
        self.zones.as_ref().map(|zones| zones.is_local(index))
    }

    /// The index of the one to use, among those that it was made for. `None`: there are none, or all are
    /// skipped.
    ///
    /// `wish` is [`Balancer::wish`]. `skip` tells which indices this request cannot use; it may hold for
    /// many.
    pub fn pick(
        &self,
        cursor: &mut Cursor,
        random: &mut fastrand::Rng,
        now: Instant,
        wish: Option<u64>,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if let Some(table) = &self.table {
            let hash = wish.unwrap_or_else(|| random.u64(..));
            return table.pick(hash, self.bound.as_ref(), skip);
        }
        if let Some(index) = self.wished(wish)
            && !skip(index)
        {
            return Some(index);
        }
        match &self.zones {
            Some(zones) => zones.pick(cursor, random, now, skip),
            None => self.plain.pick(cursor, random, now, skip),
        }
    }
}

impl Kind {
    /// Whether it goes by a key.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

impl Plain {
    /// `weights` are the shares of `endpoints`, which may be others than their weights.
    fn new(
        kind: Kind,
        endpoints: &[Arc<Endpoint>],
        weights: impl IntoIterator<Item = u32>,
    ) -> Self {
        let sum: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight.max(1))).sum();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let mean_weight = (sum / endpoints.len().max(1) as f64) as f32;
        let candidates = endpoints.iter().map(Candidate::of).collect();
        Self { kind, shares: Shares::new(weights), mean_weight, candidates }
    }

    fn pick(
        &self,
        cursor: &mut Cursor,
        random: &mut fastrand::Rng,
        now: Instant,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let Self { shares, candidates, .. } = self;
        match shares.len() {
            0 => return None,
            1 => return (!skip(0)).then_some(0),
            _ => {}
        }
        match self.kind {
            Kind::PeakEwma => {
                peak_ewma::pick(shares, self.mean_weight, candidates, random, now, skip)
            }
            Kind::RoundRobin => round_robin::pick(shares, cursor, skip),
            Kind::LeastRequest => least_request::pick(shares, candidates, random, skip),
            Kind::Random | Kind::RingHash | Kind::Maglev => random::pick(shares, random, skip),
        }
    }
}
