//! Ring hash, Maglev, and bounded load.

use std::collections::BTreeSet;

use super::*;

const HASHES: [Kind; 2] = [Kind::RingHash, Kind::Maglev];

/// The hash of the `user`th key.
fn key(user: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("user-{user}").as_bytes())
}

/// Endpoints by the last part of their addresses, with their weights.
fn endpoints(of: &[(u16, u32)]) -> Vec<Arc<Endpoint>> {
    of.iter()
        .map(|(port, weight)| {
            let address = Address::Socket(SocketAddr::from(([10, 0, 0, 1], 1000 + *port)));
            let instance = Instance { weight: *weight, ..address.into() };
            Arc::new(Endpoint::new(instance, Arc::default()))
        })
        .collect()
}

/// A small table, which shows more of what moves and is quicker to make.
fn balancer(kind: Kind, endpoints: &[Arc<Endpoint>]) -> Balancer {
    let plan = Plan { kind, table_size: Some(4099), ..Plan::default() };
    Balancer::of(&plan, endpoints, None, None)
}

fn pick(balancer: &Balancer, hash: u64) -> usize {
    pick_unless(balancer, hash, &|_| false).unwrap()
}

fn pick_unless(balancer: &Balancer, hash: u64, skip: &impl Fn(usize) -> bool) -> Option<usize> {
    let mut random = fastrand::Rng::with_seed(hash);
    let cursor = &mut Cursor::default();
    balancer.pick(cursor, &mut random, Instant(1), Some(hash), skip)
}

/// Who has each of so many keys.
fn owners(kind: Kind, endpoints: &[Arc<Endpoint>], keys: u64) -> Vec<Box<str>> {
    let balancer = balancer(kind, endpoints);
    let owner = |user| endpoints[pick(&balancer, key(user))].label.clone();
    (0..keys).map(owner).collect()
}

#[test]
fn a_key_is_where_it_was_in_every_version() {
    // If these change, the keys of all users move to other endpoints.
    let three = endpoints(&[(1, 1), (2, 1), (3, 1)]);
    for (kind, expected) in [(Kind::RingHash, RING), (Kind::Maglev, MAGLEV)] {
        let balancer = Balancer::new(kind, &three);
        let picks: Vec<_> = (0..12).map(|user| pick(&balancer, key(user))).collect();
        assert_eq!(picks, expected, "{kind:?}");
    }
}

/// Computed apart, by another implementation of XXH3 and of both algorithms.
const RING: [usize; 12] = [2, 1, 2, 2, 0, 2, 2, 1, 1, 0, 0, 1];
const MAGLEV: [usize; 12] = [0, 1, 2, 1, 1, 2, 1, 0, 0, 2, 2, 2];

#[test]
fn the_order_in_which_endpoints_are_listed_makes_no_difference() {
    let listed = endpoints(&[(1, 1), (2, 3), (3, 1), (4, 2), (5, 1)]);
    let other: Vec<_> = [3, 0, 4, 2, 1].map(|index| listed[index].clone()).into();
    for kind in HASHES {
        assert_eq!(owners(kind, &listed, 1000), owners(kind, &other, 1000));
    }
}

#[test]
fn shares_are_even_to_what_is_promised() {
    for (kind, slack) in [(Kind::RingHash, 0.4), (Kind::Maglev, 0.06)] {
        for count in [2, 10, 100] {
            let all = endpoints(&(0..count).map(|port| (port, 1)).collect::<Vec<_>>());
            let balancer = Balancer::new(kind, &all);
            const KEYS: u64 = 200_000;
            let mut counts = vec![0.0; all.len()];
            (0..KEYS).for_each(|user| counts[pick(&balancer, key(user))] += 1.0);
            let due = KEYS as f64 / f64::from(count);
            for got in counts {
                // What chance adds to the shares: five standard deviations.
                let slack = slack * due + 5.0 * due.sqrt();
                assert!((got - due).abs() < slack, "{kind:?} {count}: {got} for {due}");
            }
        }
    }
}

