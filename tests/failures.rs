//! Every answer of the proxy's own: its status, its reason, its one line, its flag in the log and its
//! count in the metrics; and what is left behind when one of the two sides goes away.

mod support;

use std::time::Duration;

use http::{Method, Request};
use http_body_util::Empty;
use support::client::{self, Answer, Raw};
use support::upstream::{Full, Upstream, read_head};
use support::{Proxy, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Reads requests and never answers.
async fn silent() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await
}

/// That the proxy has answered so, in all the places where it says so.
async fn assert_told(proxy: &Proxy, answer: &Answer, status: u16, reason: &str, flag: &str) {
    assert_eq!((answer.status.as_u16(), answer.reason()), (status, reason), "{answer:?}");
    let body = answer.text();
    assert!(body.starts_with("pilotfish: ") && body.ends_with('\n'), "{reason}: {body}");
    assert_eq!(body.lines().count(), 1, "{reason}: {body}");
    assert_logged(proxy, status, reason, flag).await;
    let series = format!("pilotfish_rejected_total{{reason=\"{reason}\"}}");
    assert!(proxy.metric(&series).await >= 1.0, "{reason}");
}

async fn assert_logged(proxy: &Proxy, status: u16, reason: &str, flag: &str) {
    eventually(|| async {
        let log = proxy.log(1).await;
        log.into_iter().find(|line| {
            line["response_code_details"] == reason
                && line["response_code"] == status
                && line["response_flags"] == flag
        })
    })
    .await;
}

/// Endpoints of all services, by the admin server: how many requests they have in flight.
async fn in_flight(proxy: &Proxy) -> u64 {
    let response = client::send(
        proxy.admin(),
        Request::get("/clusters?format=json")
            .header("host", "127.0.0.1")
            .body(Empty::<bytes::Bytes>::new())
            .expect("a request"),
    )
    .await;
    fn sum(value: &serde_json::Value) -> u64 {
        match value {
            serde_json::Value::Object(map) => map
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "in_flight" => value.as_u64().expect("a number"),
                    _ => sum(value),
                })
                .sum(),
            serde_json::Value::Array(list) => list.iter().map(sum).sum(),
            _ => 0,
        }
    }
    assert!(response.text().contains("\"in_flight\""), "{}", response.text());
    sum(&serde_json::from_str(response.text()).expect("JSON"))
}

#[tokio::test]
async fn where_no_upstream_can_answer_the_proxy_does() {
    let full = Full::start().await;
    let silent = silent().await;
    let closing = Upstream::canned(b"").await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {silent} }}
