//! etcd: against a real one, and against what servers answer that are not well. The first need `etcd`.

#![cfg(feature = "etcd")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::Response;
use pilotfish::registry::etcd::Etcd as Registry;
use pilotfish::registry::{Announcement, Health, Reason, Registry as _, Renewal, settings};
use serde_json::json;
use support::etcd::Etcd;
use support::raw::find;
use support::upstream::{Switch, Upstream, body};
use support::watched::{Watched, on_one_thread};
use support::{Proxy, client, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sooner than what is quiet is read again: what is seen by then was told by the watch.
const SOON: Duration = Duration::from_secs(7);

fn settings(urls: &[String]) -> settings::Etcd {
    settings::Etcd {
        addresses: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
        prefix: "/shop/".to_owned(),
        username: None,
        password_file: None,
        ca_file: None,
        ttl: Duration::from_secs(60),
    }
}

fn registry(urls: &[String]) -> Rc<Registry> {
    Rc::new(Registry::new(&settings(urls)).expect("a registry"))
}

/// One of `service` at `port`.
fn app(service: &str, port: u16) -> Announcement {
    Announcement {
        service: service.into(),
        id: format!("{service}:host/{port}"),
        address: Some("127.0.0.1".into()),
        port,
        metrics_port: Some(15020),
        version: Some("1.4.2".to_owned()),
        zone: Some("eu-west-1a".to_owned()),
        weight: 3,
        tags: vec!["canary".to_owned()],
        metadata: BTreeMap::from([("team".to_owned(), "shöp".to_owned())]),
    }
}

fn key(ours: &Announcement) -> String {
    format!("/shop/{}/{}", ours.service, ours.id)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("the watch tells")
}

#[tokio::test]
async fn what_is_announced_is_found_with_all_that_was_said() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let registry = registry(&[etcd.url()]);
        let mut watched = Watched::begin(&registry, "orders");
        // Its name begins with ours.
        let mut other = Watched::begin(&registry, "orders-old");
        assert_eq!(watched.next().await, Ok(vec![]), "a service that nobody has is empty");
        let ours = app("orders", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        let found = soon(watched.until(&["127.0.0.1:3001"])).await.remove(0);
        assert_eq!(found.weight, 3);
        assert_eq!(found.zone.as_deref(), Some("eu-west-1a"));
        assert_eq!(found.version.as_deref(), Some("1.4.2"));
        let labels: Vec<_> = found.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(labels, [("tag.canary", "true"), ("team", "shöp")]);
        // A second one by a sidecar of its own, then another version of the first.
        let second = self::registry(&[etcd.url()]);
        second.register(&app("orders", 3002), Health::Passing).await.expect("it is registered");
        soon(watched.until(&["127.0.0.1:3001", "127.0.0.1:3002"])).await;
        // Told again it is no change, unless it is one.
        let revision = async || {
            etcd.ask("kv/range", json!({ "key": "AA==" }), None).await["header"]["revision"].take()
        };
        let before = revision().await;
        registry.register(&ours, Health::Passing).await.expect("it is registered anew");
        assert_eq!(revision().await, before);
        let newer = Announcement { port: 3003, ..ours.clone() };
        registry.register(&newer, Health::Passing).await.expect("it is registered anew");
        soon(watched.until(&["127.0.0.1:3002", "127.0.0.1:3003"])).await;
        registry.deregister(&ours).await.expect("it goes");
        soon(watched.until(&["127.0.0.1:3002"])).await;
        registry.deregister(&ours).await.expect("it is not there");
        assert_eq!(other.next().await, Ok(vec![]));
        drop(watched);
        assert_eq!(Watched::begin(&registry, "orders").next().await.map(|told| told.len()), Ok(1));
    })
    .await;
}