#[test]
fn requests_without_a_key_go_anywhere() {
    for kind in HASHES {
        let mut bench = Bench::new(kind, &[1, 1, 1]);
        assert!(bench.counts(3000).iter().all(|count| (700..1300).contains(count)));
    }
}

#[test]
fn a_table_is_kept_where_the_endpoints_are_the_same() {
    let (three, two) = (endpoints(&[(1, 1), (2, 1), (3, 1)]), endpoints(&[(1, 1), (2, 1)]));
    let heavier = endpoints(&[(1, 1), (2, 1), (3, 2)]);
    for kind in HASHES {
        let plan = Plan { kind, ..Plan::default() };
        let of = |endpoints: &[_], before| Balancer::of(&plan, endpoints, None, before);
        let first = of(&three, None);
        let is_kept =
            |balancer: &Balancer| balancer.table().unwrap().is_same(first.table().unwrap());
        assert!(is_kept(&of(&endpoints(&[(1, 1), (2, 1), (3, 1)]), first.table())));
        assert!(!is_kept(&of(&two, first.table())));
        assert!(!is_kept(&of(&heavier, first.table())));
        let other = HASHES.into_iter().find(|other| *other != kind).unwrap();
        let plan = Plan { kind: other, ..Plan::default() };
        assert!(!is_kept(&Balancer::of(&plan, &three, None, first.table())));
    }
}

#[test]
fn one_that_is_left_of_many_is_found() {
    let all = endpoints(&(0..2000).map(|port| (port, 1)).collect::<Vec<_>>());
    for kind in HASHES {
        let balancer = Balancer::new(kind, &all);
        for user in 0..20 {
            let only = |index| index != 1234;
            assert_eq!(pick_unless(&balancer, key(user), &only), Some(1234));
            assert_eq!(pick_unless(&balancer, key(user), &|_| true), None);
        }
    }
}

/// Ten of 500 are left, side by side in whatever order: their neighbours do not lean on the first of them, and
/// whoever lists them in another order sends a key to the same.
#[test]
fn few_that_are_left_share_the_keys() {
    let all = endpoints(&(0..500).map(|port| (port, 1)).collect::<Vec<_>>());
    let reversed: Vec<_> = all.iter().rev().cloned().collect();
    for kind in HASHES {
        let (listed, other) = (balancer(kind, &all), balancer(kind, &reversed));
        let mut counts = [0_u32; 10];
        for user in 0..5000 {
            let picked = pick_unless(&listed, key(user), &|index| index < 490).unwrap();
            let again = pick_unless(&other, key(user), &|index| index >= 10).unwrap();
            assert_eq!(all[picked].label, reversed[again].label, "{kind:?}");
            counts[picked - 490] += 1;
        }
        assert!(counts.iter().all(|count| (250..=750).contains(count)), "{kind:?} {counts:?}");
    }
}

/// Different addresses, with weights.
fn fleet() -> impl Strategy<Value = Vec<(u16, u32)>> {
    prop::collection::btree_map(0_u16..500, 1_u32..6, 2..20)
        .prop_map(|endpoints| endpoints.into_iter().collect())
}

/// How far a share on the ring may be off, as a part of it. The share of P points is spread like the sum of P
/// exponential waits: it is off by more than sqrt(2 x / P) + x / P with a probability of less than e^-x on
/// either side. With x = 20 that is one share in some hundred million.
fn ring_slack(fleet: &[(u16, u32)], weight: u32) -> f64 {
    let highest = fleet.iter().map(|(_, weight)| *weight).max().unwrap();
    let points = (u64::from(weight) * crate::balance::ring_hash::POINTS) >> highest.ilog2();
    let rarity = 20.0 / points as f64;
    (2.0 * rarity).sqrt() + rarity
}

