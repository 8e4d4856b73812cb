//! What is sent again and what never, which connection a request goes on, and to which endpoint.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use support::client::{self, Answer};
use support::raw;
use support::upstream::{Upstream, read_head};
use support::{Proxy, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An upstream of HTTP/2 that does `first` to so many requests, each read to its end, and answers those
/// after them with the length of their body.
struct Refusing {
    upstream: Upstream,
    requests: Arc<AtomicUsize>,
}

impl Refusing {
    async fn start(first: usize, reason: Reason) -> Self {
        let requests = Arc::<AtomicUsize>::default();
        let count = requests.clone();
        let upstream = Upstream::raw(move |stream| {
            let count = count.clone();
            async move {
                let mut connection = h2::server::handshake(stream).await.expect("a handshake");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let number = count.fetch_add(1, SeqCst);
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut length = 0;
                        while let Some(Ok(data)) = body.data().await {
                            length += data.len();
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        if number < first {
                            return respond.send_reset(reason);
                        }
                        if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                            let _ = stream.send_data(length.to_string().into(), true);
                        }
                    });
                }
            }
        })
        .await;
        Self { upstream, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

async fn before(endpoints: &[&str], rest: &str) -> Proxy {
    Proxy::start(&format!(
        "services: {{ s: {{ endpoints: [{}], {rest} }} }}\nruntime: {{ workers: 1 }}\n",
        endpoints.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
    ))
    .await
}

async fn post(proxy: &Proxy, length: usize) -> Answer {
    client::post(proxy.outbound(), "s", "/", vec![b'x'; length]).await
}

#[tokio::test]
async fn a_connect_failure_goes_to_another_endpoint() {
    let good = Upstream::echo().await;
    let address = good.address.to_string();
    let dead = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    let proxy = before(&[dead[0], &address], "load_balancer: round_robin").await;
    // Of any method and any length: not a byte of it was read yet.
    for length in [0, 10, 1 << 20] {
        for _ in 0..2 {
            let answer = post(&proxy, length).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, length));
        }
    }
    let retries = "pilotfish_retries_total{service=\"s\",reason=\"connect_refused\"}";
    assert!(proxy.metric(retries).await >= 3.0);
    let log = proxy.log(6).await;
    let hosts = log.iter().filter(|line| line["upstream_host"] == *address);
    assert_eq!(hosts.count(), 6, "the one that answered");

    // As often as the policy says, each endpoint once, and not at all where it says off.
    for (retry, attempts) in
        [("retry: off", 1), ("retry: { max_retries: 1 }", 2), ("retry: { max_retries: 9 }", 3)]
    {
        let proxy = before(&dead, &format!("policy: {{ {retry} }}")).await;
        let answer = post(&proxy, 1).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, "connect_refused"));
        let opened =
            "pilotfish_upstream_connections_total{service=\"s\",result=\"connect_refused\"}";
        assert_eq!(proxy.metric(opened).await, f64::from(attempts), "{retry}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_its_body_up_to_64_kib() {
    const LIMIT: usize = 64 * 1024;
    for (length, again) in [(0, true), (LIMIT, true), (LIMIT + 1, false)] {
        let app = Refusing::start(2, Reason::REFUSED_STREAM).await;
        let address = app.upstream.address.to_string();
        let proxy = before(&[&address], "protocol: http2").await;
        let answer = post(&proxy, length).await;
        if again {
            assert_eq!((answer.status.as_u16(), answer.text()), (200, &*length.to_string()));
            assert_eq!(app.requests(), 3);
        } else {
            assert_eq!((answer.status.as_u16(), answer.reason()), (503, "upstream_refused_stream"));
            assert_eq!(app.requests(), 1);
            let skipped = "pilotfish_retry_skipped_total{reason=\"body_too_large\"}";
            assert_eq!(proxy.metric(skipped).await, 1.0);
        }
        assert_eq!(app.upstream.connections(), 1);
    }
    // Three refusals are one more than is tried; and any other reset may have been processed.
    for (reason, requests, told) in [
        (Reason::REFUSED_STREAM, 3, "upstream_refused_stream"),
        (Reason::CANCEL, 1, "upstream_reset"),
        (Reason::INTERNAL_ERROR, 1, "upstream_reset"),
        (Reason::ENHANCE_YOUR_CALM, 1, "upstream_reset"),
    ] {
        let app = Refusing::start(3, reason).await;
        let address = app.upstream.address.to_string();
        let proxy = before(&[&address], "protocol: http2").await;
        let answer = client::get_from(proxy.outbound(), "s", "/").await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, told), "{reason}");
        assert_eq!(app.requests(), requests, "{reason}");
    }
}

