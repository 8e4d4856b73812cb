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
async fn what_never_ends_to_be_read_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let pipe = dir.path().join("orders@orders-1.json");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("orders@orders-2.json")).unwrap();
    let _users = sidecar(dir.path(), "users", &app, "").await;
    let caller = caller(dir.path(), "services: { users: {}, orders: {} }").await;
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "users").then_some(())
    })
    .await;
    is_state(&caller, "orders", "stale").await;
    is_state(&caller, "users", "fresh").await;
}

async fn is_state(caller: &Proxy, service: &str, state: &str) {
    let series =
        format!("pilotfish_registry_service_state{{service=\"{service}\",state=\"{state}\"}}");
    eventually(|| async { (caller.metric(&series).await == 1.0).then_some(()) }).await;
}

/// Watches of the kernel that a process has, of which a user has few.
fn inotify_instances(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let links = open.filter_map(|it| std::fs::read_link(it.expect("one").path()).ok());
    links.filter(|link| link.to_string_lossy().contains("inotify")).count()
}

#[tokio::test]
async fn all_services_are_followed_by_one_watch() {
    let dir = tempfile::tempdir().unwrap();
    let mut counts = Vec::new();
    for services in ["users: {}", "users: {}, orders: {}, cart: {}, mail: {}"] {
        let yaml = format!(
            "registry: directory://{}\nservices: {{ {services} }}\noutbound: {{ listen: '{{outbound}}' }}\nadmin: {{ listen: '{{admin}}', metrics: '{{metrics}}' }}\n",
            dir.path().display()
        );
        let caller = Process::start(&yaml, Start::default()).await;
        eventually(|| async {
            let clusters =
                client::get_from(caller.admin, "localhost", "/clusters?format=json").await;
            let clusters = clusters.text().matches("\"fresh\"").count();
            (clusters == services.matches("{}").count()).then_some(())
        })
        .await;
        counts.push(inotify_instances(caller.pid()));
        caller.kill();
    }
    assert!(counts[0] > 0 && counts[0] == counts[1], "{counts:?}");
}

#[tokio::test]
async fn a_state_directory_that_comes_late_or_by_a_reload_is_written_without_a_change() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let app = Upstream::named("users").await;
    let _users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    // What is in its place is none.
    let late = state.path().join("late");
    std::fs::write(&late, "").unwrap();
    let with = |path: &Path| {
        let (registry, path) = (dir.path().display(), path.display());
        format!(
            "registry: directory://{registry}\nservices: {{ users: {{}} }}\nruntime: {{ workers: 2, state_dir: {path} }}\n"
        )
    };
    let caller = Proxy::start(&with(&late)).await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    std::fs::remove_file(&late).unwrap();
    let is_kept = async |path: &Path| {
        let file = path.join("services/users.json");
        eventually(|| async {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.contains("127.0.0.1").then_some(())
        })
        .await;
    };
    is_kept(&late).await;
    let other = state.path().join("other");
    caller.write(&with(&other));
    caller.reload().await.expect("good");
    is_kept(&other).await;
}

#[tokio::test]
async fn what_the_disk_had_for_long_is_tried_before_it_is_relied_on() {
    let state = tempfile::tempdir().unwrap();
    let (app, closed) =
        (Upstream::named("users").await, std::net::TcpListener::bind("127.0.0.1:0"));
    let closed = closed.unwrap().local_addr().unwrap();
    let now = pilotfish::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
    let kept = serde_json::json!({
        "service": "users",
        "told_at": now.as_secs() - 2 * 3600,
        "endpoints": [{ "address": app.address }, { "address": closed }],
    });
    std::fs::create_dir(state.path().join("services")).unwrap();
    std::fs::write(state.path().join("services/users.json"), kept.to_string()).unwrap();
    let caller = Proxy::start(&format!(
        "registry: consul://{closed}\nservices: {{ users: {{}} }}\nruntime: {{ workers: 2, state_dir: {} }}",
        state.path().display()
    ))
    .await;
    is_state(&caller, "users", "expired").await;
    let available = "pilotfish_endpoints{service=\"users\",state=\"available\"}";
    eventually(|| async { (caller.metric(available).await == 1.0).then_some(()) }).await;
    for _ in 0..10 {
        assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    }
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
    let held = "pilotfish_registry_held_endpoints{service=\"users\"}";
    eventually(|| async { (caller.metric(held).await == 1.0).then_some(()) }).await;
    for _ in 0..20 {
        assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    }
}

