//! Three instances behind a sidecar, restarted one after the other, again and again, under load, with a real Consul:
//! no request fails.

mod support;

use std::net::SocketAddr;

use support::consul::Consul;
use support::load::Load;
use support::{Proxy, eventually, upstream::Upstream};

/// How often all three are restarted.
const ROUNDS: usize = 20;

/// An app and its sidecar.
struct Instance {
    sidecar: Proxy,
    _app: Upstream,
}

impl Instance {
    async fn start(consul: SocketAddr, name: &'static str) -> Self {
        let app = Upstream::named(name).await;
        // The linger is as long as others need to hear of it: a blocking query and the debounce.
        let sidecar = Proxy::start(&format!(
            "service: {{ name: users, port: {} }}\nregistry: consul://{consul}\ndrain: {{ linger: 400ms, timeout: 5s }}",
            app.address.port()
        ))
        .await;
        Self { sidecar, _app: app }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_cost_no_request() {
    let Some(consul) = Consul::start().await else { return };
    let mut instances = Vec::new();
    for name in ["one", "two", "three"] {
        instances.push(Instance::start(consul.address, name).await);
    }
    let all = || async { (consul.passing("users").await.len() == 3).then_some(()) };
    eventually(all).await;
    let caller = Proxy::start(&format!("registry: consul://{}", consul.address)).await;
    let load = Load::of(caller.outbound(), "users", 4);
    load.answered(20).await;
    for round in 0..ROUNDS {
        for (place, name) in ["one", "two", "three"].into_iter().enumerate() {
            let Instance { sidecar, _app: app } = instances.remove(place);
            sidecar.shutdown();
            sidecar.ended().await;
            drop(app);
            instances.insert(place, Instance::start(consul.address, name).await);
            eventually(all).await;
        }
        assert_eq!(load.tally.bad(), 0, "round {round}: {:?}", load.tally);
    }
    load.answered(20).await;
    let tally = load.stop().await;
    assert_eq!(tally.bad(), 0, "{tally:?}");
}
