//! What a decision on the path of a request costs, by how much there is to choose from:
//!
//!     cargo run --release -p decisions
//!
//! Rounds of all sizes alternate within one run and the quickest of each are compared: what others on the
//! machine take, of time and of its caches, only ever makes a round slower.

use std::hint::black_box;
use std::sync::Arc;
use std::time;

use http::header::HOST;
use http::{HeaderMap, Method};
use pilotfish::balance::{
    Availability, Balancer, Cookie, Cursor, Key, Kind, Panic, Pick, Plan, SameSite, Split, ZonePlan,
};
use pilotfish::clock::Instant;
use pilotfish::endpoint::{Address, Endpoint, Instance, Load};
use pilotfish::route::{Matcher, PathPattern, Request, Router};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// Destinations of a weighted route, which somebody wrote down one by one.
const DESTINATIONS: [usize; 3] = [2, 4, 10];
const ROUNDS: usize = 101;
const CALLS: usize = 10_000;

fn main() {
    println!("nanoseconds a call (quickest of {ROUNDS} rounds), and the ratio to the least number");
    head("route, by routes", SIZES);
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
    for (title, among) in [
        ("pick, by endpoints", Among::All),
        ("one in three is skipped", Among::TwoOfThree),
        ("pick of a request, with all that speaks against an endpoint", Among::Available),
    ] {
        head(title, SIZES);
        for (name, service) in services() {
            row(name, SIZES.map(|size| picking(&service, size, among)));
        }
    }
    head("split, by destinations", DESTINATIONS);
    row("drawn", DESTINATIONS.map(|size| splitting(size, false)));
    row("by a key", DESTINATIONS.map(|size| splitting(size, true)));
}

fn head(title: &str, sizes: [usize; 3]) {
    println!("\n| {title} | {} |", sizes.map(|size| format!("{size}")).join(" | "));
    println!("|---|---|---|---|");
}

type Call = Box<dyn FnMut()>;

fn row(name: &str, mut calls: [Call; SIZES.len()]) {
    let mut quickest = [f64::INFINITY; SIZES.len()];
    for _ in 0..ROUNDS {
        for (call, quickest) in calls.iter_mut().zip(&mut quickest) {
            *quickest = quickest.min(time(call));
        }
    }
    let cells = quickest.map(|ns| format!("{ns:.0} ({:.2})", ns / quickest[0]));
    println!("| {name} | {} |", cells.join(" | "));
}

/// Nanoseconds a call, over one round.
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time(call: &mut Call) -> f64 {
    let began = time::Instant::now();
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

/// The endpoints of a service and how one is picked.
struct Service {
    plan: Plan,
    /// Endpoints are in so many zones, by turns.
    zones: usize,
}

/// Among which endpoints.
#[derive(Clone, Copy)]
enum Among {
    All,
    TwoOfThree,
    /// Those that are not away, not full, and whose breaker lets requests through: all are.
    Available,
}

fn services() -> Vec<(&'static str, Service)> {
    let plain = |kind| Service { plan: Plan { kind, ..Plan::default() }, zones: 0 };
    let bounded = |kind| {
        let plan = Plan { kind, bounded_load: Some(1.25), ..Plan::default() };
        Service { plan, zones: 0 }
    };
    let sticky = Plan { sticky: Some(Arc::new(cookie())), ..Plan::default() };
    let zone = Some(ZonePlan { own: "zone-0".into(), min_endpoints: 1 });
    vec![
        ("peak_ewma", plain(Kind::PeakEwma)),
        ("least_request", plain(Kind::LeastRequest)),
        ("round_robin", plain(Kind::RoundRobin)),
        ("random", plain(Kind::Random)),
        ("ring_hash", plain(Kind::RingHash)),
        ("maglev", plain(Kind::Maglev)),
        ("ring_hash, bounded load", bounded(Kind::RingHash)),
        ("maglev, bounded load", bounded(Kind::Maglev)),
        ("sticky_cookie", Service { plan: sticky, zones: 0 }),
        ("peak_ewma, own zone first", Service { plan: Plan { zone, ..Plan::default() }, zones: 2 }),
    ]
}

fn cookie() -> Cookie {
    Cookie {
        name: "route".into(),
        service: "users".into(),
        ttl: None,
        path: "/".into(),
        secure: false,
        same_site: SameSite::Lax,
    }
}

fn picking(service: &Service, size: usize, among: Among) -> Call {
    let load = Arc::<Load>::default();
    let loads: Arc<[_]> = [load.clone()].into();
    let endpoint = |i: usize| {
        let address = Address::Name { host: format!("host-{i}").into(), port: 80 };
        let zone = (service.zones > 0).then(|| format!("zone-{}", i % service.zones).into());
        let loads = Some(loads.clone());
        let instance = Instance { zone, ..address.into() };
        Arc::new(Endpoint { loads, ..Endpoint::new(instance, Arc::default()) })
    };
    let endpoints: Vec<_> = (0..size).map(endpoint).collect();
    let balancer = Balancer::of(&service.plan, &endpoints, Some(&load), None);
    let wishes = wishes(service, &endpoints);
    let availability = Availability::default();
    let (mut cursor, mut panic) = (Cursor::default(), Panic::default());
    let mut random = fastrand::Rng::with_seed(1);
    let mut now = 1_000_000_000;
    Box::new(move || {
        now += 1_000;
        let wish = match &wishes {
            // Keys that all differ, hashed already.
            None => Some(random.u64(..)),
            Some(wishes) => Some(wishes[random.usize(..wishes.len())]),
        };
        let (balancer, now) = (&balancer, Instant(now));
        let picked = match among {
            Among::All => balancer.pick(&mut cursor, &mut random, now, wish, &|_| false),
            Among::TwoOfThree => {
                balancer.pick(&mut cursor, &mut random, now, wish, &|i| i % 3 == 0)
            }
            Among::Available => {
                let availability = &availability;
                let pick = Pick { balancer, availability, tried: &[], wish, now };
                let picked = pick.choose(&mut cursor, &mut panic, &mut random).ok();
                picked.map(|picked| picked.index)
            }
        };
        assert!(black_box(picked).is_some());
    })
}

/// What the cookies of clients say, where it goes by them.
fn wishes(service: &Service, endpoints: &[Arc<Endpoint>]) -> Option<Vec<u64>> {
    let cookie = service.plan.sticky.as_ref()?;
    let digest = |endpoint: &Arc<Endpoint>| {
        let set = cookie.set(endpoint)?;
        let value = set.to_str().ok()?.strip_prefix("route=")?.get(..16)?;
        u64::from_str_radix(value, 16).ok()
    };
    let digests: Vec<u64> = endpoints.iter().filter_map(digest).collect();
    assert_eq!(digests.len(), endpoints.len());
    Some(digests)
}

fn splitting(size: usize, by_key: bool) -> Call {
    let split = Split::new(&vec![1; size]).expect("weights");
    let destinations: Vec<_> = (0..size).map(|i| (format!("version-{i}"), 1)).collect();
    let split = split.by_key(Key::Header(HOST), &destinations);
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move || {
        let hash = random.u64(..);
        black_box(split.pick(&mut random, by_key.then_some(hash)));
    })
}
