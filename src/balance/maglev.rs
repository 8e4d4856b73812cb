//! Maglev hashing (D. E. Eisenbud et al. 2016, section 3.4): a table whose slots are dealt out to the
//! endpoints in turn, each taking the next free one in an order of its own. Shares are exact to a slot,
//! a pick is one look into the table; when an endpoint goes or comes, a few more keys move than must.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::owners::Owners;
use crate::endpoint::Endpoint;

/// Slots of a table, a prime. It has to be much larger than the number of endpoints, and stay the same:
/// with another one all keys move.
pub const TABLE_SIZE: u32 = 65_537;

#[derive(Debug)]
pub(super) struct Maglev(Owners);

impl Maglev {
    /// `order` has the endpoints by address. `size` is a prime. There has to be an endpoint.
    pub(super) fn new(endpoints: &[Arc<Endpoint>], order: &[u32], size: u32) -> Self {
        let slots = dealt(endpoints, order, u64::from(size));
        Self(Owners::new(slots.into_iter(), endpoints.len()))
    }

    /// The endpoints in the order in which they are to take the key: again and again, and one may come
    /// several times.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let len = self.0.len();
        #[allow(clippy::cast_possible_truncation)]
        let mut next = (((hash >> 32) * len as u64) >> 32) as usize;
        std::iter::repeat_with(move || {
            let owner = self.0.of(next);
            next = if next + 1 == len { 0 } else { next + 1 };
            owner
        })
    }
}

/// The order in which an endpoint would take the slots: all of them, because `size` is a prime.
struct Wishes {
    next: u64,
    step: u64,
}

fn dealt(endpoints: &[Arc<Endpoint>], order: &[u32], size: u64) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut wishes: Vec<Wishes> = endpoints
        .iter()
        .map(|endpoint| {
            let label = endpoint.label.as_bytes();
            Wishes {
                next: xxh3_64_with_seed(label, 0) % size,
                step: xxh3_64_with_seed(label, 1) % (size - 1) + 1,
            }
        })
        .collect();
    let mut slots = vec![FREE; size as usize];
    let mut turns = Turns::new(endpoints, order);
    for _ in 0..size {
        let owner = turns.next();
        let Wishes { next, step } = &mut wishes[owner as usize];
        // There is a free slot: as many turns are taken as there are slots.
        while slots[*next as usize] != FREE {
            *next = (*next + *step) % size;
        }
        slots[*next as usize] = owner;
    }
    slots
}

/// Whose turn it is: one after the other, or by weight.
enum Turns<'a> {
    Even {
        order: &'a [u32],
        at: usize,
    },
    /// An endpoint of weight w takes its n-th turn at the time n / w.
    ByWeight(BinaryHeap<Reverse<Turn>>),
}

struct Turn {
    at: f64,
    count: u32,
    weight: u32,
    /// Its place in the order, and itself.
    rank: u32,
    owner: u32,
}

impl Turns<'_> {
    fn new<'a>(endpoints: &[Arc<Endpoint>], order: &'a [u32]) -> Turns<'a> {
        let weight = |index: u32| endpoints[index as usize].weight.max(1);
        if order.windows(2).all(|pair| weight(pair[0]) == weight(pair[1])) {
            return Turns::Even { order, at: 0 };
        }
        let first = |(rank, owner): (u32, &u32)| {
            let weight = weight(*owner);
            Reverse(Turn { at: 1.0 / f64::from(weight), count: 1, weight, rank, owner: *owner })
        };
        Turns::ByWeight((0..).zip(order).map(first).collect())
    }

    fn next(&mut self) -> u32 {
        match self {
            Self::Even { order, at } => {
                let owner = order[*at];
                *at = (*at + 1) % order.len();
                owner
            }
            Self::ByWeight(heap) => {
                let Some(mut top) = heap.peek_mut() else {
                    return 0;
                };
                let Reverse(turn) = &mut *top;
                turn.count += 1;
                turn.at = f64::from(turn.count) / f64::from(turn.weight);
                turn.owner
            }
        }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.rank.cmp(&other.rank))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// Whether a table may have this many slots.
pub fn is_prime(number: u32) -> bool {
    let divides = |divisor: &u32| number.is_multiple_of(*divisor);
    number > 1 && !(2..).take_while(|divisor| divisor * divisor <= number).any(|d| divides(&d))
}
