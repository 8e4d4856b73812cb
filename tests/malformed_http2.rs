//! What breaks HTTP/2 never reaches an upstream of HTTP/1, and what is odd arrives in its one clear form.

mod support;

use http::{Request, Version};
use support::raw::{self, Fate, Recording};
use support::{Proxy, within};
use tokio::net::TcpStream;

async fn proxy(app: &Recording) -> Proxy {
    Proxy::start(&format!("service: {{ name: app, port: {} }}\n", app.address().port())).await
}

const H2: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/bad")];

fn with(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&H2[..], fields].concat()
}

/// The usual pseudo-header fields with another value for one of them.
fn but(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    H2.map(|(known, usual)| (known, if known == name { value } else { usual })).to_vec()
}

#[tokio::test]
async fn what_is_malformed_in_http2_never_reaches_the_upstream() {
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let no_authority: Vec<_> = H2.into_iter().filter(|(name, _)| *name != ":authority").collect();
    let two_hosts = with(&[("host", "a"), ("host", "b")]);
    let heads = [
        ("D1", with(&[("transfer-encoding", "chunked")])),
        ("D1", with(&[("connection", "x")])),
        ("D1", with(&[("keep-alive", "timeout=5")])),
        ("D1", with(&[("proxy-connection", "close")])),
        ("D1", with(&[("upgrade", "websocket")])),
        ("D1", with(&[("te", "gzip")])),
        ("D3", with(&[("content-length", "5"), ("content-length", "6")])),
        ("D3", with(&[("content-length", "5, 6")])),
        ("D3", with(&[("content-length", "+6")])),
        ("D5", with(&[("x", "a\r\nb: c")])),
        ("D5", with(&[("x", "a\0b")])),
        ("D5", with(&[("x\r\n", "a")])),
        ("D5", with(&[("x:y", "a")])),
        ("D5", with(&[("x y", "a")])),
        ("D5", with(&[("X", "a")])),
        ("D5", with(&[("", "a")])),
        ("D7", but(":path", "/a\r\nx: y")),
        ("D7", but(":path", "/a b")),
        ("D7", but(":path", "bad")),
        ("D7", but(":path", "http://a/bad")),
        ("D7", but(":path", "")),
        ("D8", but(":path", "*")),
        ("D9", but(":method", "G\r\nT")),
        ("D9", but(":method", "G\tT")),
        ("D10", but(":scheme", "h t")),
        ("D11", but(":authority", "u@a")),
        ("D11", but(":authority", "a/b")),
        ("D12", no_authority.clone()),
        ("D12", two_hosts),
        ("D14", with(&[(":unknown", "x")])),
        ("D14", with(&[(":path", "/twice")])),
        ("D14", [&[("x", "y")][..], &H2].concat()),
        ("D17", vec![(":method", "CONNECT"), (":authority", "a:80")]),
        ("D17", but(":method", "CONNECT")),
    ];
    for (id, fields) in heads {
        let end = raw::END_HEADERS | raw::END_STREAM;
        let frames = [raw::frame(raw::HEADERS, end, 1, &raw::block(&fields))];
        let fate = raw::fate(proxy.inbound(), &frames).await;
        let refused = matches!(fate, Fate::Reset | Fate::GoneAway | Fate::Answered(400 | 405));
        assert!(refused, "{id} {fields:?}: {fate:?}");
    }
    assert_eq!(app.text(), "");

    // D2, D16: it breaks after its head, so the upstream may see a beginning, never an end.
    let head = |fields: &[(&'static str, &'static str)]| {
        let mut fields = with(fields);
        fields[0].1 = "POST";
        raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &raw::block(&fields))
    };
    let data = |flags| raw::frame(raw::DATA, flags, 1, b"hello");
    let trailers = |name, value| {
        let end = raw::END_HEADERS | raw::END_STREAM;
        raw::frame(raw::HEADERS, end, 1, &raw::block(&[(name, value)]))
    };
    for (id, frames) in [
        ("D2", vec![head(&[("content-length", "9")]), data(raw::END_STREAM)]),
        ("D2", vec![head(&[("content-length", "3")]), data(raw::END_STREAM)]),
        ("D16", vec![head(&[]), data(0), trailers("transfer-encoding", "chunked")]),
    ] {
        let fate = raw::fate(proxy.inbound(), &frames).await;
        let refused = matches!(fate, Fate::Reset | Fate::GoneAway | Fate::Answered(400));
        assert!(refused, "{id}: {fate:?}");
    }
    assert_eq!(app.messages(), [""; 0], "no message was complete");
}

