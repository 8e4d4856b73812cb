//! Consistent hashing on a ring (D. Karger et al. 1997): each endpoint has points on it by its weight,
//! and a key belongs to the first point at or after its own place. When an endpoint goes, only its keys
//! move; when one comes, only those that it gets.
//!
//! Points depend on the address and the weight alone, so that every sidecar has the same ring. They may be at
//! any of 2^32 places, keys are at the beginnings of 2^20 slots: with many endpoints the owner of each slot is
//! written down, and a pick is one look into that.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::owners::Owners;
use crate::endpoint::Endpoint;

/// Points of an endpoint whose weight is a power of two and the highest: shares are off by some 10 %, those of
/// lighter ones by more (1 / sqrt of their points).
pub(super) const POINTS: u64 = 100;

/// Of a hash, what tells the slot.
const SLOT_BITS: u32 = 20;
const SLOTS: usize = 1 << SLOT_BITS;
const PLACES_OF_SLOT: u32 = 1 << (32 - SLOT_BITS);

/// With so many points it is the owners of all slots that are written down: 2 MB, twice the memory of the points.
const MANY: usize = SLOTS / 8;

#[derive(Debug)]
pub(super) enum Ring {
    Few(Points),
    /// The owners of the slots.
    Many(Owners),
}

#[derive(Debug)]
pub(super) struct Points {
    /// By place, one of each slot; there is one.
    points: Box<[Point]>,
    /// The ring in equal parts, a power of two of them: the first point at or after the beginning of
    /// each. It makes the search a matter of one or two cache lines.
    parts: Box<[u32]>,
    /// What makes a part of a place.
    shift: u32,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    place: u32,
    owner: u32,
}

impl Ring {
    /// There has to be an endpoint.
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let points = points(endpoints);
        if points.len() < MANY {
            Self::Few(Points::new(points))
        } else {
            Self::Many(owners(&points, endpoints.len()))
        }
    }

    /// The endpoints in the order in which they are to take the key: again and again, and one may come
    /// several times.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        #[allow(clippy::cast_possible_truncation)]
        let slot = (hash >> (64 - SLOT_BITS)) as usize;
        let mut at = match self {
            Self::Few(points) => points.first(slot),
            Self::Many(_) => slot,
        };
        // The step is taken when it is asked for, which it mostly is not.
        let mut is_first = true;
        std::iter::repeat_with(move || match self {
            Self::Few(Points { points, .. }) => {
                at = if is_first { at } else { (at + 1) % points.len() };
                is_first = false;
                points[at].owner as usize
            }
            Self::Many(owners) => {
                at = if is_first { at } else { after(owners, at) };
                is_first = false;
                owners.of(at)
            }
        })
    }
}

/// The owner of each slot.
fn owners(points: &[Point], endpoints: usize) -> Owners {
    let mut next = 0;
    let owners = (0..SLOTS).map(|slot| {
        while points.get(next).is_some_and(|point| point.slot() < slot) {
            next += 1;
        }
        points.get(next).unwrap_or(&points[0]).owner
    });
    Owners::new(owners, endpoints)
}

/// The next slot that somebody else has; the same one where one has all.
fn after(owners: &Owners, slot: usize) -> usize {
    let mut others = (1..SLOTS).map(|step| (slot + step) % SLOTS);
    let owner = owners.of(slot);
    others.find(|other| owners.of(*other) != owner).unwrap_or(slot)
}

/// By place; where two are at the same, by the address. One of each slot: no key belongs to others in it.
fn points(endpoints: &[Arc<Endpoint>]) -> Vec<Point> {
    // By the power of two below the highest weight: what the lighter ones have stays the same
    // whoever comes and goes among them.
    let highest = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).max().unwrap_or(1);
    let unit = 1_u64 << highest.ilog2();
    let mut points = Vec::with_capacity(endpoints.len() * POINTS as usize);
    for (owner, endpoint) in (0..).zip(endpoints) {
        let count = (u64::from(endpoint.weight) * POINTS / unit).max(1);
        let label = endpoint.label.as_bytes();
        points.extend((0..count).map(|seed| {
            #[allow(clippy::cast_possible_truncation)]
            let place = (xxh3_64_with_seed(label, seed) >> 32) as u32;
            Point { place, owner }
        }));
    }
    let label = |point: &Point| &endpoints[point.owner as usize].label;
    points.sort_unstable_by(|a, b| a.place.cmp(&b.place).then_with(|| label(a).cmp(label(b))));
    // Keys are at the beginning of a slot: of the points in it they meet the first.
    points.dedup_by_key(|point| point.slot());
    points
}

impl Point {
    /// The slot that it is in.
    fn slot(&self) -> usize {
        (self.place / PLACES_OF_SLOT) as usize
    }
}

impl Points {
    fn new(points: Vec<Point>) -> Self {
        let parts = (points.len() / 8).next_power_of_two().min(SLOTS);
        let shift = SLOT_BITS - parts.ilog2();
        let mut next = 0;
        let parts = (0..parts).map(|part| {
            while points.get(next).is_some_and(|point| point.slot() < part << shift) {
                next += 1;
            }
            #[allow(clippy::cast_possible_truncation)]
            let first = next as u32;
            first
        });
        Self { parts: parts.collect(), points: points.into(), shift }
    }

    /// The first point at or after the beginning of the slot.
    fn first(&self, slot: usize) -> usize {
        let mut at = self.parts[slot >> self.shift] as usize;
        while self.points.get(at).is_some_and(|point| point.slot() < slot) {
            at += 1;
        }
        if at == self.points.len() { 0 } else { at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{Address, Instance};

    /// Without those that come again at once.
    fn order(ring: &Ring, hash: u64) -> Vec<usize> {
        let mut order: Vec<_> = ring.walk(hash).take(300).collect();
        order.dedup();
        order.truncate(20);
        order
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn few_and_many_points_are_the_same_ring(
            // One alone has all slots, and each step would look through them; there are never many points of it.
            weights in prop::collection::vec(1_u32..5, 2..300),
            hashes in prop::collection::vec(any::<u64>(), 100),
        ) {
            let endpoint = |(port, weight)| {
                let address = Address::Socket(([10, 0, 0, 1], port).into());
                let instance = Instance { weight, ..address.into() };
                Arc::new(Endpoint::new(instance, Arc::default()))
            };
            let endpoints: Vec<_> = (1..).zip(weights).map(endpoint).collect();
            let points = points(&endpoints);
            let many = Ring::Many(owners(&points, endpoints.len()));
            let few = Ring::Few(Points::new(points));
            for hash in hashes.into_iter().chain([0, u64::MAX]) {
                prop_assert_eq!(order(&few, hash), order(&many, hash));
            }
        }
    }
}
