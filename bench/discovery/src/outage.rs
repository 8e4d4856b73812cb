//! Consul is away for a minute under load, and then starts empty.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::consul::Consul;
use crate::http::Connection;
use crate::instance::{Instance, Noticed};
use crate::proxy::Proxy;
use crate::{Result, free_port, now};

const INSTANCES: usize = 3;
const CLIENTS: usize = 8;
/// Requests a second of one client.
const RATE: usize = 50;
/// With Consul, before and after.
const WELL: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Whether all that has to hold did.
///
/// # Errors
/// Consul or a proxy does not run.
pub async fn run() -> Result<bool> {
    let mut consul = Consul::start().await?;
    let state = tempfile::tempdir()?;
    let mut apps = Vec::new();
    for _ in 0..INSTANCES {
        let app = Instance::start(now(), Arc::<Noticed>::default()).await?;
        let more = format!(
            "service: {{ name: users, port: {} }}\ninbound: {{ listen: 127.0.0.1:{} }}\n",
            app.address.port(),
            free_port()
        );
        apps.push((Proxy::with(consul.address, &more).await?, app));
    }
    let began = now();
    while consul.passing("users").await? < INSTANCES {
        sleep(Duration::from_millis(50)).await;
    }
    println!("registered after {:.1} s", (now() - began).as_secs_f64());
    let with_state = format!("runtime: {{ workers: 1, state_dir: {} }}\n", state.path().display());
    let caller = Proxy::with(consul.address, &with_state).await?;
    let (seen, restarted) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut clients = JoinSet::new();
    load(&mut clients, caller.outbound, &seen);
    sleep(WELL).await;
    eprintln!("consul is killed for {AWAY:?}");
    consul.kill();
    sleep(AWAY / 3).await;
    // One that starts while Consul is away knows what the one before had on disk.
    let meanwhile = Proxy::with(consul.address, &with_state).await?;
    load(&mut clients, meanwhile.outbound, &restarted);
    sleep(AWAY - AWAY / 3).await;
    eprintln!("consul starts, empty");
    consul.start_again().await?;
    let began = now();
    while consul.passing("users").await? < INSTANCES {
        sleep(Duration::from_millis(50)).await;
    }
    let again = now() - began;
    sleep(WELL).await;
    clients.abort_all();
    println!("\n| | answered | failed |");
    println!("|---|--:|--:|");
    for (who, seen) in [("a sidecar that was there", &seen), ("one started meanwhile", &restarted)]
    {
        println!("| {who} | {} | {} |", seen.answered.load(Relaxed), seen.failed.load(Relaxed));
    }
    println!("\nall registered again {:.1} s after Consul was back", again.as_secs_f64());
    let answered = [&seen, &restarted].iter().all(|seen| seen.answered.load(Relaxed) > 0);
    let failed = seen.failed.load(Relaxed) + restarted.failed.load(Relaxed);
    Ok(answered && failed == 0)
}

fn load(clients: &mut JoinSet<()>, proxy: SocketAddr, seen: &Arc<Seen>) {
    for _ in 0..CLIENTS {
        let seen = seen.clone();
        clients.spawn(async move {
            let mut connection = Connection::to(proxy);
            let mut ticks = interval(Duration::from_secs(1) / RATE as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match connection.get("users", "/").await {
                    Ok(answer) if answer.status == 200 => {
                        seen.answered.fetch_add(1, Relaxed);
                    }
                    other => {
                        let why = other.map(|it| String::from_utf8_lossy(&it.body).into_owned());
                        eprintln!("{why:?}");
                        seen.failed.fetch_add(1, Relaxed);
                    }
                }
            }
        });
    }
}
