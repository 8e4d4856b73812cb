//! Circuit breakers between real sockets.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{HeaderMap, HeaderValue, Request, Response};
use support::client::{self, Answer};
use support::upstream::{Body, Switch, Upstream, body, with_trailers};
use support::{Proxy, eventually, within};
use tokio::sync::Semaphore;

async fn before(endpoints: &[&Upstream], policy: &str) -> Proxy {
    Proxy::start(&yaml(endpoints, policy)).await
}

fn yaml(endpoints: &[&Upstream], policy: &str) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "services:
  s:
    endpoints: [{endpoints}]
    load_balancer: round_robin
    policy: {{ outlier_detection: off, {policy} }}
runtime: {{ workers: 1 }}
"
    )
}

async fn get(proxy: &Proxy) -> Answer {
    client::get_from(proxy.outbound(), "s", "/").await
}

async fn statuses(proxy: &Proxy, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(get(proxy).await.status.as_u16());
    }
    statuses
}

async fn breakers(proxy: &Proxy, scope: &str, state: &str) -> f64 {
    let labels = format!("service=\"s\",scope=\"{scope}\",state=\"{state}\"");
    proxy.metric(&format!("pilotfish_circuit_breaker_state{{{labels}}}")).await
}

async fn changes(proxy: &Proxy, scope: &str, to: &str) -> f64 {
    let labels = format!("service=\"s\",scope=\"{scope}\",to=\"{to}\"");
    proxy.metric(&format!("pilotfish_circuit_breaker_changes_total{{{labels}}}")).await
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_asked_again_later() {
    let (bad, good) = (Switch::on(500).await, Switch::on(200).await);
    // So long that it stays open for all of the 40, however slow they are.
    let policy = "circuit_breaker: { consecutive_failures: 3, open_for: 2s, max_open_for: 2s }";
    let proxy = before(&[&bad.upstream, &good.upstream], policy).await;
    let failed = statuses(&proxy, 40).await.iter().filter(|status| **status == 500).count();
    assert_eq!(changes(&proxy, "endpoint", "open").await, 1.0);
    assert!((3..10).contains(&failed), "{failed}");
    let seen = bad.seen();
    bad.set(200);
    // A probe finds out, and then it gets its share.
    eventually(|| async {
        get(&proxy).await;
        (bad.seen() > seen + 2).then_some(())
    })
    .await;
    assert_eq!(changes(&proxy, "endpoint", "closed").await, 1.0);
    assert_eq!(breakers(&proxy, "endpoint", "closed").await, 2.0);
    assert_eq!(breakers(&proxy, "endpoint", "open").await, 0.0);
}

#[tokio::test]
async fn while_it_is_open_nobody_is_asked() {
    let bad = Switch::on(503).await;
    let policy = "circuit_breaker: { consecutive_failures: 2, open_for: 1h, max_open_for: 1h }";
    let proxy = before(&[&bad.upstream], policy).await;
    assert_eq!(statuses(&proxy, 2).await, [503, 503]);
    for _ in 0..5 {
        let answer = get(&proxy).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, "circuit_breaker_open"));
        let after: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((3590..=5400).contains(&after), "{after}");
        assert!(answer.text().contains("service s fails too often"), "{}", answer.text());
    }
    assert_eq!(bad.seen(), 2);
    let line = &proxy.log(7).await[6];
    assert_eq!(line["response_flags"], "UO");
    assert_eq!(line["response_code_details"], "circuit_breaker_open");
    assert_eq!(line["attempts"], 0);
    let rejected = "pilotfish_rejected_total{reason=\"circuit_breaker_open\"}";
    assert_eq!(proxy.metric(rejected).await, 5.0);
    assert_eq!(breakers(&proxy, "endpoint", "open").await, 1.0);
    let state = "pilotfish_endpoints{service=\"s\",state=\"breaker_open\"}";
    assert_eq!(proxy.metric(state).await, 1.0);

    // A reload that changes something else keeps it open, one that changes it begins anew.
    proxy.write(&yaml(&[&bad.upstream], &format!("{policy}, max_body: 1MiB")));
    proxy.reload().await.expect("a reload");
    assert_eq!(get(&proxy).await.reason(), "circuit_breaker_open");
    proxy.write(&yaml(&[&bad.upstream], "circuit_breaker: { consecutive_failures: 3 }"));
    proxy.reload().await.expect("a reload");
    assert_eq!(get(&proxy).await.reason(), "");
    proxy.write(&yaml(&[&bad.upstream], "circuit_breaker: off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(statuses(&proxy, 9).await, [503; 9]);
    assert_eq!(breakers(&proxy, "endpoint", "closed").await, 0.0);
}

#[tokio::test]
async fn of_a_service_it_opens_for_all_and_a_fallback_answers() {
    let (bad, worse) = (Switch::on(500).await, Switch::on(502).await);
    let policy = "circuit_breaker: { scope: service, failure_rate: 40%, min_calls: 4, open_for: 1h, \
                  max_open_for: 1h }, fallback: { body: instead, on: [breaker_open] }";
    let proxy = before(&[&bad.upstream, &worse.upstream], policy).await;
    let mut before = statuses(&proxy, 4).await;
    before.sort_unstable();
    assert_eq!(before, [500, 500, 502, 502]);
    let answer = get(&proxy).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "instead"));
    assert_eq!(answer.header("x-pilotfish-fallback"), "breaker_open");
    assert_eq!(breakers(&proxy, "service", "open").await, 1.0);
    assert_eq!(changes(&proxy, "service", "open").await, 1.0);
    assert_eq!(bad.seen() + worse.seen(), 4);
}