#[tokio::test]
async fn one_that_is_not_well_is_there_and_not_called() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let registry = registry(&[etcd.url()]);
        let mut watched = Watched::begin(&registry, "unwell");
        let ours = app("unwell", 3001);
        registry.register(&ours, Health::Critical).await.expect("it is registered");
        for _ in 0..2 {
            watched.forget();
            assert_eq!(etcd.get(&key(&ours)).await.expect("it is there")["health"], "critical");
            assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
            soon(watched.until(&["127.0.0.1:3001"])).await;
            assert_eq!(registry.renew(&ours, Health::Critical).await, Ok(Renewal::Kept));
            soon(watched.until(&[])).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_tells_no_more_goes_and_one_that_was_forgotten_comes_back() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let short = settings::Etcd { ttl: Duration::from_secs(3), ..settings(&[etcd.url()]) };
        let registry = Rc::new(Registry::new(&short).expect("a registry"));
        let mut watched = Watched::begin(&registry, "lease");
        let ours = app("lease", 3001);
        assert_eq!(
            registry.renew(&ours, Health::Passing).await,
            Ok(Renewal::Forgotten),
            "of whom?"
        );
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;
        // Nobody renews it.
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
        registry.register(&ours, Health::Passing).await.expect("it is registered again");
        watched.until(&["127.0.0.1:3001"]).await;
        // While it is renewed it stays for longer than it would.
        for _ in 0..20 {
            assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert!(etcd.get(&key(&ours)).await.is_some());
        // An operator removes it.
        etcd.delete(&key(&ours)).await;
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
        // And what it was bound to.
        registry.register(&ours, Health::Passing).await.expect("it is registered again");
        let leases = etcd.ask("lease/leases", json!({}), None).await;
        for lease in leases["leases"].as_array().expect("leases") {
            etcd.ask("lease/revoke", json!({ "ID": lease["ID"] }), None).await;
        }
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Critical).await, Ok(Renewal::Forgotten));
    })
    .await;
}

#[tokio::test]
async fn what_is_taken_back_under_another_name_leaves_ours_alone() {
    let server = Upstream::http(|seen| async move {
        Response::new(body(match seen.uri.path() {
            "/v3/lease/grant" => r#"{"ID":"7","TTL":"60"}"#,
            "/v3/lease/keepalive" => r#"{"result":{"ID":"7","TTL":"60"}}"#,
            "/v3/kv/range" => r#"{"header":{"revision":"2"},"kvs":[{"key":"YQ=="}]}"#,
            _ => "{}",
        }))
    })
    .await;
    let registry = registry(&[format!("http://{}", server.address)]);
    let (before, ours) = (app("people", 3001), app("users", 3001));
    for app in [&before, &ours] {
        registry.register(app, Health::Passing).await.expect("it is registered");
    }
    registry.deregister(&before).await.expect("it goes");
    assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
    assert_eq!(registry.renew(&before, Health::Passing).await, Ok(Renewal::Forgotten));
    registry.deregister(&ours).await.expect("it goes");
    assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
}

#[tokio::test]
async fn a_server_that_is_away_hangs_or_comes_back_empty() {
    let Some(mut etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let registry = registry(&[etcd.url()]);
        let mut watched = Watched::begin(&registry, "outage");
        let ours = app("outage", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;

        etcd.hang();
        assert_eq!(watched.failure().await.reason, Reason::Timeout);
        etcd.go_on();
        watched.until(&["127.0.0.1:3001"]).await;

        // It keeps what it had.
        etcd.kill();
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Unreachable);
        assert!(error.detail.contains(&etcd.address.to_string()), "{error}");
        let error = registry.renew(&ours, Health::Passing).await.expect_err("it is away");
        assert_eq!(error.reason, Reason::Unreachable);
        etcd.start_again().await;
        watched.until(&["127.0.0.1:3001"]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));

        etcd.kill();
        etcd.empty();
        watched.failure().await;
        etcd.start_again().await;
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
        registry.register(&ours, Health::Passing).await.expect("it is registered again");
        soon(watched.until(&["127.0.0.1:3001"])).await;
    })
    .await;
}

#[tokio::test]
async fn a_password_is_read_when_it_is_needed_and_never_told() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.protect("pilotfish", "canary-9", "/shop/").await;
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        let with = settings::Etcd {
            username: Some("pilotfish".to_owned()),
            password_file: Some(file.clone()),
            ..settings(&[etcd.url()])
        };
        let ours = app("secret", 3001);
        let error = registry(&[etcd.url()]).register(&ours, Health::Passing).await;
        let error = error.expect_err("no password");
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("it wants `username`"), "{error}");

        let registry = Rc::new(Registry::new(&with).expect("a registry"));
        let mut watched = Watched::begin(&registry, "secret");
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("cannot be read from"), "{error}");

        std::fs::write(&file, "canary-8\n").expect("a file");
        watched.forget();
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("does not take `username`"), "{error}");
        let refused =
            registry.register(&ours, Health::Passing).await.expect_err("a wrong password");
        for error in [error, refused] {
            assert!(!error.detail.contains("canary"), "{error}");
        }

        std::fs::write(&file, "canary-9\n").expect("a file");
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;

        // Tokens do not outlive the server; leases and keys do.
        etcd.kill();
        etcd.start_again().await;
        assert_eq!(registry.renew(&ours, Health::Critical).await, Ok(Renewal::Kept));
        watched.until(&[]).await;

        // It may not read what others have.
        let elsewhere = settings::Etcd { prefix: "/other/".to_owned(), ..with };
        let elsewhere = Rc::new(Registry::new(&elsewhere).expect("a registry"));
        let error = Watched::begin(&elsewhere, "secret").failure().await;
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("must be allowed to read and write"), "{error}");

        // No password is wanted any more.
        let root = json!({ "name": "root", "password": "root" });
        let root = etcd.ask("auth/authenticate", root, None).await;
        etcd.ask("auth/disable", json!({}), root["token"].as_str()).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
        watched.until(&["127.0.0.1:3001"]).await;
    })
    .await;
}

