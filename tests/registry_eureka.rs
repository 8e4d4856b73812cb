//! Eureka: against the real server, and against what servers answer that are not well. The first need what
//! `tests/support/eureka/build` makes.

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Method, Response};
use pilotfish::registry::eureka::Eureka as Registry;
use pilotfish::registry::{Announcement, Health, Reason, Registry as _, Renewal, settings};
use serde_json::json;
use support::eureka::Eureka;
use support::upstream::{Upstream, body};
use support::watched::{Watched, on_one_thread};
use support::{Proxy, client, eventually, within};

fn settings(urls: &[String]) -> settings::Eureka {
    settings::Eureka {
        addresses: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
        username: None,
        password_file: None,
        ca_file: None,
        poll: Duration::from_millis(50),
        renew: Duration::from_secs(1),
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
        tags: vec!["canary".to_owned(), "with space".to_owned()],
        metadata: BTreeMap::from([("team".to_owned(), "shöp".to_owned())]),
    }
}

fn path(ours: &Announcement) -> String {
    format!("/apps/{}/{}", ours.service.to_uppercase(), ours.id.replace('/', "_"))
}

#[tokio::test]
async fn what_is_announced_is_found_with_all_that_was_said() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let registry = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&registry, "round-trip");
        assert_eq!(watched.next().await, Ok(vec![]), "a service that nobody has is empty");
        let ours = app("round-trip", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        let found = watched.until(&["127.0.0.1:3001"]).await.remove(0);
        assert_eq!(found.weight, 3);
        assert_eq!(found.zone.as_deref(), Some("eu-west-1a"));
        assert_eq!(found.version.as_deref(), Some("1.4.2"));
        let labels: Vec<_> = found.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        let id = ("id", ours.id.as_str());
        let tags = [("tag.canary", "true"), ("tag.with space", "true")];
        assert_eq!(labels, [id, tags[0], tags[1], ("team", "shöp")]);
        registry.deregister(&ours).await.expect("it goes");
        watched.until(&[]).await;
        registry.deregister(&ours).await.expect("it is not there");
    })
    .await;
}

#[tokio::test]
async fn others_find_what_eurekas_own_clients_look_for() {
    let Some(eureka) = Eureka::shared().await else { return };
    let registry = registry(&[eureka.url()]);
    let ours = Announcement { id: "others-1".to_owned(), ..app("others", 3001) };
    registry.register(&ours, Health::Passing).await.expect("it is registered");
    let found = eureka.instance("OTHERS", "others-1").await.expect("it is there");
    for (key, value) in [
        ("app", "OTHERS"),
        ("vipAddress", "others"),
        ("hostName", "127.0.0.1"),
        ("ipAddr", "127.0.0.1"),
        ("healthCheckUrl", "http://127.0.0.1:15020/ready"),
        ("statusPageUrl", "http://127.0.0.1:15020/metrics"),
        ("status", "UP"),
    ] {
        assert_eq!(found[key], value, "{key}");
    }
    assert_eq!(found["port"], json!({ "$": 3001, "@enabled": "true" }));
    assert_eq!(found["leaseInfo"]["durationInSecs"], 60);
    assert_eq!(found["leaseInfo"]["renewalIntervalInSecs"], 1);

    // Told again it is no change, unless it is one.
    let since = async || {
        let found = eureka.instance("OTHERS", "others-1").await.expect("it is there");
        found["lastUpdatedTimestamp"].clone()
    };
    let first = since().await;
    registry.register(&ours, Health::Passing).await.expect("it is registered anew");
    assert_eq!(since().await, first);
    let newer = Announcement { version: Some("1.4.3".to_owned()), ..ours };
    registry.register(&newer, Health::Passing).await.expect("it is registered anew");
    assert_ne!(since().await, first);
    let found = eureka.instance("OTHERS", "others-1").await.expect("it is there");
    assert_eq!(found["metadata"]["version"], "1.4.3");
}

