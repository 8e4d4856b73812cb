mod available;
mod hash;
mod zone;

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::endpoint::{Address, InFlight, Instance, Outcome};

const KINDS: [Kind; 6] = [
    Kind::PeakEwma,
    Kind::RoundRobin,
    Kind::LeastRequest,
    Kind::Random,
    Kind::RingHash,
    Kind::Maglev,
];
const MS: Duration = Duration::from_millis(1);

fn was_tried(tried: &[u32], index: usize) -> bool {
    tried.iter().any(|tried| *tried as usize == index)
}

/// One worker, the endpoints, and the time.
struct Bench {
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
    cursor: Cursor,
    random: fastrand::Rng,
    now: Duration,
}

impl Bench {
    fn new(kind: Kind, weights: &[u32]) -> Self {
        let address = |port| Address::Socket(SocketAddr::from(([10, 0, 0, 1], port)));
        let endpoints: Vec<_> = (1..)
            .zip(weights)
            .map(|(port, weight)| {
                let instance = Instance { weight: *weight, ..address(port).into() };
                Arc::new(Endpoint::new(instance, Arc::default()))
            })
            .collect();
        Self {
            balancer: Balancer::new(kind, &endpoints),
            endpoints,
            cursor: Cursor::default(),
            random: fastrand::Rng::with_seed(7),
            now: Duration::from_secs(3600),
        }
    }

    fn pick(&mut self, tried: &[u32]) -> Option<usize> {
        self.pick_for(None, &|index| was_tried(tried, index))
    }

    fn pick_for(&mut self, wish: Option<u64>, skip: &impl Fn(usize) -> bool) -> Option<usize> {
        let (now, random) = (Instant::from(self.now), &mut self.random);
        self.balancer.pick(&mut self.cursor, random, now, wish, skip)
    }

    fn begin(&self, index: usize) -> InFlight {
        self.endpoints[index].begin(self.now.into())
    }

    fn observe(&self, index: usize, latency: Duration, outcome: Outcome) {
        self.begin(index).observe(self.now.into(), latency, outcome);
    }

    /// Picks `count` times, nothing in flight.
    fn counts(&mut self, count: usize) -> Vec<u32> {
        let mut counts = vec![0; self.endpoints.len()];
        for _ in 0..count {
            counts[self.pick(&[]).unwrap()] += 1;
        }
        counts
    }

    /// Sends a request every millisecond to endpoints that answer after `latencies`.
    fn drive(&mut self, requests: usize, latencies: &[Duration]) -> Vec<u32> {
        let mut counts = vec![0; self.endpoints.len()];
        let mut open: Vec<(Duration, usize, InFlight)> = Vec::new();
        for _ in 0..requests {
            self.now += MS;
            let now = self.now;
            open.retain(|(due, index, guard)| {
                if *due <= now {
                    guard.observe(now.into(), latencies[*index], Outcome::Answered);
                }
                *due > now
            });
            let index = self.pick(&[]).unwrap();
            counts[index] += 1;
            open.push((now + latencies[index], index, self.begin(index)));
        }
        drop(open);
        assert!(self.endpoints.iter().all(|endpoint| endpoint.state.in_flight() == 0));
        counts
    }
}

#[test]
fn none_is_no_endpoint_or_all_skipped() {
    for kind in KINDS {
        assert_eq!(Bench::new(kind, &[]).pick(&[]), None);
        assert_eq!(Bench::new(kind, &[3]).pick(&[]), Some(0));
        assert_eq!(Bench::new(kind, &[3]).pick(&[0]), None);
        assert_eq!(Bench::new(kind, &[3, 1, 2]).pick(&[1, 0, 2]), None);
    }
}

#[test]
fn round_robin_takes_turns() {
    let mut bench = Bench::new(Kind::RoundRobin, &[1, 1, 1]);
    let picks: Vec<_> = (0..6).map(|_| bench.pick(&[]).unwrap()).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    let mut weighted = Bench::new(Kind::RoundRobin, &[3, 1]);
    assert_eq!(weighted.counts(400), [300, 100]);
}

#[test]
fn cursors_begin_at_different_places() {
    let mut random = fastrand::Rng::with_seed(1);
    let starts: std::collections::HashSet<u64> =
        (0..16).map(|_| Cursor::starting_at(&mut random).next() % 10).collect();
    assert!(starts.len() > 4, "{starts:?}");
}

#[test]
fn idle_endpoints_of_equal_latency_share_by_weight() {
    for kind in [Kind::Random, Kind::LeastRequest, Kind::PeakEwma] {
        let mut bench = Bench::new(kind, &[1, 2, 3, 4]);
        for index in 0..4 {
            bench.observe(index, MS, Outcome::Answered);
        }
        let counts = bench.counts(20_000);
        for (weight, count) in (1_u32..).zip(counts) {
            let due = weight * 2000;
            assert!(count.abs_diff(due) < 300, "{kind:?}: {count} for {due}");
        }
    }
}

#[test]
fn busy_endpoints_share_by_weight() {
    for kind in [Kind::LeastRequest, Kind::PeakEwma] {
        for (weights, busy) in [([1, 3], 4), ([1, 3], 40), ([100, 300], 40), ([1, 99], 10)] {
            let mut bench = Bench::new(kind, &weights);
            let counts = bench.drive(20_000, &[busy * MS; 2]);
            let due = 20_000.0 * f64::from(weights[0]) / f64::from(weights[0] + weights[1]);
            let off = f64::from(counts[0]) / due;
            assert!((0.7..1.3).contains(&off), "{kind:?} {weights:?} {busy}: {counts:?}");
        }
    }
}

