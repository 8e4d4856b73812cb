//! Finding others and being found, by the registry that needs nothing to be installed: sidecars that share a
//! directory.

mod support;

use std::path::Path;
use std::time::Duration;

use support::process::{Process, Start};
use support::{Proxy, client, eventually, upstream::Upstream};
use tempfile::TempDir;

/// A sidecar of the app at `upstream`, registered in `dir`.
async fn sidecar(dir: &Path, name: &str, upstream: &Upstream, more: &str) -> Proxy {
    let (dir, port) = (dir.display(), upstream.address.port());
    Proxy::start(&format!(
        "service: {{ name: {name}, port: {port}, version: v1, metadata: {{ team: shop }} }}\nregistry: directory://{dir}\n{more}"
    ))
    .await
}

/// A sidecar of an app that only calls others.
async fn caller(dir: &Path, more: &str) -> Proxy {
    Proxy::start(&format!("registry: directory://{}\n{more}", dir.display())).await
}

/// The files of a service.
fn registered(dir: &TempDir, service: &str) -> usize {
    let files = std::fs::read_dir(dir.path()).expect("a directory");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with(&format!("{service}@")) && name.ends_with(".json")).count()
}

async fn is_registered(dir: &TempDir, service: &str, count: usize) {
    eventually(|| async { (registered(dir, service) == count).then_some(()) }).await;
}

#[tokio::test]
async fn sidecars_of_one_host_find_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("the users").await;
    let users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    let caller = caller(dir.path(), "").await;
    let answer = client::get_from(caller.outbound(), "users", "/1").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "the users"));
    let log = &caller.log(1).await[0];
    assert_eq!(log["upstream_host"], users.inbound().to_string());
    assert_eq!(log["upstream_cluster"], "users");
    let answer = client::get_from(caller.outbound(), "users.localhost", "/1").await;
    assert_eq!(answer.text(), "the users");
    // It comes to be known where it was not.
    let other = Upstream::named("the orders").await;
    let answer = client::get_from(caller.outbound(), "orders", "/1").await;
    assert_eq!(answer.status.as_u16(), 503, "no such host: {}", answer.text());
    let _orders = sidecar(dir.path(), "orders", &other, "").await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "orders", "/1").await;
        (answer.text() == "the orders").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_goes_is_not_called_any_more_and_no_request_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let first = sidecar(dir.path(), "users", &one, "drain: { linger: 300ms, timeout: 5s }").await;
    let _second = sidecar(dir.path(), "users", &two, "").await;
    is_registered(&dir, "users", 2).await;
    let caller = caller(dir.path(), "services: { users: { load_balancer: round_robin } }").await;
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..10 {
        answers.insert(client::get_from(caller.outbound(), "users", "/").await.text().to_owned());
    }
    assert_eq!(answers.len(), 2, "{answers:?}");
    first.shutdown();
    is_registered(&dir, "users", 1).await;
    let end = async { first.ended().await };
    let calls = async {
        for _ in 0..200 {
            let answer = client::get_from(caller.outbound(), "users", "/").await;
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        }
    };
    tokio::join!(end, calls);
    let seen = one.seen().len();
    for _ in 0..20 {
        assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "two");
    }
    assert_eq!(one.seen().len(), seen);
}

#[tokio::test]
async fn an_app_is_registered_when_it_is_there_and_told_critical_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    // A port that nobody listens on yet.
    let port = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let health = "health_check: { http: /health, interval: 50ms, unhealthy_after: 1 }";
    let yaml = format!(
        "service: {{ name: users, port: {port}, {health} }}\nregistry: directory://{}",
        dir.path().display()
    );
    let users = Proxy::start(&yaml).await;
    let caller = caller(dir.path(), "services: { users: {} }").await;
    let status =
        || async { client::get_from(caller.outbound(), "users", "/").await.status.as_u16() };
    assert_eq!(status().await, 503, "nobody is registered");
    assert_eq!(registered(&dir, "users"), 0);
    const THERE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let app = Upstream::canned_at(([127, 0, 0, 1], port).into(), THERE).await;
    eventually(|| async { (status().await == 200).then_some(()) }).await;
    drop(app);
    eventually(|| async { (users.metric("pilotfish_app_healthy").await == 0.0).then_some(()) })
        .await;
    // It is there, and not called: a valid answer without it, which holds nobody that does not answer.
    eventually(|| async { (status().await == 503).then_some(()) }).await;
    assert_eq!(registered(&dir, "users"), 1);
}

