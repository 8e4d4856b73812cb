//! Sidecars that find each other by a real Consul agent.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use support::consul::{Consul, MASTER};
use support::load::Load;
use support::process::{Process, Start};
use support::{Proxy, client, eventually, upstream::Upstream};

/// A sidecar of the app at `upstream`, registered at `consul`.
async fn sidecar(consul: &Consul, name: &str, upstream: &Upstream, more: &str) -> Proxy {
    let (at, port) = (consul.address, upstream.address.port());
    Proxy::start(&format!(
        "service: {{ name: {name}, port: {port}, version: v1, zone: a, metadata: {{ team: shop }} }}\nregistry: {{ consul: {{ address: \"http://{at}\", ttl: 2s }} }}\n{more}"
    ))
    .await
}

async fn caller(consul: &Consul, more: &str) -> Proxy {
    Proxy::start(&format!("registry: consul://{}\n{more}", consul.address)).await
}

async fn passing(consul: &Consul, service: &str, count: usize) -> Vec<String> {
    eventually(|| async {
        let passing = consul.passing(service).await;
        (passing.len() == count).then_some(passing)
    })
    .await
}

/// The answers to some calls of `users`, which are all good.
async fn answers(caller: &Proxy) -> BTreeSet<String> {
    let mut answers = BTreeSet::new();
    for _ in 0..12 {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answers.insert(answer.text().to_owned());
    }
    answers
}

async fn answers_are(caller: &Proxy, expected: &[&str]) {
    eventually(|| async {
        let answers = answers(caller).await;
        answers.iter().eq(expected.iter()).then_some(())
    })
    .await;
}

const ROUND_ROBIN: &str = "services: { users: { load_balancer: round_robin } }";

#[tokio::test]
async fn an_app_is_registered_found_changed_and_deregistered() {
    let Some(consul) = Consul::start().await else { return };
    let one = Upstream::named("one").await;
    let users = sidecar(&consul, "users", &one, "").await;
    let at = passing(&consul, "users", 1).await;
    assert_eq!(at, [users.inbound().to_string()]);
    let entry = &consul.get("/v1/health/service/users").await[0]["Service"];
    assert_eq!(entry["Meta"], serde_json::json!({ "team": "shop", "version": "v1", "zone": "a" }));
    let caller = caller(&consul, ROUND_ROBIN).await;
    assert_eq!(answers(&caller).await.len(), 1, "the first call waits for the answer");
    let two = Upstream::named("two").await;
    let second = sidecar(&consul, "users", &two, "").await;
    answers_are(&caller, &["one", "two"]).await;
    // Maintenance takes it out and lets it come back.
    let id = entry["ID"].as_str().expect("an id");
    let maintenance = |on: bool| format!("/v1/agent/service/maintenance/{id}?enable={on}");
    consul.ask("PUT", &maintenance(true), &serde_json::Value::Null).await;
    answers_are(&caller, &["two"]).await;
    consul.ask("PUT", &maintenance(false), &serde_json::Value::Null).await;
    answers_are(&caller, &["one", "two"]).await;
    second.shutdown();
    second.ended().await;
    assert_eq!(consul.passing("users").await.len(), 1, "it has said goodbye");
    answers_are(&caller, &["one"]).await;
}

#[tokio::test]
async fn by_another_agent_of_the_cluster_too() {
    let Some(server) = Consul::start().await else { return };
    let (near, far) = tokio::join!(Consul::agent_of(&server), Consul::agent_of(&server));
    let app = Upstream::named("users").await;
    let _users = sidecar(&near, "users", &app, "").await;
    passing(&far, "users", 1).await;
    let caller = caller(&far, "").await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    assert_eq!(
        client::get_from(caller.outbound(), "users.service.consul", "/").await.text(),
        "users"
    );
}

#[tokio::test]
async fn an_app_that_is_not_well_is_critical_and_not_gone() {
    let Some(consul) = Consul::start().await else { return };
    let app = support::upstream::Switch::on(200).await;
    let port = app.upstream.address.port();
    let users = Proxy::start(&format!(
        "service: {{ name: users, port: {port}, health_check: {{ http: /health, interval: 50ms, unhealthy_after: 1 }} }}\nregistry: consul://{}",
        consul.address
    ))
    .await;
    passing(&consul, "users", 1).await;
    app.set(500);
    passing(&consul, "users", 0).await;
    assert_eq!(consul.get("/v1/health/service/users").await.as_array().unwrap().len(), 1);
    app.set(200);
    passing(&consul, "users", 1).await;
    drop(users);
}

#[tokio::test]
async fn what_is_killed_is_critical_when_its_time_is_over() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    let yaml = format!(
        "service: {{ name: users, port: {} }}\nregistry: {{ consul: {{ address: \"http://{}\", ttl: 1s }} }}\ninbound: {{ listen: '{{inbound}}' }}\noutbound: {{ listen: '{{outbound}}' }}\nadmin: {{ listen: '{{admin}}', metrics: '{{metrics}}' }}\n",
        app.address.port(),
        consul.address
    );
    let users = Process::start(&yaml, Start::default()).await;
    passing(&consul, "users", 1).await;
    users.kill();
    assert_eq!(consul.get("/v1/health/service/users").await.as_array().unwrap().len(), 1);
    passing(&consul, "users", 0).await;
}

