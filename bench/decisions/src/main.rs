//! What a decision on the path of a request costs, by how much there is to choose from:
//!
//!     cargo run --release -p decisions
//!
//! Rounds of all sizes alternate within one run and medians are compared, because only a ratio within
//! one run means anything on a machine that others use too.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method};
use pilotfish::balance::{Balancer, Cursor, Kind};
use pilotfish::endpoint::{Address, Endpoint, Nanos};
use pilotfish::route::{Matcher, PathPattern, Request, Router};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ROUNDS: usize = 31;
const CALLS: usize = 20_000;

fn main() {
    println!(
        "nanoseconds a call (median of {ROUNDS} rounds), and the ratio to {} entries\n",
        SIZES[0]
    );
    println!("| decision | {} |", SIZES.map(|size| format!("{size}")).join(" | "));
    println!("|---|---|---|---|");
    type Pattern = fn(usize) -> (PathPattern, String);
    let patterns: [(&str, Pattern); 3] = [
        ("route by exact path", |i| {
            let path = format!("/service-{i}/items");
            (PathPattern::exact(&path).expect("a path"), path)
        }),
        ("route by prefix", |i| {
            let path = format!("/service-{i}");
            (PathPattern::prefix(&path).expect("a path"), format!("{path}/items/7"))
        }),
        ("route by template", |i| {
            let path = format!("/service-{i}/items/{{id}}");
            (PathPattern::template(&path).expect("a path"), format!("/service-{i}/items/7"))
        }),
    ];
    for (name, pattern) in patterns {
        row(name, SIZES.map(|size| routing(size, pattern)));
    }
    for kind in [Kind::PeakEwma, Kind::LeastRequest, Kind::RoundRobin, Kind::Random] {
        row(&format!("pick by {kind:?}"), SIZES.map(|size| picking(size, kind)));
    }
}

type Call = Box<dyn FnMut()>;

fn row(name: &str, mut calls: [Call; SIZES.len()]) {
    let mut times: [Vec<f64>; SIZES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            times.push(time(call));
        }
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    let cells = medians.map(|ns| format!("{ns:.0} ({:.2})", ns / medians[0]));
    println!("| {name} | {} |", cells.join(" | "));
}

/// Nanoseconds a call, over one round.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(call: &mut Call) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    began.elapsed().as_nanos() as f64 / CALLS as f64
}

fn routing(size: usize, pattern: fn(usize) -> (PathPattern, String)) -> Call {
    let (patterns, paths): (Vec<_>, Vec<_>) = (0..size).map(pattern).unzip();
    let routes = patterns.into_iter().enumerate().map(|(i, path)| (Matcher::path(path), i));
    let router = Router::new(routes.collect());
    let headers = HeaderMap::new();
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move || {
        let path = &paths[random.usize(..paths.len())];
        let found = router.find(&Request {
            host: "shop.example",
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
        });
        assert!(black_box(found).is_some());
    })
}

fn picking(size: usize, kind: Kind) -> Call {
    let endpoints: Vec<_> = (0..size)
        .map(|i| {
            let address = Address::Name { host: format!("host-{i}").into(), port: 80 };
            Arc::new(Endpoint::new(address, Arc::default()))
        })
        .collect();
    let balancer = Balancer::new(kind, &endpoints);
    let mut cursor = Cursor::default();
    let mut random = fastrand::Rng::with_seed(1);
    let mut now = 1_000_000_000;
    Box::new(move || {
        now += 1_000;
        let picked = balancer.pick(&endpoints, &mut cursor, &mut random, Nanos(now), &[]);
        assert!(black_box(picked).is_some());
    })
}