/// Whatever the number of workers, and whoever has the breaker.
#[tokio::test]
async fn half_open_it_lets_its_number_through_and_no_more() {
    for (scope, workers) in [("endpoint", 1), ("endpoint", 4), ("service", 4), ("both", 4)] {
        half_open(scope, workers).await;
    }
}

async fn half_open(scope: &str, workers: usize) {
    const PROBES: usize = 3;
    let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waited) = (calls.clone(), gate.clone());
    let app = Upstream::http(move |_| {
        let (call, gate) = (counted.fetch_add(1, SeqCst), waited.clone());
        async move {
            if call == 0 {
                return Response::builder().status(500).body(body("")).unwrap();
            }
            drop(gate.acquire().await);
            Response::new(body("probe"))
        }
    })
    .await;
    // No probe gives its place up before its timeout.
    let policy = format!(
        "circuit_breaker: {{ scope: {scope}, consecutive_failures: 1, open_for: 300ms, max_open_for: 300ms, probes: {PROBES} }}"
    );
    let yaml = yaml(&[&app], &policy).replace("workers: 1", &format!("workers: {workers}"));
    let proxy = Proxy::start(&yaml).await;
    assert_eq!(get(&proxy).await.status, 500);
    let address = proxy.outbound();
    let (refused, mut answers) = (Arc::new(AtomicUsize::new(0)), tokio::task::JoinSet::new());
    let mut ask = || {
        let refused = refused.clone();
        answers.spawn(async move {
            let answer = client::get_from(address, "s", "/").await;
            refused.fetch_add(usize::from(answer.reason() == "circuit_breaker_open"), SeqCst);
            answer.status.as_u16()
        });
    };
    let mut asked = 0;
    // The first that is let through again is a probe, and waits.
    while calls.load(SeqCst) == 1 {
        ask();
        asked += 1;
        let next = || async { (refused.load(SeqCst) + calls.load(SeqCst) > asked).then_some(()) };
        eventually(next).await;
    }
    (0..20).for_each(|_| ask());
    let settled = || async { (refused.load(SeqCst) == asked + 20 - PROBES).then_some(()) };
    eventually(settled).await;
    // The last ones may still be on their way.
    eventually(|| async { (calls.load(SeqCst) > PROBES).then_some(()) }).await;
    assert_eq!(calls.load(SeqCst), 1 + PROBES);
    let of = if scope == "service" { "service" } else { "endpoint" };
    assert_eq!(breakers(&proxy, of, "half_open").await, 1.0);
    gate.add_permits(PROBES);
    let mut good = 0;
    while let Some(status) = within(answers.join_next()).await {
        good += usize::from(status.expect("an answer") == 200);
    }
    assert_eq!(good, PROBES);
    assert_eq!(breakers(&proxy, of, "closed").await, 1.0);
}