#[tokio::test]
async fn the_budget_bounds_what_is_sent_again() {
    let app = Refusing::start(usize::MAX, Reason::REFUSED_STREAM).await;
    let address = app.upstream.address.to_string();
    let rest = "protocol: http2, policy: { retry: { max_retries: 1, budget: { ratio: 0%, min_per_second: 1 } } }";
    let proxy = before(&[&address], rest).await;
    for _ in 0..15 {
        assert_eq!(post(&proxy, 1).await.status, 503);
    }
    // One a second over a window of ten seconds.
    assert_eq!(app.requests(), 15 + 10);
    let retries = "pilotfish_retries_total{service=\"s\",reason=\"upstream_refused_stream\"}";
    assert_eq!(proxy.metric(retries).await, 10.0);
    assert_eq!(proxy.metric("pilotfish_retry_skipped_total{reason=\"budget\"}").await, 5.0);
}

/// Reads frames up to the first head of a request.
async fn read_request(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.expect("a preface");
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.expect("a payload");
        if head[3] == raw::HEADERS {
            return;
        }
    }
}

#[tokio::test]
async fn a_goaway_tells_which_requests_may_be_sent_again() {
    const NO_ERROR: u8 = 0;
    const INTERNAL_ERROR: u8 = 2;
    for (last, code, resent) in [
        (0, NO_ERROR, true),
        (0, INTERNAL_ERROR, true),
        (1, NO_ERROR, false),
        (1, INTERNAL_ERROR, false),
    ] {
        let connections = Arc::<AtomicUsize>::default();
        let app = Upstream::raw(move |mut stream| {
            let first = connections.fetch_add(1, SeqCst) == 0;
            async move {
                if !first {
                    let mut connection = h2::server::handshake(stream).await.expect("a handshake");
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let _ = respond.send_response(Response::new(()), true);
                    }
                    return;
                }
                let _ = stream.write_all(&raw::frame(raw::SETTINGS, 0, 0, &[])).await;
                read_request(&mut stream).await;
                let goaway = [0, 0, 0, last, 0, 0, 0, code];
                // And closes: what it had not answered it will never answer.
                let _ = stream.write_all(&raw::frame(raw::GOAWAY, 0, 0, &goaway)).await;
                // What it leaves unread would make a reset of its end, which can overtake the frame.
                let _ = stream.shutdown().await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        })
        .await;
        let address = app.address.to_string();
        let proxy = before(&[&address], "protocol: http2").await;
        let answer = post(&proxy, 100).await;
        let context = format!("last stream {last}, code {code}: {answer:?}");
        if resent {
            assert_eq!(answer.status, 200, "{context}");
            assert_eq!(app.connections(), 2, "{context}");
        } else {
            assert_eq!(
                (answer.status.as_u16(), answer.reason()),
                (503, "upstream_reset"),
                "{context}"
            );
            assert_eq!(app.connections(), 1, "{context}");
        }
    }
}

