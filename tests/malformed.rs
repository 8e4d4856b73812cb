//! What breaks HTTP/1 is answered by the proxy and never reaches the upstream. The cases are named by the
//! class of attack: `F` framing, `K` chunked, `L` lines, `H` target and host, `C` connection, `T` trailers.

mod support;
#[path = "malformed/table.rs"]
mod table;

use std::collections::BTreeMap;

use support::raw::Recording;
use support::{Proxy, client, eventually, within};
use table::{Case, cases, formed, lines};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A proxy whose routes look at paths, before an app that records.
async fn proxy(app: &Recording) -> Proxy {
    Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", protocol: http, routes: \
         [ {{ match: {{ path_prefix: /nowhere }}, respond: {{ status: 204 }} }} ] }}\n",
        app.address().port()
    ))
    .await
}

/// Each case comes behind a good request on the same connection, and before another good one that
/// nobody may see any more.
#[tokio::test]
async fn what_is_malformed_never_reaches_the_upstream() {
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let cases = cases();
    let mut reasons = BTreeMap::<_, usize>::new();
    for (index, Case { name, status, reason, bytes }) in cases.iter().enumerate() {
        let good = format!("GET /good/{index} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut pipeline = [good.as_bytes(), bytes].concat();
        if reason == "bad_path" {
            // Well framed: the connection may live on, so that the case itself has to end it.
            pipeline.truncate(pipeline.len() - 2);
            pipeline.extend(b"Connection: close\r\n\r\n");
        } else {
            pipeline.extend(b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        }
        let answer = client::exchange(proxy.inbound(), &pipeline).await;
        let (first, second) = split(&answer);
        assert!(
            first.starts_with("HTTP/1.1 200 OK\r\n") && first.ends_with("ok"),
            "{name}: {answer}"
        );
        let (head, body) = second.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        let fields: Vec<_> = head.lines().collect();
        assert!(fields.contains(&&*format!("x-pilotfish-reason: {reason}")), "{name}: {answer}");
        assert!(fields.contains(&"connection: close"), "{name}: {answer}");
        assert!(body.starts_with("pilotfish: ") && body.ends_with('\n'), "{name}: {body}");
        assert_eq!(body.lines().count(), 1, "{name}: {body}");
        *reasons.entry(&**reason).or_default() += 1;
    }
    for (index, message) in app.messages().iter().enumerate() {
        let line = format!("GET /good/{index} HTTP/1.1\r\n");
        assert!(message.starts_with(&line), "{message}");
    }
    assert_eq!(app.messages().concat(), app.text(), "not a byte more");
    assert_eq!(app.messages().len(), cases.len());
    let log = proxy.log(2 * cases.len()).await;
    for (reason, count) in reasons {
        let series = format!("pilotfish_rejected_total{{reason=\"{reason}\"}}");
        assert_eq!(proxy.metric(&series).await, count as f64, "{reason}");
        let lines = log.iter().filter(|line| {
            line["response_flags"] == "DPE" && line["response_code_details"] == reason
        });
        assert_eq!(lines.count(), count, "{reason}");
    }
}

/// The first answer, which has two bytes of body, and what comes after it.
fn split(answers: &str) -> (&str, &str) {
    let head = answers.find("\r\n\r\n").map_or(0, |end| end + 4);
    answers.split_at((head + 2).min(answers.len()))
}

/// A request line of `target`, a Host, and `fields`.
fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// Odd, but one message for every parser: it goes on in the one form that is sure.
#[tokio::test]
async fn what_is_odd_but_clear_goes_on_in_its_plain_form() {
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let chunked = |coding: &str, body: &str| {
        format!("POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n{body}")
    };
    let plain = "\r\nHost: a\r\n";
    for (id, bytes, wanted, unwanted) in [
        ("F18", chunked("\tchunked", "0\r\n\r\n"), "Transfer-Encoding: chunked\r\n", "\t"),
        ("F18", chunked("chunked ", "0\r\n\r\n"), "Transfer-Encoding: chunked\r\n", "chunked \r"),
        ("F18", chunked("CHUNKED", "0\r\n\r\n"), "Transfer-Encoding: chunked\r\n", "CHUNKED"),
        (
            "F22",
            "GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".into(),
            "hello",
            "chunked",
        ),
        ("K8", chunked("chunked", "5;a=b\r\nhello\r\n0;c\r\n\r\n"), "hello", "a=b"),
        ("L5", format!("\r\n{}", get("/ok", "")), "GET /ok", "\n\r\nGET"),
        ("L13", format!("get /ok HTTP/1.1{plain}\r\n"), "get /ok HTTP/1.1\r\n", "GET"),
        ("L13", format!("PURGE /ok HTTP/1.1{plain}\r\n"), "PURGE /ok HTTP/1.1\r\n", "GET"),
        (
            "H6",
            get("http://evil.example/ok", "").replace("Host: a", "Host: good"),
            "evil.example\r\n",
            "good",
        ),
        ("H15", get("/a%0d%0aX:b", ""), "GET /a%0D%0AX:b HTTP/1.1\r\n", "\nX:b"),
        ("H18", get("/a/../b", ""), "GET /b HTTP/1.1\r\n", ".."),
        ("H18", get("/a/%2e%2e/b", ""), "GET /b HTTP/1.1\r\n", ".."),
        ("H19", get("//x", ""), "GET /x HTTP/1.1\r\n", "//x"),
        ("H22", get("/%252e%252e/b", ""), "GET /%252e%252e/b HTTP/1.1\r\n", ".."),
        ("C2", get("/ok", "Connection: X-Auth\r\nX-Auth: 1\r\n"), "GET /ok", "uth"),
        ("C7", get("/ok", "Upgrade: websocket\r\n"), "GET /ok", "pgrade"),
    ] {
        let before = app.text().len();
        let count = app.messages().len();
        let bytes = bytes.replacen("Host:", "Connection: close\r\nHost:", 1);
        let answer = client::exchange(proxy.inbound(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{id} {bytes:?}: {answer}");
        let text = &app.text()[before..];
        assert!(text.contains(wanted) && !text.contains(unwanted), "{id} {bytes:?}: {text}");
        assert_eq!(app.messages().len(), count + 1, "{id}");
    }
    // L10: bytes beyond ASCII are opaque and stay as they are.
    let odd = b"GET /ok HTTP/1.1\r\nHost: a\r\nx: \x80\xff\r\nConnection: close\r\n\r\n";
    assert!(client::exchange(proxy.inbound(), odd).await.starts_with("HTTP/1.1 200"));
    assert!(app.text().contains("x: \u{fffd}\u{fffd}\r\n"));
}

/// A body that breaks in the middle: the upstream never sees it end, the client learns why.
#[tokio::test]
async fn a_broken_chunked_body_never_ends_for_the_upstream() {
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let many: String = (0..101).map(|n| format!("t{n}: 1\r\n")).collect();
    let table = lines(include_str!("malformed/chunked.txt"))
        .map(|(line, words, bytes)| (line.to_owned(), words[1].to_owned(), bytes));
    let mut cases: Vec<_> = table.collect();
    for (id, reason, bytes) in [
        ("K10", "chunk_extension_too_long", format!("5;{}\r\n", "x".repeat(20_000))),
        ("T4", "trailers_too_large", format!("0\r\n{many}\r\n")),
        ("T4", "trailers_too_large", format!("0\r\nt: {}\r\n\r\n", "x".repeat(17_000))),
    ] {
        cases.push((id.to_owned(), reason.to_owned(), bytes.into()));
    }
    for (name, reason, body) in &cases {
        let head = b"POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = [&head[..], b"3\r\nabc\r\n", body].concat();
        let answer = client::exchange(proxy.inbound(), &bytes).await;
        let fields: Vec<_> = answer.lines().collect();
        assert!(fields[0].starts_with("HTTP/1.1 400 "), "{name}: {answer}");
        assert!(fields.contains(&&*format!("x-pilotfish-reason: {reason}")), "{name}: {answer}");
        assert!(fields.contains(&"connection: close"), "{name}: {answer}");
    }
    let log = proxy.log(cases.len()).await;
    assert!(log.iter().all(|line| line["response_flags"] == "DPE"), "{log:?}");
    assert_eq!(app.messages(), [""; 0], "no message was complete");

    // K16 and F: the client goes away in the middle of a body.
    for bytes in [
        "POST /gone HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nhe",
        "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
    ] {
        let mut stream = TcpStream::connect(proxy.inbound()).await.expect("a connection");
        stream.write_all(bytes.as_bytes()).await.expect("it is read");
        let before = app.text().matches("abc").count();
        eventually(|| async { (app.text().matches("abc").count() > before).then_some(()) }).await;
        drop(stream);
    }
    let log = proxy.log(cases.len() + 2).await;
    assert_eq!(log.len(), cases.len() + 2);
    assert_eq!(app.messages(), [""; 0], "no message was complete");
}

/// K17: a hundred thousand chunks of one byte are one body, and not a hundred thousand writes.
#[tokio::test]
async fn many_small_chunks_arrive_as_one_body() {
    const CHUNKS: usize = 100_000;
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let mut bytes = b"POST /many HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bytes.extend(b"1\r\na\r\n".repeat(CHUNKS));
    bytes.extend(b"0\r\n\r\n");
    let answer = client::exchange(proxy.inbound(), &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let body = app.messages()[0].split_once("\r\n\r\n").expect("a body").1.to_owned();
    assert_eq!(body.matches('a').count(), CHUNKS);
}

/// A head that never ends is answered when its time is up, and silence is not.
#[tokio::test]
async fn a_slow_head_is_answered_and_silence_is_closed() {
    let app = Recording::start().await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", protocol: http }}\n\
         limits: {{ header_timeout: 100ms, detect_timeout: 100ms, idle_timeout: 100ms }}\n",
        app.address().port()
    ))
    .await;
    let answer = client::exchange(proxy.inbound(), b"GET /slow HTTP/1.1\r\nHost: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("x-pilotfish-reason: header_timeout\r\n"), "{answer}");
    assert_eq!(client::exchange(proxy.inbound(), b"").await, "");
    // Idle after a request: closed without a word.
    let answer = client::exchange(proxy.inbound(), &formed("target", b"/ok")).await;
    assert!(answer.ends_with("ok") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    // HTTP/2 without its first frame of settings, and without a request.
    let mut stream = TcpStream::connect(proxy.inbound()).await.expect("a connection");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is read");
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert_eq!(app.messages().len(), 1);
}
