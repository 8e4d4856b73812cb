//! A choice among weighted destinations of a route, for example 90 % to one version and 10 % to another:
//! for each request anew, or the same for the same key.
//!
//! With a key it is weighted rendezvous hashing (C. Schindelhauer, G. Schomaker 2005): each destination
//! draws a waiting time from the key and itself, exponential with its weight as the rate, and the
//! shortest wins. What a destination draws depends on nobody else, so that when weights change, keys
//! move only to those who have more of the sum than before, and only as many as must.

use xxhash_rust::xxh3::xxh3_64;

use super::key::Key;
use super::weighted::Shares;

#[derive(Debug)]
pub struct Split {
    shares: Shares,
    sticky: Option<Box<Sticky>>,
}

#[derive(Debug)]
struct Sticky {
    key: Key,
    destinations: Box<[Destination]>,
}

#[derive(Debug)]
struct Destination {
    /// Of its name.
    seed: u64,
    weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("there is no destination to choose from")]
    Empty,
    #[error("the weights of all destinations are 0: at least one has to be above")]
    AllZero,
}

impl Split {
    /// A weight of 0 means never.
    ///
    /// # Errors
    /// If no destination could ever be chosen.
    pub fn new(weights: &[u32]) -> Result<Self, SplitError> {
        if weights.is_empty() {
            return Err(SplitError::Empty);
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err(SplitError::AllZero);
        }
        Ok(Self { shares: Shares::new(weights.iter().copied()), sticky: None })
    }

    /// Makes it go by a key. `destinations` are the names by which it knows them again after a change,
    /// and their weights, in the order of [`Split::new`].
    #[must_use]
    pub fn by_key(self, key: Key, destinations: &[(String, u32)]) -> Self {
        let destination = |(at, (name, weight)): (usize, &(String, u32))| {
            // The same one may be there twice: its second entry draws for itself.
            let before = destinations[..at].iter().filter(|(other, _)| other == name).count();
            let seed = xxh3_64(name.as_bytes()).wrapping_add(before as u64);
            Destination { seed, weight: f64::from(*weight) }
        };
        let destinations = destinations.iter().enumerate().map(destination).collect();
        Self { sticky: Some(Box::new(Sticky { key, destinations })), ..self }
    }

    /// What it goes by.
    pub fn key(&self) -> Option<&Key> {
        self.sticky.as_ref().map(|sticky| &sticky.key)
    }

    /// The index of a weight, each with its share of the sum; the same for the same hash of a key.
    pub fn pick(&self, random: &mut fastrand::Rng, hash: Option<u64>) -> usize {
        match (&self.sticky, hash) {
            (Some(sticky), Some(hash)) => sticky.pick(hash),
            _ => self.shares.sample(random),
        }
    }
}

impl Sticky {
    fn pick(&self, hash: u64) -> usize {
        let waits = self.destinations.iter().map(|destination| {
            #[allow(clippy::cast_precision_loss)]
            // 53 bits, the middle of each step: neither 0 nor 1.
            let drawn =
                ((mixed(hash ^ destination.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -drawn.ln() / destination.weight
        });
        let shortest = waits.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
        shortest.map_or(0, |(index, _)| index)
    }
}

/// The finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood 2014): each bit depends on all.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use proptest::prelude::*;

    use super::*;

    fn sticky(weights: &[(&str, u32)]) -> Split {
        let named: Vec<_> = weights.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect();
        let weights: Vec<u32> = weights.iter().map(|(_, weight)| *weight).collect();
        Split::new(&weights).unwrap().by_key(Key::Header(HOST), &named)
    }

    fn pick(split: &Split, user: u64) -> usize {
        split.pick(&mut fastrand::Rng::with_seed(user), Some(xxh3_64(&user.to_le_bytes())))
    }

    #[test]
    fn splits_want_a_weight() {
        assert_eq!(Split::new(&[]).unwrap_err(), SplitError::Empty);
        assert_eq!(Split::new(&[0, 0]).unwrap_err(), SplitError::AllZero);
    }

    #[test]
    fn weight_zero_is_never_chosen() {
        let weights = [("a", 0), ("b", 90), ("c", 0), ("d", 10), ("e", 0)];
        let split = sticky(&weights);
        let mut random = fastrand::Rng::with_seed(1);
        for by_key in [false, true] {
            let mut counts = [0; 5];
            for user in 0..10_000 {
                counts[if by_key { pick(&split, user) } else { split.pick(&mut random, None) }] +=
                    1;
            }
            assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
            assert!((900..1100).contains(&counts[3]), "{counts:?}");
        }
    }

    #[test]
    fn one_twice_has_the_sum() {
        let split = sticky(&[("a", 1), ("b", 2), ("a", 1)]);
        let of_b = (0..10_000).filter(|user| pick(&split, *user) == 1).count();
        assert!((4700..5300).contains(&of_b), "{of_b}");
    }

    proptest! {
        #[test]
        fn shares_are_by_weight(weights in prop::collection::vec(0_u32..50, 1..6)) {
            let sum: u32 = weights.iter().sum();
            prop_assume!(sum > 0);
            let names: Vec<_> = (0..weights.len()).map(|i| format!("service-{i}")).collect();
            let named: Vec<_> = names.iter().map(String::as_str).zip(weights.clone()).collect();
            let split = sticky(&named);
            let mut counts = vec![0_u32; weights.len()];
            const USERS: u32 = 10_000;
            (0..u64::from(USERS)).for_each(|user| counts[pick(&split, user)] += 1);
            for (weight, count) in weights.iter().zip(counts) {
                let due = f64::from(USERS) * f64::from(*weight) / f64::from(sum);
                let slack = 6.0 * due.sqrt() + 1.0;
                prop_assert!((f64::from(count) - due).abs() <= slack, "{count} {due}");
            }
        }

        /// Only to the one that got more, or only away from the one that got less.
        #[test]
        fn a_changed_weight_moves_only_what_must_move(
            before in prop::collection::vec(1_u32..50, 2..6),
            which in any::<prop::sample::Index>(),
            weight in 0_u32..100,
        ) {
            let which = which.index(before.len());
            let mut after = before.clone();
            after[which] = weight;
            let names: Vec<_> = (0..before.len()).map(|i| format!("v{i}")).collect();
            let split = |weights: &[u32]| {
                let named: Vec<_> = names.iter().map(String::as_str).zip(weights.to_vec()).collect();
                sticky(&named)
            };
            let (old, new) = (split(&before), split(&after));
            for user in 0..2_000 {
                let (from, to) = (pick(&old, user), pick(&new, user));
                if weight >= before[which] {
                    prop_assert!(from == to || to == which);
                } else {
                    prop_assert!(from == to || from == which);
                }
            }
        }
    }
}