#[tokio::test]
async fn what_is_killed_expires() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let yaml = format!(
        "service: {{ name: users, port: {} }}\nregistry: {{ directory: {{ path: {}, ttl: 1s }} }}\ninbound: {{ listen: '{{inbound}}' }}\noutbound: {{ listen: '{{outbound}}' }}\nadmin: {{ listen: '{{admin}}', metrics: '{{metrics}}' }}\n",
        app.address.port(),
        dir.path().display()
    );
    let users = Process::start(&yaml, Start::default()).await;
    is_registered(&dir, "users", 1).await;
    let caller = Proxy::start(&format!(
        "registry: {{ directory: {{ path: {}, ttl: 1s }} }}\ndiscovery: {{ removal: off }}\nservices: {{ users: {{}} }}",
        dir.path().display()
    ))
    .await;
    let status =
        || async { client::get_from(caller.outbound(), "users", "/").await.status.as_u16() };
    eventually(|| async { (status().await == 200).then_some(()) }).await;
    // It lives for longer than a lease.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(status().await, 200, "it is kept while it lives");
    users.kill();
    eventually(|| async { (status().await == 503).then_some(()) }).await;
    is_registered(&dir, "users", 0).await;
}

#[tokio::test]
async fn routes_and_ports_lead_to_services_of_registries() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let _users = sidecar(dir.path(), "users", &app, "").await;
    let gateway = Proxy::start(&format!(
        "registry: directory://{}\ninbound:\n  listen: 127.0.0.1:0\n  routes:\n    - {{ match: {{ path_prefix: /a }}, to: [{{ service: users, version: v1 }}] }}\n    - {{ to: users }}\noutbound: {{ listen: 127.0.0.1:0, ports: {{ 13306: {{ service: users, listen: 127.0.0.1:0 }} }} }}",
        dir.path().display()
    ))
    .await;
    // The very first request is for what nobody has told yet.
    for path in ["/a/1", "/b"] {
        assert_eq!(client::get(gateway.inbound(), path).await.text(), "users");
    }
    assert_eq!(client::get(gateway.port(), "/").await.text(), "users");
}

#[tokio::test]
async fn a_reload_keeps_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let _users = sidecar(dir.path(), "users", &app, "").await;
    let yaml = format!("registry: directory://{}\n", dir.path().display());
    let caller = Proxy::start(&yaml).await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    caller.write(&format!("{yaml}services: {{ users: {{ policy: {{ timeout: 3s }} }} }}\n"));
    caller.reload().await.expect("good");
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    // Another registry that knows nobody: what was known is held, as it answers.
    let empty = tempfile::tempdir().unwrap();
    caller.write(&format!(
        "registry: directory://{}\nservices: {{ users: {{}} }}\n",
        empty.path().display()
    ));
    caller.reload().await.expect("good");
    for _ in 0..20 {
        assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    }
}

