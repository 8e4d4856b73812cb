//! Buckets by key, in bounded memory.
//!
//! A key is a hash that nobody outside can foresee, so that a slot is 16 bytes whatever a client writes
//! into a header. Slots stand in sets of sixteen, and a key can only be in its set: finding it and finding
//! room for it takes the same short time in a table of any size. A shard (a lock, some sets) doubles its
//! sets while there is room for that. In a full set a new key takes the slot of the key whose bucket is
//! nearest to full.
//!
//! What that means for whoever sends random keys: each new key is let pass once, as any new client is.
//! It takes the place of the one of its set that owes least, which is mostly another one of these: a key at
//! its limit stays limited until all others of its set owe as much as it does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::gcra::{Decision, Rate};

/// Keys of a set.
const WAYS: usize = 16;
/// Locks of a table that has room for many keys.
const MOST_SHARDS: usize = 16;

#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    /// Of one shard.
    most_sets: usize,
    /// Keys that were forgotten though they still owed something.
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    sets: Vec<Set>,
    /// Slots in use.
    keys: usize,
}

/// An empty slot has the bucket 0; its key says nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Set {
    keys: [u64; WAYS],
    buckets: [u64; WAYS],
}

/// Where a key is, or where it may go.
enum Place {
    Here(usize),
    /// Never used, or of a key whose bucket is full.
    Free(usize),
    /// The one that owes least.
    Taken(usize),
}

impl Set {
    fn find(&self, key: u64, now: u64) -> Place {
        let mut least = 0;
        for slot in 0..WAYS {
            if self.keys[slot] == key && self.buckets[slot] != 0 {
                return Place::Here(slot);
            }
            if self.buckets[slot] < self.buckets[least] {
                least = slot;
            }
        }
        if self.buckets[least] <= now { Place::Free(least) } else { Place::Taken(least) }
    }
}

impl Table {
    /// For at most `max_keys` keys, or sixteen if that is less.
    pub fn new(max_keys: usize) -> Self {
        let shards = (max_keys / (2 * WAYS)).clamp(1, MOST_SHARDS);
        let most_sets = (max_keys / shards / WAYS).max(1);
        let shard = || Mutex::new(Shard { sets: vec![Set::default()], keys: 0 });
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            most_sets,
            evicted: AtomicU64::new(0),
        }
    }

    /// Takes a token from the bucket of `key`.
    pub fn take(&self, key: u64, rate: Rate, now: u64) -> Decision {
        // The shard by the lower bits, the set by the upper ones.
        let shard = &self.shards[(key & 0xffff) as usize % self.shards.len()];
        let shard = &mut *shard.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let at = place(key, shard.sets.len());
            let may_grow = shard.sets.len() < self.most_sets;
            let set = &mut shard.sets[at];
            let slot = match set.find(key, now) {
                Place::Here(slot) => {
                    let (bucket, decision) = rate.decide(set.buckets[slot], now);
                    set.buckets[slot] = bucket;
                    return decision;
                }
                Place::Free(slot) => slot,
                Place::Taken(_) if may_grow => {
                    let lost = shard.grow(self.most_sets, now);
                    self.evicted.fetch_add(lost, Relaxed);
                    continue;
                }
                Place::Taken(slot) => {
                    self.evicted.fetch_add(1, Relaxed);
                    slot
                }
            };
            let is_new = set.buckets[slot] == 0;
            let (bucket, decision) = rate.decide(0, now);
            set.keys[slot] = key;
            set.buckets[slot] = bucket;
            shard.keys += usize::from(is_new);
            return decision;
        }
    }

    /// Keys that are held, those among them whose bucket has become full and whose slot nobody needed.
    pub fn keys(&self) -> usize {
        let keys = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).keys;
        self.shards.iter().map(keys).sum()
    }

    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