#[tokio::test]
async fn what_is_odd_in_http2_goes_on_in_its_http1_form() {
    let app = Recording::start().await;
    let proxy = proxy(&app).await;
    let (sender, connection) =
        h2::client::handshake(TcpStream::connect(proxy.inbound()).await.expect("a connection"))
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    let mut sender = within(sender.ready()).await.expect("a stream");
    let request = Request::get("http://chosen.example/ok")
        .version(Version::HTTP_2)
        .header("host", "other.example")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("expect", "100-continue")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut body) = sender.send_request(request, false).expect("it is sent");
    body.send_data("hel".into(), false).expect("data");
    body.send_data("lo".into(), true).expect("data");
    let response = within(response).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let messages = app.messages();
    assert_eq!(messages.len(), 1);
    let lower = messages[0].to_ascii_lowercase();
    let lines: Vec<_> = lower.split("\r\n").collect();
    let has = |line: &str| assert!(lines.contains(&line), "{line}: {lower}");
    has("get /ok http/1.1");
    has("host: chosen.example"); // D11
    has("transfer-encoding: chunked"); // D18
    has("cookie: a=1; b=2"); // D19
    assert!(!lower.contains("expect") && !lower.contains("other.example"), "{lower}"); // D20
    let body = lower.split_once("\r\n\r\n").expect("a body").1;
    assert!(body.contains("hel") && body.contains("lo") && body.ends_with("0\r\n\r\n"), "{body}");

    // D8: what follows a `#` belongs to the client alone.
    let fields = but(":path", "/ok#part");
    let end = raw::END_HEADERS | raw::END_STREAM;
    let frames = [raw::frame(raw::HEADERS, end, 1, &raw::block(&fields))];
    let fate = raw::fate(proxy.inbound(), &frames).await;
    assert_eq!(fate, Fate::Answered(200));
    assert!(app.messages()[1].starts_with("GET /ok HTTP/1.1\r\n"));

    // D15: h2 overlooks a pseudo-header field in trailers; it must not go on.
    let head = raw::block(&but(":method", "POST"));
    let frames = [
        raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &head),
        raw::frame(raw::DATA, 0, 1, b"hello"),
        raw::frame(raw::HEADERS, end, 1, &raw::block(&[(":path", "/other")])),
    ];
    raw::fate(proxy.inbound(), &frames).await;
    assert!(!app.text().contains("other\r\n"), "{}", app.text());
    let before = app.messages().len();

    // D21: a list of fields that is longer than the limit.
    let mut many = H2.to_vec();
    let long = "x".repeat(120);
    many.extend((0..700).map(|_| ("x-field", &*long)));
    let block = raw::block(&many);
    let mut frames = Vec::new();
    for (index, part) in block.chunks(16_000).enumerate() {
        let last = (index + 1) * 16_000 >= block.len();
        let kind = if index == 0 { raw::HEADERS } else { raw::CONTINUATION };
        let begin = if index == 0 { raw::END_STREAM } else { 0 };
        let flags = begin | if last { raw::END_HEADERS } else { 0 };
        frames.push(raw::frame(kind, flags, 1, part));
    }
    let fate = raw::fate(proxy.inbound(), &frames).await;
    assert_eq!(fate, Fate::Answered(431));
    assert_eq!(app.messages().len(), before);
}