#[tokio::test]
async fn the_first_registry_that_has_an_instance_tells() {
    let (new, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (Upstream::named("old").await, Upstream::named("new").await);
    let _in_old = sidecar(old.path(), "users", &one, "").await;
    let both = format!(
        "registry: [ \"directory://{}\", {{ directory: {{ path: {} }}, advertise: off }} ]",
        new.path().display(),
        old.path().display()
    );
    let caller = Proxy::start(&format!("{both}\nservices: {{ users: {{}} }}")).await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "old");
    // One that is announced in the first of two, and not in the other.
    let app = two.address.port();
    let moved = Proxy::start(&format!("service: {{ name: users, port: {app} }}\n{both}")).await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "new").then_some(())
    })
    .await;
    assert_eq!((registered(&new, "users"), registered(&old, "users")), (1, 1));
    moved.shutdown();
    moved.ended().await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "old").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_is_listed_no_more_forgets_our_app_and_the_others_keep_it() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let app = Upstream::named("users").await;
    let service = format!("service: {{ name: users, port: {} }}", app.address.port());
    let url = |dir: &TempDir| format!("\"directory://{}\"", dir.path().display());
    let (at_one, at_two) = (url(&one), url(&two));
    let users = Proxy::start(&format!("{service}\nregistry: [ {at_one}, {at_two} ]")).await;
    is_registered(&one, "users", 1).await;
    is_registered(&two, "users", 1).await;
    let file = |dir: &TempDir| {
        let file = std::fs::read_dir(dir.path()).unwrap().next().expect("a file").unwrap();
        std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap())
    };
    let before = file(&two);
    users.write(&format!("{service}\nregistry: [ {at_two} ]"));
    users.reload().await.expect("good");
    is_registered(&one, "users", 0).await;
    assert_eq!(file(&two), before, "nobody has touched it");
    // Its place in the list is another, and it is the same.
    users.write(&format!("{service}\nregistry: [ {at_one}, {at_two} ]"));
    users.reload().await.expect("good");
    is_registered(&one, "users", 1).await;
    assert_eq!(file(&two), before);
    // What was listed until a moment ago forgets it too.
    users.write(&format!("{service}\nregistry: [ {at_one} ]"));
    users.reload().await.expect("good");
    users.shutdown();
    users.ended().await;
    assert_eq!((registered(&one, "users"), registered(&two, "users")), (0, 0));
}

#[tokio::test]
async fn an_app_with_another_name_leaves_nothing_under_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let yaml = |name: &str, tag: &str| {
        format!(
            "service: {{ name: {name}, port: {} }}\nregistry: {{ directory: {{ path: {} }}, advertise: {{ id: one, tags: [{tag}] }} }}",
            app.address.port(),
            dir.path().display()
        )
    };
    let users = Proxy::start(&yaml("users", "blue")).await;
    is_registered(&dir, "users", 1).await;
    users.write(&yaml("people", "blue"));
    users.reload().await.expect("good");
    is_registered(&dir, "people", 1).await;
    is_registered(&dir, "users", 0).await;
    users.write(&yaml("people", "green"));
    users.reload().await.expect("good");
    eventually(|| async {
        let text = std::fs::read_to_string(dir.path().join("people@one.json")).ok()?;
        text.contains("green").then_some(())
    })
    .await;
}

#[tokio::test]
async fn endpoints_of_a_running_proxy_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    let caller = caller(dir.path(), "services: { users: {} }").await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.status.as_u16(), 200);
    let run = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pilotfish"));
        command.arg("endpoints").args(["--admin", &caller.admin().to_string()]).args(arguments);
        async move {
            let output = support::within(command.output()).await.expect("it runs");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        }
    };
    let (code, table, _) = run(&["users"]).await;
    assert_eq!(code, Some(0));
    let cells: Vec<_> = table.lines().nth(1).expect("a line").split_whitespace().collect();
    assert_eq!(
        cells[..5],
        ["users", "directory", "fresh", &users.inbound().to_string(), "available"]
    );
    let (_, json, _) = run(&["-o", "json", "users"]).await;
    let clusters: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(clusters[0]["endpoints"][0]["version"], "v1");
    assert_eq!(clusters[0]["endpoints"][0]["labels"]["team"], "shop");
    let (code, _, error) = run(&["nobody"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("knows no service `nobody`"), "{error}");
}
