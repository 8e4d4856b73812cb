//! What a key leads to: its order on the ring or in the table and, where that is no help, one of all endpoints.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::bounded::{self, Bound};
use super::maglev::{Maglev, TABLE_SIZE};
use super::ring_hash::Ring;
use super::weighted::gcd;
use super::{Kind, Plan};
use crate::endpoint::Endpoint;

/// What is costly to make, to be taken over where the endpoints are the same.
#[derive(Debug, Clone)]
pub struct Table(Arc<Made>);

#[derive(Debug)]
struct Made {
    /// See [`fingerprint`].
    of: u64,
    hashed: Hashed,
    /// The endpoints by address, so that the order in which they are listed makes no difference.
    order: Box<[u32]>,
}

#[derive(Debug)]
enum Hashed {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// `before` where it would be the same. `None`: it is no hash, or there are no endpoints.
    pub(super) fn new(
        plan: &Plan,
        endpoints: &[Arc<Endpoint>],
        before: Option<&Self>,
    ) -> Option<Self> {
        let size = plan.table_size.unwrap_or(TABLE_SIZE);
        let size = match plan.kind {
            Kind::RingHash => None,
            Kind::Maglev => Some(size),
            _ => return None,
        };
        if endpoints.is_empty() {
            return None;
        }
        let of = fingerprint(endpoints, size);
        if let Some(before) = before.filter(|before| before.0.of == of) {
            return Some(before.clone());
        }
        #[allow(clippy::cast_possible_truncation)]
        let mut order: Box<[u32]> = (0..endpoints.len() as u32).collect();
        order.sort_unstable_by_key(|index| &endpoints[*index as usize].label);
        let hashed = match size {
            None => Hashed::Ring(Ring::new(endpoints)),
            Some(size) => Hashed::Maglev(Maglev::new(endpoints, &order, size)),
        };
        Some(Self(Arc::new(Made { of, hashed, order })))
    }

    /// See [`bounded::choose`].
    pub(super) fn pick(
        &self,
        hash: u64,
        bound: Option<&Bound>,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let Made { hashed, order, .. } = &*self.0;
        let rest = || rest(order, hash);
        match hashed {
            Hashed::Ring(ring) => bounded::choose(ring.walk(hash), rest, bound, skip),
            Hashed::Maglev(maglev) => bounded::choose(maglev.walk(hash), rest, bound, skip),
        }
    }

    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Each of `order` once, in an order of the key's own: it begins somewhere and goes on by a step that has no
/// divisor in common with their number. Were the step the same for all keys, whoever stands behind many that
/// are not available would get what was theirs.
fn rest(order: &[u32], hash: u64) -> impl Iterator<Item = usize> + '_ {
    #[allow(clippy::cast_possible_truncation)]
    let len = order.len() as u32;
    // Not from the high half, which was used for the place on the ring or in the table.
    #[allow(clippy::cast_possible_truncation)]
    let (start, step) = (hash as u32 % len, (hash as u32 / len) % len);
    let step = (step.max(1)..).find(|step| gcd(*step, len) == 1).unwrap_or(1);
    let places = (0..u64::from(len))
        .map(move |turn| (u64::from(start) + turn * u64::from(step)) % u64::from(len));
    places.map(|place| order[place as usize] as usize)
}

/// Tells endpoints with their weights and order from others: what was made of the same is the same. `size` is
/// that of a table with slots.
fn fingerprint(endpoints: &[Arc<Endpoint>], size: Option<u32>) -> u64 {
    let mut hasher = Xxh3Default::new();
    // No table has 0 slots.
    hasher.update(&size.unwrap_or(0).to_le_bytes());
    for endpoint in endpoints {
        hasher.update(&endpoint.weight.to_le_bytes());
        hasher.update(endpoint.label.as_bytes());
        hasher.update(&[0]);
    }
    hasher.digest()
}