#[tokio::test]
async fn what_is_a_failure_is_configured() {
    let policy = |failures: &str| {
        format!(
            "circuit_breaker: {{ consecutive_failures: 2, failures: [{failures}], open_for: 1m }}"
        )
    };
    for (failures, status, opens) in
        [("404", 404, true), ("404", 500, false), ("5xx", 501, true), ("timeout", 503, false)]
    {
        let app = Switch::on(status).await;
        let proxy = before(&[&app.upstream], &policy(failures)).await;
        statuses(&proxy, 3).await;
        assert_eq!(app.seen(), if opens { 2 } else { 3 }, "{failures} {status}");
    }
    // Connect failures, timeouts and resets.
    let hangs = Upstream::http(|_| std::future::pending()).await;
    let resets = Upstream::canned(b"").await;
    for (app, failures, more) in [(&hangs, "timeout", ", timeout: 30ms"), (&resets, "reset", "")] {
        let proxy = before(&[app], &(policy(failures) + more)).await;
        statuses(&proxy, 2).await;
        assert_eq!(get(&proxy).await.reason(), "circuit_breaker_open", "{failures}");
    }
    let dead = "services: { s: { endpoints: [\"127.0.0.1:1\"], policy: { ";
    let proxy = Proxy::start(&format!("{dead}{} }} }} }}\n", policy("connect_failure"))).await;
    assert_eq!(get(&proxy).await.reason(), "connect_refused");
    assert_eq!(get(&proxy).await.reason(), "connect_refused");
    assert_eq!(get(&proxy).await.reason(), "circuit_breaker_open");
}

#[tokio::test]
async fn slow_calls_open_it() {
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Response::new(body("late"))
    })
    .await;
    let policy = "circuit_breaker: { slow_call_rate: 100%, slow_call: 10ms, min_calls: 3, open_for: 1m, \
                  window: { calls: 3 } }";
    let proxy = before(&[&slow], policy).await;
    assert_eq!(statuses(&proxy, 4).await, [200, 200, 200, 503]);
}

fn grpc_status(status: &'static str, message: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(with_trailers(message, trailers)).expect("a response")
}

async fn call(proxy: &Proxy) -> Answer {
    let request = Request::post("http://s/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body("message"))
        .expect("a request");
    client::send2(proxy.outbound(), request).await.expect("an answer")
}

#[tokio::test]
async fn a_grpc_status_in_trailers_is_a_failure_and_a_message_is_none() {
    let policy = "circuit_breaker: { consecutive_failures: 2, open_for: 1m }";
    let bad = Upstream::http(|_| async { grpc_status("14", "") }).await;
    let proxy = before(&[&bad], policy).await;
    for _ in 0..2 {
        assert_eq!(call(&proxy).await.header("x-pilotfish-reason"), "");
    }
    let refused = call(&proxy).await;
    assert_eq!(refused.header("grpc-status"), "14");
    assert_eq!(refused.header("x-pilotfish-reason"), "circuit_breaker_open");
    assert_eq!(bad.seen().len(), 2);

    let good = Upstream::http(|_| async { grpc_status("5", "message") }).await;
    let proxy = before(&[&good], policy).await;
    for _ in 0..5 {
        call(&proxy).await;
    }
    assert_eq!(good.seen().len(), 5);
}

#[tokio::test]
async fn in_shadow_it_is_only_told() {
    let bad = Switch::on(500).await;
    for scope in ["endpoint", "service"] {
        let policy = format!(
            "circuit_breaker: {{ mode: shadow, scope: {scope}, consecutive_failures: 2, open_for: 1m }}"
        );
        let proxy = before(&[&bad.upstream], &policy).await;
        assert_eq!(statuses(&proxy, 5).await, [500; 5]);
        let shadows: Vec<_> =
            proxy.log(5).await.iter().map(|line| line["shadow"].clone()).collect();
        let told = shadows.iter().filter(|shadow| **shadow == "circuit_breaker:reject").count();
        let silent = shadows.iter().filter(|shadow| shadow.is_null()).count();
        assert_eq!((told, silent), (3, 2));
        let counted =
            "pilotfish_shadow_decisions_total{policy=\"circuit_breaker\",would=\"reject\"}";
        assert_eq!(proxy.metric(counted).await, 3.0);
        assert_eq!(breakers(&proxy, scope, "open").await, 1.0);
    }
}

#[tokio::test]
async fn an_open_breaker_ends_the_retries_with_the_last_answer() {
    let bad = Switch::on(503).await;
    let policy = "circuit_breaker: { scope: service, consecutive_failures: 2, open_for: 1m }, \
                  retry: { on: [503], max_retries: 5, backoff: { base: 1ms, max: 1ms } }";
    let proxy = before(&[&bad.upstream], policy).await;
    let answer = get(&proxy).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (503, "upstream"));
    assert_eq!(bad.seen(), 2);
    let skipped = "pilotfish_retry_skipped_total{reason=\"circuit_breaker_open\"}";
    assert_eq!(proxy.metric(skipped).await, 1.0);
}

