//! Deadlines that travel, and timeouts that only tell what they would cut.

mod support;

use std::time::Duration;

use http::{Request, Response};
use pilotfish::clock;
use support::client::{self, Answer};
use support::upstream::{Full, Seen, Upstream, body, endless, read_head};
use support::{Proxy, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn before(upstream: &Upstream, policy: &str) -> Proxy {
    Proxy::start(&format!(
        "services:
  s:
    endpoints: [\"{}\"]
    policy: {{ {policy} }}
runtime: {{ workers: 1 }}
",
        upstream.address
    ))
    .await
}

async fn get(proxy: &Proxy, fields: &[(&'static str, &str)]) -> Answer {
    let mut request = Request::get("/").header("host", "s");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::send(proxy.outbound(), request.body(body("")).expect("a request")).await
}

fn millis(seen: &Seen, name: &str) -> Option<u64> {
    seen.header(name).strip_suffix("ms")?.parse().ok()
}

/// Answers after so long.
async fn slow(after: Duration) -> Upstream {
    Upstream::http(move |_| async move {
        tokio::time::sleep(after).await;
        Response::new(body("slow"))
    })
    .await
}

async fn would(proxy: &Proxy, act: &str) -> f64 {
    let labels = format!("policy=\"timeout\",would=\"{act}\"");
    proxy.metric(&format!("pilotfish_shadow_decisions_total{{{labels}}}")).await
}

#[tokio::test]
async fn the_deadline_has_the_name_that_it_is_given() {
    let app = slow(Duration::from_millis(300)).await;
    let proxy = before(&app, "timeout: { deadline_header: x-timeout-ms }").await;
    let answer = get(&proxy, &[("x-timeout-ms", "50")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
    // The usual one is nobody's then, and goes on as it came.
    assert_eq!(get(&proxy, &[("x-request-deadline", "50")]).await.text(), "slow");
    let seen = app.seen();
    assert_eq!(seen.last().expect("two").header("x-request-deadline"), "50");

    let proxy = before(&app, "timeout: { deadline_header: off }").await;
    assert_eq!(get(&proxy, &[("x-request-deadline", "50")]).await.text(), "slow");
}

#[tokio::test]
async fn our_timeout_travels_where_that_was_said() {
    let app = Upstream::named("good").await;
    let seen = |fields: &'static [(&'static str, &'static str)], policy: &'static str| {
        let app = &app;
        async move {
            let proxy = before(app, policy).await;
            assert_eq!(get(&proxy, fields).await.text(), "good");
            app.seen().last().expect("a request").clone()
        }
    };
    const DEADLINE: &str = "x-request-deadline";
    let silent = seen(&[], "timeout: 2s").await;
    assert_eq!(silent.header(DEADLINE), "", "not by default");
    let told = seen(&[], "timeout: { request: 2s, propagate: true }").await;
    assert!(millis(&told, DEADLINE).is_some_and(|left| left <= 2000 && left > 1000));
    // The least of ours, the client's and that of the attempt.
    let told = seen(&[(DEADLINE, "60s")], "timeout: { request: 2s, propagate: true }").await;
    assert!(millis(&told, DEADLINE).is_some_and(|left| left <= 2000));
    let told = seen(&[(DEADLINE, "1s")], "timeout: { request: 2s, propagate: true }").await;
    assert!(millis(&told, DEADLINE).is_some_and(|left| left <= 1000));
    let policy = "timeout: { request: 2s, propagate: true }, retry: { per_try_timeout: 500ms }";
    let told = seen(&[], policy).await;
    assert_eq!(millis(&told, DEADLINE), Some(500));
    let named = "timeout: { request: 2s, propagate: true, deadline_header: x-left }";
    assert!(millis(&seen(&[], named).await, "x-left").is_some_and(|left| left <= 2000));
    // What is not enforced is no deadline.
    let shadow = "timeout: { mode: shadow, request: 2s, propagate: true }";
    assert_eq!(seen(&[], shadow).await.header(DEADLINE), "");
    let told = seen(&[(DEADLINE, "9s")], shadow).await;
    assert!(millis(&told, DEADLINE).is_some_and(|left| left > 2000));
}

/// Ours ends with the head of the answer, the deadline of gRPC with the last message.
#[tokio::test]
async fn grpc_is_told_of_no_deadline_but_the_clients() {
    let app = Upstream::http(|_| async {
        let response = Response::builder().header("content-type", "application/grpc");
        response.header("grpc-status", "0").body(body("")).expect("a response")
    })
    .await;
    let proxy = before(&app, "timeout: { request: 2s, propagate: true }").await;
    let call = Request::post("http://s/a.B/C").header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(body("message")).expect("a request");
    client::send2(proxy.outbound(), call).await.expect("an answer");
    let seen = app.seen();
    assert_eq!((seen[0].header("grpc-timeout"), seen[0].header("x-request-deadline")), ("", ""));
}

/// A body without a length comes to its end once more with each attempt. The time runs from the first one.
#[tokio::test]
async fn the_time_of_a_body_without_a_length_does_not_begin_anew_with_a_retry() {
    let hung = Upstream::http(|_| async move { std::future::pending().await }).await;
    let policy = "timeout: 400ms,
      retry: { on: [timeout], per_try_timeout: 150ms, max_retries: 9, backoff: { base: 1ms, max: 1ms } }";
    let proxy = before(&hung, policy).await;
    let mut client = client::Raw::connect(proxy.outbound()).await;
    let began = clock::now();
    client
        .send(
            b"PUT / HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    assert!(hung.seen().len() <= 4, "{} attempts", hung.seen().len());
    let took = clock::now() - began;
    assert!(took < Duration::from_millis(1200), "{took:?}");
}

/// Two services with `policy`: one whose only endpoint takes no connection, and one that has another.
async fn beside_full(full: &Full, good: &Upstream, protocol: &str, policy: &str) -> Proxy {
    let (full, good) = (full.address, good.address);
    Proxy::start(&format!(
        "services:
  defaults: {{ load_balancer: round_robin, policy: {{ {policy} }} }}
  s: {{ endpoints: [\"{full}\"], protocol: {protocol} }}
  two: {{ endpoints: [\"{full}\", \"{good}\"], protocol: {protocol} }}
runtime: {{ workers: 1 }}
"
    ))
    .await
}

#[tokio::test]
async fn connecting_takes_no_longer_than_the_request_may() {
    let (full, good) = (Full::start().await, Upstream::named("good").await);
    for protocol in ["auto", "http2"] {
        let policy = "timeout: { request: 100ms, connect: 60s }";
        let proxy = beside_full(&full, &good, protocol, policy).await;
        let answer = get(&proxy, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (504, "request_timeout"));
        let answer = get(&proxy, &[("x-request-deadline", "50")]).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
        // A body that is here to its end, or is not.
        let mut client = client::Raw::connect(proxy.outbound()).await;
        client.send(b"POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 5\r\n\r\nab").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    }
}

/// Nothing was sent to where no connection came about, so any method is sent elsewhere.
#[tokio::test]
async fn an_attempt_that_cannot_connect_in_its_time_goes_elsewhere() {
    let (full, good) = (Full::start().await, Upstream::named("good").await);
    for protocol in ["auto", "http2"] {
        let policy = "timeout: { connect: 60s }, retry: { per_try_timeout: 100ms }";
        let proxy = beside_full(&full, &good, protocol, policy).await;
        for _ in 0..2 {
            let request = Request::post("/").header("host", "two").body(body("data"));
            let answer = client::send(proxy.outbound(), request.expect("a request")).await;
            assert_eq!(answer.text(), "good");
        }
        let retries = "pilotfish_retries_total{service=\"two\",reason=\"connect_timeout\"}";
        assert!(proxy.metric(retries).await >= 1.0);
    }
}

#[tokio::test]
async fn what_is_delayed_on_purpose_for_longer_than_it_may_take_is_never_sent() {
    let app = Upstream::named("good").await;
    let proxy = before(&app, "timeout: 100ms, fault: { delay: { duration: 60s } }").await;
    let answer = get(&proxy, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "request_timeout"));
    let answer = get(&proxy, &[("x-request-deadline", "50")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn in_shadow_mode_nothing_is_cut_and_all_is_told_once() {
    for (policy, act) in [
        ("timeout: { mode: shadow, request: 30ms }", "request_timeout"),
        (
            "timeout: { mode: shadow, request: 60ms }, retry: { per_try_timeout: 20ms, on: [timeout] }",
            "per_try_timeout",
        ),
    ] {
        let app = slow(Duration::from_millis(200)).await;
        let proxy = before(&app, policy).await;
        assert_eq!(get(&proxy, &[]).await.text(), "slow");
        assert_eq!(app.seen().len(), 1, "no retry after what is not cut");
        assert_eq!(would(&proxy, act).await, 1.0);
        let line = &proxy.log(1).await[0];
        assert_eq!(line["shadow"], format!("timeout:{act}"));
        assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"-".into()));
    }
    // In time: nothing is told.
    let app = Upstream::named("good").await;
    let proxy = before(&app, "timeout: { mode: shadow, request: 10s }").await;
    assert_eq!(get(&proxy, &[]).await.text(), "good");
    assert_eq!(proxy.log(1).await[0].get("shadow"), None);
}

#[tokio::test]
async fn in_shadow_mode_it_is_told_when_it_is_due_and_the_client_still_has_its_deadline() {
    let hung = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = before(&hung, "timeout: { mode: shadow, request: 30ms }").await;
    // While it still waits.
    tokio::select! {
        _ = get(&proxy, &[]) => panic!("nobody answers"),
        () = eventually(|| async {
            (would(&proxy, "request_timeout").await == 1.0).then_some(())
        }) => {}
    }
    // Its client has left.
    let line = &proxy.log(1).await[0];
    assert_eq!(
        (&line["response_flags"], &line["shadow"]),
        (&"DC".into(), &"timeout:request_timeout".into())
    );

    let answer = get(&proxy, &[("x-request-deadline", "150ms")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
    assert_eq!(would(&proxy, "request_timeout").await, 2.0, "ours would have been earlier");
    let answer = get(&proxy, &[("x-request-deadline", "10ms")]).await;
    assert_eq!(answer.status, 504);
    assert_eq!(would(&proxy, "request_timeout").await, 2.0, "ours would have been later");
}

#[tokio::test]
async fn in_shadow_mode_a_body_may_stand_still() {
    // Down: a byte, and nothing more.
    let app = Upstream::http(|_| async { Response::new(endless("a", ())) }).await;
    let proxy = before(&app, "timeout: { mode: shadow, stream_idle: 50ms }").await;
    let mut client = client::Raw::connect(proxy.outbound()).await;
    client.send(b"GET / HTTP/1.1\r\nhost: s\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    eventually(|| async { (would(&proxy, "stream_idle_timeout").await == 1.0).then_some(()) })
        .await;
    within(client.until("a\r\n")).await;
    let mut rest = [0; 64];
    let ended = tokio::time::timeout(Duration::from_millis(200), async {
        while client.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    });
    assert!(ended.await.is_err(), "it was cut");
    drop(client);
    assert_eq!(proxy.log(1).await[0]["shadow"], "timeout:stream_idle_timeout");

    // Up: a client that pauses in the middle.
    let echo = Upstream::echo().await;
    let proxy = before(&echo, "timeout: { mode: shadow, stream_idle: 50ms }").await;
    let mut client = client::Raw::connect(proxy.outbound()).await;
    client.send(b"POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 6\r\n\r\nabc").await;
    eventually(|| async { (would(&proxy, "stream_idle_timeout").await == 1.0).then_some(()) })
        .await;
    client.stream.write_all(b"def").await.expect("it is open");
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
}
