use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use proptest::prelude::*;

use super::window::Counts;
use super::*;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const FAILED: Seen = Seen { failed: true, slow: false };
const SLOW: Seen = Seen { failed: false, slow: true };
const GOOD: Seen = Seen { failed: false, slow: false };

/// Nothing is watched but what the test adds.
fn config() -> BreakerConfig {
    BreakerConfig { failure_rate: None, ..BreakerConfig::of_failure_rate() }
}

/// One call that ends at once.
fn call(breaker: &mut Breaker, seen: Seen, now: u64, config: &BreakerConfig) -> bool {
    let Some(pass) = breaker.admit(Instant(now), config) else { return false };
    breaker.record(pass, seen, Instant(now), 0.0, config);
    true
}

#[test]
fn failures_in_a_row_trip_and_a_success_between_them_does_not() {
    let config = BreakerConfig { consecutive_failures: Some(3), ..config() };
    let mut breaker = Breaker::new(&config);
    for seen in [FAILED, FAILED, GOOD, FAILED, FAILED] {
        assert!(call(&mut breaker, seen, S, &config));
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert!(call(&mut breaker, FAILED, S, &config));
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(!call(&mut breaker, GOOD, S, &config));
}

#[test]
fn a_rate_counts_from_the_fewest_calls_on() {
    let config = BreakerConfig { failure_rate: Some(0.5), min_calls: 20, ..config() };
    let mut breaker = Breaker::new(&config);
    for _ in 0..10 {
        call(&mut breaker, GOOD, S, &config);
    }
    for _ in 0..9 {
        call(&mut breaker, FAILED, S, &config);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    call(&mut breaker, FAILED, S, &config);
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn slow_calls_and_a_number_of_failures_trip_too() {
    let slow = BreakerConfig { slow_call_rate: Some(0.6), min_calls: 5, ..config() };
    let mut breaker = Breaker::new(&slow);
    for seen in [GOOD, GOOD, SLOW, SLOW, SLOW] {
        assert!(call(&mut breaker, seen, S, &slow));
    }
    assert_eq!(breaker.state(), BreakerState::Open);

    let count = BreakerConfig { failure_count: Some(3), ..config() };
    let mut breaker = Breaker::new(&count);
    for seen in [FAILED, GOOD, FAILED, GOOD, FAILED] {
        assert!(call(&mut breaker, seen, S, &count));
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn it_closes_after_good_probes_and_opens_for_longer_after_bad_ones() {
    let config = BreakerConfig {
        consecutive_failures: Some(1),
        probes: 2,
        open_for: Duration::from_secs(5),
        max_open_for: Duration::from_secs(60),
        ..config()
    };
    let mut breaker = Breaker::new(&config);
    let mut now = S;
    call(&mut breaker, FAILED, now, &config);
    // At the cap there is room left for the jitter.
    for seconds in [5, 10, 20, 40, 40, 40] {
        assert!(!call(&mut breaker, GOOD, now + seconds * S - 1, &config), "{seconds}");
        now += seconds * S;
        assert!(call(&mut breaker, FAILED, now, &config));
    }
    now += 40 * S;
    assert!(call(&mut breaker, GOOD, now, &config));
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(call(&mut breaker, GOOD, now, &config));
    assert_eq!(breaker.state(), BreakerState::Closed);
    // Again so soon: the same trouble.
    assert!(call(&mut breaker, FAILED, now + S, &config));
    assert_eq!(breaker.blocked_until(&config), Instant(now + 41 * S));
    now += 41 * S;
    assert!(call(&mut breaker, GOOD, now, &config) && call(&mut breaker, GOOD, now, &config));
    // Well for as long as it was open: the trouble is another one.
    now += 60 * S;
    call(&mut breaker, FAILED, now, &config);
    assert_eq!(breaker.blocked_until(&config), Instant(now + 5 * S));
}

#[test]
fn the_time_it_is_open_is_jittered_up_to_its_cap() {
    let config = BreakerConfig { consecutive_failures: Some(1), ..config() };
    let opened = |chance: f64, config: &BreakerConfig| {
        let mut breaker = Breaker::new(config);
        let pass = breaker.admit(Instant(0), config).expect("closed");
        breaker.record(pass, FAILED, Instant(0), chance, config);
        breaker.blocked_until(config).0
    };
    assert_eq!(opened(0.0, &config), 5 * S);
    assert_eq!(opened(1.0, &config), 7_500 * MS);
    let capped = BreakerConfig { max_open_for: Duration::from_secs(6), ..config.clone() };
    assert_eq!(opened(1.0, &capped), 6 * S);
    let at_cap = BreakerConfig { open_for: Duration::from_secs(4), ..capped };
    assert_eq!((opened(0.0, &at_cap), opened(1.0, &at_cap)), (4 * S, 6 * S));
}

#[test]
fn a_call_from_before_says_nothing_and_a_probe_that_leaves_frees_its_place() {
    let config = BreakerConfig { consecutive_failures: Some(2), ..config() };
    let mut breaker = Breaker::new(&config);
    let late = breaker.admit(Instant(0), &config).expect("closed");
    call(&mut breaker, FAILED, 0, &config);
    call(&mut breaker, FAILED, 0, &config);
    breaker.record(late, GOOD, Instant(0), 0.0, &config);
    assert_eq!(breaker.state(), BreakerState::Open);
    let probe = breaker.admit(Instant(5 * S), &config).expect("a probe");
    breaker.record(late, GOOD, Instant(5 * S), 0.0, &config);
    breaker.cancel(late);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(breaker.admit(Instant(5 * S), &config), None);
    assert_eq!(breaker.blocked_until(&config), Instant(10 * S));
    breaker.cancel(probe);
    assert_eq!(breaker.blocked_until(&config), Instant(0));
    let probe = breaker.admit(Instant(6 * S), &config).expect("its place is free");
    breaker.record(probe, GOOD, Instant(6 * S), 0.0, &config);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_probe_that_tells_nothing_loses_its_place() {
    let config = BreakerConfig { consecutive_failures: Some(1), ..config() };
    let mut breaker = Breaker::new(&config);
    call(&mut breaker, FAILED, 0, &config);
    let stream = breaker.admit(Instant(5 * S), &config).expect("a probe");
    assert_eq!(breaker.admit(Instant(10 * S - 1), &config), None);
    let second = breaker.admit(Instant(10 * S), &config).expect("in its place");
    assert_eq!(breaker.admit(Instant(10 * S), &config), None);
    // The place that the first one leaves is not its own any more.
    breaker.cancel(stream);
    assert_eq!(breaker.admit(Instant(10 * S), &config), None);
    breaker.record(second, GOOD, Instant(11 * S), 0.0, &config);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn probes_are_judged_by_the_rate() {
    let config = BreakerConfig { failure_rate: Some(0.5), min_calls: 1, probes: 10, ..config() };
    for (bad, closes) in [(4, true), (5, false)] {
        let mut breaker = Breaker::new(&config);
        call(&mut breaker, FAILED, 0, &config);
        for index in 0..10 {
            let seen = if index < bad { FAILED } else { GOOD };
            call(&mut breaker, seen, 60 * S, &config);
        }
        assert_eq!(breaker.state() == BreakerState::Closed, closes, "{bad}");
    }
}

#[test]
fn half_open_admits_its_number_from_any_threads() {
    const THREADS: usize = 8;
    let config = BreakerConfig { consecutive_failures: Some(1), probes: 3, ..config() };
    let breaker = Arc::new(SharedBreaker::new(Arc::new(config)));
    let first = breaker.admit(Instant(0)).expect("closed");
    let end = breaker.record(first, FAILED, Instant(0), 0.0);
    assert_eq!(end, Some(BreakerState::Open));
    assert_eq!(breaker.refuses(Instant(S)), breaker.blocked(Instant(S)));
    assert!(breaker.blocked(Instant(S)).is_some());
    let admitted = AtomicU32::new(0);
    let start = std::sync::Barrier::new(THREADS);
    let held: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mut held = Vec::new();
                    for _ in 0..1000 {
                        if let Some(admission) = breaker.admit(Instant(10 * S)) {
                            admitted.fetch_add(1, SeqCst);
                            held.push(admission);
                        }
                    }
                    held
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(admitted.load(SeqCst), 3);
    drop(held);
    assert!(breaker.admit(Instant(10 * S)).is_some());
}

#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Begin,
    End(prop::sample::Index, bool, bool),
    Cancel(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..20 * S).prop_map(Event::Wait),
        6 => Just(Event::Begin),
        5 => (any::<prop::sample::Index>(), any::<bool>(), any::<bool>())
            .prop_map(|(which, failed, slow)| Event::End(which, failed, slow)),
        1 => any::<prop::sample::Index>().prop_map(Event::Cancel),
    ]
}

fn any_config() -> impl Strategy<Value = BreakerConfig> {
    let rate = || prop::option::of(0.1..1.0_f64);
    let window = prop_oneof![
        (1..20_u64).prop_map(|seconds| WindowKind::Time(Duration::from_secs(seconds))),
        (1..30_u32).prop_map(WindowKind::Calls),
    ];
    let count = || prop::option::of(1..6_u32);
    let times = (1..20_u64, 1..40_u64).prop_map(|(open, patience)| {
        let second = Duration::from_secs;
        (second(open), second(patience))
    });
    (count(), count(), rate(), rate(), window, 0..10_u32, 1..4_u32, times).prop_map(
        |(
            consecutive_failures,
            failure_count,
            failure_rate,
            slow_call_rate,
            window,
            min_calls,
            probes,
            (open_for, probe_patience),
        )| {
            BreakerConfig {
                consecutive_failures,
                failure_count,
                failure_rate,
                slow_call_rate,
                window,
                min_calls,
                probes,
                open_for,
                probe_patience,
                ..config()
            }
        },
    )
}

proptest! {
    /// Open, it admits none; half-open, never more at a time and in all than its probes.
    #[test]
    fn no_sequence_admits_too_many(
        config in any_config(),
        events in prop::collection::vec(event(), 1..200),
        chance in 0.0..1.0_f64,
    ) {
        let mut breaker = Breaker::new(&config);
        let (mut now, mut out, mut probes, mut given_up, mut last) = (S, Vec::new(), 0, 0, 0);
        for event in events {
            let before = (breaker.state(), breaker.blocked_until(&config));
            match event {
                Event::Wait(time) => now += time,
                Event::Begin => {
                    let pass = breaker.admit(Instant(now), &config);
                    match before {
                        (BreakerState::Closed, _) => prop_assert!(pass.is_some()),
                        (BreakerState::Open, until) if now < until.0 => prop_assert!(pass.is_none()),
                        (BreakerState::Open, _) => {
                            prop_assert!(pass.is_some());
                            (probes, given_up, last) = (1, 0, now);
                        }
                        (BreakerState::HalfOpen, _) => {
                            let full = probes >= config.probes;
                            let silent = Instant(now).saturating_duration_since(Instant(last)) >= config.probe_patience;
                            prop_assert_eq!(pass.is_some(), !full || silent);
                            if pass.is_some() {
                                *(if full { &mut given_up } else { &mut probes }) += 1;
                                last = now;
                            }
                        }
                    }
                    out.extend(pass);
                }
                Event::End(which, failed, slow) if !out.is_empty() => {
                    let pass = out.swap_remove(which.index(out.len()));
                    breaker.record(pass, Seen { failed, slow }, Instant(now), chance, &config);
                    if breaker.state() == BreakerState::Open && before.0 != BreakerState::Open {
                        let until = breaker.blocked_until(&config);
                        let open = until.saturating_duration_since(Instant(now));
                        prop_assert!(open >= config.open_for.min(config.max_open_for));
                        prop_assert!(open <= config.max_open_for.max(config.open_for));
                    }
                }
                Event::Cancel(which) if !out.is_empty() => {
                    let pass = out.swap_remove(which.index(out.len()));
                    let is_probe = before.0 == BreakerState::HalfOpen && pass.epoch == breaker.epoch;
                    breaker.cancel(pass);
                    if is_probe {
                        *(if given_up > 0 { &mut given_up } else { &mut probes }) -= 1;
                    }
                }
                Event::End(..) | Event::Cancel(_) => {}
            }
        }
    }

    /// The counts of a window are those of a log of all calls.
    #[test]
    fn windows_count_what_is_in_them(
        kind in prop_oneof![
            (1..200_u64).prop_map(|length| WindowKind::Time(Duration::from_nanos(10 * length))),
            (1..30_u32).prop_map(WindowKind::Calls),
        ],
        calls in prop::collection::vec((0..300_u64, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut window = Window::new(kind);
        let (mut now, mut log) = (0, Vec::new());
        for (step, failed, slow) in calls {
            now += step;
            let seen = Seen { failed, slow };
            window.add(Instant(now), seen);
            log.push((now, seen));
            let inside: Vec<_> = match kind {
                WindowKind::Calls(size) => log.iter().rev().take(size as usize).collect(),
                WindowKind::Time(length) => {
                    let slice = length.as_nanos() as u64 / 10;
                    log.iter().filter(|(at, _)| now / slice - at / slice < 10).collect()
                }
            };
            let count = |of: fn(&Seen) -> bool| inside.iter().filter(|(_, seen)| of(seen)).count() as u32;
            let expected =
                Counts { calls: count(|_| true), failed: count(|s| s.failed), slow: count(|s| s.slow) };
            prop_assert_eq!(window.counts(), expected);
        }
    }
}
