//! Answers of upstreams that break HTTP, break off, or carry what an answer must not carry.

mod support;

use http::Request;
use http_body_util::Empty;
use support::client::{self, Raw};
use support::upstream::{Upstream, read_head};
use support::{Proxy, eventually};
use tokio::io::AsyncWriteExt;

async fn before(app: &Upstream) -> Proxy {
    Proxy::start(&format!(
        "service: {{ name: app, port: {}, protocol: http1 }}\nruntime: {{ workers: 1 }}\n",
        app.address.port()
    ))
    .await
}

#[tokio::test]
async fn what_breaks_http_becomes_a_502() {
    let answers: [&'static [u8]; 19] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", // R1
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: foo\r\n\r\nab", // R3
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", // R8
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",                          // R7
        b"HTTP/1.1 200 OK\r\nx : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        b"HTTP/1.1 1000 Much\r\n\r\n",
        b"HTTP/1.1 099 Little\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nSECRET", // C10
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    ];
    for answer in answers {
        let app = Upstream::canned(answer).await;
        let proxy = before(&app).await;
        let text = String::from_utf8_lossy(answer);
        for _ in 0..2 {
            let request = Request::get("http://app/").header("host", "app");
            let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
            let got = client::send(proxy.inbound(), request).await;
            assert_eq!((got.status.as_u16(), got.reason()), (502, "bad_response"), "{text:?}");
            assert_eq!(got.text().lines().count(), 1, "{text:?}");
        }
        assert_eq!(app.connections(), 2, "none is used again: {text:?}");
        let line = &proxy.log(1).await[0];
        assert_eq!(line["response_flags"], "UR", "{text:?}");
        let series = "pilotfish_rejected_total{reason=\"bad_response\"}";
        assert_eq!(proxy.metric(series).await, 2.0, "{text:?}");
    }
    // Not a word: it closed, which is no bad answer but none.
    for answer in [&b""[..], b"HTTP/1.1 20"] {
        let app = Upstream::canned(answer).await;
        let proxy = before(&app).await;
        let got = client::get(proxy.inbound(), "/").await;
        assert_eq!((got.status.as_u16(), got.reason()), (503, "upstream_reset"), "{answer:?}");
        assert_eq!(app.connections(), 1, "it may have been processed");
        assert_eq!(proxy.log(1).await[0]["response_flags"], "UC");
    }
}

/// R6: what breaks off is never complete for the client.
#[tokio::test]
async fn a_truncated_body_is_an_error_for_the_client() {
    let answers: [&'static [u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
    ];
    for answer in answers {
        let app = Upstream::canned(answer).await;
        let proxy = before(&app).await;
        let text = String::from_utf8_lossy(answer);
        let mut raw = Raw::connect(proxy.inbound()).await;
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let got = raw.rest().await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{text:?}: {got}");
        let body = got.split_once("\r\n\r\n").expect("a body").1;
        let whole = got.contains("content-length: 3\r\n") || body.ends_with("0\r\n\r\n");
        assert!(!whole && body.contains("abc"), "{text:?}: {got}");
        let request = Request::get("http://a/").body(Empty::<bytes::Bytes>::new());
        let got = client::send2(proxy.inbound(), request.expect("a request")).await;
        assert!(got.is_err(), "{text:?}: {got:?}");
        for line in proxy.log(2).await {
            assert_eq!(line["response_flags"], "UC", "{text:?}");
            assert_eq!(line["response_code_details"], "upstream_reset_in_response", "{text:?}");
        }
    }
}

/// R4: an answer that has no body ends with its head, and what an upstream sends behind it is no answer
/// to anybody.
#[tokio::test]
async fn an_answer_without_a_body_cannot_smuggle_another() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let app = Upstream::raw(|mut stream| async move {
        loop {
            let head = String::from_utf8(read_head(&mut stream).await).expect("text");
            let head = match head.split(' ').nth(1) {
                None => return,
                Some("/204") => "HTTP/1.1 204 No Content\r\ncontent-length: 46\r\n\r\n",
                Some("/304") => {
                    "HTTP/1.1 304 Not Modified\r\ncontent-length: 46\r\netag: \"1\"\r\n\r\n"
                }
                Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 46\r\n\r\n",
                Some("/more") => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                Some(_) => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
            };
            let evil = if head.ends_with("good") { "" } else { EVIL };
            let _ = stream.write_all(format!("{head}{evil}").as_bytes()).await;
        }
    })
    .await;
    let proxy = before(&app).await;
    for round in 0..20 {
        for (method, path, status) in [
            ("GET", "/204", 204),
            ("GET", "/304", 304),
            ("HEAD", "/head", 200),
            ("GET", "/more", 200),
        ] {
            let mut raw = Raw::connect(proxy.inbound()).await;
            raw.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
            let head = raw.head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            if method == "HEAD" {
                assert!(head.contains("content-length: 46\r\n"), "{head}");
            }
            let rest = raw.rest().await;
            let rest =
                if path == "/more" { rest.strip_prefix("ok").expect("its body") } else { &rest };
            assert!(
                rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\ngood"),
                "{round} {path}: {rest}"
            );
            // The same for a client of HTTP/2.
            let request = Request::builder().method(method).uri(format!("http://a{path}"));
            let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
            let got = client::send2(proxy.inbound(), request).await.expect("an answer");
            assert_eq!(
                (got.status.as_u16(), got.text()),
                (status, if path == "/more" { "ok" } else { "" })
            );
            let got = client::get(proxy.inbound(), "/good").await;
            assert_eq!(got.text(), "good", "{round} {path}");
        }
    }
}

/// C15, and an answer that comes while the body is on its way: it is forwarded, and the upstream
/// connection, on which an unfinished request stands, ends.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_passed_on() {
    let (closed, mut closes) = tokio::sync::mpsc::unbounded_channel();
    let app = Upstream::raw(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nless";
            let _ = stream.write_all(answer).await;
            let mut rest = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
            closed.send(()).expect("the test waits");
        }
    })
    .await;
    let proxy = before(&app).await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello").await;
    let answer = raw.until("less").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // The client sends no more, and waits: neither side is kept for it.
    support::within(closes.recv()).await;
    assert_eq!(raw.rest().await, "");
    let series = "pilotfish_connections_open{direction=\"inbound\"}";
    eventually(|| async { (proxy.metric(series).await == 0.0).then_some(()) }).await;
}