/// A server that takes connections and does nothing.
async fn hanging() -> Upstream {
    Upstream::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_does_not_answer() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let hanging = hanging().await;
        let failing = Switch::on(503).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let urls = [
            format!("http://{}", closed.local_addr().expect("its address")),
            format!("http://{}", hanging.address),
            format!("http://{}", failing.upstream.address),
            etcd.url(),
        ];
        drop(closed);
        let registry = registry(&urls);
        let ours = app("next", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        let asked = failing.seen();
        assert_eq!((asked, hanging.connections()), (1, 1));
        let mut watched = Watched::begin(&registry, "next");
        watched.until(&["127.0.0.1:3001"]).await;
        assert_eq!(registry.renew(&ours, Health::Critical).await, Ok(Renewal::Kept));
        soon(watched.until(&[])).await;
        assert_eq!(failing.seen(), asked, "who answered is asked first");
    })
    .await;
}

#[tokio::test]
async fn keys_of_others_are_instances_or_left_out() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let registry = registry(&[etcd.url()]);
        let mut watched = Watched::begin(&registry, "foreign");
        watched.next().await.expect("an answer");
        etcd.put("/shop/foreign/1", "no JSON").await;
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Garbage);
        assert!(error.detail.contains("/shop/foreign/1"), "{error}");
        etcd.put("/shop/foreign/2", r#"{"address":"users.internal","port":80}"#).await;
        watched.until(&["users.internal:80"]).await;
        etcd.put("/shop/foreign/3", r#"{"address":"fd00::1","port":80,"x":1}"#).await;
        watched.until(&["users.internal:80", "[fd00::1]:80"]).await;
        etcd.delete("/shop/foreign/2").await;
        watched.until(&["[fd00::1]:80"]).await;
    })
    .await;
}

/// Stands before an etcd. What is done to a watch that passes is a matter of the test.
struct Relay {
    upstream: Upstream,
    /// That are open.
    watches: Arc<AtomicUsize>,
    /// That ever were.
    begun: Arc<AtomicUsize>,
}

impl Relay {
    /// `compacts`: the first watch finds that what it begins with is not known any more. `mutes`: of the first
    /// watch nothing comes back but its beginning.
    async fn start(etcd: SocketAddr, compacts: bool, mutes: bool) -> Self {
        let watches = Arc::<AtomicUsize>::default();
        let begun = Arc::<AtomicUsize>::default();
        let (count, first) = (watches.clone(), Arc::new(AtomicBool::new(compacts)));
        let ever = begun.clone();
        let upstream = Upstream::raw(move |client| {
            let (count, first, ever) = (count.clone(), first.clone(), ever.clone());
            async move {
                let (mut from_client, mut to_client) = client.into_split();
                let server = TcpStream::connect(etcd).await.expect("etcd");
                let (mut from_server, mut to_server) = server.into_split();
                let watches = Arc::new(AtomicBool::new(false));
                let is_muted = Arc::new(AtomicBool::new(false));
                let muted = is_muted.clone();
                let back = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        let created = find(&buffer[..length], b"\"created\"").is_some();
                        if muted.load(SeqCst) && !created {
                            continue;
                        }
                        if to_client.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                let forth = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                        if find(&buffer[..length], b"POST /v3/watch").is_some() {
                            watches.store(true, SeqCst);
                            count.fetch_add(1, SeqCst);
                            is_muted.store(ever.fetch_add(1, SeqCst) == 0 && mutes, SeqCst);
                            if first.swap(false, SeqCst) {
                                compact(etcd).await;
                            }
                        }
                        if to_server.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = back => {}
                    () = forth => {}
                }
                if watches.load(SeqCst) {
                    count.fetch_sub(1, SeqCst);
                }
            }
        })
        .await;
        Self { upstream, watches, begun }
    }

    fn url(&self) -> String {
        format!("http://{}", self.upstream.address)
    }
}

