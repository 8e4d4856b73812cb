//! Where a message ends apart from its last byte, and who says that a connection ends with it.

mod support;

use bytes::Bytes;
use http::{Request, Response};
use support::upstream::{self, Upstream, read_head};
use support::{Proxy, client, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn before(app: &Upstream, more: &str) -> Proxy {
    let port = app.address.port();
    Proxy::start(&format!("service: {{ name: app, port: {port} }}\n{more}\n")).await
}

/// A request with a body of five bytes, all sent, whose stream has not ended.
async fn unended(proxy: &Proxy) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let stream = TcpStream::connect(proxy.inbound()).await.expect("a proxy");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut sender = within(sender.ready()).await.expect("a stream");
    let request = Request::post("http://app/").header("content-length", 5);
    let (response, mut body) =
        sender.send_request(request.body(()).expect("a request"), false).expect("sent");
    body.send_data(Bytes::from_static(b"hello"), false).expect("sent");
    (response, body)
}

#[tokio::test]
async fn a_response_does_not_overtake_the_end_of_its_request() {
    let app = Upstream::echo().await;
    let proxy = before(&app, "").await;
    let (response, mut body) = unended(&proxy).await;
    let mut answer = within(response).await.expect("an answer").into_body();
    let data = within(answer.data()).await.expect("a body").expect("data");
    assert_eq!(data, "hello");
    // The app is done; the stream is still open for what is missing.
    body.send_data(Bytes::new(), true).expect("the proxy has not reset the stream");
    assert!(
        within(answer.data()).await.is_none_or(|data| { data.expect("a good end").is_empty() })
    );
    let reset = std::future::poll_fn(|cx| std::task::Poll::Ready(body.poll_reset(cx)));
    assert!(!matches!(reset.await, std::task::Poll::Ready(Ok(_))));
}

/// Two wait for that end then: who sends the request on, and the answer.
#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_request() {
    let app = Upstream::raw(|mut stream| async move {
        if !read_head(&mut stream).await.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let proxy = before(&app, "").await;
    let (response, mut body) = unended(&proxy).await;
    let answer = within(response).await.expect("an answer");
    assert_eq!(answer.status(), 204);
    body.send_data(Bytes::new(), true).expect("the proxy has not reset the stream");
    assert!(within(answer.into_body().data()).await.is_none_or(|data| data.is_ok()));
}

#[tokio::test]
async fn the_request_timeout_runs_from_the_last_byte_of_the_body() {
    let app = Upstream::http(|_| std::future::pending::<Response<upstream::Body>>()).await;
    let proxy =
        before(&app, "inbound: { listen: \"127.0.0.1:0\", policy: { timeout: 100ms } }").await;
    let (response, _body) = unended(&proxy).await;
    assert_eq!(within(response).await.expect("an answer").status(), 504);
}

#[tokio::test]
async fn an_answer_of_ours_instead_of_100_continue_says_that_the_connection_ends() {
    let proxy = Proxy::start(
        "service: { name: app, port: 9 }
inbound:
  routes:
    - { match: { path: /there }, respond: { status: 403, body: \"no\" } }
    - { match: { path: /here }, redirect: { path: /there } }
",
    )
    .await;
    // Nobody takes connections on port 9.
    for (path, status) in [("/there", 403), ("/here", 302), ("/", 503)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        );
        // It reads to the end of the connection.
        let answer = client::exchange(proxy.inbound(), head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_upgrade_is_granted_while_draining() {
    let app = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        read_head(&mut stream).await;
        let grant =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhi";
        let _ = stream.write_all(grant).await;
    })
    .await;
    let proxy = before(&app, "").await;
    let mut stream = TcpStream::connect(proxy.inbound()).await.expect("a proxy");
    // An answer, so that the connection is known to be in, and half a head.
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n";
    stream.write_all(&[head, &b"\r\n"[..]].concat()).await.expect("sent");
    read_head(&mut stream).await;
    stream.write_all(head).await.expect("sent");
    proxy.shutdown();
    eventually(|| async {
        let refused = TcpStream::connect(proxy.inbound()).await.is_err();
        refused.then_some(())
    })
    .await;
    stream.write_all(b"Connection: upgrade\r\nUpgrade: chat\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("an answer");
    let answer = answer.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}