/// Answers each request with the number of its connection, `fields` among the head.
async fn numbering(fields: &'static str, close: bool) -> Upstream {
    let connections = Arc::<AtomicUsize>::default();
    Upstream::raw(move |mut stream| {
        let number = connections.fetch_add(1, SeqCst);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                if head.starts_with(b"GET /wait") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{fields}content-length: 1\r\n\r\n{number}");
                let _ = stream.write_all(answer.as_bytes()).await;
                if close {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_is_used_again_while_it_is_sure_to_live() {
    let ask =
        async |proxy: &Proxy| client::get_from(proxy.outbound(), "s", "/").await.text().to_owned();
    let idle = async |proxy: &Proxy, count: f64| {
        let series = "pilotfish_upstream_pool_idle";
        eventually(|| async { (proxy.metric(series).await == count).then_some(()) }).await;
    };
    // Kept by default; `timeout=0` and `close` are never kept.
    for (fields, second) in [
        ("", "0"),
        ("keep-alive: timeout=5, max=100\r\n", "0"),
        ("connection: close\r\n", "1"),
        ("keep-alive: timeout=0\r\n", "1"),
    ] {
        let app = numbering(fields, false).await;
        let proxy = before(&[&app.address.to_string()], "protocol: http1").await;
        assert_eq!(ask(&proxy).await, "0", "{fields}");
        idle(&proxy, if second == "0" { 1.0 } else { 0.0 }).await;
        assert_eq!(ask(&proxy).await, second, "{fields}");
    }
    // A second of the upstream's is half a second of ours, so that we are the one who closes.
    let app = numbering("keep-alive: timeout=1\r\n", false).await;
    let proxy = before(&[&app.address.to_string()], "protocol: http1").await;
    assert_eq!([ask(&proxy).await, ask(&proxy).await], ["0", "0"]);
    tokio::time::sleep(Duration::from_millis(550)).await;
    assert_eq!(ask(&proxy).await, "1");
    // Our own limit.
    let app = numbering("", false).await;
    let proxy = Proxy::start(&format!(
        "services: {{ s: {{ endpoints: [\"{}\"], protocol: http1 }} }}\nlimits: {{ pool_idle_timeout: 50ms }}\nruntime: {{ workers: 1 }}\n",
        app.address
    ))
    .await;
    assert_eq!(ask(&proxy).await, "0");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(ask(&proxy).await, "1");
    idle(&proxy, 0.0).await;
    // An upstream that closes without a word after each answer: no request is lost to it.
    let app = numbering("", true).await;
    let proxy = before(&[&app.address.to_string()], "protocol: http1").await;
    for number in 0..10 {
        idle(&proxy, 0.0).await;
        assert_eq!(ask(&proxy).await, number.to_string());
    }
}

#[tokio::test]
async fn the_connection_that_was_used_last_is_used_first() {
    let app = numbering("", false).await;
    let proxy = before(&[&app.address.to_string()], "protocol: http1").await;
    let address = proxy.outbound();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        waiting.spawn(async move { client::get_from(address, "s", "/wait").await.status });
    }
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.expect("a task"), 200);
    }
    assert_eq!(app.connections(), 3);
    let mut used = Vec::new();
    for _ in 0..10 {
        let series = "pilotfish_upstream_pool_idle";
        eventually(|| async { (proxy.metric(series).await == 3.0).then_some(()) }).await;
        used.push(client::get_from(address, "s", "/").await.text().to_owned());
    }
    used.dedup();
    assert_eq!(used.len(), 1, "{used:?}");
    assert_eq!(app.connections(), 3);
}

/// Per request, not per connection: one connection of a client reaches every endpoint.
#[tokio::test]
async fn requests_of_one_connection_are_spread_over_the_endpoints() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let addresses = [a.address.to_string(), b.address.to_string()];
    for (balancer, content_type) in [
        ("round_robin", "text/plain"),
        ("round_robin", "application/grpc"),
        ("peak_ewma", "application/grpc"),
        ("least_request", "text/plain"),
    ] {
        let endpoints = [&*addresses[0], &*addresses[1]];
        let proxy = before(&endpoints, &format!("load_balancer: {balancer}")).await;
        let counts = [a.seen().len(), b.seen().len()];
        let mut sender = client::http2(proxy.outbound()).await;
        for _ in 0..40 {
            let request =
                Request::post("http://s/pkg.Service/Method").header("content-type", content_type);
            let request = request.body(Full::new(Bytes::from("x"))).expect("a request");
            let response = within(sender.send_request(request)).await.expect("an answer");
            assert_eq!(response.status(), 200);
            client::read(response).await.expect("a body");
        }
        let got = [a.seen().len() - counts[0], b.seen().len() - counts[1]];
        assert_eq!(got[0] + got[1], 40);
        if balancer == "round_robin" {
            assert_eq!(got, [20, 20], "{content_type}");
        } else {
            assert!(got.iter().all(|count| *count > 0), "{balancer}: {got:?}");
        }
        let version = if content_type == "application/grpc" {
            http::Version::HTTP_2
        } else {
            http::Version::HTTP_11
        };
        assert_eq!(a.seen().last().expect("a request").version, version);
    }
    // The same from one connection of HTTP/1.
    let proxy = before(&[&*addresses[0], &*addresses[1]], "load_balancer: round_robin").await;
    let mut sender = client::http1(proxy.outbound()).await;
    let mut names = BytesMut::new();
    for _ in 0..6 {
        within(sender.ready()).await.expect("the connection goes on");
        let request = Request::get("/").header("host", "s").body(Empty::<Bytes>::new());
        let response =
            within(sender.send_request(request.expect("a request"))).await.expect("an answer");
        names.extend_from_slice(&client::read(response).await.expect("a body").body);
    }
    assert!(names == "ababab" || names == "bababa", "{names:?}");
}