#[tokio::test]
async fn the_first_registry_that_has_an_instance_tells() {
    let (new, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (Upstream::named("old").await, Upstream::named("new").await);
    let _in_old = sidecar(old.path(), "users", &one, "").await;
    is_registered(&old, "users", 1).await;
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
    for _ in 0..20 {
        assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "new");
    }
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
async fn another_app_is_announced_when_it_is_there_itself() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    // A port that nobody listens on yet.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    users.write(&format!(
        "service: {{ name: people, port: {} }}\nregistry: directory://{}",
        address.port(),
        dir.path().display()
    ));
    users.reload().await.expect("good");
    is_registered(&dir, "users", 0).await;
    assert_eq!(registered(&dir, "people"), 0, "nobody has seen it yet");
    const THERE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let _people = Upstream::canned_at(address, THERE).await;
    is_registered(&dir, "people", 1).await;
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

#[tokio::test]
async fn names_that_nobody_has_leave_room_for_services() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let _users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    let caller = caller(dir.path(), "discovery: { on_demand: { max_services: 2 } }").await;
    for nobody in ["a", "b", "c", "d"] {
        let answer = client::get_from(caller.outbound(), nobody, "/").await;
        assert_eq!(answer.status.as_u16(), 503, "{nobody}");
    }
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    let metrics = client::get(caller.metrics(), "/metrics").await;
    let states = "pilotfish_registry_service_state{service=";
    assert!(metrics.text().contains(&format!("{states}\"users\"")));
    assert!(!metrics.text().contains(&format!("{states}\"d\"")), "a name is no series");
    assert!(!metrics.text().contains("pilotfish_endpoints{service=\"d\""));
}

#[tokio::test]
async fn a_reload_ends_what_it_does_not_allow_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let _users = sidecar(dir.path(), "users", &app, "").await;
    is_registered(&dir, "users", 1).await;
    let yaml = format!("registry: directory://{}\n", dir.path().display());
    let caller = Proxy::start(&yaml).await;
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
    caller.write(&format!("{yaml}discovery: {{ on_demand: off }}\n"));
    caller.reload().await.expect("good");
    let clusters = client::get_from(caller.admin(), "localhost", "/clusters?format=json").await;
    assert!(!clusters.text().contains("\"users\""), "{}", clusters.text());
    // What was called may be a host of another service.
    caller.write(&format!(
        "{yaml}services: {{ people: {{ endpoints: [\"{}\"], hosts: [users] }} }}\n",
        app.address
    ));
    caller.reload().await.expect("good");
    assert_eq!(client::get_from(caller.outbound(), "users", "/").await.text(), "users");
}

#[tokio::test]
async fn our_own_service_can_be_called_where_its_instances_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let app = Upstream::named("users").await;
    let limit = "inbound: { listen: 127.0.0.1:0, policy: { rate_limit: { requests: 1000, per: 1s, scope: service } } }";
    let users = sidecar(dir.path(), "users", &app, limit).await;
    is_registered(&dir, "users", 1).await;
    assert_eq!(client::get(users.inbound(), "/").await.text(), "users");
    // It is counted by what the directory told, which may be of before.
    eventually(|| async {
        let answer = client::get_from(users.outbound(), "users", "/").await;
        (answer.text() == "users").then_some(())
    })
    .await;
}
