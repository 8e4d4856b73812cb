//! Who may be asked, whatever the algorithm.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::breaker::{BreakerConfig, Seen, SharedBreaker};
use crate::policy::bulkhead::EndpointLimits;
use crate::policy::{BulkheadLimits, Mode, SlowStart};

const S: u64 = 1_000_000_000;
const NOW: Instant = Instant(1000 * S);

/// How one of the endpoints is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Well,
    /// It has all the requests that it may have.
    Full,
    Away,
    Unhealthy,
    Refused,
    Tried,
    TriedAndAway,
}

impl How {
    fn is_away(self) -> bool {
        matches!(self, Self::Away | Self::Unhealthy | Self::TriedAndAway)
    }
}

fn open_breaker(mode: Mode) -> Arc<SharedBreaker> {
    let config =
        BreakerConfig { mode, consecutive_failures: Some(1), ..BreakerConfig::of_failure_rate() };
    let breaker = Arc::new(SharedBreaker::new(Arc::new(config)));
    let failed = Seen { failed: true, slow: false };
    breaker.record(breaker.admit(NOW).expect("closed"), failed, NOW, 0.0);
    breaker
}

fn town(how: &[How]) -> (Vec<Arc<Endpoint>>, Vec<u32>) {
    let make = |(port, how): (u16, &How)| {
        let address = Address::Name { host: "a".into(), port };
        let mut endpoint = Endpoint::new(address, Arc::default());
        match how {
            How::Unhealthy => endpoint.state.set_healthy(false, NOW),
            How::Away | How::TriedAndAway => endpoint.state.eject(NOW + Duration::from_secs(1)),
            How::Full => {
                let none = EndpointLimits { max_requests: 0, ..EndpointLimits::NONE };
                let limits = BulkheadLimits { endpoint: none, ..BulkheadLimits::default() };
                endpoint.state.apply(&limits, NOW);
            }
            How::Well | How::Refused | How::Tried => {}
        }
        endpoint.breaker = (*how == How::Refused).then(|| open_breaker(Mode::Enforce));
        Arc::new(endpoint)
    };
    let endpoints = (0..).zip(how).map(make).collect();
    let tried = (0..).zip(how).filter(|(_, how)| matches!(how, How::Tried | How::TriedAndAway));
    (endpoints, tried.map(|(index, _)| index).collect())
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Well),
        1 => Just(How::Full),
        1 => Just(How::Away),
        1 => Just(How::Unhealthy),
        1 => Just(How::Refused),
        1 => Just(How::Tried),
        1 => Just(How::TriedAndAway),
    ]
}