/// What single light endpoints get varies too much to tell much; all of a weight together do not.
#[test]
fn a_weight_gets_its_share_of_the_ring() {
    let all =
        endpoints(&(0..40).map(|port| (port, if port < 20 { 1 } else { 4 })).collect::<Vec<_>>());
    let balancer = balancer(Kind::RingHash, &all);
    const KEYS: u64 = 20_000;
    let light = (0..KEYS).filter(|user| pick(&balancer, key(*user)) < 20).count();
    // A fifth. 500 points of 2500 have a standard deviation of 4 % of that: five of them.
    assert!((3200..=4800).contains(&light), "{light}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// When an endpoint goes, only its keys move; when it comes, only to it. Of those of equal weight
    /// exactly; Maglev moves a few more.
    #[test]
    fn only_the_keys_of_who_comes_or_goes_move(
        fleet in prop::collection::btree_set(0_u16..500, 2..30),
        which in any::<prop::sample::Index>(),
        weight in 1_u32..5,
    ) {
        let fleet: Vec<_> = fleet.into_iter().map(|port| (port, weight)).collect();
        let with = endpoints(&fleet);
        let which = which.index(with.len());
        let mut without = with.clone();
        let gone = without.remove(which).label.clone();
        const KEYS: u64 = 2000;
        for kind in HASHES {
            let (before, after) = (owners(kind, &with, KEYS), owners(kind, &without, KEYS));
            let pairs = before.iter().zip(&after);
            let moved = pairs.filter(|(before, after)| **before != gone && before != after).count();
            let most = if kind == Kind::RingHash { 0 } else { KEYS as usize / 8 };
            prop_assert!(moved <= most, "{kind:?}: {moved} of {KEYS}, {} endpoints", with.len());
            prop_assert!(!after.contains(&gone));
        }
    }

    /// The same of a light one among others on the ring.
    #[test]
    fn a_light_one_moves_no_keys_of_the_heavy(fleet in fleet()) {
        let mut with: Vec<_> = fleet.iter().map(|(port, weight)| (*port, weight * 2)).collect();
        let without = endpoints(&with);
        with.push((999, 1));
        let with = endpoints(&with);
        let (before, after) = (owners(Kind::RingHash, &without, 2000), owners(Kind::RingHash, &with, 2000));
        let new = &with[with.len() - 1].label;
        prop_assert!(before.iter().zip(&after).all(|(before, after)| before == after || after == new));
    }

    #[test]
    fn shares_follow_the_weights(fleet in fleet()) {
        let all = endpoints(&fleet);
        let sum: u32 = fleet.iter().map(|(_, weight)| weight).sum();
        const KEYS: u64 = 20_000;
        for kind in HASHES {
            let balancer = balancer(kind, &all);
            let mut counts = vec![0_u32; all.len()];
            (0..KEYS).for_each(|user| counts[pick(&balancer, key(user))] += 1);
            for ((_, weight), count) in fleet.iter().zip(counts) {
                let due = KEYS as f64 * f64::from(*weight) / f64::from(sum);
                let slack = match kind {
                    Kind::RingHash => ring_slack(&fleet, *weight),
                    _ => 0.05,
                };
                let slack = slack * due + 6.0 * due.sqrt();
                prop_assert!((f64::from(count) - due).abs() <= slack, "{kind:?} {count} for {due}");
            }
        }
    }

    /// Keys of those that are skipped go on, all others stay, and it is the same in every sidecar.
    #[test]
    fn only_the_keys_of_the_skipped_move(
        fleet in fleet(),
        skipped in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
    ) {
        let all = endpoints(&fleet);
        let skipped: BTreeSet<_> = skipped.iter().map(|index| index.index(all.len())).collect();
        let left = all.len() - skipped.len();
        for kind in HASHES {
            let balancer = balancer(kind, &all);
            for user in 0..500 {
                let skip = |index| skipped.contains(&index);
                let picked = pick_unless(&balancer, key(user), &skip);
                prop_assert_eq!(picked.is_some(), left > 0);
                prop_assert!(picked.is_none_or(|picked| !skip(picked)));
                let own = pick(&balancer, key(user));
                prop_assert!(skip(own) || picked == Some(own));
                prop_assert_eq!(picked, pick_unless(&balancer, key(user), &skip));
            }
        }
    }

    /// Whatever keys come and whatever ends: nobody ever gets a request beyond its share of the factor.
    #[test]
    fn a_bounded_load_stays_below_its_bound(
        fleet in fleet(),
        percent in 101_u32..300,
        keys in 1_u64..50,
        events in prop::collection::vec((any::<u64>(), any::<prop::sample::Index>(), any::<bool>()), 1..200),
    ) {
        let sum: u32 = fleet.iter().map(|(_, weight)| weight).sum();
        for kind in HASHES {
            let load = Arc::<Load>::default();
            let loads: Arc<[_]> = [load.clone()].into();
            let all: Vec<_> = endpoints(&fleet)
                .iter()
                .map(|endpoint| Endpoint { loads: Some(loads.clone()), ..(**endpoint).clone() })
                .map(Arc::new)
                .collect();
            let factor = f64::from(percent) / 100.0;
            let plan =
                Plan { kind, bounded_load: Some(factor), table_size: Some(4099), ..Plan::default() };
            let balancer = Balancer::of(&plan, &all, Some(&load), None);
            let mut open = Vec::new();
            for (user, ends, is_end) in &events {
                if *is_end && !open.is_empty() {
                    drop(open.swap_remove(ends.index(open.len())));
                }
                let picked = pick(&balancer, key(user % keys));
                open.push(all[picked].begin(Instant(1)));
                let mean = open.len() as f64 * f64::from(all[picked].weight) / f64::from(sum);
                let most = (factor * mean).ceil();
                let has = f64::from(all[picked].state.in_flight());
                prop_assert!(has <= most, "{kind:?}: {has} of {}, at most {most}", open.len());
            }
            prop_assert_eq!(load.in_flight() as usize, open.len());
        }
    }
}

#[test]
fn a_key_stays_where_it_is_while_there_is_room() {
    let load = Arc::<Load>::default();
    let loads: Option<Arc<[_]>> = Some([load.clone()].into());
    let all: Vec<_> = endpoints(&[(1, 1), (2, 1), (3, 1), (4, 1)])
        .iter()
        .map(|endpoint| Arc::new(Endpoint { loads: loads.clone(), ..(**endpoint).clone() }))
        .collect();
    for kind in HASHES {
        let plan = Plan { kind, bounded_load: Some(1.25), ..Plan::default() };
        let balancer = Balancer::of(&plan, &all, Some(&load), None);
        let unbounded = Balancer::new(kind, &all);
        for user in 0..100 {
            let picked = pick(&balancer, key(user));
            assert_eq!(picked, pick(&unbounded, key(user)), "nothing is in flight");
        }
        // One hot key: it spreads, and its own endpoint is full but gets no more than that.
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(all[pick(&balancer, key(1))].begin(Instant(1)));
        }
        let mut in_flight: Vec<_> = all.iter().map(|e| e.state.in_flight()).collect();
        in_flight.sort_unstable();
        assert!(in_flight[3] <= 13, "{in_flight:?}");
        assert!(in_flight[0] >= 1, "{in_flight:?}");
    }
}

/// Half of them are gone: the load that is left is above what the bound allows, and still everybody is
/// served.
#[test]
fn without_room_anywhere_the_roomiest_takes_it() {
    let load = Arc::<Load>::default();
    let loads: Option<Arc<[_]>> = Some([load.clone()].into());
    let all: Vec<_> = endpoints(&(0..10).map(|port| (port, 1)).collect::<Vec<_>>())
        .iter()
        .map(|endpoint| Arc::new(Endpoint { loads: loads.clone(), ..(**endpoint).clone() }))
        .collect();
    for kind in HASHES {
        let plan = Plan { kind, bounded_load: Some(1.1), ..Plan::default() };
        let balancer = Balancer::of(&plan, &all, Some(&load), None);
        let mut open = Vec::new();
        for _ in 0..100 {
            let picked = pick_unless(&balancer, key(1), &|index| index >= 5).unwrap();
            open.push(all[picked].begin(Instant(1)));
        }
        let most = all.iter().map(|endpoint| endpoint.state.in_flight()).max();
        assert!(most <= Some(21), "{kind:?}: {most:?}");
    }
}
