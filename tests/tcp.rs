//! What is not HTTP: found out from the first bytes or known by the configuration, carried both ways.

mod support;

use std::time::Duration;

use support::client::{self, Raw};
use support::upstream::Upstream;
use support::{Proxy, eventually, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// Says `banner`, then sends back what comes, and `bye` after the client's end.
async fn echo(banner: &str, io: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(io);
    let _ = write.write_all(banner.as_bytes()).await;
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = read.read(&mut buffer).await {
        let _ = write.write_all(&buffer[..n]).await;
    }
    let _ = write.write_all(b"bye").await;
    let _ = write.shutdown().await;
}

/// A proxy before `app` inbound, and with an outbound port for it; both find out what is spoken.
async fn before(app: &Upstream, rest: &str) -> Proxy {
    Proxy::start(&format!(
        "service: {{ name: app, port: {} }}
outbound:
  listen: 127.0.0.1:0
  ports: {{ 13306: {{ service: db, listen: \"127.0.0.1:0\" }} }}
services: {{ db: {{ endpoints: [\"{}\"], protocol: tcp }} }}
{rest}
",
        app.address.port(),
        app.address
    ))
    .await
}

#[tokio::test]
async fn whoever_speaks_first_is_understood() {
    let greeting = Upstream::raw(|stream| echo("220 ready\r\n", stream)).await;
    let waiting = Upstream::raw(|stream| echo("", stream)).await;
    let first = before(&greeting, "").await;
    let second = before(&waiting, "").await;
    for (side, name) in [(0, "inbound"), (1, "outbound")] {
        let address = |proxy: &Proxy| [proxy.inbound(), proxy.port()][side];
        // The client waits for the banner.
        let mut raw = Raw::connect(address(&first)).await;
        assert_eq!(raw.until("\r\n").await, "220 ready\r\n", "{name}");
        raw.send("EHLO a\r\n").await;
        raw.until("EHLO a\r\n").await;
        raw.stream.shutdown().await.expect("it is told");
        assert_eq!(raw.rest().await, "bye", "{name}");
        let line = &first.log(side + 1).await[side];
        assert_eq!([&line["protocol"], &line["response_flags"]], ["TCP", "-"], "{name}");
        assert_eq!([&line["bytes_received"], &line["bytes_sent"]], [8, 22], "{name}");
        // The client begins, in what is no text.
        let mut raw = Raw::connect(address(&second)).await;
        let bytes = b"\x00\x00\x00\x08\x04\xd2\x16\x2fuser\x00end";
        raw.send(bytes).await;
        assert_eq!(raw.until("end").await.len(), String::from_utf8_lossy(bytes).len());
        raw.stream.shutdown().await.expect("it is told");
        assert_eq!(raw.rest().await, "bye", "{name}");
    }
    let series = |direction, service| {
        format!(
            "pilotfish_tcp_connections_total{{direction=\"{direction}\",service=\"{service}\"}}"
        )
    };
    assert_eq!(first.metric(&series("inbound", "app")).await, 1.0);
    assert_eq!(first.metric(&series("outbound", "db")).await, 1.0);
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    // Ends its own direction first, and goes on to listen.
    let app = Upstream::raw(move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(b"only this").await.expect("it is taken");
            stream.shutdown().await.expect("it is told");
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.expect("the rest");
            told.send(rest).expect("the test waits");
        }
    })
    .await;
    let proxy = before(&app, "").await;
    for address in [proxy.inbound(), proxy.port()] {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let mut all = String::new();
        within(stream.read_to_string(&mut all)).await.expect("its end");
        assert_eq!(all, "only this");
        stream.write_all(b"and this").await.expect("it is taken");
        stream.shutdown().await.expect("it is told");
        assert_eq!(within(tells.recv()).await.expect("the rest"), "and this");
    }
}

/// Bytes that repeat after no power of two, so that a piece that is lost or moved is seen.
fn pattern(offset: usize, buffer: &mut [u8]) {
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = ((offset + index) % 251) as u8;
    }
}

/// Writes and reads `total` bytes of the pattern at the same time, then ends.
async fn exchange(stream: &mut TcpStream, total: usize) {
    let (mut read, mut write) = stream.split();
    let send = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut sent = 0;
        while sent < total {
            let part = buffer.len().min(total - sent);
            pattern(sent, &mut buffer[..part]);
            write.write_all(&buffer[..part]).await.expect("it is taken");
            sent += part;
        }
        write.shutdown().await.expect("it is told");
    };
    let receive = async {
        let (mut buffer, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut received = 0;
        loop {
            let n = read.read(&mut buffer).await.expect("more");
            if n == 0 {
                return received;
            }
            pattern(received, &mut expected[..n]);
            assert!(buffer[..n] == expected[..n], "within {n} bytes after {received}");
            received += n;
        }
    };
    let ((), received) = tokio::join!(send, receive);
    assert_eq!(received, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_flow_arrives_as_it_was_sent() {
    const TOTAL: usize = 64 << 20;
    let app = Upstream::raw(|mut stream| async move { exchange(&mut stream, TOTAL).await }).await;
    let proxy = before(&app, "").await;
    let mut stream = TcpStream::connect(proxy.port()).await.expect("a connection");
    within(exchange(&mut stream, TOTAL)).await;
    let line = &proxy.log(1).await[0];
    assert_eq!([&line["bytes_received"], &line["bytes_sent"]], [TOTAL, TOTAL]);
    let sent = "pilotfish_tcp_sent_bytes_total{direction=\"outbound\",service=\"db\"}";
    assert_eq!(proxy.metric(sent).await, TOTAL as f64);
}

#[tokio::test]
async fn a_tunnel_that_stands_still_is_cut() {
    let app = Upstream::raw(|stream| echo("hello", stream)).await;
    let proxy = before(&app, "limits: { idle_timeout: 100ms }").await;
    for address in [proxy.inbound(), proxy.port()] {
        let mut raw = Raw::connect(address).await;
        raw.until("hello").await;
        assert_eq!(raw.rest().await, "");
    }
    for line in proxy.log(2).await {
        assert_eq!(line["response_flags"], "SI", "{line}");
        assert_eq!(line["response_code_details"], "stream_idle_timeout");
    }
    let series = "pilotfish_connections_open{direction=\"inbound\"}";
    eventually(|| async { (proxy.metric(series).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_the_end() {
    let proxy = Proxy::start(
        "service: { name: app, port: 1 }
outbound:
  listen: 127.0.0.1:0
  ports: { 13306: { service: db, listen: \"127.0.0.1:0\" } }
services: { db: { endpoints: [\"127.0.0.1:1\"], protocol: tcp } }
",
    )
    .await;
    for (index, address) in [proxy.inbound(), proxy.port()].into_iter().enumerate() {
        assert_eq!(client::exchange(address, b"\x00\x01\x02").await, "");
        let line = &proxy.log(index + 1).await[index];
        assert_eq!(
            [&line["response_flags"], &line["response_code_details"]],
            ["UF", "connect_refused"]
        );
    }
}

#[tokio::test]
async fn http_is_found_out_on_the_same_port_and_half_of_it_is_not() {
    let http = Upstream::named("http").await;
    let proxy = Proxy::start(&format!(
        "outbound:
  listen: 127.0.0.1:0
  ports: {{ 13306: {{ service: web, protocol: auto, listen: \"127.0.0.1:0\" }} }}
services: {{ web: {{ endpoints: [\"{}\"] }} }}
",
        http.address
    ))
    .await;
    assert_eq!(client::get(proxy.port(), "/one").await.text(), "http");
    let request =
        http::Request::get("http://web/two").body(http_body_util::Empty::<bytes::Bytes>::new());
    let answer = client::send2(proxy.port(), request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.text(), "http");
    // Slowly, byte by byte, beyond the silence after which the server is asked.
    let mut raw = Raw::connect(proxy.port()).await;
    for byte in b"GET /three HTTP/1.1\r\n" {
        raw.send([*byte]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    raw.send("Host: web\r\n\r\n").await;
    assert!(raw.until("http").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let ids: Vec<_> = http.seen().iter().map(|seen| seen.header("x-request-id").len()).collect();
    assert_eq!(ids, [36; 3], "each went through as a request");

    // Half of a request is a broken request: an app that took it for a whole one would take it past
    // every route.
    let echoing = Upstream::raw(|stream| echo("", stream)).await;
    let proxy = before(&echoing, "limits: { detect_timeout: 100ms, header_timeout: 100ms }").await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET /half").await;
    assert!(raw.rest().await.contains("x-pilotfish-reason: header_timeout\r\n"));
    // The same with an end behind it: nobody is left to be answered.
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET /half").await;
    raw.stream.shutdown().await.expect("it is told");
    let rest = raw.rest().await;
    assert!(!rest.contains("bye"), "the app has seen it: {rest}");
}

#[tokio::test]
async fn the_app_may_be_on_a_unix_socket_and_all_of_it_on_ipv6() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.sock");
    let unix = UnixListener::bind(&path).expect("a socket");
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = unix.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                let n = stream.read(&mut buffer).await.expect("bytes");
                if buffer.starts_with(b"GET / HTTP/1.1\r\n") {
                    let answer =
                        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nunix";
                    stream.write_all(answer).await.expect("it is taken");
                } else {
                    stream.write_all(&buffer[..n]).await.expect("it is taken");
                    echo("", stream).await;
                }
            });
        }
    });
    let proxy =
        Proxy::start(&format!("service: {{ name: app, address: \"unix:{}\" }}\n", path.display()))
            .await;
    assert_eq!(client::get(proxy.inbound(), "/").await.text(), "unix");
    let mut raw = Raw::connect(proxy.inbound()).await;
    // More than is copied before the flow is spliced.
    let large = vec![1; 1 << 20];
    let (mut read, mut write) = raw.stream.split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(&large).await.expect("it is taken");
        write.shutdown().await.expect("it is told");
    };
    let ((), received) = within(async { tokio::join!(send, read.read_to_end(&mut back)) }).await;
    received.expect("its end");
    assert!(back.len() == large.len() + 3 && back.ends_with(b"\x01bye"), "{}", back.len());
    serving.abort();

    let v6 = TcpListener::bind("[::1]:0").await.expect("IPv6 on the loopback interface");
    let address = v6.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = v6.accept().await {
            tokio::spawn(echo("six\n", stream));
        }
    });
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, address: \"{address}\" }}
inbound: {{ listen: \"[::1]:0\" }}
outbound:
  listen: \"[::1]:0\"
  ports: {{ 13306: {{ service: db, listen: \"[::1]:0\" }} }}
services: {{ db: {{ endpoints: [\"{address}\"], protocol: tcp }} }}
"
    ))
    .await;
    for listener in [proxy.inbound(), proxy.port()] {
        assert!(listener.is_ipv6());
        let mut raw = Raw::connect(listener).await;
        raw.until("six\n").await;
        raw.stream.shutdown().await.expect("it is told");
        assert_eq!(raw.rest().await, "bye");
    }
    let mut raw = Raw::connect(proxy.outbound()).await;
    raw.send(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw.until("six\n").await;
    let log = proxy.log(2).await;
    assert!(log.iter().all(|line| line["upstream_host"] == address.to_string()), "{log:?}");
    serving.abort();
}
