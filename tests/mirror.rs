//! Copies of requests.

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use support::client::{self, Raw};
use support::upstream::Upstream;
use support::{Proxy, eventually, within};

fn yaml(app: &Upstream, shadow: &Upstream, mirror: &str) -> String {
    format!(
        "services:
  s: {{ endpoints: [\"{}\"], policy: {{ mirror: {{ service: shadow{mirror} }} }} }}
  shadow: {{ endpoints: [\"{}\"] }}
",
        app.address, shadow.address
    )
}

async fn told(proxy: &Proxy, result: &str, count: usize) {
    let series = format!("pilotfish_mirror_total{{service=\"shadow\",result=\"{result}\"}}");
    eventually(|| async { (proxy.metric(&series).await == count as f64).then_some(()) }).await;
}

#[tokio::test]
async fn a_copy_is_the_same_request_with_a_mark_and_its_answer_is_thrown_away() {
    let (app, shadow) = (Upstream::echo().await, Upstream::named("shadow").await);
    let proxy = Proxy::start(&yaml(&app, &shadow, "")).await;
    let answer = client::post(proxy.outbound(), "s", "/a?b=c", "the body").await;
    assert_eq!(answer.text(), "the body");
    told(&proxy, "answered", 1).await;
    let (original, copy) = (&app.seen()[0], &shadow.seen()[0]);
    assert_eq!(copy.header("x-pilotfish-mirror"), "1");
    assert_eq!(original.header("x-pilotfish-mirror"), "");
    assert_eq!(
        (&copy.method, &copy.uri, &copy.body),
        (&original.method, &original.uri, &original.body)
    );
    for name in ["host", "x-request-id", "traceparent"] {
        assert_eq!(copy.header(name), original.header(name));
        assert_ne!(copy.header(name), "", "{name}");
    }
    // Without a body, by HTTP/2, and in chunks.
    client::get_from(proxy.outbound(), "s", "/get").await;
    let request = Request::post("http://s/h2").body(Full::new(Bytes::from("two"))).unwrap();
    assert_eq!(client::send2(proxy.outbound(), request).await.unwrap().text(), "two");
    let chunked = "POST /chunks HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    let mut client = Raw::connect(proxy.outbound()).await;
    client.send(chunked).await;
    client.until("abc").await;
    told(&proxy, "answered", 4).await;
    let mut bodies: Vec<_> = shadow.seen().iter().map(|seen| seen.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, ["", "abc", "the body", "two"]);
}

#[tokio::test]
async fn a_mirror_that_hangs_holds_nobody_up_and_cannot_pile_up() {
    let app = Upstream::named("app").await;
    let shadow = Upstream::http(|_| std::future::pending()).await;
    let proxy = Proxy::start(&yaml(&app, &shadow, ", max_in_flight: 2")).await;
    for _ in 0..10 {
        assert_eq!(client::get_from(proxy.outbound(), "s", "/").await.text(), "app");
    }
    told(&proxy, "dropped", 8).await;
    eventually(|| async { (shadow.seen().len() == 2).then_some(()) }).await;
}

#[tokio::test]
async fn a_copy_is_not_sent_again_and_ends_with_its_timeout() {
    let app = Upstream::named("app").await;
    let shadow = Upstream::canned(b"").await;
    let proxy = Proxy::start(&yaml(&app, &shadow, "")).await;
    assert_eq!(client::get_from(proxy.outbound(), "s", "/").await.text(), "app");
    told(&proxy, "failed", 1).await;
    assert_eq!(shadow.connections(), 1);
    let hangs = Upstream::http(|_| std::future::pending()).await;
    let yaml = yaml(&app, &hangs, "").replace("\"] }\n", "\"], policy: { timeout: 40ms } }\n");
    proxy.write(&yaml);
    proxy.reload().await.expect("a reload");
    assert_eq!(client::get_from(proxy.outbound(), "s", "/").await.text(), "app");
    told(&proxy, "timeout", 1).await;
}

#[tokio::test]
async fn long_bodies_are_not_copied_and_go_on_to_the_service() {
    let (app, shadow) = (Upstream::echo().await, Upstream::named("shadow").await);
    let proxy = Proxy::start(&yaml(&app, &shadow, ", max_body: 1KiB")).await;
    let post = |length: usize| client::post(proxy.outbound(), "s", "/", vec![b'x'; length]);
    assert_eq!(post(1025).await.body.len(), 1025);
    told(&proxy, "body_too_large", 1).await;
    assert_eq!(post(1024).await.body.len(), 1024);
    told(&proxy, "answered", 1).await;
    // Whose length is not told before.
    let chunk = "x".repeat(700);
    let mut client = Raw::connect(proxy.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send(format!("2bc\r\n{chunk}\r\n2bc\r\n{chunk}\r\n0\r\n\r\n")).await;
    client.head().await;
    told(&proxy, "body_too_large", 2).await;
    assert_eq!(shadow.seen().len(), 1);
}

#[tokio::test]
async fn half_a_request_is_not_copied() {
    let (app, shadow) = (Upstream::echo().await, Upstream::named("shadow").await);
    let proxy = Proxy::start(&yaml(&app, &shadow, "")).await;
    let mut client = Raw::connect(proxy.outbound()).await;
    client.send("POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 10\r\n\r\nhalf").await;
    eventually(|| async { (app.connections() == 1).then_some(()) }).await;
    drop(client);
    told(&proxy, "incomplete", 1).await;
    assert!(shadow.seen().is_empty());
}

#[tokio::test]
async fn a_copy_is_not_copied_and_a_share_of_none_copies_nothing() {
    let (app, shadow) = (Upstream::named("app").await, Upstream::named("shadow").await);
    let proxy = Proxy::start(&yaml(&app, &shadow, ", share: 0%")).await;
    client::get_from(proxy.outbound(), "s", "/none").await;
    // Two that mirror each other.
    proxy.write(&format!(
        "services:
  s: {{ endpoints: [\"{}\"], policy: {{ mirror: {{ service: shadow }} }} }}
  shadow: {{ endpoints: [\"{}\"] }}
  back: {{ endpoints: [\"{}\"], policy: {{ mirror: {{ service: s }} }} }}
",
        app.address,
        proxy.outbound(),
        shadow.address
    ));
    proxy.reload().await.expect("a reload");
    // The copy for `shadow` comes to the proxy again, for `s`, with its mark.
    within(client::get_from(proxy.outbound(), "s", "/loop")).await;
    told(&proxy, "answered", 1).await;
    let paths = |of: &Upstream| -> Vec<String> {
        of.seen().iter().map(|seen| seen.uri.path().to_owned()).collect()
    };
    assert_eq!(paths(&app), ["/none", "/loop", "/loop"]);
    assert!(paths(&shadow).is_empty());
}