#[tokio::test]
async fn one_that_is_not_well_is_there_and_not_called() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let registry = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&registry, "unwell");
        let (one, other) = (app("unwell", 3001), app("unwell", 3002));
        // An instance is announced by a registry of its own, in a sidecar of its own.
        let of_other = self::registry(&[eureka.url()]);
        registry.register(&one, Health::Critical).await.expect("it is registered");
        of_other.register(&other, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3002"]).await;
        for _ in 0..2 {
            assert_eq!(registry.renew(&one, Health::Passing).await, Ok(Renewal::Kept));
            watched.until(&["127.0.0.1:3001", "127.0.0.1:3002"]).await;
            assert_eq!(registry.renew(&one, Health::Critical).await, Ok(Renewal::Kept));
            watched.until(&["127.0.0.1:3002"]).await;
            let answer = eureka.ask(Method::GET, &path(&one), "").await;
            assert!(answer.text().contains(r#""status":"DOWN""#), "{}", answer.text());
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_an_operator_takes_out_stays_out_until_it_is_put_back() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let registry = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&registry, "out");
        let ours = Announcement { id: "out-1".to_owned(), ..app("out", 3001) };
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;
        let status = format!("{}/status?value=", path(&ours));
        eureka.ask(Method::PUT, &format!("{status}OUT_OF_SERVICE"), "").await;
        watched.until(&[]).await;
        for health in [Health::Passing, Health::Critical, Health::Passing] {
            assert_eq!(registry.renew(&ours, health).await, Ok(Renewal::Kept));
        }
        registry.register(&ours, Health::Passing).await.expect("it is registered anew");
        let found = eureka.instance("OUT", "out-1").await.expect("it is there");
        assert_eq!(found["status"], "OUT_OF_SERVICE");
        eureka.ask(Method::DELETE, &format!("{status}UP"), "").await;
        watched.until(&["127.0.0.1:3001"]).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_tells_no_more_goes_and_one_that_was_forgotten_comes_back() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let watching = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&watching, "lease");
        let ours = app("lease", 3001);
        let short = settings::Eureka { ttl: Duration::from_secs(2), ..settings(&[eureka.url()]) };
        let registry = Registry::new(&short).expect("a registry");
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
        for _ in 0..16 {
            assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        watched.forget();
        watched.until(&["127.0.0.1:3001"]).await;
        // An operator removes it.
        eureka.ask(Method::DELETE, &path(&ours), "").await;
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
    })
    .await;
}