#[tokio::test]
async fn who_leaves_says_nothing() {
    let hangs = Upstream::http(|_| std::future::pending()).await;
    let policy = "circuit_breaker: { consecutive_failures: 1, open_for: 1m }";
    let proxy = before(&[&hangs], policy).await;
    for count in 1..=3 {
        let mut raw = client::Raw::connect(proxy.outbound()).await;
        raw.send("GET / HTTP/1.1\r\nhost: s\r\n\r\n").await;
        eventually(|| async { (hangs.seen().len() == count).then_some(()) }).await;
        drop(raw);
        proxy.log(count).await;
    }
    assert_eq!(breakers(&proxy, "endpoint", "closed").await, 1.0);
}

/// Any client could open it for all others otherwise.
#[tokio::test]
async fn what_a_client_will_not_wait_for_says_nothing() {
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        Response::new(body("slow"))
    })
    .await;
    let policy = "circuit_breaker: { scope: both, consecutive_failures: 1 }";
    let proxy = before(&[&slow], policy).await;
    for _ in 0..4 {
        let request = Request::get("/").header("host", "s").header("x-request-deadline", "10ms");
        let request = request.body(body("")).expect("a request");
        let answer = client::send(proxy.outbound(), request).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
    }
    assert_eq!(get(&proxy).await.text(), "slow");
    for scope in ["service", "endpoint"] {
        assert_eq!(changes(&proxy, scope, "open").await, 0.0);
    }
}

#[tokio::test]
async fn an_answer_that_was_tried_again_after_counts() {
    let (bad, good) = (Switch::on(429).await, Switch::on(200).await);
    let policy = "circuit_breaker: { consecutive_failures: 3, failures: [429] },
      retry: { on: [429], backoff: { base: 1ms, max: 1ms } }";
    let proxy = before(&[&bad.upstream, &good.upstream], policy).await;
    assert_eq!(statuses(&proxy, 20).await, [200; 20]);
    assert_eq!(bad.seen(), 3);
    assert_eq!(changes(&proxy, "endpoint", "open").await, 1.0);
}

#[tokio::test]
async fn a_copy_is_no_probe() {
    let (app, bad) = (Upstream::named("app").await, Switch::on(500).await);
    let proxy = Proxy::start(&format!(
        "services:
  app: {{ endpoints: [\"{}\"], policy: {{ mirror: {{ service: s }} }} }}
  s:
    endpoints: [\"{}\"]
    policy: {{ circuit_breaker: {{ scope: both, consecutive_failures: 1, open_for: 200ms, max_open_for: 200ms }} }}
runtime: {{ workers: 1 }}
",
        app.address, bad.upstream.address
    ))
    .await;
    assert_eq!(get(&proxy).await.status, 500);
    let copy =
        async || assert_eq!(client::get_from(proxy.outbound(), "app", "/").await.text(), "app");
    let dropped = "pilotfish_mirror_total{service=\"s\",result=\"failed\"}";
    for round in 1..=2 {
        copy().await;
        eventually(|| async { (proxy.metric(dropped).await >= f64::from(round)).then_some(()) })
            .await;
        // Until it would admit a probe.
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    assert_eq!(bad.seen(), 1);
    assert_eq!(get(&proxy).await.status, 500, "the probe");
}
