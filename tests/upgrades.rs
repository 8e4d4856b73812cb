//! What becomes a tunnel: WebSockets and other upgrades in all combinations of versions, and `CONNECT`.

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha1::{Digest, Sha1};
use support::client::{self, Raw};
use support::upstream::{Body, Upstream, body, read_head};
use support::{Proxy, eventually, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Sends back what comes, until the client's end; then says so, and ends as well.
async fn echo(io: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(io);
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = read.read(&mut buffer).await {
        let _ = write.write_all(&buffer[..n]).await;
        let _ = write.flush().await;
    }
    let _ = write.write_all(b"bye").await;
    let _ = write.shutdown().await;
}

async fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/refused" {
        let mut refusal = Response::new(body("not here"));
        *refusal.status_mut() = http::StatusCode::FORBIDDEN;
        return refusal;
    }
    let mut response = Response::new(body(""));
    let headers = request.headers();
    if request.version() == Version::HTTP_2 {
        assert_eq!(request.method(), Method::CONNECT);
        let protocol = request.extensions().get::<Protocol>().expect("a protocol");
        assert_eq!(protocol.as_str(), "websocket");
        assert_eq!(request.uri().path(), "/chat");
    } else {
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/chat"));
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["sec-websocket-version"], "13");
        let accept = Sha1::new()
            .chain_update(&headers["sec-websocket-key"])
            .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
            .finalize();
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", &*BASE64.encode(accept)),
        ] {
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
    }
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    response.headers_mut().insert("sec-websocket-protocol", "chat".parse().expect("a value"));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move { echo(TokioIo::new(upgraded.await.expect("an upgrade"))).await });
    response
}

/// Takes WebSockets over HTTP/1 and HTTP/2.
async fn websockets() -> Upstream {
    Upstream::serve(Default::default(), |stream| async {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().enable_connect_protocol();
        let service = service_fn(|request| async {
            Ok::<_, std::convert::Infallible>(upgrade(request).await)
        });
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    })
    .await
}

/// Bytes there and back, then an end that is kept apart from the other direction's.
async fn talk(io: impl AsyncRead + AsyncWrite) {
    within(async {
        let (mut read, mut write) = tokio::io::split(io);
        for text in ["hello", "\u{0}\r\n\r\nGET / HTTP/1.1\r\n\r\n"] {
            write.write_all(text.as_bytes()).await.expect("it is taken");
            write.flush().await.expect("it is taken");
            let mut back = vec![0; text.len()];
            read.read_exact(&mut back).await.expect("an echo");
            assert_eq!(back, text.as_bytes());
        }
        write.shutdown().await.expect("it is told");
        let mut last = String::new();
        read.read_to_string(&mut last).await.expect("the rest");
        assert_eq!(last, "bye");
    })
    .await;
}

