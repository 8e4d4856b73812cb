//! Endpoints of the own zone first: less latency, and no traffic between zones to pay for.
//!
//! Two things limit it. *Capacity*: it is taken that each zone that has endpoints sends as much as any
//! other. A zone that has less than its part of the endpoints keeps as much of its traffic as they are
//! of that part, and the rest goes to the zones that have more than theirs, by what they have more
//! (Envoy's zone aware routing, for callers spread evenly). Then every endpoint has the same load.
//! *Availability*: two endpoints of the own zone are looked at, at random, and where neither is available
//! the request goes to the other zones. So spilling begins slowly, needs no counting, and of a zone that
//! is half gone those that are left get at most twice what they had.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cursor, Kind, Plain};
use crate::clock::Instant;
use crate::endpoint::Endpoint;

#[derive(Debug)]
pub(super) struct Zones {
    local: Pool,
    other: Pool,
    /// How much of our traffic the own zone has room for, 0 to 1.
    local_share: f64,
    /// By index of the endpoint.
    is_local: Box<[bool]>,
}

/// Some of the endpoints.
#[derive(Debug)]
struct Pool {
    /// Their indices among all.
    members: Box<[u32]>,
    plain: Plain,
}

impl Zones {
    /// `None`: zones make no difference, because there is one, none is ours, or ours has fewer than
    /// `min_endpoints`; or because the zone of an endpoint is not known, so that nobody can tell what
    /// each zone has.
    pub(super) fn new(
        kind: Kind,
        own: &str,
        min_endpoints: usize,
        endpoints: &[Arc<Endpoint>],
    ) -> Option<Self> {
        let weight = |endpoint: &Endpoint| f64::from(endpoint.weight.max(1));
        let mut capacity = BTreeMap::<&str, f64>::new();
        for endpoint in endpoints {
            *capacity.entry(endpoint.zone.as_deref()?).or_default() += weight(endpoint);
        }
        let ours = *capacity.get(own)?;
        if capacity.len() < 2 {
            return None;
        }
        let even = capacity.values().sum::<f64>() / capacity.len() as f64;
        let local_share = (ours / even).min(1.0);
        let spare = |endpoint: &Endpoint| {
            let capacity = endpoint.zone.as_deref().and_then(|zone| capacity.get(zone));
            capacity.map_or(0.0, |capacity| (1.0 - even / capacity).max(0.0))
        };
        let is_local: Box<[bool]> =
            endpoints.iter().map(|endpoint| endpoint.zone.as_deref() == Some(own)).collect();
        let pool = |local: bool, share: &dyn Fn(&Endpoint) -> u32| {
            let indices = (0..).zip(&is_local).filter(|(_, is_local)| **is_local == local);
            let members: Box<[u32]> = indices.map(|(index, _)| index).collect();
            let endpoints: Vec<_> =
                members.iter().map(|index| endpoints[*index as usize].clone()).collect();
            let plain = Plain::new(kind, &endpoints, endpoints.iter().map(|e| share(e)));
            Pool { members, plain }
        };
        let local = pool(true, &|endpoint| endpoint.weight.max(1));
        if local.members.len() < min_endpoints {
            return None;
        }
        // What is spilled for lack of capacity goes by what is spare, in thousandths.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let by_spare =
            |endpoint: &Endpoint| (weight(endpoint) * spare(endpoint) * 1e3).ceil() as u32;
        let other = if local_share < 1.0 {
            pool(false, &by_spare)
        } else {
            pool(false, &|endpoint| endpoint.weight.max(1))
        };
        Some(Self { local, other, local_share, is_local })
    }

    /// `None`: all are skipped.
    pub(super) fn pick(
        &self,
        cursor: &mut Cursor,
        random: &mut fastrand::Rng,
        now: Instant,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let has_room = self.local_share >= 1.0 || random.f64() < self.local_share;
        let (first, second) = if has_room && self.local.has_available(random, skip) {
            (&self.local, &self.other)
        } else {
            (&self.other, &self.local)
        };
        let picked = first.pick(cursor, random, now, skip);
        picked.or_else(|| second.pick(cursor, random, now, skip))
    }

    pub(super) fn is_local(&self, index: usize) -> bool {
        self.is_local[index]
    }
}

impl Pool {
    /// Whether one of two random ones is available.
    fn has_available(&self, random: &mut fastrand::Rng, skip: &impl Fn(usize) -> bool) -> bool {
        let member = |index: usize| self.members[index] as usize;
        (0..2).any(|_| !skip(member(self.plain.shares.sample(random))))
    }

    fn pick(
        &self,
        cursor: &mut Cursor,
        random: &mut fastrand::Rng,
        now: Instant,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let member = |index: usize| self.members[index] as usize;
        let skip = |index: usize| skip(member(index));
        self.plain.pick(cursor, random, now, &skip).map(member)
    }
}
