//! Interim answers: `100 Continue` and what a body waits for, and hints.

mod support;

use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use support::client::Raw;
use support::upstream::{Upstream, read_head};
use support::{Proxy, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    let (hints, status) = ask2(&proxy).await;
    assert!((1..25).contains(&hints.len()), "{hints:?}");
    assert_eq!((hints[0].status().as_u16(), status.as_u16()), (103, 200));
    assert_eq!(hints[0].headers()["link"], "</a.css>; rel=preload");
    assert!(!hints[0].headers().contains_key("x-hop"));
}

/// The interim answers and the status that a client of HTTP/2 gets.
async fn ask2(proxy: &Proxy) -> (Vec<Response<()>>, StatusCode) {
    let stream = TcpStream::connect(proxy.inbound()).await.expect("a proxy");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("http://a/").body(()).expect("a request");
    let (mut response, _) = sender.send_request(request, true).expect("sent");
    let mut hints = Vec::new();
    while let Some(hint) = within(poll_fn(|cx| response.poll_informational(cx))).await {
        hints.push(hint.expect("a hint"));
    }
    (hints, within(response).await.expect("an answer").status())
}

#[tokio::test]
async fn hints_of_http2_go_on_and_a_101_of_it_does_not() {
    let app = Upstream::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("a handshake");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let wrong = request.uri().path() == "/wrong";
            for status in if wrong { [101, 103] } else { [100, 103] } {
                let hint = Response::builder().status(status).header("link", "</a.css>");
                respond.send_informational(hint.body(()).expect("a hint")).expect("sent");
            }
            respond.send_response(Response::new(()), true).expect("sent");
        }
    })
    .await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {}, protocol: http2 }}\n",
        app.address.port()
    ))
    .await;
    let (hints, status) = ask2(&proxy).await;
    assert_eq!(hints.iter().map(|hint| hint.status().as_u16()).collect::<Vec<_>>(), [103]);
    assert_eq!((&hints[0].headers()["link"], status.as_u16()), (&"</a.css>".parse().unwrap(), 200));
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hint = raw.head().await;
    assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw.send("GET /wrong HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
