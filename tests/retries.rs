//! What a policy has sent again that may have been processed, and what it never does.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{Request, Response, StatusCode};
use support::client::{self, Answer};
use support::upstream::{Body, Seen, Upstream, body, read_head};
use support::{Proxy, eventually};
use tokio::io::AsyncWriteExt;

/// Answers `bad` to its first `times` requests, then 200.
async fn ailing(
    times: usize,
    bad: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::http(move |_| {
        let answer = match count.fetch_add(1, SeqCst) < times {
            true => bad(),
            false => Response::new(body("good")),
        };
        async move { answer }
    })
    .await
}

fn status(status: u16) -> impl Fn() -> Response<Body> + Clone + Send + Sync + 'static {
    move || Response::builder().status(status).body(body("bad")).expect("a response")
}

async fn before(endpoints: &[&Upstream], retry: &str) -> Proxy {
    let endpoints: Vec<_> =
        endpoints.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    let endpoints = endpoints.join(", ");
    Proxy::start(&format!(
        "services:
  s:
    endpoints: [{endpoints}]
    load_balancer: round_robin
    policy: {{ retry: {{ {retry} }} }}
runtime: {{ workers: 1 }}
"
    ))
    .await
}

async fn send(proxy: &Proxy, method: &str, fields: &[(&'static str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri("/").header("host", "s");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::send(proxy.outbound(), request.body(body("")).expect("a request")).await
}

fn attempts(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.header("x-pilotfish-attempt")).collect()
}

async fn skipped(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("pilotfish_retry_skipped_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_listed_status_is_tried_again_over_the_same_connection() {
    let app = ailing(2, status(503)).await;
    let proxy = before(&[&app], "on: [503]").await;
    let answer = send(&proxy, "GET", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "good"));
    assert_eq!(attempts(&app.seen()), ["", "2", "3"]);
    assert_eq!(app.connections(), 1, "what little there was of the answer is read");
    let retries = "pilotfish_retries_total{service=\"s\",reason=\"upstream_status\"}";
    assert_eq!(proxy.metric(retries).await, 2.0);
    assert_eq!(proxy.log(1).await[0]["attempts"], 3);

    // As often as the policy says; what is not listed is passed on.
    let app = ailing(9, status(503)).await;
    let proxy = before(&[&app], "on: [5xx], max_retries: 1").await;
    let answer = send(&proxy, "GET", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text(), answer.reason()), (503, "bad", ""));
    assert_eq!(app.seen().len(), 2);
    assert_eq!(skipped(&proxy, "limit").await, 1.0);
    let line = &proxy.log(1).await[0];
    assert_eq!((&line["response_flags"], &line["notes"]), (&"URX".into(), &"retry:limit".into()));
    let app = ailing(9, status(500)).await;
    let proxy = before(&[&app], "on: [gateway_error]").await;
    assert_eq!(send(&proxy, "GET", &[]).await.status, 500);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn what_may_have_been_processed_is_repeated_only_where_that_was_said() {
    for (retry, fields, requests) in [
        ("on: [503]", &[][..], 1),
        ("on: [503]", &[("idempotency-key", "a-1")], 2),
        ("on: [503], methods: all", &[], 2),
        ("on: [503], max_retries: 0", &[("idempotency-key", "a-1")], 1),
    ] {
        let app = ailing(1, status(503)).await;
        let proxy = before(&[&app], retry).await;
        let answer = send(&proxy, "POST", fields).await;
        assert_eq!(app.seen().len(), requests, "{retry} {fields:?}");
        assert_eq!(answer.status == 200, requests == 2, "{retry} {fields:?}");
        if (retry, fields.len()) == ("on: [503]", 0) {
            assert_eq!(skipped(&proxy, "not_idempotent").await, 1.0);
        }
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_is_obeyed() {
    for (retry_after, requests, skips) in [("0", 2, 0.0), ("60", 1, 1.0)] {
        let app = ailing(1, move || {
            let response = Response::builder().status(503).header("retry-after", retry_after);
            response.body(body("bad")).expect("a response")
        })
        .await;
        let proxy = before(&[&app], "on: [503]").await;
        let answer = send(&proxy, "GET", &[]).await;
        assert_eq!(app.seen().len(), requests);
        assert_eq!(answer.status == StatusCode::OK, requests == 2);
        assert_eq!(skipped(&proxy, "retry_after").await, skips);
    }
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_for_another_endpoint() {
    let hanging = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let good = Upstream::named("good").await;
    let proxy = before(&[&hanging, &good], "on: [timeout], per_try_timeout: 50ms").await;
    for _ in 0..4 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "good");
    }
    assert_eq!(good.seen().len(), 4);
    assert!(hanging.connections() >= 1);
    // A POST may have been processed by the one that hangs.
    let hung = hanging.connections();
    let answers = [send(&proxy, "POST", &[]).await, send(&proxy, "POST", &[]).await];
    let failed = answers.iter().filter(|answer| answer.reason() == "per_try_timeout").count();
    assert_eq!((failed, hanging.connections() - hung), (1, 1));
}

/// Answers the first request of each connection, and closes when the second one is there.
async fn closing_at_reuse(requests: Arc<AtomicUsize>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let requests = requests.clone();
        async move {
            read_head(&mut stream).await;
            requests.fetch_add(1, SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            if !read_head(&mut stream).await.is_empty() {
                requests.fetch_add(1, SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_dies_at_its_reuse_loses_no_get_and_doubles_no_post() {
    let requests = Arc::new(AtomicUsize::new(0));
    let app = closing_at_reuse(requests.clone()).await;
    let proxy = before(&[&app], "").await;
    for _ in 0..20 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "ok");
    }
    let mut sent = requests.load(SeqCst);
    let mut lost = 0;
    for _ in 0..20 {
        let answer = send(&proxy, "POST", &[]).await;
        lost += usize::from(answer.status != 200);
        let now = requests.load(SeqCst);
        assert_eq!(now - sent, 1, "each once, answered or not");
        sent = now;
    }
    assert!(lost > 0, "the test meets what it is about");
}

#[tokio::test]
async fn a_grpc_status_is_tried_again() {
    let unavailable = || {
        let response = Response::builder().header("content-type", "application/grpc");
        response.header("grpc-status", "14").body(body("")).expect("a response")
    };
    let app = ailing(1, unavailable).await;
    let proxy = before(&[&app], "on: [unavailable]").await;
    let request = Request::post("http://s/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .body(body("message"))
        .expect("a request");
    let answer = client::send2(proxy.outbound(), request).await.expect("an answer");
    assert_eq!(answer.text(), "good");
    let seen = app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].body, "message");
    assert_eq!(seen[1].header("grpc-previous-rpc-attempts"), "1");
    let left = seen[1].header("grpc-timeout").strip_suffix('u').expect("microseconds");
    assert!(left.parse::<u64>().expect("a number") < 5_000_000);
}

#[tokio::test]
async fn the_time_that_a_client_has_shrinks_on_its_way_and_ends_the_attempts() {
    let app = ailing(1, status(503)).await;
    let proxy = before(&[&app], "on: [503], backoff: { base: 20ms, max: 20ms }").await;
    let answer = send(&proxy, "GET", &[("x-request-deadline", "10s")]).await;
    assert_eq!(answer.status, 200);
    let seen = app.seen();
    let left = |seen: &Seen| {
        let text = seen.header("x-request-deadline");
        let millis = text.strip_suffix("ms").map(str::parse::<u64>);
        millis.and_then(Result::ok)
    };
    assert_eq!(seen[0].header("x-request-deadline"), "10s");
    assert!(left(&seen[1]).is_some_and(|left| left < 10_000));

    // None is left: not a byte goes up.
    let app = Upstream::named("never").await;
    let proxy = before(&[&app], "").await;
    let answer = send(&proxy, "GET", &[("x-request-deadline", "0")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (504, "client_deadline"));
    assert_eq!(app.seen().len(), 0);

    // A pause that would outlast it is not begun.
    let app = ailing(9, || {
        let response = Response::builder().status(503).header("retry-after", "1");
        response.body(body("bad")).expect("a response")
    })
    .await;
    let proxy = before(&[&app], "on: [503]").await;
    assert_eq!(send(&proxy, "GET", &[("x-request-deadline", "900ms")]).await.status, 503);
    assert_eq!(app.seen().len(), 1);
    assert_eq!(skipped(&proxy, "deadline").await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_in_a_pause_ends_the_request() {
    let app = ailing(usize::MAX, || {
        let response = Response::builder().status(503).header("retry-after", "10");
        response.body(body("bad")).expect("a response")
    })
    .await;
    let proxy = before(&[&app], "on: [503], max_retry_after: 10s").await;
    let request = send(&proxy, "GET", &[]);
    let seen = eventually(|| async { (!app.seen().is_empty()).then_some(()) });
    tokio::select! {
        _ = request => panic!("it waits for long"),
        () = seen => {}
    }
    // The client is dropped here, with its connection.
    let in_flight = "pilotfish_requests_in_flight{direction=\"outbound\"}";
    eventually(|| async { (proxy.metric(in_flight).await == 0.0).then_some(()) }).await;
    assert_eq!(app.seen().len(), 1);
}

/// It takes each request, and closes without a word: nobody can know what it did.
#[tokio::test]
async fn what_was_taken_and_not_answered_is_never_doubled_unless_that_does_no_harm() {
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    let app = Upstream::raw(move |mut stream| {
        let counted = counted.clone();
        async move {
            if !read_head(&mut stream).await.is_empty() {
                counted.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    let proxy = before(&[&app], "on: [reset, 5xx, timeout], backoff: { base: 1ms }").await;
    for (method, fields, times) in [
        ("POST", &[][..], 1),
        ("PATCH", &[], 1),
        ("POST", &[("idempotency-key", "a-1")], 3),
        ("GET", &[], 3),
        ("PUT", &[], 3),
        ("DELETE", &[], 3),
    ] {
        let before = taken.load(SeqCst);
        let answer = send(&proxy, method, fields).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, "upstream_reset"), "{method}");
        assert_eq!(taken.load(SeqCst) - before, times, "{method}");
    }
    assert_eq!(skipped(&proxy, "not_idempotent").await, 2.0);
    assert_eq!(skipped(&proxy, "limit").await, 4.0);
}