/// Changes something twice, and lets etcd forget that it did.
async fn compact(etcd: SocketAddr) {
    let ask = async |path: &str, body: serde_json::Value| {
        let path = format!("/v3/{path}");
        let answer = support::client::post(etcd, "etcd", &path, body.to_string()).await;
        serde_json::from_str::<serde_json::Value>(answer.text()).expect("JSON")
    };
    let value = |port: u16| format!(r#"{{"address":"10.0.0.9","port":{port}}}"#);
    let base64 = |text: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let mut revision = json!(0);
    for port in [1, 2, 3] {
        let body = json!({ "key": base64("/shop/old/1"), "value": base64(&value(port)) });
        revision = ask("kv/put", body).await["header"]["revision"].take();
    }
    let answer = ask("kv/compaction", json!({ "revision": revision, "physical": true })).await;
    assert!(answer["header"].is_object(), "{answer}");
}

#[tokio::test]
async fn what_was_compacted_is_read_again() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let relay = Relay::start(etcd.address, true, false).await;
        let registry = registry(&[relay.url()]);
        let mut watched = Watched::begin(&registry, "old");
        assert_eq!(watched.next().await, Ok(vec![]));
        // By reading again, and without a word of a failure.
        let told = soon(async {
            loop {
                let told = watched.next().await.expect("no failure");
                if !told.is_empty() {
                    break told;
                }
            }
        })
        .await;
        assert_eq!(told[0].address.to_string(), "10.0.0.9:3");
        etcd.put("/shop/old/2", r#"{"address":"10.0.0.9","port":4}"#).await;
        soon(watched.until(&["10.0.0.9:3", "10.0.0.9:4"])).await;
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_tells_nothing_is_not_trusted_and_ends_with_who_follows() {
    let Some(etcd) = Etcd::start().await else { return };
    on_one_thread(async {
        let relay = Relay::start(etcd.address, false, true).await;
        let registry = registry(&[relay.url()]);
        let mut watched = Watched::begin(&registry, "mute");
        eventually(|| async { (relay.watches.load(SeqCst) == 1).then_some(()) }).await;
        etcd.put("/shop/mute/1", r#"{"address":"10.0.0.9","port":1}"#).await;
        // It is read beside the watch, and what should have told it is replaced.
        watched.until(&["10.0.0.9:1"]).await;
        eventually(|| async { (relay.begun.load(SeqCst) == 2).then_some(()) }).await;
        eventually(|| async { (relay.watches.load(SeqCst) == 1).then_some(()) }).await;
        etcd.put("/shop/mute/2", r#"{"address":"10.0.0.9","port":2}"#).await;
        soon(watched.until(&["10.0.0.9:1", "10.0.0.9:2"])).await;
        assert_eq!(relay.begun.load(SeqCst), 2, "one that tells stays");
        drop(watched);
        eventually(|| async { (relay.watches.load(SeqCst) == 0).then_some(()) }).await;
        within(async {
            while Rc::strong_count(&registry) > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

/// A server that answers each connection with `head` and `content`.
async fn answering(head: &'static str, content: &'static [u8]) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        support::upstream::read_head(&mut stream).await;
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(content).await;
    })
    .await
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_and_never_nothing() {
    const OK: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    for (head, content, reason, says) in [
        ("HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n", &b"no"[..], Reason::Failed, "500"),
        ("HTTP/1.1 404 No\r\nconnection: close\r\n\r\n", b"Not Found", Reason::Refused, "etcd 3.4"),
        (OK, b"{\"header\":{\"revi", Reason::Garbage, "makes no sense"),
        (OK, b"", Reason::Garbage, "makes no sense"),
        (OK, b"{}", Reason::Garbage, "makes no sense"),
        (OK, b"<html>", Reason::Garbage, "makes no sense"),
        (OK, b"\xff\xfe\x00", Reason::Garbage, "makes no sense"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", b"{}", Reason::Unreachable, "broke off"),
        ("SSH-2.0-OpenSSH\r\n", b"", Reason::Unreachable, "127.0.0.1"),
        ("", b"", Reason::Unreachable, "127.0.0.1"),
    ] {
        let server = answering(head, content).await;
        on_one_thread(async {
            let registry = registry(&[format!("http://{}", server.address)]);
            let told = Watched::begin(&registry, "users").next().await.expect_err(head);
            assert_eq!(told.reason, reason, "{head}: {told}");
            assert!(told.detail.contains(says), "{head}: {told}");
            assert!(!told.detail.contains('\n'), "{told}");
            let ours = app("users", 3001);
            registry.register(&ours, Health::Passing).await.expect_err("nobody was told");
        })
        .await;
    }
}

/// A server that has one instance, and whose watches are `watch`; and how often it was asked for all.
async fn watched_as(status: u16, watch: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let reads = Arc::<AtomicUsize>::default();
    let count = reads.clone();
    let upstream = Upstream::http(move |seen| {
        let is_watch = seen.uri.path() == "/v3/watch";
        let answer = if is_watch {
            watch.to_owned()
        } else {
            count.fetch_add(1, SeqCst);
            // {"address":"10.0.0.1","port":80}
            let value = "eyJhZGRyZXNzIjoiMTAuMC4wLjEiLCJwb3J0Ijo4MH0=";
            json!({ "header": { "revision": "5" }, "kvs": [{ "key": "YQ==", "value": value, "mod_revision": "4" }] })
                .to_string()
        };
        let status = if is_watch { status } else { 200 };
        let answer = Response::builder().status(status).body(body(answer));
        async move { answer.expect("an answer") }
    })
    .await;
    (upstream, reads)
}

#[tokio::test]
async fn a_watch_that_is_no_good_is_told_and_takes_nothing_away() {
    for (status, watch, reason) in [
        (200, "", Reason::Unreachable),
        (200, "{\"result\":{\"hea", Reason::Unreachable),
        (200, "garbage\n", Reason::Garbage),
        (200, "{}\n", Reason::Garbage),
        (200, "{\"result\":{\"canceled\":true,\"cancel_reason\":\"go away\"}}\n", Reason::Refused),
        (200, "{\"error\":{\"message\":\"no leader\"}}\n", Reason::Failed),
        (501, "{\"message\":\"no watches\"}", Reason::Failed),
    ] {
        let (server, reads) = watched_as(status, watch).await;
        on_one_thread(async {
            let registry = registry(&[format!("http://{}", server.address)]);
            let mut watched = Watched::begin(&registry, "users");
            for _ in 0..3 {
                loop {
                    match watched.next().await {
                        Ok(told) => assert_eq!(told.len(), 1, "{watch}"),
                        Err(error) => {
                            assert_eq!(error.reason, reason, "{watch}: {error}");
                            break;
                        }
                    }
                }
            }
            assert_eq!(reads.load(SeqCst), 3, "{watch}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_always_compacts_is_not_asked_all_the_time() {
    let compacted = "{\"result\":{\"canceled\":true,\"compact_revision\":\"9\"}}\n";
    let (server, reads) = watched_as(200, compacted).await;
    on_one_thread(async {
        let registry = registry(&[format!("http://{}", server.address)]);
        let _watched = Watched::begin(&registry, "users");
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Waits of 50 ms to 100 ms to 200 ms and so on: 7 at most, if chance halves all.
        assert!((2..=8).contains(&reads.load(SeqCst)), "{reads:?}");
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_announces_its_app_and_another_calls_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let app = Upstream::named("users").await;
    let (at, port) = (etcd.address, app.address.port());
    let services = "services: { users: { load_balancer: round_robin } }";
    let caller = Proxy::start(&format!("registry: etcd://{at}\n{services}")).await;
    let call = async || client::get_from(caller.outbound(), "users", "/").await;
    assert_eq!(call().await.reason(), "no_endpoint");
    let yaml = format!(
        "service: {{ name: users, port: {port} }}\nregistry: {{ etcd: {{ addresses: [\"http://{at}\"], ttl: 3s }} }}"
    );
    let users = Proxy::start(&yaml).await;
    eventually(|| async { (call().await.status == 200).then_some(()) }).await;
    assert_eq!(call().await.text(), "users");
    users.shutdown();
    users.ended().await;
    let all = json!({ "key": "AA==", "range_end": "AA==", "count_only": true });
    let all = etcd.ask("kv/range", all, None).await;
    assert!(all.get("count").is_none(), "it has said goodbye: {all}");
    eventually(|| async { (call().await.status == 503).then_some(()) }).await;
}
