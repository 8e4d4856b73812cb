//! 2,000 instances of 50 services, of which a fifth is replaced each second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::consul::{Catalog, Consul};
use crate::http::Connection;
use crate::instance::{Instance, Noticed};
use crate::proxy::Proxy;
use crate::{Result, now};

const SERVICES: usize = 50;
const INSTANCES: usize = 2000;
/// Replaced each second.
const REPLACED: usize = 400;
/// Who replaces them.
const HANDS: usize = 8;
const QUIET: Duration = Duration::from_secs(15);
const CHURN: Duration = Duration::from_secs(60);
const CLIENTS: usize = 16;
/// Requests a second of one client.
const RATE: usize = 100;

/// What clients saw in one phase.
#[derive(Default)]
struct Seen {
    failed: AtomicU64,
    /// In µs.
    latencies: Mutex<Vec<u32>>,
}

/// Whether all that has to hold did.
///
/// # Errors
/// Consul or the proxy does not run.
pub async fn run() -> Result<bool> {
    let consul = Consul::start().await?;
    let (began, noticed) = (now(), Arc::<Noticed>::default());
    eprintln!("registering {INSTANCES} instances of {SERVICES} services");
    let mut instances: Vec<Vec<(usize, Instance)>> = (0..HANDS).map(|_| Vec::new()).collect();
    let mut catalog = Catalog::of(consul.address);
    for number in 0..INSTANCES {
        let instance = Instance::start(began, noticed.clone()).await?;
        catalog.register(&name(number % SERVICES), instance.address).await?;
        instances[number % HANDS].push((number % SERVICES, instance));
    }
    let proxy = Proxy::start(consul.address).await?;
    let (quiet, busy) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let is_busy = Arc::<AtomicBool>::default();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(proxy.outbound, [quiet.clone(), busy.clone()], is_busy.clone()));
    }
    // The first calls wait for first answers.
    sleep(Duration::from_secs(5)).await;
    quiet.latencies.lock().map_err(|_| "a client panicked")?.clear();
    let cpu = || (proxy.cpu("control"), proxy.cpu("worker"));
    let first = cpu();
    sleep(QUIET).await;
    let second = cpu();
    eprintln!("replacing {REPLACED} of them a second, for {CHURN:?}");
    is_busy.store(true, Relaxed);
    let mut hands = JoinSet::new();
    for of_one in instances {
        hands.spawn(replace(consul.address, began, noticed.clone(), of_one));
    }
    let mut replaced = 0;
    while let Some(done) = hands.join_next().await {
        replaced += done??;
    }
    let third = cpu();
    clients.abort_all();
    let failed = quiet.failed.load(Relaxed) + busy.failed.load(Relaxed);
    let too_late = noticed.too_late.load(Relaxed);
    println!("| | quiet | {} replaced a second |", replaced / CHURN.as_secs() as usize);
    println!("|---|--:|--:|");
    row("requests", &quiet, &busy, |sorted| sorted.len().to_string());
    row("p50, ms", &quiet, &busy, |sorted| percentile(sorted, 0.5));
    row("p99, ms", &quiet, &busy, |sorted| percentile(sorted, 0.99));
    row("p99.9, ms", &quiet, &busy, |sorted| percentile(sorted, 0.999));
    let share = |time: Duration, of: Duration| {
        format!("{:.1}", 100.0 * time.as_secs_f64() / of.as_secs_f64())
    };
    let (quiet_control, busy_control) = (second.0 - first.0, third.0 - second.0);
    println!(
        "| control, % of a core | {} | {} |",
        share(quiet_control, QUIET),
        share(busy_control, CHURN)
    );
    let (quiet_worker, busy_worker) = (second.1 - first.1, third.1 - second.1);
    println!(
        "| worker, % of a core | {} | {} |",
        share(quiet_worker, QUIET),
        share(busy_worker, CHURN)
    );
    println!("\nfailed requests: {failed}");
    println!(
        "latest request after its instance had left: {} ms (more than 2,000: {too_late})",
        noticed.latest.load(Relaxed)
    );
    Ok(failed == 0 && too_late == 0)
}

fn name(service: usize) -> String {
    format!("service-{service}")
}

fn row(what: &str, quiet: &Seen, busy: &Seen, cell: impl Fn(&[u32]) -> String) {
    let of = |seen: &Seen| {
        let mut latencies = seen.latencies.lock().map(|it| it.clone()).unwrap_or_default();
        latencies.sort_unstable();
        cell(&latencies)
    };
    println!("| {what} | {} | {} |", of(quiet), of(busy));
}

fn percentile(sorted: &[u32], share: f64) -> String {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    format!("{:.2}", f64::from(sorted.get(at).copied().unwrap_or(0)) / 1000.0)
}

/// Replaces its part of the instances one after the other, each by a new one at another port.
async fn replace(
    consul: SocketAddr,
    began: Instant,
    noticed: Arc<Noticed>,
    mut instances: Vec<(usize, Instance)>,
) -> Result<usize> {
    let mut catalog = Catalog::of(consul);
    let mut ticks = interval(Duration::from_secs(1) / (REPLACED / HANDS) as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (end, mut replaced) = (now() + CHURN, 0);
    while now() < end {
        ticks.tick().await;
        let place = fastrand::usize(..instances.len());
        let (service, old) = instances.swap_remove(place);
        let new = Instance::start(began, noticed.clone()).await?;
        catalog.register(&name(service), new.address).await?;
        catalog.deregister(&name(service), old.address).await?;
        old.leaves(began);
        instances.push((service, new));
        replaced += 1;
    }
    Ok(replaced)
}

/// Calls any service at a steady rate.
async fn client(proxy: SocketAddr, seen: [Arc<Seen>; 2], is_busy: Arc<AtomicBool>) {
    let mut connection = Connection::to(proxy);
    let mut ticks = interval(Duration::from_secs(1) / RATE as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = now();
        let answer = connection.get(&name(fastrand::usize(..SERVICES)), "/").await;
        let seen = &seen[usize::from(is_busy.load(Relaxed))];
        match answer {
            Ok(answer) if answer.status == 200 => {
                let micros = (now() - began).as_micros().min(u128::from(u32::MAX)) as u32;
                seen.latencies.lock().expect("no client panics").push(micros);
            }
            Ok(answer) => {
                eprintln!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                seen.failed.fetch_add(1, Relaxed);
            }
            Err(error) => {
                eprintln!("{error}");
                seen.failed.fetch_add(1, Relaxed);
            }
        }
    }
}
