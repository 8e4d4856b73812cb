//! Interim answers: `100 Continue` and what a body waits for, and hints.

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use support::client::Raw;
use support::upstream::{Upstream, read_head};
use support::{Proxy, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A proxy before `app`, which speaks HTTP/1.
async fn before(app: &Upstream) -> Proxy {
    Proxy::start(&format!(
        "service: {{ name: app, port: {}, protocol: http1 }}\n",
        app.address.port()
    ))
    .await
}

#[tokio::test]
async fn expect_100_continue_is_the_upstreams_to_answer() {
    // Each head, and what came behind it, up to the answer or, refused, up to the close.
    type Heads = Arc<Mutex<Vec<(String, Vec<u8>)>>>;
    let seen: Heads = Arc::default();
    let record = seen.clone();
    let app = Upstream::raw(move |mut stream| {
        let record = record.clone();
        async move {
            loop {
                let head = String::from_utf8(read_head(&mut stream).await).expect("text");
                let mut body = vec![0; 5];
                if head.starts_with("POST /no") {
                    let answer = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
                    let _ = stream.write_all(answer).await;
                    body.clear();
                    let _ = stream.read_to_end(&mut body).await;
                } else {
                    if head.starts_with("POST /yes") {
                        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                    }
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                }
                record.lock().unwrap().push((head.to_ascii_lowercase(), body));
            }
        }
    })
    .await;
    let proxy = before(&app).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    // An upstream that says it, and one that never does: then a second is enough.
    for path in ["/yes", "/silent"] {
        let mut raw = Raw::connect(proxy.inbound()).await;
        raw.send(head(path)).await;
        assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send("hello").await;
        assert!(raw.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // Refused: the body never goes there, and nobody can tell what comes next from this client.
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send(head("/no")).await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 417 ") && answer.ends_with("no"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    let seen = eventually(|| async {
        let seen = seen.lock().unwrap().clone();
        (seen.len() == 3).then_some(seen)
    })
    .await;
    for ((head, body), expected) in seen.iter().zip(["hello", "hello", ""]) {
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "nothing before it is wanted: {head}");
        assert_eq!(body, expected.as_bytes(), "{head}");
    }
    let log = proxy.log(3).await;
    assert!(log.iter().any(|line| line["response_code"] == 417), "{log:?}");
}

#[tokio::test]
async fn hints_go_to_a_client_that_knows_them() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    let app = Upstream::raw(|mut stream| async move {
        loop {
            if read_head(&mut stream).await.is_empty() {
                return;
            }
            let mut answer = HINT.replace("link", "connection: x-hop\r\nx-hop: 1\r\nlink");
            answer.push_str(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(50));
            answer.push_str("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let proxy = before(&app).await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = raw.until("ok").await;
        assert!(answer.starts_with(HINT), "{answer}");
        assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{answer}");
        // C16: the rest of so many is dropped.
        assert!(answer.matches("HTTP/1.1 102 ").count() < 25, "{answer}");
    }
    // HTTP/2 has no way for them here, and loses nothing else.
    let request = Request::get("http://a/").body(Empty::<Bytes>::new()).expect("a request");
    let answer = client::send2(proxy.inbound(), request).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
}