fn ask(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: app\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

fn extended_connect(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::connect(format!("http://app{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    request.body(Empty::new()).expect("a request")
}

#[tokio::test]
async fn a_websocket_passes_in_every_combination_of_versions() {
    let app = websockets().await;
    for protocol in ["http1", "http2"] {
        let proxy = Proxy::start(&format!(
            "service: {{ name: app, port: {}, protocol: {protocol} }}\n",
            app.address.port()
        ))
        .await;
        let mut raw = Raw::connect(proxy.inbound()).await;
        raw.send(ask("/chat")).await;
        let head = raw.head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{protocol}: {head}");
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat"] {
            assert!(head.lines().any(|found| found == line), "{protocol} {line}: {head}");
        }
        let accept = format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase());
        assert_eq!(head.matches(&accept).count(), 1, "{protocol}: {head}");
        talk(raw.stream).await;

        let mut sender = client::http2(proxy.inbound()).await;
        let response =
            within(sender.send_request(extended_connect("/chat"))).await.expect("an answer");
        assert_eq!(response.status(), 200, "{protocol}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for name in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let upgraded = within(hyper::upgrade::on(response)).await.expect("an upgrade");
        talk(TokioIo::new(upgraded)).await;

        for line in proxy.log(2).await {
            let sizes = [&line["bytes_received"], &line["bytes_sent"]];
            assert_eq!(sizes, [28, 31], "{line}");
            assert_eq!(line["response_flags"], "-", "{line}");
        }
        let clusters = "pilotfish_requests_in_flight{direction=\"inbound\"}";
        assert_eq!(proxy.metric(clusters).await, 0.0);
    }
}

/// C5, C9: until the upstream agrees there is no tunnel, and what waits behind is a request.
#[tokio::test]
async fn a_refused_upgrade_is_a_plain_answer_and_the_connection_goes_on() {
    let app = websockets().await;
    let plain = Upstream::named("plain").await;
    for protocol in ["http1", "http2"] {
        let proxy = Proxy::start(&format!(
            "service: {{ name: app, port: {}, protocol: {protocol} }}\n",
            app.address.port()
        ))
        .await;
        let mut raw = Raw::connect(proxy.inbound()).await;
        raw.send(ask("/refused").repeat(2)).await;
        for _ in 0..2 {
            let answer = raw.until("not here").await;
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{protocol}: {answer}");
        }
        raw.send(ask("/chat")).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 101 "), "{protocol}");
        talk(raw.stream).await;

        let mut sender = client::http2(proxy.inbound()).await;
        for _ in 0..2 {
            let response =
                within(sender.send_request(extended_connect("/refused"))).await.expect("an answer");
            let answer = client::read(response).await.expect("a body");
            assert_eq!((answer.status.as_u16(), answer.text()), (403, "not here"), "{protocol}");
        }
    }
    let proxy =
        Proxy::start(&format!("service: {{ name: app, port: {} }}\n", plain.address.port())).await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send(ask("/chat").repeat(2)).await;
    for _ in 0..2 {
        let answer = raw.until("plain").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("upgrade"), "{answer}");
    }
    // On HTTP/2 a success would be the tunnel.
    let mut sender = client::http2(proxy.inbound()).await;
    let response = within(sender.send_request(extended_connect("/chat"))).await.expect("an answer");
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn any_other_protocol_passes_on_http1_with_what_came_early() {
    let app = Upstream::raw(|mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).expect("text");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("\r\nupgrade: foo/2\r\n"), "{head}");
        // The first words of the new protocol come in one piece with the consent.
        let consent = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\n\r\nwelcome";
        let _ = stream.write_all(consent).await;
        echo(stream).await;
    })
    .await;
    let proxy =
        Proxy::start(&format!("service: {{ name: app, port: {} }}\n", app.address.port())).await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo/2\r\n\r\nearly")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    raw.until("welcome").await;
    raw.until("early").await;
    talk(raw.stream).await;
}

#[tokio::test]
async fn connect_leads_to_a_service_or_a_host_outbound_and_nowhere_inbound() {
    let server = Upstream::raw(echo).await;
    let yaml = format!(
        "service: {{ name: app, port: {} }}\nservices:\n  echo: {{ endpoints: [\"{}\"], protocol: tcp }}\n",
        server.address.port(),
        server.address
    );
    let proxy = Proxy::start(&yaml).await;
    for host in ["echo:443".to_owned(), server.address.to_string()] {
        let mut raw = Raw::connect(proxy.outbound()).await;
        raw.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        talk(raw.stream).await;

        let mut sender = client::http2(proxy.outbound()).await;
        let request = Request::connect(&host).body(Empty::<Bytes>::new()).expect("a request");
        let response = within(sender.send_request(request)).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let upgraded = within(hyper::upgrade::on(response)).await.expect("a tunnel");
        talk(TokioIo::new(upgraded)).await;
    }
    let log = proxy.log(4).await;
    assert!(
        log.iter().all(|line| line["method"] == "CONNECT" && line["bytes_sent"] == 31),
        "{log:?}"
    );

    let answer = client::exchange(
        proxy.inbound(),
        b"CONNECT echo:443 HTTP/1.1\r\nHost: echo:443\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(
        answer.contains("\r\nallow: ")
            && answer.contains("x-pilotfish-reason: connect_not_allowed\r\n")
    );
    let request = Request::connect("echo:443").body(Empty::<Bytes>::new()).expect("a request");
    let answer = client::send2(proxy.inbound(), request).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.reason()), (405, "connect_not_allowed"));

    // Refused outbound too, where unknown hosts are; and where nobody listens.
    let proxy = Proxy::start(
        "outbound: { listen: \"127.0.0.1:0\", unknown: reject }\nservices:\n  gone: { endpoints: [\"127.0.0.1:1\"] }\n",
    )
    .await;
    for (host, status, reason) in
        [("other:443", 404, "unknown_host"), ("gone:443", 503, "connect_refused")]
    {
        let bytes = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut raw = Raw::connect(proxy.outbound()).await;
        raw.send(bytes).await;
        let head = raw.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains(&format!("x-pilotfish-reason: {reason}\r\n")), "{head}");
    }
    let open = "pilotfish_requests_in_flight{direction=\"outbound\"}";
    eventually(|| async { (proxy.metric(open).await == 0.0).then_some(()) }).await;
}
