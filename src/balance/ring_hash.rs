//! Consistent hashing on a ring (D. Karger et al. 1997): each endpoint has points on it by its weight,
//! and a key belongs to the first point at or after its own place. When an endpoint goes, only its keys
//! move; when one comes, only those that it gets.
//!
//! The ring has 2^32 places, and the points of an endpoint depend on its address and weight alone, so
//! that every sidecar has the same ring.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bounded::fingerprint;
use crate::endpoint::Endpoint;

/// Points of an endpoint whose weight is a power of two and the highest: shares are off by some 10 %, those of
/// lighter ones by more (1 / sqrt of their points).
pub(super) const POINTS: u64 = 100;

#[derive(Debug)]
pub(super) struct Ring {
    /// By place; where two are the same, by the address.
    points: Box<[Point]>,
    /// The ring in equal parts, a power of two of them: the first point at or after the beginning of
    /// each. It makes the search a matter of one or two cache lines.
    parts: Box<[u32]>,
    /// What makes a part of a place.
    shift: u32,
    /// Of what it was made, see [`fingerprint`].
    pub(super) made_of: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    place: u32,
    owner: u32,
}

impl Ring {
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
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
        let parts = (points.len() / 8).next_power_of_two();
        let shift = 32 - parts.ilog2();
        let mut at = 0;
        let parts = (0..parts as u64).map(|part| {
            while points.get(at).is_some_and(|point| u64::from(point.place) < part << shift) {
                at += 1;
            }
            at as u32
        });
        let parts = parts.collect();
        Self { points: points.into(), parts, shift, made_of: fingerprint(endpoints, 0) }
    }

    /// The endpoints in the order in which they are to take the key: again and again, and one may come
    /// several times. There has to be one.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let first = self.first(hash);
        let (before, from) = self.points.split_at(first);
        from.iter().chain(before).cycle().map(|point| point.owner as usize)
    }

    /// The first point at or after the place of the key; as many as there are points: the first of all.
    fn first(&self, hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation)]
        let place = (hash >> 32) as u32;
        // One part is the whole ring, by a shift of 32.
        let part = (u64::from(place) >> self.shift) as usize;
        let mut at = self.parts[part] as usize;
        while self.points.get(at).is_some_and(|point| point.place < place) {
            at += 1;
        }
        at
    }
}
