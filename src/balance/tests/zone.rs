//! Own zone first, and spilling over.

use super::*;

/// How many endpoints of each weight a zone has.
type Zone<'a> = (&'a str, &'a [u32]);

fn endpoints(zones: &[Zone]) -> Vec<Arc<Endpoint>> {
    let all = zones.iter().flat_map(|(zone, weights)| weights.iter().map(move |w| (*zone, *w)));
    (1..)
        .zip(all)
        .map(|(port, (zone, weight))| {
            let address = Address::Socket(SocketAddr::from(([10, 0, 0, 1], port)));
            let zone = (!zone.is_empty()).then(|| zone.into());
            let instance = Instance { weight, zone, ..address.into() };
            Arc::new(Endpoint::new(instance, Arc::default()))
        })
        .collect()
}

fn balancer(kind: Kind, own: &str, min_endpoints: usize, endpoints: &[Arc<Endpoint>]) -> Balancer {
    let zone = Some(ZonePlan { own: own.into(), min_endpoints });
    Balancer::of(&Plan { kind, zone, ..Plan::default() }, endpoints, None, None)
}

/// The share of each endpoint as seen from a zone.
fn shares(
    kind: Kind,
    own: &str,
    endpoints: &[Arc<Endpoint>],
    skip: impl Fn(usize) -> bool,
) -> Vec<f64> {
    const PICKS: u32 = 40_000;
    let balancer = balancer(kind, own, 1, endpoints);
    let mut random = fastrand::Rng::with_seed(5);
    let mut cursor = Cursor::default();
    let mut counts = vec![0; endpoints.len()];
    for _ in 0..PICKS {
        let pick = balancer.pick(&mut cursor, &mut random, Instant(1), None, &skip);
        counts[pick.unwrap()] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / f64::from(PICKS)).collect()
}

const PLAIN: [Kind; 4] = [Kind::PeakEwma, Kind::RoundRobin, Kind::LeastRequest, Kind::Random];

#[test]
fn all_stays_in_a_zone_that_has_its_part() {
    let all = endpoints(&[("a", &[1, 1]), ("b", &[1, 1]), ("c", &[1])]);
    for kind in PLAIN {
        let shares = shares(kind, "a", &all, |_| false);
        assert!(
            shares[..2].iter().all(|share| (0.45..0.55).contains(share)),
            "{kind:?} {shares:?}"
        );
        assert_eq!(shares[2..], [0.0; 3]);
    }
}

#[test]
fn every_endpoint_has_the_same_load_where_zones_are_uneven() {
    // Each zone sends as much as any other.
    let all = endpoints(&[("a", &[1]), ("b", &[1, 1]), ("c", &[1, 1, 1, 1, 1, 1])]);
    for kind in PLAIN {
        let of = |own| shares(kind, own, &all, |_| false);
        let (a, b, c) = (of("a"), of("b"), of("c"));
        // A third of the endpoints would be three: `a` keeps a third of its requests, and none go to `b`.
        assert!((a[0] - 1.0 / 3.0).abs() < 0.02, "{kind:?} {a:?}");
        assert_eq!(a[1..3], [0.0; 2], "{kind:?}");
        assert!((b[1] + b[2] - 2.0 / 3.0).abs() < 0.02 && b[0] == 0.0, "{kind:?} {b:?}");
        assert_eq!(c[..3], [0.0; 3], "{kind:?}");
        for index in 0..9 {
            let load = a[index] + b[index] + c[index];
            assert!((load - 1.0 / 3.0).abs() < 0.04, "{kind:?}: {index} has {load}");
        }
    }
}

#[test]
fn weights_are_capacity() {
    let all = endpoints(&[("a", &[4, 2]), ("b", &[1, 1, 1, 1, 1, 1])]);
    let shares = shares(Kind::Random, "a", &all, |_| false);
    assert!((shares[0] - 2.0 / 3.0).abs() < 0.02, "{shares:?}");
    assert_eq!(shares[2..], [0.0; 6]);
}

#[test]
fn what_the_own_zone_cannot_take_spills_over() {
    let all = endpoints(&[("a", &[1, 1, 1, 1]), ("b", &[1, 1, 1, 1])]);
    for kind in PLAIN {
        // One of four: (1/4)^2 of the requests.
        let one = shares(kind, "a", &all, |index| index == 0);
        let spilled: f64 = one[4..].iter().sum();
        assert!((spilled - 1.0 / 16.0).abs() < 0.01, "{kind:?} {one:?}");
        assert_eq!(one[0], 0.0);
        // Two: a quarter.
        let two = shares(kind, "a", &all, |index| index < 2);
        let spilled: f64 = two[4..].iter().sum();
        assert!((spilled - 0.25).abs() < 0.02, "{kind:?} {two:?}");
        // All of them: everything, evenly.
        let none = shares(kind, "a", &all, |index| index < 4);
        assert!(none[4..].iter().all(|share| (0.2..0.3).contains(share)), "{kind:?} {none:?}");
        // All of the others: the own zone keeps everything; and of both: nothing is left.
        let own = shares(kind, "a", &all, |index| index >= 3);
        assert_eq!(own[4..], [0.0; 4]);
        let balancer = balancer(kind, "a", 1, &all);
        let random = &mut fastrand::Rng::with_seed(1);
        let cursor = &mut Cursor::default();
        assert_eq!(balancer.pick(cursor, random, Instant(1), None, &|_| true), None);
    }
}

#[test]
fn zones_make_no_difference_where_they_cannot() {
    let active = |own: &str, min: usize, zones: &[Zone]| {
        balancer(Kind::Random, own, min, &endpoints(zones)).is_local(0).is_some()
    };
    assert!(active("a", 1, &[("a", &[1]), ("b", &[1])]));
    assert!(active("a", 2, &[("a", &[1, 1]), ("b", &[1])]));
    assert!(!active("a", 2, &[("a", &[1]), ("b", &[1])]), "too few");
    assert!(!active("a", 1, &[("a", &[1]), ("a", &[1])]), "one zone");
    assert!(!active("c", 1, &[("a", &[1]), ("b", &[1])]), "not ours");
    assert!(!active("a", 1, &[("a", &[1]), ("b", &[1]), ("", &[1])]), "one without");
    assert!(!active("a", 1, &[]));
}

proptest! {
    /// Whatever there is and whatever is skipped: one is picked if there is one, and it is not skipped.
    #[test]
    fn one_is_found_where_there_is_one(
        zones in prop::collection::vec((0_usize..3, 1_u32..9, any::<bool>()), 1..20),
        kind in prop::sample::select(&PLAIN[..]),
        seed in any::<u64>(),
    ) {
        let names = ["a", "b", "c"];
        let weights: Vec<[u32; 1]> = zones.iter().map(|(_, weight, _)| [*weight]).collect();
        let placed: Vec<Zone> = zones.iter().zip(&weights).map(|((at, ..), w)| (names[*at], &w[..])).collect();
        let all = endpoints(&placed);
        let balancer = balancer(kind, "a", 1, &all);
        let mut random = fastrand::Rng::with_seed(seed);
        let skip = |index: usize| zones[index].2;
        for _ in 0..20 {
            let picked =
                balancer.pick(&mut Cursor::default(), &mut random, Instant(1), None, &skip);
            prop_assert_eq!(picked.is_some(), zones.iter().any(|(.., skipped)| !skipped));
            prop_assert!(picked.is_none_or(|picked| !skip(picked)));
        }
    }
}