#[tokio::test]
async fn the_agent_can_ask_us_instead() {
    let Some(consul) = Consul::start().await else { return };
    let app = support::upstream::Switch::on(200).await;
    let port = app.upstream.address.port();
    // Where the metrics server is, the agent has to reach it.
    let _users = Proxy::start(&format!(
        "service: {{ name: users, port: {port}, health_check: {{ http: /health, interval: 50ms, unhealthy_after: 1 }} }}\nregistry: {{ consul: {{ address: \"http://{}\", check: http }}, advertise: {{ address: 127.0.0.1 }} }}\nadmin: {{ listen: 127.0.0.1:0, metrics: 0.0.0.0:0 }}",
        consul.address
    ))
    .await;
    passing(&consul, "users", 1).await;
    assert_eq!(consul.get("/v1/health/checks/users").await[0]["Type"], "http");
    app.set(500);
    passing(&consul, "users", 0).await;
    app.set(200);
    passing(&consul, "users", 1).await;
}

#[tokio::test]
async fn an_agent_that_asks_us_hears_of_an_app_that_takes_no_connections() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    let users = Proxy::start(&format!(
        "service: {{ name: users, port: {} }}\nregistry: {{ consul: {{ address: \"http://{}\", check: http }}, advertise: {{ address: 127.0.0.1 }} }}\nadmin: {{ listen: 127.0.0.1:0, metrics: 0.0.0.0:0 }}",
        app.address.port(),
        consul.address
    ))
    .await;
    passing(&consul, "users", 1).await;
    drop(app);
    eventually(|| async {
        let ready = client::get_from(users.admin(), "localhost", "/ready").await;
        (ready.status.as_u16() == 503 && ready.text().contains("no connections")).then_some(())
    })
    .await;
    passing(&consul, "users", 0).await;
    assert_eq!(consul.get("/v1/health/service/users").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_asked_otherwise_of_the_same_agent_takes_nobody_out() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    let dir = tempfile::tempdir().unwrap();
    let at = consul.address;
    let yaml = |registry: &str| {
        format!("service: {{ name: users, port: {} }}\nregistry: {registry}", app.address.port())
    };
    let directory = format!("\"directory://{}\"", dir.path().display());
    let both = format!("[ {directory}, {{ consul: {{ address: \"http://{at}\", tag: blue }} }} ]");
    let users = Proxy::start(&yaml(&both)).await;
    passing(&consul, "users", 1).await;
    let made = async || {
        let entry = &consul.get("/v1/health/service/users").await[0]["Service"];
        entry["CreateIndex"].as_u64().expect("an index")
    };
    let before = made().await;
    // Another place in the list, and another question.
    users.write(&yaml(&format!(
        "{{ consul: {{ address: \"http://{at}\", tag: green, ttl: 3s }} }}"
    )));
    users.reload().await.expect("good");
    eventually(|| async { (std::fs::read_dir(dir.path()).unwrap().count() == 0).then_some(()) })
        .await;
    // An advertised change comes after all that: it stands there, as it did from the beginning.
    users.write(&yaml(&format!(
        "{{ consul: {{ address: \"http://{at}\", tag: green, ttl: 3s }}, advertise: {{ tags: [new] }} }}"
    )));
    users.reload().await.expect("good");
    eventually(|| async {
        let entry = &consul.get("/v1/health/service/users").await[0]["Service"];
        (entry["Tags"][0] == "new").then_some(())
    })
    .await;
    assert_eq!(made().await, before, "it was never away");
    assert_eq!(consul.passing("users").await.len(), 1);
}

#[tokio::test]
async fn another_datacenter_in_front_or_another_spelling_takes_nobody_out() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    let (at, port) = (consul.address, consul.address.port());
    let users = sidecar(&consul, "users", &app, "").await;
    passing(&consul, "users", 1).await;
    let entry = async || consul.get("/v1/health/service/users").await[0]["Service"].take();
    let before = entry().await["CreateIndex"].clone();
    for (step, registry) in [
        format!(
            "[ {{ consul: {{ address: \"http://{at}\", datacenter: mars }} TAGS }}, consul://{at} ]"
        ),
        format!("{{ consul: {{ address: \"http://localhost:{port}\" }} TAGS }}"),
    ]
    .iter()
    .enumerate()
    {
        let tag = format!("step-{step}");
        // First alone, then with a change that is seen: it comes after all that.
        for tags in [String::new(), format!(", advertise: {{ tags: [{tag}] }}")] {
            users.write(&format!(
                "service: {{ name: users, port: {} }}\nregistry: {}",
                app.address.port(),
                registry.replace(" TAGS", &tags)
            ));
            users.reload().await.expect("good");
        }
        eventually(|| async { (entry().await["Tags"][0] == tag).then_some(()) }).await;
        assert_eq!(entry().await["CreateIndex"], before, "it was never away: {registry}");
    }
    assert_eq!(consul.passing("users").await.len(), 1);
}