impl Shard {
    /// Twice the sets, or as many as there may be. Who owes nothing is left behind. Tells how many others
    /// found no room: none where the number of sets doubled, which splits each in two.
    fn grow(&mut self, most: usize, now: u64) -> u64 {
        let count = (2 * self.sets.len()).min(most);
        let old = std::mem::replace(&mut self.sets, vec![Set::default(); count]);
        self.keys = 0;
        let mut lost = 0;
        for set in old {
            for (key, bucket) in set.keys.into_iter().zip(set.buckets) {
                if bucket <= now {
                    continue;
                }
                let set = &mut self.sets[place(key, count)];
                match set.find(key, now) {
                    Place::Free(slot) => {
                        (set.keys[slot], set.buckets[slot]) = (key, bucket);
                        self.keys += 1;
                    }
                    // No key is there twice.
                    Place::Here(slot) | Place::Taken(slot) => {
                        lost += 1;
                        if set.buckets[slot] < bucket {
                            (set.keys[slot], set.buckets[slot]) = (key, bucket);
                        }
                    }
                }
            }
        }
        lost
    }
}

/// The set of a key among `sets`.
fn place(key: u64, sets: usize) -> usize {
    ((u128::from(key) * sets as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 3600 * SECOND;

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(1), burst)
    }

    #[test]
    fn each_key_has_its_bucket() {
        let table = Table::new(1000);
        let mut random = fastrand::Rng::with_seed(1);
        for key in (0..20).map(|_| random.u64(..)) {
            let allowed = (0..10).filter(|_| table.take(key, rate(1, 3), START).allowed).count();
            assert_eq!(allowed, 3);
        }
        assert_eq!((table.keys(), table.evicted()), (20, 0));
    }

    #[test]
    fn it_is_small_until_it_is_needed() {
        let table = Table::new(1_000_000);
        let room = |table: &Table| -> usize {
            table.shards.iter().map(|shard| shard.lock().unwrap().sets.len() * WAYS).sum()
        };
        assert!(room(&table) <= 256);
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..10_000 {
            table.take(random.u64(..), rate(1, 1), START);
        }
        assert_eq!((table.keys(), table.evicted()), (10_000, 0));
        assert!(room(&table) <= 16 * 10_000, "{}", room(&table));
    }

    #[test]
    fn a_key_at_its_limit_is_not_pushed_out_by_new_ones() {
        let table = Table::new(512);
        let mut random = fastrand::Rng::with_seed(3);
        let busy = random.u64(..);
        while table.take(busy, rate(1, 100), START).allowed {}
        for _ in 0..100_000 {
            table.take(random.u64(..), rate(1, 100), START);
        }
        assert!(!table.take(busy, rate(1, 100), START).allowed);
        assert!(table.keys() <= 512 && table.evicted() > 90_000);
    }

    #[test]
    fn exact_under_threads() {
        let table = Table::new(64);
        let rate = Rate::new(1, Duration::from_secs(3600), 500);
        let allowed: usize = std::thread::scope(|scope| {
            let takes = || (0..500).filter(|_| table.take(7, rate, START).allowed).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(takes)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(allowed, 500);
    }

    proptest! {
        /// Whatever comes: never more keys than allowed; and as long as none was forgotten, each key fares
        /// as it would with a bucket of its own.
        #[test]
        fn bounded_and_exact(
            max_keys in 16usize..300,
            keys in 1u64..400,
            events in prop::collection::vec((any::<u64>(), 0u64..SECOND / 20), 1..1500),
            burst in 1u32..5,
        ) {
            let (table, rate) = (Table::new(max_keys), rate(2, burst));
            prop_assert!(table.shards.len() * table.most_sets * WAYS <= max_keys);
            let mut alone: HashMap<u64, u64> = HashMap::new();
            let mut now = START;
            for (key, gap) in events {
                now += gap;
                // Spread over all 64 bits, as hashes are.
                let key = (key % keys).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let decision = table.take(key, rate, now);
                let bucket = alone.entry(key).or_default();
                let (next, expected) = rate.decide(*bucket, now);
                *bucket = next;
                if table.evicted() == 0 {
                    prop_assert_eq!(decision, expected);
                }
                prop_assert!(table.keys() <= max_keys);
                let slots: usize =
                    table.shards.iter().map(|shard| shard.lock().unwrap().sets.len() * WAYS).sum();
                prop_assert!(slots <= max_keys);
            }
        }
    }
}