services:
  none: {{ endpoints: [] }}
  gone: {{ endpoints: [\"127.0.0.1:1\"] }}
  full: {{ endpoints: [\"{full}\"], policy: {{ timeout: {{ connect: 50ms }} }} }}
  slow: {{ endpoints: [\"127.0.0.1:{silent}\"], policy: {{ timeout: 100ms }} }}
  closing: {{ endpoints: [\"{closing}\"] }}
  tcp: {{ endpoints: [\"127.0.0.1:{silent}\"], protocol: tcp }}
  unresolved: {{ endpoints: [\"nowhere.invalid:80\"] }}
",
        silent = silent.address.port(),
        closing = closing.address,
        full = full.address,
    ))
    .await;
    let itself = format!("127.0.0.1:{}", proxy.outbound().port());
    for (host, status, reason, flag) in [
        ("none", 503, "no_endpoint", "UH"),
        ("gone", 503, "connect_refused", "UF"),
        ("full", 503, "connect_timeout", "UF"),
        ("slow", 504, "request_timeout", "UT"),
        ("closing", 503, "upstream_reset", "UC"),
        ("tcp", 502, "not_http", "UH"),
        ("unresolved", 503, "name_unresolved", "UF"),
        ("nowhere.invalid", 503, "name_unresolved", "UF"),
        (&itself, 508, "loop", "NR"),
    ] {
        let answer = client::get_from(proxy.outbound(), host, "/").await;
        assert_told(&proxy, &answer, status, reason, flag).await;
        // The same answer over HTTP/2.
        let request = Request::get(format!("http://{host}/")).body(Empty::<bytes::Bytes>::new());
        let answer = client::send2(proxy.outbound(), request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.reason()), (status, reason));
    }
    assert_eq!(in_flight(&proxy).await, 0);

    let gateway = Proxy::start(
        "inbound: { listen: \"127.0.0.1:0\", routes: [ { match: { path: /only }, respond: { status: 204 } } ] }
outbound: { listen: \"127.0.0.1:0\", unknown: reject }
",
    )
    .await;
    let answer = client::get(gateway.inbound(), "/other").await;
    assert_told(&gateway, &answer, 404, "no_route", "NR").await;
    let answer = client::get_from(gateway.outbound(), "other", "/").await;
    assert_told(&gateway, &answer, 404, "unknown_host", "NR").await;
}

#[tokio::test]
async fn what_is_too_large_or_too_much_is_refused() {
    let app = Upstream::echo().await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", policy: {{ max_body: 10 }} }}\n\
         limits: {{ max_head: 4KiB, max_headers: 20 }}\n",
        app.address.port()
    ))
    .await;
    let answer = client::post(proxy.inbound(), "app", "/", vec![0; 10]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 10));
    let answer = client::post(proxy.inbound(), "app", "/", vec![0; 11]).await;
    assert_told(&proxy, &answer, 413, "body_too_large", "DPE").await;
    assert_eq!(app.seen().len(), 1, "not a byte of it went on");
    // Of unknown length: when it is seen. What went on before is no whole message.
    let head = "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = client::exchange(
        proxy.inbound(),
        format!("{head}6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    let request = Request::post("http://app/");
    let body = support::upstream::with_trailers("more than ten bytes", http::HeaderMap::new());
    let answer = client::send2(proxy.inbound(), request.body(body).expect("a request")).await;
    assert_eq!(answer.expect("an answer").status, 413);
    eventually(|| async { (in_flight(&proxy).await == 0).then_some(()) }).await;
    for seen in &app.seen()[1..] {
        assert_eq!(seen.body, "<broken>");
    }

    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "x".repeat(5000));
    let answer = client::exchange(proxy.inbound(), large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"), "{answer}");
    assert_logged(&proxy, 431, "head_too_large", "DPE").await;
}

#[tokio::test]
async fn more_requests_than_the_limit_are_shed_and_the_held_one_is_not() {
    let (release, _) = tokio::sync::watch::channel(false);
    let held = release.clone();
    let app = Upstream::http(move |_| {
        let mut held = held.subscribe();
        async move {
            let _ = held.wait_for(|released| *released).await;
            http::Response::new(support::upstream::body("held"))
        }
    })
    .await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\nlimits: {{ max_requests: 1 }}\n",
        app.address.port()
    ))
    .await;
    let mut first = Raw::connect(proxy.inbound()).await;
    first.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    eventually(|| async { (app.seen().len() == 1).then_some(()) }).await;
    let answer = client::get(proxy.inbound(), "/").await;
    assert_told(&proxy, &answer, 503, "overload", "UO").await;
    release.send_replace(true);
    assert!(first.until("held").await.starts_with("HTTP/1.1 200 "));
    eventually(|| async {
        let answer = client::get(proxy.inbound(), "/").await;
        (answer.text() == "held").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stands_still_is_cut_in_both_directions() {
    let app = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.starts_with(b"GET") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", policy: {{ timeout: {{ stream_idle: 100ms }} }} }}\n",
        app.address.port()
    ))
    .await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert_logged(&proxy, 200, "stream_idle_timeout", "SI").await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    let answer = raw.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_body_timeout"),
        "{answer}"
    );
    assert_logged(&proxy, 408, "request_body_timeout", "SI").await;
}

/// The request timeout is of the answer's head, and grows with no upload: what moves is not cut.
#[tokio::test]
async fn a_long_upload_or_download_that_moves_is_not_timed_out() {
    let app = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.starts_with(b"POST") {
            let mut body = [0; 8];
            let _ = stream.read_exact(&mut body).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").await;
        for byte in b"12345678" {
            // Time is what this is about: longer than the timeout in all.
            tokio::time::sleep(Duration::from_millis(40)).await;
            let _ = stream.write_all(&[*byte]).await;
        }
    })
    .await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", policy: {{ timeout: 200ms }} }}\n",
        app.address.port()
    ))
    .await;
    assert_eq!(client::get(proxy.inbound(), "/").await.text(), "12345678");
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").await;
    for byte in b"12345678" {
        tokio::time::sleep(Duration::from_millis(40)).await;
        raw.send([*byte]).await;
    }
    assert!(raw.until("done").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_everything_at_once() {
    for protocol in ["http1", "http2"] {
        let (closed, mut closes) = tokio::sync::mpsc::unbounded_channel();
        let app = Upstream::http(move |seen| {
            let guard = Closing(closed.clone());
            async move {
                if seen.uri.path() == "/begun" {
                    return http::Response::new(support::upstream::endless("part", guard));
                }
                let _guard = guard;
                std::future::pending().await
            }
        })
        .await;
        let proxy = Proxy::start(&format!(
            "service: {{ name: app, port: {}, protocol: {protocol} }}\n",
            app.address.port()
        ))
        .await;
        for (index, path) in ["/waiting", "/begun"].into_iter().enumerate() {
            let mut raw = Raw::connect(proxy.inbound()).await;
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            match path {
                "/begun" => drop(raw.until("part").await),
                _ => {
                    eventually(|| async { (app.seen().len() == 2 * index + 1).then_some(()) }).await
                }
            }
            assert_eq!(in_flight(&proxy).await, 1);
            drop(raw);
            within(closes.recv()).await;
            eventually(|| async { (in_flight(&proxy).await == 0).then_some(()) }).await;

            let mut sender = client::http2(proxy.inbound()).await;
            let request = Request::builder().method(Method::GET).uri(format!("http://a{path}"));
            let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
            let response = tokio::spawn(sender.send_request(request));
            eventually(|| async { (app.seen().len() == 2 * index + 2).then_some(()) }).await;
            // One stream of the connection, which goes on.
            match path {
                "/begun" => drop(within(response).await.expect("a task").expect("an answer")),
                _ => response.abort(),
            }
            within(closes.recv()).await;
            eventually(|| async { (in_flight(&proxy).await == 0).then_some(()) }).await;
            assert!(!sender.is_closed());
        }
        for line in proxy.log(4).await {
            assert_eq!(line["response_flags"], "DC", "{line}");
            assert_eq!(line["response_code_details"], "client_gone", "{line}");
        }
        let open = "pilotfish_requests_in_flight{direction=\"inbound\"}";
        assert_eq!(proxy.metric(open).await, 0.0);
    }
}

/// Tells when the upstream has let go of a request.
struct Closing(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
