//! What a connection speaks is found out without harm to the ones that are silent for a while.

mod support;

use support::{Proxy, eventually, upstream::Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A pool opens connections before it needs them, and an app may close what says nothing. The client
/// must not notice.
#[tokio::test]
async fn an_app_that_closes_a_silent_connection_does_not_end_the_clients() {
    let app = Upstream::raw(|mut stream| async move {
        let mut byte = [0];
        let silent =
            tokio::time::timeout(std::time::Duration::from_millis(5), stream.read(&mut byte));
        if let Ok(Ok(1..)) = silent.await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let proxy =
        Proxy::start(&format!("service: {{ name: app, port: {} }}\n", app.address.port())).await;
    let mut client = TcpStream::connect(proxy.inbound()).await.unwrap();
    // The silence makes the proxy ask the app, which closes.
    eventually(|| async { (app.connections() == 1).then_some(()) }).await;
    eventually(|| async { (open_to(app.address) == 0).then_some(()) }).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// An app may read more leniently than the proxy. What it might take for a request must meet the routes.
#[tokio::test]
async fn what_looks_like_a_request_does_not_pass_as_opaque_bytes() {
    let app = Upstream::raw(|mut stream| async move {
        let _ = stream.write_all(b"").await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
    })
    .await;
    let port = app.address.port();
    let routes = "inbound:\n  routes: [{ match: { path: /secret }, respond: { status: 403 } }]\n";
    for yaml in ["", routes] {
        let yaml = format!(
            "service: {{ name: app, port: {port} }}\nlimits: {{ detect_timeout: 200ms, header_timeout: 200ms }}\n{yaml}"
        );
        let proxy = Proxy::start(&yaml).await;
        for bytes in [
            "GET /secret HTTP/1.1 \r\n\r\n",
            "GET\t/secret\tHTTP/1.1\r\n\r\n",
            "GET /secret\r\n\r\n",
            "GET /sec",
            "BREW /sec",
        ] {
            let answer = support::client::exchange(proxy.inbound(), bytes.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 40"), "{bytes:?}: {answer}");
            assert!(answer.contains("x-pilotfish-reason: "), "{bytes:?}: {answer}");
        }
    }
}

/// Established connections of this host to `address`, as the kernel lists them.
fn open_to(address: std::net::SocketAddr) -> usize {
    let port = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 3 && fields[2] == port)
        // Established, or half closed by the app.
        .filter(|fields| matches!(fields[3], "01" | "08"))
        .count()
}