#[tokio::test]
async fn an_agent_that_forgets_us_is_told_again() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    let _users = sidecar(&consul, "users", &app, "").await;
    passing(&consul, "users", 1).await;
    let entry = &consul.get("/v1/health/service/users").await[0]["Service"];
    consul.deregister(entry["ID"].as_str().expect("an id")).await;
    passing(&consul, "users", 1).await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_and_starts_empty_costs_no_request() {
    let Some(mut consul) = Consul::start().await else { return };
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let state = tempfile::tempdir().unwrap();
    let _users = sidecar(&consul, "users", &one, "").await;
    let _more = sidecar(&consul, "users", &two, "").await;
    passing(&consul, "users", 2).await;
    let with_state =
        format!("{ROUND_ROBIN}\nruntime: {{ workers: 2, state_dir: {} }}", state.path().display());
    let before = caller(&consul, &with_state).await;
    answers_are(&before, &["one", "two"]).await;
    let load = Load::of(before.outbound(), "users", 4);
    load.answered(50).await;
    consul.kill();
    is_state(&before, "stale").await;
    // One that is started meanwhile knows them from the disk.
    let meanwhile = caller(&consul, &with_state).await;
    answers_are(&meanwhile, &["one", "two"]).await;
    load.answered(100).await;
    consul.start_again().await;
    is_state(&before, "fresh").await;
    is_state(&meanwhile, "fresh").await;
    passing(&consul, "users", 2).await;
    load.answered(100).await;
    answers_are(&before, &["one", "two"]).await;
    answers_are(&meanwhile, &["one", "two"]).await;
    let tally = load.stop().await;
    assert_eq!(tally.bad(), 0, "{tally:?}");
}

#[tokio::test]
async fn an_agent_that_hangs_costs_no_request() {
    let Some(consul) = Consul::start().await else { return };
    let app = Upstream::named("users").await;
    consul.register("users", app.address).await;
    let caller = caller(&consul, "").await;
    assert_eq!(answers(&caller).await.len(), 1);
    consul.hang();
    assert_eq!(answers(&caller).await.len(), 1);
    // What nobody has asked for yet is not there, and its request waits no longer than it may.
    let status = client::get_from(caller.outbound(), "orders", "/").await.status.as_u16();
    assert_eq!(status, 503);
    consul.go_on();
    consul.register("orders", app.address).await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "orders", "/").await;
        (answer.text() == "users").then_some(())
    })
    .await;
}

async fn is_state(caller: &Proxy, state: &str) {
    let series = format!("pilotfish_registry_service_state{{service=\"users\",state=\"{state}\"}}");
    eventually(|| async { (caller.metric(&series).await == 1.0).then_some(()) }).await;
}

async fn errors(caller: &Proxy, consul: &Consul, reason: &str) {
    let name = format!("consul {}", consul.address);
    let series =
        format!("pilotfish_registry_errors_total{{registry=\"{name}\",reason=\"{reason}\"}}");
    eventually(|| async { (caller.metric(&series).await > 0.0).then_some(()) }).await;
}

fn write_token(dir: &Path, token: &str) {
    let new = dir.join("new");
    std::fs::write(&new, token).unwrap();
    std::fs::rename(new, dir.join("token")).unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_told_and_a_right_one_is_read_again() {
    let Some(consul) = Consul::with_acl().await else { return };
    let app = Upstream::named("users").await;
    let dir = tempfile::tempdir().unwrap();
    write_token(dir.path(), "0b1e4a6c-95b4-4f52-8a4d-1f3d5f0b7c00");
    let registry = format!(
        "registry: {{ consul: {{ address: \"http://{}\", token_file: {}/token }} }}",
        consul.address,
        dir.path().display()
    );
    let _users = Proxy::start(&format!(
        "service: {{ name: users, port: {} }}\n{registry}",
        app.address.port()
    ))
    .await;
    let caller = Proxy::start(&format!("{registry}\nservices: {{ users: {{}} }}")).await;
    errors(&caller, &consul, "refused").await;
    assert_eq!(consul.passing("users").await.len(), 0);
    write_token(dir.path(), &format!("{MASTER}\n"));
    passing(&consul, "users", 1).await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "users").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_datacenter_that_is_not_there_is_told() {
    let Some(consul) = Consul::start().await else { return };
    let yaml = format!(
        "registry: {{ consul: {{ address: \"http://{}\", datacenter: mars }} }}\nservices: {{ users: {{}} }}",
        consul.address
    );
    let caller = Proxy::start(&yaml).await;
    errors(&caller, &consul, "failed").await;
    let clusters = client::get_from(caller.admin(), "localhost", "/clusters?format=json").await;
    assert!(clusters.text().contains("check `datacenter`"), "{}", clusters.text());
}
