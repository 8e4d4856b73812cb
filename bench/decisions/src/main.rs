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
use pilotfish::balance::{
    Availability, Balancer, Cookie, Cursor, Kind, Panic, Pick, Plan, SameSite, ZonePlan,
};
use pilotfish::endpoint::{Address, Endpoint, Load, Nanos};
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
    row("pick by PeakEwma, a third ejected", SIZES.map(picking_among_the_rest));
    for kind in [Kind::RingHash, Kind::Maglev] {
        row(&format!("pick by {kind:?}"), SIZES.map(|size| hashing(size, kind, None)));
    }
    for kind in [Kind::RingHash, Kind::Maglev] {
        let name = format!("pick by {kind:?}, bounded load");
        row(&name, SIZES.map(|size| hashing(size, kind, Some(1.25))));
    }
    row("pick by cookie", SIZES.map(following));
    row("pick by PeakEwma, own zone first", SIZES.map(near));
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

fn endpoints(size: usize) -> Vec<Endpoint> {
    let address = |i| Address::Name { host: format!("host-{i}").into(), port: 80 };
    (0..size).map(|i| Endpoint::new(address(i), Arc::default())).collect()
}

fn shared(endpoints: Vec<Endpoint>) -> Vec<Arc<Endpoint>> {
    endpoints.into_iter().map(Arc::new).collect()
}

fn picking(size: usize, kind: Kind) -> Call {
    let endpoints = shared(endpoints(size));
    call(Balancer::new(kind, &endpoints), endpoints, |_| None)
}

fn picking_among_the_rest(size: usize) -> Call {
    let endpoints = shared(endpoints(size));
    endpoints.iter().step_by(3).for_each(|endpoint| endpoint.state.eject(Nanos(u64::MAX)));
    call(Balancer::new(Kind::PeakEwma, &endpoints), endpoints, |_| None)
}

/// By keys that all differ, hashed already.
fn hashing(size: usize, kind: Kind, bounded_load: Option<f64>) -> Call {
    let load = Arc::<Load>::default();
    let loads: Arc<[_]> = [load.clone()].into();
    let mut endpoints = endpoints(size);
    endpoints.iter_mut().for_each(|endpoint| endpoint.loads = Some(loads.clone()));
    let endpoints = shared(endpoints);
    let plan = Plan { kind, bounded_load, ..Plan::default() };
    call(Balancer::of(&plan, &endpoints, Some(&load), None), endpoints, |random| {
        Some(random.u64(..))
    })
}

/// The endpoints that the cookies of clients name.
fn following(size: usize) -> Call {
    let endpoints = shared(endpoints(size));
    let cookie = Arc::new(Cookie {
        name: "route".into(),
        service: "users".into(),
        ttl: None,
        path: "/".into(),
        secure: false,
        same_site: SameSite::Lax,
    });
    let digest = |endpoint: &Arc<Endpoint>| {
        let set = cookie.set(endpoint)?;
        let value = set.to_str().ok()?.strip_prefix("route=")?.get(..16)?;
        u64::from_str_radix(value, 16).ok()
    };
    let digests: Vec<u64> = endpoints.iter().filter_map(digest).collect();
    assert_eq!(digests.len(), size);
    let plan = Plan { sticky: Some(cookie.clone()), ..Plan::default() };
    call(Balancer::of(&plan, &endpoints, None, None), endpoints, move |random| {
        Some(digests[random.usize(..digests.len())])
    })
}

/// Two zones of the same size.
fn near(size: usize) -> Call {
    let mut endpoints = endpoints(size);
    for (endpoint, zone) in endpoints.iter_mut().zip(["a", "b"].into_iter().cycle()) {
        endpoint.zone = Some(zone.into());
    }
    let endpoints = shared(endpoints);
    let zone = Some(ZonePlan { own: "a".into(), min_endpoints: 1 });
    let plan = Plan { zone, ..Plan::default() };
    call(Balancer::of(&plan, &endpoints, None, None), endpoints, |_| None)
}

fn call(
    balancer: Balancer,
    endpoints: Vec<Arc<Endpoint>>,
    wish: impl Fn(&mut fastrand::Rng) -> Option<u64> + 'static,
) -> Call {
    let mut cursor = Cursor::default();
    let mut random = fastrand::Rng::with_seed(1);
    let mut panic = Panic::default();
    let availability = Availability::default();
    let mut now = 1_000_000_000;
    Box::new(move || {
        now += 1_000;
        let wish = wish(&mut random);
        let now = Nanos(now);
        let (endpoints, balancer, availability) = (&endpoints[..], &balancer, &availability);
        let pick = Pick { endpoints, balancer, availability, tried: &[], wish, now };
        let picked = pick.choose(&mut cursor, &mut panic, &mut random);
        assert!(black_box(picked).is_ok());
    })
}