#[tokio::test]
async fn what_is_taken_back_under_another_name_leaves_ours_alone() {
    let server = Upstream::http(|seen| async move {
        let status = if seen.method == Method::POST { 204 } else { 200 };
        Response::builder().status(status).body(body("")).expect("an answer")
    })
    .await;
    let registry = registry(&[format!("http://{}/eureka", server.address)]);
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
async fn instances_of_other_clients_are_found() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let registry = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&registry, "foreign");
        watched.next().await.expect("an answer");
        let post = async |id: &str, port: serde_json::Value, secure: serde_json::Value| {
            // Its parser wants the name before the metadata.
            let instance = format!(
                r#"{{"instance":{{"instanceId":"{id}","hostName":"{id}.internal","ipAddr":"10.0.0.9",
                    "app":"FOREIGN","vipAddress":"foreign","status":"UP","port":{port},"securePort":{secure},
                    "isCoordinatingDiscoveryServer":"true","countryId":1,"dataCenterInfo":{{
                    "@class":"com.netflix.appinfo.AmazonInfo","name":"Amazon",
                    "metadata":{{"instance-id":"i-1","availability-zone":"us-east-1c"}}}}}}}}"#
            );
            let answer = eureka.ask(Method::POST, "/apps/FOREIGN", &instance).await;
            assert_eq!(answer.status, 204, "{}", answer.text());
        };
        let (on, off) =
            (json!({ "$": "80", "@enabled": "true" }), json!({ "$": 443, "@enabled": "false" }));
        post("plain", on, off.clone()).await;
        let secure = json!({ "$": 443, "@enabled": "true" });
        post("secure", off, secure).await;
        let found = watched.until(&["plain.internal:80", "secure.internal:443"]).await;
        let secure: Vec<_> =
            found.iter().filter(|instance| instance.labels.contains_key("secure")).collect();
        assert_eq!(secure.len(), 1);
        assert_eq!(secure[0].address.to_string(), "secure.internal:443");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_away_hangs_or_comes_back_empty() {
    let Some(mut eureka) = Eureka::start(&[]).await else { return };
    on_one_thread(async {
        let registry = registry(&[eureka.url()]);
        let mut watched = Watched::begin(&registry, "outage");
        let ours = app("outage", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;

        eureka.hang();
        assert_eq!(watched.failure().await.reason, Reason::Timeout);
        eureka.go_on();
        watched.until(&["127.0.0.1:3001"]).await;

        eureka.kill();
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Unreachable);
        assert!(error.detail.contains(&eureka.address.to_string()), "{error}");
        let error = registry.renew(&ours, Health::Passing).await.expect_err("it is away");
        assert_eq!(error.reason, Reason::Unreachable);

        eureka.start_again().await;
        watched.until(&[]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Forgotten));
        registry.register(&ours, Health::Passing).await.expect("it is registered again");
        watched.until(&["127.0.0.1:3001"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_password_is_read_when_it_is_needed_and_never_told() {
    let security =
        ["--spring.security.user.name=pilotfish", "--spring.security.user.password=canary-9"];
    let Some(eureka) = Eureka::start(&security).await else { return };
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        let with = settings::Eureka {
            username: Some("pilotfish".to_owned()),
            password_file: Some(file.clone()),
            ..settings(&[eureka.url()])
        };
        let ours = app("secret", 3001);
        let without = registry(&[eureka.url()]);
        let error = without.register(&ours, Health::Passing).await.expect_err("no password");
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
        assert!(error.detail.contains("does not take the `username`"), "{error}");
        let refused =
            registry.register(&ours, Health::Passing).await.expect_err("a wrong password");
        for error in [error, refused] {
            assert!(!error.detail.contains("canary"), "{error}");
        }

        std::fs::write(&file, "canary-9\n").expect("a file");
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        watched.until(&["127.0.0.1:3001"]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
        registry.deregister(&ours).await.expect("it goes");
        watched.until(&[]).await;
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
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let hanging = hanging().await;
        let failing = support::upstream::Switch::on(503).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let urls = [
            format!("http://{}/eureka", closed.local_addr().expect("its address")),
            format!("http://{}/eureka", hanging.address),
            format!("http://{}/eureka", failing.upstream.address),
            eureka.url(),
        ];
        drop(closed);
        let registry = registry(&urls);
        let ours = app("next", 3001);
        registry.register(&ours, Health::Passing).await.expect("it is registered");
        let asked = failing.seen();
        assert_eq!((asked, hanging.connections()), (1, 1));
        let mut watched = Watched::begin(&registry, "next");
        watched.until(&["127.0.0.1:3001"]).await;
        assert_eq!(registry.renew(&ours, Health::Passing).await, Ok(Renewal::Kept));
        assert_eq!(failing.seen(), asked, "who answered is asked first");
        registry.deregister(&ours).await.expect("it goes");
    })
    .await;
}

/// A server that answers `/apps` by `answer`.
async fn answering(head: &'static str, content: &'static [u8]) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        use tokio::io::AsyncWriteExt;
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
    const EMPTY: &[u8] =
        br#"{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}"#;
    for (head, content, reason, says) in [
        ("HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n", &b"no"[..], Reason::Failed, "500"),
        ("HTTP/1.1 403 No\r\nconnection: close\r\n\r\n", b"", Reason::Refused, "403"),
        (
            "HTTP/1.1 404 No\r\nconnection: close\r\n\r\n",
            b"",
            Reason::Refused,
            "is that the address",
        ),
        (OK, b"{\"applications\":{\"versi", Reason::Garbage, "makes no sense"),
        (OK, b"", Reason::Garbage, "makes no sense"),
        (OK, b"[]", Reason::Garbage, "makes no sense"),
        (OK, b"\xff\xfe\x00", Reason::Garbage, "makes no sense"),
        (OK, b"{\"applications\":{}}", Reason::Garbage, "nor that there are none"),
        (
            OK,
            b"{\"applications\":{\"apps__hashcode\":\"UP_3_\",\"application\":[]}}",
            Reason::Garbage,
            "nor that there are none",
        ),
        (OK, b" <?xml version=\"1.0\"?><applications/>", Reason::Garbage, "it answers XML"),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 0\r\n\r\n",
            b"",
            Reason::Garbage,
            "it answers XML",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", EMPTY, Reason::Unreachable, "broke off"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"5\r\n{\"app",
            Reason::Unreachable,
            "broke off",
        ),
        ("SSH-2.0-OpenSSH\r\n", b"", Reason::Unreachable, "127.0.0.1"),
        ("", b"", Reason::Unreachable, "127.0.0.1"),
    ] {
        let server = answering(head, content).await;
        on_one_thread(async {
            let registry = registry(&[format!("http://{}/eureka", server.address)]);
            let mut watched = Watched::begin(&registry, "users");
            let told = watched.next().await.expect_err(head);
            assert_eq!(told.reason, reason, "{head}: {told}");
            assert!(told.detail.contains(says), "{head}: {told}");
            assert!(!told.detail.contains('\n'), "{told}");
        })
        .await;
    }
    let server = answering(OK, EMPTY).await;
    on_one_thread(async {
        let registry = registry(&[format!("http://{}/eureka", server.address)]);
        assert_eq!(Watched::begin(&registry, "users").next().await, Ok(vec![]));
    })
    .await;
}

#[tokio::test]
async fn the_address_without_a_path_says_what_is_missing() {
    let Some(eureka) = Eureka::shared().await else { return };
    on_one_thread(async {
        let registry = registry(&[format!("http://{}", eureka.address)]);
        let error = Watched::begin(&registry, "users").next().await.expect_err("no Eureka there");
        assert_eq!(error.reason, Reason::Refused);
        assert!(error.detail.contains("ends with `/eureka`"), "{error}");
        let ours = app("users", 3001);
        let error = registry.register(&ours, Health::Passing).await.expect_err("no Eureka there");
        assert!(error.detail.contains("ends with `/eureka`"), "{error}");
    })
    .await;
}

/// A server with `users` at 3001 that counts what it is asked; `hash` is what it says with changes.
async fn counting(hash: &'static str) -> (Upstream, Arc<[AtomicUsize; 3]>) {
    let asked: Arc<[AtomicUsize; 3]> = Arc::default();
    let count = asked.clone();
    let upstream = Upstream::http(move |seen| {
        let application = json!({ "name": "USERS", "instance": {
            "instanceId": "a", "hostName": "127.0.0.1", "status": "UP",
            "port": { "$": 3001, "@enabled": "true" } } });
        let (at, answer) = match seen.uri.path() {
            "/eureka/apps" => (0, json!({ "applications": { "apps__hashcode": "UP_1_", "application": application } })),
            "/eureka/apps/delta" => (1, json!({ "applications": { "apps__hashcode": hash, "application": [] } })),
            _ => (2, json!({ "application": application })),
        };
        count[at].fetch_add(1, SeqCst);
        async move { Response::new(body(answer.to_string())) }
    })
    .await;
    (upstream, asked)
}

#[tokio::test]
async fn all_services_are_followed_by_one_poll_that_ends_with_the_last() {
    let (server, asked) = counting("UP_1_").await;
    on_one_thread(async {
        let counts = || asked.each_ref().map(|count| count.load(SeqCst));
        let registry = registry(&[format!("http://{}/eureka", server.address)]);
        let names: Vec<_> = (0..20).map(|at| format!("service-{at}")).collect();
        let mut many: Vec<_> = names.iter().map(|name| Watched::begin(&registry, name)).collect();
        let mut users = Watched::begin(&registry, "Users");
        for watched in &mut many {
            assert_eq!(watched.next().await, Ok(vec![]));
        }
        users.until(&["127.0.0.1:3001"]).await;
        assert_eq!((counts()[0], counts()[2]), (1, 0), "all is read once, and nothing else");
        // Unchanged is told too.
        users.until(&["127.0.0.1:3001"]).await;
        users.until(&["127.0.0.1:3001"]).await;
        assert!(counts()[1] >= 1 && counts()[0] == 1, "{:?}", counts());

        // One more is read alone, at once.
        drop(users);
        let mut again = Watched::begin(&registry, "users");
        again.until(&["127.0.0.1:3001"]).await;
        assert_eq!((counts()[0], counts()[2]), (1, 1));

        drop((many, again));
        // The tasks end when they are next looked at.
        tokio::task::yield_now().await;
        eventually(|| async { (Rc::strong_count(&registry) == 1).then_some(()) }).await;
        let last = counts();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(counts(), last, "nobody follows anything");

        Watched::begin(&registry, "users").until(&["127.0.0.1:3001"]).await;
        assert_eq!(counts()[0], 2, "what was known is old");
    })
    .await;
}

#[tokio::test]
async fn a_missed_change_is_made_good_by_reading_all() {
    let (server, asked) = counting("UP_2_").await;
    on_one_thread(async {
        let registry = registry(&[format!("http://{}/eureka", server.address)]);
        let mut watched = Watched::begin(&registry, "users");
        for _ in 0..3 {
            watched.until(&["127.0.0.1:3001"]).await;
        }
        let [all, changes, _] = asked.each_ref().map(|count| count.load(SeqCst));
        assert_eq!(all, changes + 1, "each time");
        assert!(all >= 3);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_listen_any_more_is_told_nothing() {
    let (server, _) = counting("UP_1_").await;
    on_one_thread(async {
        let registry = registry(&[format!("http://{}/eureka", server.address)]);
        // Dropped before its first answer, and while it waits after a failure.
        drop(Watched::begin(&registry, "users"));
        let closed = self::registry(&["http://127.0.0.1:1/eureka".to_owned()]);
        let mut failing = Watched::begin(&closed, "users");
        failing.failure().await;
        drop(failing);
        within(async {
            while Rc::strong_count(&registry) + Rc::strong_count(&closed) > 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_announces_its_app_and_another_calls_it() {
    let Some(eureka) = Eureka::shared().await else { return };
    let app = Upstream::named("users").await;
    let (url, port) = (eureka.url(), app.address.port());
    let registry = format!(
        "registry: {{ eureka: {{ addresses: [\"{url}\"], poll: 100ms, renew: 1s, ttl: 30s }} }}"
    );
    let services = "services: { users-e2e: { load_balancer: round_robin } }";
    let caller = Proxy::start(&format!("{registry}\n{services}")).await;
    let call = async || client::get_from(caller.outbound(), "users-e2e", "/").await;
    assert_eq!(call().await.reason(), "no_endpoint");
    let users =
        Proxy::start(&format!("service: {{ name: users-e2e, port: {port} }}\n{registry}")).await;
    eventually(|| async { (call().await.status == 200).then_some(()) }).await;
    assert_eq!(call().await.text(), "users");
    users.shutdown();
    users.ended().await;
    let answer = eureka.ask(Method::GET, "/apps/USERS-E2E", "").await;
    assert_eq!(answer.status, 404, "it has said goodbye: {}", answer.text());
    eventually(|| async { (call().await.status == 503).then_some(()) }).await;
}
