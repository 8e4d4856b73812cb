//! Answers that stand in for others.

mod support;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use support::client::{self, Answer};
use support::upstream::{Upstream, body};
use support::{Proxy, eventually};

const DEAD: &str = "127.0.0.1:1";

fn yaml(endpoints: &str, policy: &str) -> String {
    format!("services:\n  s: {{ endpoints: [{endpoints}], policy: {{ {policy} }} }}\n")
}

async fn get(proxy: &Proxy) -> Answer {
    client::get_from(proxy.outbound(), "s", "/").await
}

/// Answers with the status that the path names.
async fn by_path() -> Upstream {
    Upstream::http(|seen| async move {
        let mut response = Response::new(body("upstream"));
        let status = seen.uri.path().trim_start_matches('/').parse::<u16>();
        *response.status_mut() =
            status.ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
        response
    })
    .await
}

#[tokio::test]
async fn a_stored_answer_stands_in_and_says_for_what() {
    let slow = Upstream::http(|_| std::future::pending()).await;
    let closes = Upstream::canned(b"").await;
    let slow = format!("\"{}\"", slow.address);
    let closes = format!("\"{}\"", closes.address);
    for (endpoints, rest, cause, reason, flag) in [
        ("", "", "no_endpoint", "no_endpoint", "UH"),
        (DEAD, "", "connect_failure", "connect_refused", "UF"),
        (&*slow, ", timeout: 30ms", "timeout", "request_timeout", "UT"),
        (&*closes, "", "reset", "upstream_reset", "UC"),
        (
            &*slow,
            ", bulkhead: { max_requests: 0, max_pending: 0 }",
            "overflow",
            "overflow_requests",
            "UO",
        ),
    ] {
        let endpoints =
            if endpoints == DEAD { format!("\"{DEAD}\"") } else { endpoints.to_owned() };
        let policy = format!("fallback: {{ json: {{ id: none }}, headers: {{ x-a: b }} }}{rest}");
        let proxy = Proxy::start(&yaml(&endpoints, &policy)).await;
        let answer = get(&proxy).await;
        assert_eq!(answer.status, 200, "{cause}");
        assert_eq!(answer.text(), "{\"id\":\"none\"}");
        assert_eq!(answer.header("x-pilotfish-fallback"), cause);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("x-a"), "b");
        let line = &proxy.log(1).await[0];
        assert_eq!(line["fallback"], cause);
        assert_eq!(line["response_code_details"], reason);
        assert_eq!(line["response_flags"], flag);
        assert_eq!(line["response_code"], 200);
        let counted = format!("pilotfish_fallback_total{{service=\"s\",reason=\"{cause}\"}}");
        assert_eq!(proxy.metric(&counted).await, 1.0);
    }
}

#[tokio::test]
async fn only_for_what_is_listed() {
    let app = by_path().await;
    let endpoints = format!("\"{}\"", app.address);
    let policy = "fallback: { status: 203, body: instead, on: [timeout, 503] }";
    let proxy = Proxy::start(&yaml(&endpoints, policy)).await;
    for (path, status, text, cause) in [
        ("/200", 200, "upstream", ""),
        ("/500", 500, "upstream", ""),
        ("/503", 203, "instead", "503"),
    ] {
        let answer = client::get_from(proxy.outbound(), "s", path).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text));
        assert_eq!(answer.header("x-pilotfish-fallback"), cause);
    }
    // Its own 503 is one as well, and what is not listed is not answered for.
    let dead = format!("\"{DEAD}\"");
    proxy.write(&yaml(&dead, policy));
    proxy.reload().await.expect("a reload");
    let answer = get(&proxy).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-pilotfish-fallback")), (203, "503"));
    proxy.write(&yaml(&dead, "fallback: { body: instead, on: [timeout] }"));
    proxy.reload().await.expect("a reload");
    let answer = get(&proxy).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, "connect_refused"));
    proxy.write(&yaml(&dead, "fallback: off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(get(&proxy).await.status, 503);
}

fn two(first: &str, second: &Upstream, on: &str) -> String {
    format!(
        "services:
  s: {{ endpoints: [\"{first}\"], policy: {{ fallback: {{ service: other{on} }} }} }}
  other: {{ endpoints: [\"{}\"] }}
",
        second.address
    )
}

#[tokio::test]
async fn another_service_is_asked_with_the_same_request() {
    let other = Upstream::echo().await;
    let proxy = Proxy::start(&two(DEAD, &other, "")).await;
    let answer = client::post(proxy.outbound(), "s", "/a?b=c", "the body").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "the body"));
    assert_eq!(answer.header("x-pilotfish-fallback"), "connect_failure");
    let seen = &other.seen()[0];
    assert_eq!((seen.uri.to_string().as_str(), seen.header("host")), ("/a?b=c", "s"));
    let line = &proxy.log(1).await[0];
    assert_eq!(line["upstream_cluster"], "other");
    assert_eq!(line["fallback"], "connect_failure");
    assert_eq!(line["upstream_host"], other.address.to_string());
    let in_use = |service| {
        format!(
            "pilotfish_bulkhead_in_use{{direction=\"outbound\",service=\"{service}\",kind=\"requests\"}}"
        )
    };
    for service in ["s", "other"] {
        let series = in_use(service);
        eventually(|| async { (proxy.metric(&series).await == 0.0).then_some(()) }).await;
    }
}

#[tokio::test]
async fn another_service_is_asked_after_a_status_where_the_body_is_still_there() {
    let (first, other) = (by_path().await, Upstream::echo().await);
    let proxy = Proxy::start(&two(&first.address.to_string(), &other, ", on: [503]")).await;
    let post = |length: usize| client::post(proxy.outbound(), "s", "/503", vec![b'x'; length]);
    let answer = post(1000).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1000));
    assert_eq!(answer.header("x-pilotfish-fallback"), "503");
    // Of a long body the beginning is not there any more.
    let answer = post(1 << 20).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (503, "upstream"));
    assert_eq!(answer.header("x-pilotfish-fallback"), "");
    // A good answer is not touched.
    let answer = client::post(proxy.outbound(), "s", "/201", "x").await;
    assert_eq!(answer.status, 201);
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn what_the_other_service_fails_with_is_told() {
    let gone = Upstream::canned(b"").await;
    let proxy = Proxy::start(&two(DEAD, &gone, "")).await;
    let answer = get(&proxy).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, "upstream_reset"));
}

#[tokio::test]
async fn a_grpc_call_gets_its_status_and_no_stored_answer() {
    let dead = format!("\"{DEAD}\"");
    let proxy = Proxy::start(&yaml(&dead, "fallback: { json: { a: b } }")).await;
    let request = Request::post("http://s/a.B/C")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))
        .unwrap();
    let answer = client::send2(proxy.outbound(), request).await.unwrap();
    assert_eq!((answer.header("grpc-status"), answer.reason()), ("14", "connect_refused"));
}

