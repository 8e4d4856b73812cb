//! What a sidecar pays for what it calls, and for what there is beside that.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::consul::{Catalog, Consul};
use crate::http::Connection;
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::{Result, now};

const BIG: &str = "big";
const BIG_SIZE: usize = 10_000;
const SERVICES: usize = 1000;
const OF_EACH: usize = 10;
const ROUNDS: u16 = 5;
/// Longer than a change takes to be in force, of few services and of many, which take turns.
const SETTLES: [Duration; 2] = [Duration::from_millis(700), Duration::from_secs(8)];
const FEW: usize = 50;

/// # Errors
/// Consul or the proxy does not run.
pub async fn run() -> Result<bool> {
    println!(
        "| in the registry | called | MB | KB from the registry | a change is in force after, ms | and costs KB | control, ms CPU |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|");
    let small = Consul::start().await?;
    fill(&small, (0..OF_EACH).map(|at| ("service-0".to_owned(), endpoint(at))).collect()).await?;
    measure(&small, "10 endpoints of 1 service", "it", &["service-0".to_owned()], "service-0")
        .await?;
    drop(small);

    let consul = Consul::start().await?;
    eprintln!("registering {} endpoints", BIG_SIZE + SERVICES * OF_EACH);
    let big = (0..BIG_SIZE).map(|at| (BIG.to_owned(), endpoint(at)));
    let many = (0..SERVICES * OF_EACH).map(|at| (service(at / OF_EACH), endpoint(BIG_SIZE + at)));
    fill(&consul, big.chain(many).collect()).await?;
    let there = "20,000 endpoints of 1,001 services";
    for count in [1, 10, 100, 1000] {
        let called: Vec<String> = (0..count).map(service).collect();
        let what = format!("{count} of 10 endpoints");
        measure(&consul, there, &what, &called, "service-0").await?;
    }
    measure(&consul, there, "1 of 10,000 endpoints", &[BIG.to_owned()], BIG).await?;
    Ok(true)
}

fn service(number: usize) -> String {
    format!("service-{number}")
}

/// An address that nobody is at: nothing is called but to be looked up.
fn endpoint(number: usize) -> SocketAddr {
    let [_, _, high, low] = (number as u32 + 1).to_be_bytes();
    ([127, 1, high, low], 1024 + (number % 60_000) as u16).into()
}

async fn fill(consul: &Consul, all: Vec<(String, SocketAddr)>) -> Result<()> {
    let mut hands = JoinSet::new();
    for part in all.chunks(all.len().div_ceil(8)) {
        let (part, consul) = (part.to_vec(), consul.address);
        hands.spawn(async move {
            let mut catalog = Catalog::of(consul);
            for (service, at) in part {
                catalog.register(&service, at).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(done) = hands.join_next().await {
        done??;
    }
    Ok(())
}

/// Starts a sidecar, has it call `called`, and changes `changed`.
async fn measure(
    consul: &Consul,
    there: &str,
    what: &str,
    called: &[String],
    changed: &str,
) -> Result<()> {
    let relay = Relay::before(consul.address).await?;
    let mut proxy = Proxy::start(relay.address).await?;
    let mut client = Connection::to(proxy.outbound);
    for service in called {
        // Refused, as nobody is there; it is followed from now on.
        client.get(service, "/").await?;
    }
    let series = format!("pilotfish_endpoints{{service=\"{changed}\",state=\"known\"}}");
    sleep(Duration::from_secs(2)).await;
    let (memory, bytes) = (proxy.memory(), relay.bytes());
    let settles = SETTLES[usize::from(called.len() > FEW)];
    let mut catalog = Catalog::of(consul.address);
    let extra = |round: u16| SocketAddr::from(([127, 2, 0, 1], 2000 + round));
    // Nobody looks meanwhile: to scrape the metrics of so many services costs control something as well.
    let cpu = proxy.cpu("control");
    let mut costs = Vec::new();
    for round in 0..ROUNDS {
        let had = relay.bytes();
        catalog.register(changed, extra(round)).await?;
        sleep(settles).await;
        costs.push((relay.bytes() - had) as f64 / 1e3);
        catalog.deregister(changed, extra(round)).await?;
        sleep(settles).await;
    }
    let cpu = (proxy.cpu("control") - cpu).as_secs_f64() * 1e3 / f64::from(2 * ROUNDS);
    let before = proxy.metric(&series).await?;
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        let began = now();
        catalog.register(changed, extra(round)).await?;
        while proxy.metric(&series).await? != before + 1.0 {
            sleep(Duration::from_millis(5)).await;
        }
        waits.push((now() - began).as_secs_f64() * 1e3);
        catalog.deregister(changed, extra(round)).await?;
        sleep(settles).await;
    }
    println!(
        "| {there} | {what} | {:.1} | {:.0} | {:.0} | {:.0} | {cpu:.0} |",
        memory as f64 / 1024.0,
        bytes as f64 / 1e3,
        median(&mut waits),
        median(&mut costs),
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