proptest! {
    /// The best that there is, for any algorithm: nobody is worse off than need be, and an open breaker is
    /// never passed.
    #[test]
    fn the_best_that_there_is(
        how in prop::collection::vec(how(), 0..40),
        kind in prop::sample::select(&KINDS),
        threshold in prop::sample::select(&[0.0, 0.5, 1.0]),
        wish in prop::option::of(any::<u64>()),
        seed in any::<u64>(),
    ) {
        let (endpoints, tried) = town(&how);
        let balancer = Balancer::new(kind, &endpoints);
        let availability = Availability { panic_threshold: threshold, slow_start: None };
        let pick = Pick {
            balancer: &balancer,
            availability: &availability,
            tried: &tried,
            wish,
            now: NOW,
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let picked =
            pick.choose(&mut Cursor::default(), &mut Panic::default(), &mut random);
        let away = how.iter().filter(|how| how.is_away()).count();
        let panics = ((how.len() - away) as f64) < threshold * how.len() as f64;
        // The lower, the better; none for what is never picked.
        let rank = |how: &How| match how {
            How::Well => Some(0),
            How::Away | How::Unhealthy if panics => Some(0),
            How::Full => Some(1),
            How::Tried => Some(2),
            How::TriedAndAway if panics => Some(2),
            How::Away | How::Unhealthy => Some(3),
            How::TriedAndAway => Some(4),
            How::Refused => None,
        };
        let best = how.iter().filter_map(rank).min();
        match picked {
            Ok(picked) => {
                prop_assert_eq!(rank(&how[picked.index]), best);
                prop_assert_eq!(picked.in_panic, how[picked.index].is_away() && panics);
            }
            Err(NonePicked::NoEndpoint) => prop_assert!(how.is_empty()),
            Err(NonePicked::Refused(until)) => {
                prop_assert!(!how.is_empty() && best.is_none());
                prop_assert!(until > NOW);
            }
        }
        // One that is full has a queue.
        let others = how.iter().any(|how| matches!(how, How::Well | How::Full));
        prop_assert_eq!(pick.has_other(), others);
    }
}

fn choose(pick: &Pick<'_>, random: &mut fastrand::Rng) -> Option<usize> {
    let picked = pick.choose(&mut Cursor::default(), &mut Panic::default(), random);
    picked.ok().map(|picked| picked.index)
}

#[test]
fn a_breaker_in_shadow_mode_keeps_nobody_out() {
    let (mut endpoints, tried) = town(&[How::Well]);
    Arc::get_mut(&mut endpoints[0]).expect("ours").breaker = Some(open_breaker(Mode::Shadow));
    let balancer = Balancer::new(Kind::PeakEwma, &endpoints);
    let pick = Pick {
        balancer: &balancer,
        availability: &Availability::default(),
        tried: &tried,
        wish: None,
        now: NOW,
    };
    assert_eq!(choose(&pick, &mut fastrand::Rng::with_seed(1)), Some(0));
}

#[test]
fn who_is_new_gets_its_share_little_by_little() {
    let slow = SlowStart { window: Duration::from_secs(10), ..SlowStart::default() };
    let availability = Availability { slow_start: Some(slow), ..Availability::default() };
    for kind in [Kind::RoundRobin, Kind::Random, Kind::LeastRequest] {
        let (endpoints, _) = town(&[How::Well; 4]);
        endpoints[3].state.come_back(NOW);
        let balancer = Balancer::new(kind, &endpoints);
        let (mut random, mut cursor) = (fastrand::Rng::with_seed(4), Cursor::default());
        let mut share = |seconds: u64| {
            let now = NOW + Duration::from_secs(seconds);
            let pick = Pick {
                balancer: &balancer,
                availability: &availability,
                tried: &[],
                wish: None,
                now,
            };
            let mut picked = || {
                let picked = pick.choose(&mut cursor, &mut Panic::default(), &mut random);
                picked.is_ok_and(|picked| picked.index == 3)
            };
            let count = (0..8000).filter(|_| picked()).count();
            // Of what it would have with its full share.
            count as f64 / 2000.0
        };
        let (first, half, full) = (share(0), share(5), share(10));
        assert!(first > 0.05 && first < 0.2, "{kind:?} {first}");
        assert!(half > 0.4 && half < 0.75, "{kind:?} {half}");
        assert!(full > 0.9 && full < 1.1, "{kind:?} {full}");
    }
}

#[test]
fn all_new_is_as_none_new_and_a_key_keeps_its_endpoint() {
    let availability =
        Availability { slow_start: Some(SlowStart::default()), ..Availability::default() };
    let (endpoints, _) = town(&[How::Well; 4]);
    endpoints.iter().for_each(|endpoint| endpoint.state.come_back(NOW));
    for (kind, wish, expected) in [(Kind::Random, None, 4), (Kind::RingHash, Some(7), 1)] {
        let balancer = Balancer::new(kind, &endpoints);
        let pick =
            Pick { balancer: &balancer, availability: &availability, tried: &[], wish, now: NOW };
        let mut random = fastrand::Rng::with_seed(5);
        let picked: BTreeSet<_> = (0..200).map(|_| choose(&pick, &mut random)).collect();
        assert_eq!(picked.len(), expected, "{kind:?}");
        assert!(!picked.contains(&None));
    }
}
