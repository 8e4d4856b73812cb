//! What is no file: databases and a broker, which services reach through their sidecars, and Consul.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use testing::program::{Program, free_address};
use testing::{MariaDb, Postgres, RabbitMq, eventually};

use crate::alone;
use crate::launcher::{Launcher, may_skip, programs};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn databases_and_the_broker_are_reached_through_sidecars() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    run(through_sidecars(&programs));
}

async fn through_sidecars(programs: &Path) {
    let Some(postgres) = Postgres::start().await else { return };
    let Some(mariadb) = MariaDb::start().await else { return };
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let users = format!("user-service={}", postgres.url_of("users").await);
    let orders = format!("order-service={}", mariadb.url_of("orders").await);
    let inventory = format!("inventory-service={}", postgres.url_of("inventory").await);
    let databases = [&users, &orders, &inventory].map(|of| ["--database", of]);
    let amqp = rabbitmq.url();
    let mut shop =
        Launcher::start(programs, &[&databases.concat()[..], &["--amqp", &amqp]].concat());
    shop.until_it_says("until Ctrl-C");
    let told = shop.stdout();
    assert!(told.contains(" 0 failed"), "{told}");
    for (name, servers) in [
        ("user-service-1", &["database"][..]),
        ("user-service-2", &["database"]),
        ("order-service-1", &["database", "broker"]),
        ("order-service-2", &["database", "broker"]),
        ("inventory-service-1", &["database", "broker"]),
    ] {
        let line = told.lines().find(|line| line.trim().starts_with(name)).expect("its line");
        let metrics = line.split_whitespace().last().expect("their URL");
        for server in servers {
            has_connections(metrics, server).await;
        }
    }
    shop.signal(Signal::INT);
    assert_eq!(shop.ended().code(), Some(0), "{}", shop.said());
    shop.left_nothing();
}

/// Waits until a sidecar has connections to this server.
async fn has_connections(metrics: &str, server: &str) {
    let series = format!(
        "pilotfish_bulkhead_in_use{{direction=\"outbound\",service=\"{server}\",kind=\"connections\"}} "
    );
    eventually(|| async {
        let text = reqwest::get(metrics).await.ok()?.text().await.ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix(&series))?;
        (count.parse::<f64>().ok()? > 0.0).then_some(())
    })
    .await;
}

#[test]
fn instances_find_each_other_by_consul() {
    let (Some(programs), Some(consul), _alone) = (programs(), consul(), alone()) else { return };
    run(by_consul(&programs, &consul));
}

async fn by_consul(programs: &Path, consul: &Path) {
    let dir = tempfile::tempdir().expect("a directory");
    let [http, serf, server] = [(); 3].map(|()| free_address().port());
    let config = json!({
        "bind_addr": "127.0.0.1",
        "disable_host_node_id": true,
        "disable_update_check": true,
        "data_dir": dir.path().join("data"),
        "server": true,
        "bootstrap_expect": 1,
        "ports": { "http": http, "serf_lan": serf, "server": server, "serf_wan": -1, "dns": -1, "grpc": -1 },
    });
    let file = dir.path().join("agent.json");
    std::fs::write(&file, config.to_string()).expect("its configuration");
    let mut agent = Command::new(consul);
    agent.args(["agent", "-config-file"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let _agent = Program::start(&mut agent, Signal::KILL, dir.path());
    let url = |path: &str| format!("http://127.0.0.1:{http}/v1/{path}");
    eventually(|| async {
        let leader = reqwest::get(url("status/leader")).await.ok()?.text().await.ok()?;
        leader.contains(':').then_some(())
    })
    .await;
    let registry = format!("consul://127.0.0.1:{http}");
    let mut shop = Launcher::start(programs, &["--exit", "--registry", &registry]);
    assert_eq!(shop.ended().code(), Some(0), "{}", shop.said());
    shop.left_nothing();
    // In order they have left Consul too.
    let left = reqwest::get(url("health/service/order-service")).await.expect("it answers");
    assert_eq!(left.text().await.expect("a list").trim(), "[]");
}

/// The agent that is named, or the one on the PATH.
fn consul() -> Option<PathBuf> {
    let named = std::env::var_os("CONSUL_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|directory| directory.join("consul"));
    let found = named.or_else(|| on_path.find(|program| program.is_file()));
    found.or_else(|| may_skip("consul, on the PATH or as $CONSUL_BIN"))
}
