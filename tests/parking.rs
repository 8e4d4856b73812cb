//! A connection that has been idle for a second is parked, and the client must not notice: whatever holds
//! of an idle connection holds of a parked one.

mod support;

use std::time::{Duration, Instant};

use support::client::Raw;
use support::process::{Process, Start};
use support::upstream::{Upstream, read_head};
use support::{Proxy, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Longer than a connection keeps its buffers. That this time passes is what these tests are about;
/// nothing has to happen within it.
const SILENCE: Duration = Duration::from_millis(1500);

const GET: &str = "GET /first HTTP/1.1\r\nhost: a\r\n\r\n";
const OPEN: &str = "pilotfish_connections_open{direction=\"inbound\"}";

#[allow(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

/// A proxy before an app that echoes, with what `yaml` adds.
async fn before_echo(yaml: &str) -> (Upstream, Proxy) {
    let app = Upstream::echo().await;
    let service = format!("service: {{ name: app, port: {} }}\n{yaml}", app.address.port());
    let proxy = Proxy::start(&service).await;
    (app, proxy)
}

/// A connection after a request and a silence.
async fn parked(proxy: &Proxy) -> Raw {
    let mut client = Raw::connect(proxy.inbound()).await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    tokio::time::sleep(SILENCE).await;
    client
}

#[tokio::test]
async fn a_parked_connection_answers_however_the_next_request_comes() {
    let (app, proxy) = before_echo("").await;
    let mut client = parked(&proxy).await;

    client.send("\r\nPOST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
    client.until("hello").await;
    // An empty line after a body is one that old clients send.
    client.send("\r\n").await;
    tokio::time::sleep(SILENCE).await;

    let large = "x".repeat(100_000);
    let head = "POST /large HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";
    client.send(format!("{head}{large}")).await;
    client.until(&large).await;
    tokio::time::sleep(SILENCE).await;

    client.stream.set_nodelay(true).unwrap();
    for byte in "GET /bytes HTTP/1.1\r\nhost: a\r\n\r\n".bytes() {
        client.send([byte]).await;
    }
    client.head().await;
    tokio::time::sleep(SILENCE).await;

    client.send("GET /one HTTP/1.1\r\nhost: a\r\n\r\nGET /two HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.head().await;
    client.head().await;
    tokio::time::sleep(SILENCE).await;

    let expect = "expect: 100-continue\r\ncontent-length: 2";
    client.send(format!("POST /expect HTTP/1.1\r\nhost: a\r\n{expect}\r\n\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("ok").await;
    client.until("ok").await;

    let paths: Vec<_> = app.seen().iter().map(|seen| seen.uri.path().to_owned()).collect();
    assert_eq!(paths, ["/first", "/whole", "/large", "/bytes", "/one", "/two", "/expect"]);
    assert_eq!(proxy.metric("pilotfish_connections_total{direction=\"inbound\"}").await, 1.0);
}

/// The bytes may come in the moment in which the server's state is taken apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_a_connection_is_parked_is_not_lost() {
    let (_app, proxy) = before_echo("").await;
    let address = proxy.inbound();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..400_u64 {
        clients.spawn(async move {
            let mut client = Raw::connect(address).await;
            for _ in 0..3 {
                client.send(GET).await;
                assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
                // Around a second, with the two halves of a head before and after it.
                tokio::time::sleep(Duration::from_micros(990_000 + 50 * number)).await;
                client.send("POST /moment HTTP/1.1\r\nhost: a\r\nconte").await;
                tokio::task::yield_now().await;
                client.send("nt-length: 3\r\n\r\nyes").await;
                client.until("yes").await;
            }
        });
    }
    while let Some(client) = within(clients.join_next()).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_parked_connection_becomes_a_tunnel() {
    let server = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: words\r\n\r\nhello").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let yaml = format!(
        "service: {{ name: app, port: {} }}
inbound:
  routes: [{{ match: {{ path: /first }}, respond: {{ status: 200 }} }}]
",
        server.address.port()
    );
    let proxy = Proxy::start(&yaml).await;
    let mut client = parked(&proxy).await;
    let upgrade = "connection: upgrade\r\nupgrade: words";
    client.send(format!("GET /words HTTP/1.1\r\nhost: a\r\n{upgrade}\r\n\r\nworld")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.until("helloworld").await;
}

#[tokio::test]
async fn the_idle_timeout_runs_on_while_a_connection_is_parked() {
    let (_app, proxy) = before_echo("limits: { idle_timeout: 2500ms }\n").await;
    let mut client = parked(&proxy).await;
    // A request begins it anew.
    let again = now();
    client.send(GET).await;
    client.head().await;
    assert_eq!(client.rest().await, "");
    let stayed = again.elapsed();
    assert!((Duration::from_millis(2400)..Duration::from_millis(4500)).contains(&stayed));
    eventually(|| async { (proxy.metric(OPEN).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_on_a_parked_connection() {
    let (_app, proxy) = before_echo("limits: { header_timeout: 500ms }\n").await;
    let mut client = parked(&proxy).await;
    client.send("GET /slow HT").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_parked_connection_ends_when_its_client_leaves() {
    let (_app, proxy) = before_echo("").await;
    let [closes, mut half_closes, resets] =
        [parked(&proxy).await, parked(&proxy).await, parked(&proxy).await];
    assert_eq!(proxy.metric(OPEN).await, 3.0);
    drop(closes);
    half_closes.stream.shutdown().await.unwrap();
    assert_eq!(half_closes.rest().await, "");
    resets.stream.set_zero_linger().unwrap();
    drop(resets);
    eventually(|| async { (proxy.metric(OPEN).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn the_drain_closes_parked_connections_and_answers_who_still_asks() {
    let (_app, proxy) = before_echo("").await;
    let (silent, mut asking) = (parked(&proxy).await, parked(&proxy).await);
    let address = proxy.inbound();
    let began = now();
    proxy.shutdown();
    // The listener closes when the drain has begun.
    eventually(|| async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
    asking.send(GET).await;
    let head = asking.head().await;
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    assert_eq!(asking.rest().await, "");
    assert_eq!(silent.rest().await, "");
    proxy.ended().await;
    // Not by the cut, for which there are 10 s.
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_parked_connection_costs_little() {
    const CONNECTIONS: usize = 400;
    let app = Upstream::echo().await;
    let yaml = format!(
        "service: {{ name: app, address: \"{}\" }}
inbound: {{ listen: \"{{inbound}}\" }}
outbound: off
admin: {{ listen: \"{{admin}}\", metrics: \"{{metrics}}\" }}
runtime: {{ workers: 2 }}
",
        app.address
    );
    let proxy = Process::start(&yaml, Start::default()).await;
    let opened = async |count: usize| {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Raw::connect(proxy.inbound).await;
            client.send(GET).await;
            client.head().await;
            clients.push(client);
        }
        clients
    };
    // What a first request needs once.
    drop(opened(2).await);
    let before = proxy.memory("RssAnon");
    let clients = opened(CONNECTIONS).await;
    let each = |now: u64| now.saturating_sub(before) * 1024 / CONNECTIONS as u64;
    let busy = each(proxy.memory("RssAnon"));
    assert!(busy > 12 * 1024, "{busy} bytes each: the test shows nothing");
    eventually(|| async { (each(proxy.memory("RssAnon")) < 6 * 1024).then_some(()) }).await;
    drop(clients);
}