#[test]
fn least_request_prefers_fewer_in_flight() {
    let mut bench = Bench::new(Kind::LeastRequest, &[1, 1, 1]);
    let _full = [bench.begin(0), bench.begin(0), bench.begin(1)];
    let counts = bench.counts(3000);
    assert_eq!(counts[0], 0, "the worst of three never wins");
    assert!(counts[2] > counts[1], "{counts:?}");
}

#[test]
fn least_request_measures_by_weight() {
    let mut bench = Bench::new(Kind::LeastRequest, &[1, 10]);
    let _four: Vec<_> = (0..4).map(|_| bench.begin(1)).collect();
    let _one = bench.begin(0);
    assert_eq!(bench.counts(100), [0, 100]);
}

#[test]
fn peak_ewma_shuns_the_slow_and_the_failed_and_returns_to_the_recovered() {
    for outcome in [Outcome::Answered, Outcome::Failed] {
        let mut bench = Bench::new(Kind::PeakEwma, &[1, 1]);
        let latency = if outcome == Outcome::Failed { MS / 10 } else { 1000 * MS };
        bench.observe(0, 10 * MS, Outcome::Answered);
        bench.observe(1, latency, outcome);
        assert_eq!(bench.drive(1000, &[10 * MS; 2]), [1000, 0]);
        bench.drive(60_000, &[10 * MS; 2]);
        let back = bench.drive(10_000, &[10 * MS; 2]);
        assert!(back[1] > 3000, "{back:?}");
    }
}

#[test]
fn peak_ewma_sends_one_request_to_see_whether_the_slow_has_recovered() {
    let mut bench = Bench::new(Kind::PeakEwma, &[1, 1]);
    bench.observe(1, 1000 * MS, Outcome::Answered);
    bench.now += Duration::from_secs(120);
    bench.observe(0, MS, Outcome::Answered);
    assert_eq!(bench.pick(&[]), Some(1));
    let _probe = bench.begin(1);
    assert_eq!(bench.counts(100), [100, 0]);
}

#[test]
fn peak_ewma_greets_the_unmeasured_with_one_request() {
    let mut bench = Bench::new(Kind::PeakEwma, &[1, 1]);
    bench.observe(0, 5000 * MS, Outcome::Answered);
    assert_eq!(bench.counts(100), [0, 100], "costs nothing while idle");
    let first = bench.begin(1);
    assert_eq!(bench.counts(100), [100, 0], "more than any while it has not answered");
    drop(first);
    assert_eq!(bench.counts(100), [0, 100]);
}

#[test]
fn peak_ewma_of_equal_latency_prefers_fewer_in_flight() {
    let mut bench = Bench::new(Kind::PeakEwma, &[1, 1]);
    bench.observe(0, MS, Outcome::Answered);
    bench.observe(1, MS, Outcome::Answered);
    let _one = bench.begin(0);
    assert_eq!(bench.counts(100), [0, 100]);
}

#[test]
fn peak_ewma_prefers_the_fast_but_not_when_it_is_full() {
    let mut bench = Bench::new(Kind::PeakEwma, &[1, 1]);
    bench.observe(0, MS, Outcome::Answered);
    bench.observe(1, 10 * MS, Outcome::Answered);
    assert_eq!(bench.counts(100), [100, 0]);
    let _full: Vec<_> = (0..20).map(|_| bench.begin(0)).collect();
    assert_eq!(bench.counts(100), [0, 100]);
}

/// Weight, requests in flight, latency in milliseconds.
type Given = (u32, u8, Option<u16>);

/// Any kind, weights, load, latencies and tried indices, some of them nonsense.
fn scene() -> impl Strategy<Value = (Kind, Vec<Given>, Vec<u32>, u64)> {
    let endpoint = (1_u32..20, 0_u8..5, prop::option::of(1_u16..5000));
    (
        prop::sample::select(&KINDS),
        prop::collection::vec(endpoint, 1..8),
        prop::collection::vec(0_u32..10, 0..10),
        any::<u64>(),
    )
}

proptest! {
    #[test]
    fn picks_an_untried_one_while_there_is_one((kind, endpoints, tried, seed) in scene()) {
        let weights: Vec<u32> = endpoints.iter().map(|(weight, ..)| *weight).collect();
        let mut bench = Bench::new(kind, &weights);
        bench.random = fastrand::Rng::with_seed(seed);
        bench.cursor = Cursor::starting_at(&mut bench.random);
        let mut guards = Vec::new();
        for (index, (_, load, latency)) in endpoints.iter().enumerate() {
            if let Some(latency) = latency {
                bench.observe(index, u32::from(*latency) * MS, Outcome::Answered);
            }
            guards.extend((0..*load).map(|_| bench.begin(index)));
        }
        let untried = (0..endpoints.len()).any(|index| !was_tried(&tried, index));
        for _ in 0..50 {
            let picked = bench.pick(&tried);
            prop_assert_eq!(picked.is_some(), untried);
            prop_assert!(picked.is_none_or(|picked| picked < endpoints.len()));
            prop_assert!(picked.is_none_or(|picked| !was_tried(&tried, picked)), "{picked:?}");
        }
        drop(guards);
        prop_assert!(bench.endpoints.iter().all(|endpoint| endpoint.state.in_flight() == 0));
    }

    #[test]
    fn round_robin_is_exact_over_a_period(
        weights in prop::collection::vec(1_u32..7, 1..7),
        start in any::<u64>(),
    ) {
        let sum: u32 = weights.iter().sum();
        let mut bench = Bench::new(Kind::RoundRobin, &weights);
        bench.cursor = Cursor(start >> 1);
        let period = sum * weights.len() as u32;
        let counts = bench.counts(period as usize);
        for (weight, count) in weights.iter().zip(counts) {
            prop_assert_eq!(count * sum, weight * period);
        }
    }
}