/// Both have the same time, and the first one has used all of it.
#[tokio::test]
async fn the_service_that_stands_in_has_its_own_time_and_its_own_attempts() {
    let hung = Upstream::http(|_| std::future::pending()).await;
    let other = Upstream::named("other").await;
    let proxy = Proxy::start(&format!(
        "services:
  defaults: {{ policy: {{ timeout: 150ms }} }}
  s:
    endpoints: [\"{hung}\"]
    policy:
      fallback: {{ service: other }}
      retry: {{ on: [timeout], per_try_timeout: 40ms, max_retries: 3, methods: all, backoff: {{ base: 1ms }} }}
  other:
    endpoints: [\"{DEAD}\", \"{other}\"]
    load_balancer: round_robin
    policy: {{ circuit_breaker: {{ scope: service, consecutive_failures: 3 }} }}
runtime: {{ workers: 1 }}
",
        hung = hung.address,
        other = other.address,
    ))
    .await;
    for count in 1..=6 {
        let answer = match count % 2 {
            0 => get(&proxy).await,
            _ => client::post(proxy.outbound(), "s", "/", "the body").await,
        };
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "other"), "{count}");
        assert_eq!(answer.header("x-pilotfish-fallback"), "timeout");
        // Of the attempts at the one that hung it hears nothing.
        let attempts = other.seen().last().expect("one").header("x-pilotfish-attempt").to_owned();
        assert!(attempts.is_empty() || attempts == "2", "{attempts}");
    }
    // What the client will wait for goes on from where it is.
    let request = Request::get("/").header("host", "s").header("x-request-deadline", "100ms");
    let request = request.body(body("")).expect("a request");
    let answer = client::send(proxy.outbound(), request).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_whoever_stood_in() {
    let (app, other) = (by_path().await, Upstream::named("other").await);
    let proxy = Proxy::start(&format!(
        "services:
  s:
    endpoints: [\"{}\"]
    load_balancer: sticky_cookie
    policy: {{ fallback: {{ service: other, on: [503] }} }}
  other: {{ endpoints: [\"{}\"] }}
",
        app.address, other.address,
    ))
    .await;
    let answer = client::get_from(proxy.outbound(), "s", "/503").await;
    assert_eq!((answer.text(), answer.header("set-cookie")), ("other", ""));
    let answer = client::get_from(proxy.outbound(), "s", "/200").await;
    assert_ne!(answer.header("set-cookie"), "");
}

/// What is not sent at all has an answer as well.
#[tokio::test]
async fn it_stands_in_for_a_rate_limit_and_for_an_overload() {
    let app = Upstream::named("app").await;
    let start = async |policy: &str, rest: &str| {
        Proxy::start(&format!(
            "service: {{ name: app, port: {} }}\ninbound:\n  listen: \"127.0.0.1:0\"\n  policy: {{ {policy} }}\n{rest}",
            app.address.port()
        ))
        .await
    };
    let policy = "rate_limit: { requests: 1, per: 1h }, fallback: { status: 203, body: later, on: [rate_limited] }";
    let proxy = start(policy, "").await;
    assert_eq!(client::get(proxy.inbound(), "/").await.text(), "app");
    let answer = client::get(proxy.inbound(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (203, "later"));
    assert_eq!(answer.header("x-pilotfish-fallback"), "rate_limited");

    let policy = "priority: { default: sheddable }, fallback: { status: 203, body: later, on: [overload_shed] }";
    let proxy = start(policy, "overload: { descriptors: { sheddable: 0% } }\n").await;
    eventually(|| async {
        let answer = client::get(proxy.inbound(), "/").await;
        (answer.status == 203).then(|| {
            assert_eq!(answer.header("x-pilotfish-fallback"), "overload_shed");
        })
    })
    .await;
    let lines = proxy.log(1).await;
    let is_told = |line: &serde_json::Value| line["notes"] == "sheddable:descriptors";
    assert!(lines.iter().any(is_told), "{lines:?}");
}
