//! What HTTP/2 has that HTTP/1 has not: windows, resets, and streams whose two directions end apart.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use support::upstream::{self, Upstream, read_head};
use support::{Proxy, client, eventually, raw, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

async fn before(app: &Upstream, protocol: &str, more: &str) -> Proxy {
    let port = app.address.port();
    Proxy::start(&format!(
        "service: {{ name: app, port: {port}, protocol: {protocol} }}\nruntime: {{ workers: 1 }}\n{more}\n"
    ))
    .await
}

/// A client of `h2` itself, whose streams have a window of so many bytes.
async fn connect(proxy: &Proxy, window: u32) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.inbound()).await.expect("a proxy");
    let mut builder = h2::client::Builder::new();
    let (sender, connection) =
        builder.initial_window_size(window).handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    within(sender.ready()).await.expect("a stream")
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://app{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

/// An upstream of `h2` itself that does `answer` with each stream.
async fn streams<H, F>(answer: H) -> Upstream
where
    H: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> F
        + Clone
        + Send
        + Sync
        + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Upstream::raw(move |stream| {
        let answer = answer.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond));
            }
        }
    })
    .await
}

async fn nothing_in_progress(proxy: &Proxy) {
    let series = "pilotfish_requests_in_flight{direction=\"inbound\"}";
    eventually(|| async { (proxy.metric(series).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_does_not_hold_its_stream_for_ever() {
    let app = Upstream::http(|_| async { Response::new(upstream::body("hello")) }).await;
    let idle = "inbound: { listen: \"127.0.0.1:0\", policy: { timeout: { stream_idle: 100ms } } }";
    for protocol in ["http1", "http2"] {
        let proxy = before(&app, protocol, idle).await;
        let mut sender = connect(&proxy, 0).await;
        let (response, _) = sender.send_request(request(Method::GET, "/"), true).expect("sent");
        let mut response = within(response).await.expect("a head");
        assert_eq!(response.status(), 200);
        let end = within(response.body_mut().data()).await.expect("no end");
        assert!(end.is_err_and(|error| error.is_reset()), "{protocol}");
        let log = proxy.log(1).await;
        assert_eq!(log[0]["response_code_details"], "stream_idle_timeout", "{protocol}: {log:?}");
        nothing_in_progress(&proxy).await;
    }
}

/// Each sends more than any window has room for before it reads.
#[tokio::test]
async fn both_directions_of_a_stream_flow_at_once() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 64;
    async fn send(stream: &mut SendStream<Bytes>) {
        for _ in 0..CHUNKS {
            stream.reserve_capacity(CHUNK);
            let mut left = Bytes::from(vec![b'x'; CHUNK]);
            while !left.is_empty() {
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let room = room.expect("an open stream").expect("room");
                stream.send_data(left.split_to(room.min(left.len())), false).expect("sent");
            }
        }
    }
    async fn receive(mut stream: RecvStream) -> usize {
        let mut length = 0;
        while let Some(data) = stream.data().await {
            let data = data.expect("data");
            length += data.len();
            stream.flow_control().release_capacity(data.len()).expect("room");
        }
        length
    }
    // The answer begins before the request has a byte.
    let app = streams(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).expect("a head");
        let (_, length) = tokio::join!(send(&mut stream), receive(request.into_body()));
        assert_eq!(length, CHUNK * CHUNKS);
        stream.send_data(Bytes::new(), true).expect("an end");
    })
    .await;
    let proxy = before(&app, "http2", "").await;
    let mut sender = connect(&proxy, 65_535).await;
    let (response, mut stream) =
        sender.send_request(request(Method::POST, "/"), false).expect("sent");
    let response = within(response).await.expect("a head");
    let sent = async {
        send(&mut stream).await;
        stream.send_data(Bytes::new(), true).expect("an end");
    };
    let (_, length) = within(async { tokio::join!(sent, receive(response.into_body())) }).await;
    assert_eq!(length, CHUNK * CHUNKS);
    let log = proxy.log(1).await;
    let sizes = [&log[0]["bytes_received"], &log[0]["bytes_sent"]];
    assert_eq!(sizes, [CHUNK * CHUNKS, CHUNK * CHUNKS]);
}

#[tokio::test]
async fn a_stream_that_the_client_resets_is_reset_upstream() {
    // Before the answer, in the middle of it, and while it waits for a window.
    for (path, window) in [("/silent", 65_535), ("/begun", 65_535), ("/begun", 1)] {
        let (told, mut ends) = mpsc::unbounded_channel();
        let app = streams(move |request, mut respond| {
            let told = told.clone();
            async move {
                let reason = if request.uri().path() == "/silent" {
                    std::future::poll_fn(|cx| respond.poll_reset(cx)).await
                } else {
                    let mut stream = respond.send_response(Response::new(()), false).expect("sent");
                    for _ in 0..4 {
                        stream.send_data(vec![b'x'; 1000].into(), false).expect("data");
                    }
                    std::future::poll_fn(|cx| stream.poll_reset(cx)).await
                };
                let _ = told.send(reason.ok());
            }
        })
        .await;
        let proxy = before(&app, "http2", "").await;
        let mut sender = connect(&proxy, window).await;
        let (response, mut stream) =
            sender.send_request(request(Method::POST, path), false).expect("sent");
        if path == "/begun" {
            let mut response = within(response).await.expect("a head");
            within(response.body_mut().data()).await.expect("data").expect("data");
        } else {
            let in_flight = "pilotfish_requests_in_flight{direction=\"inbound\"}";
            eventually(|| async { (proxy.metric(in_flight).await == 1.0).then_some(()) }).await;
        }
        stream.send_reset(Reason::CANCEL);
        assert_eq!(within(ends.recv()).await, Some(Some(Reason::CANCEL)), "{path} {window}");
        nothing_in_progress(&proxy).await;
        let log = proxy.log(1).await;
        assert_eq!(log[0]["response_code_details"], "client_gone", "{log:?}");
    }
}

/// RFC 9113 8.1: the upstream has said all that it has to say.
#[tokio::test]
async fn an_answer_that_ends_its_stream_early_is_whole() {
    let app = streams(|_, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).expect("sent");
        stream.send_data("enough".into(), true).expect("sent");
    })
    .await;
    let proxy = before(&app, "http2", "").await;
    let mut sender = connect(&proxy, 65_535).await;
    let (response, mut stream) =
        sender.send_request(request(Method::POST, "/"), false).expect("sent");
    stream.send_data("some".into(), false).expect("sent");
    let mut body = within(response).await.expect("a head").into_body();
    assert_eq!(within(body.data()).await.expect("data").expect("data"), "enough");
    let rest = within(body.data()).await;
    assert!(rest.is_none_or(|rest| rest.is_ok_and(|rest| rest.is_empty())));
}

#[tokio::test]
async fn a_head_request_is_answered_by_a_head_alone() {
    let proxy = Proxy::start(
        "service: { name: app, port: 9 }\ninbound: { listen: \"127.0.0.1:0\", routes: [ { match: { path: / }, respond: { status: 200, body: here } } ] }\n",
    )
    .await;
    let mut sender = connect(&proxy, 65_535).await;
    let (response, _) = sender.send_request(request(Method::HEAD, "/"), true).expect("sent");
    let response = within(response).await.expect("a head");
    assert_eq!(
        (response.status(), &response.headers()["content-length"]),
        (StatusCode::OK, &"4".parse().expect("a value"))
    );
    assert!(response.body().is_end_stream(), "no frame of data");
}

/// A stream that is reset as soon as it is opened costs the upstream nothing, and a client that goes on like
/// that is sent away.
#[tokio::test]
async fn rapid_resets_end_the_connection_and_reach_no_upstream() {
    let requests = Arc::<AtomicUsize>::default();
    let count = requests.clone();
    let app = streams(move |_, respond| {
        count.fetch_add(1, SeqCst);
        async move {
            let _respond = respond;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let proxy = before(&app, "http2", "").await;
    let head = raw::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app"),
        (":path", "/"),
    ]);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(raw::frame(raw::SETTINGS, 0, 0, &[]));
    for stream in (1..2000).step_by(2) {
        bytes.extend(raw::frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &head));
        bytes.extend(raw::frame(raw::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(proxy.inbound()).await.expect("a proxy");
    stream.write_all(&bytes).await.expect("sent");
    let mut answer = Vec::new();
    // It may end with a reset: more was sent than was read.
    let _ = within(stream.read_to_end(&mut answer)).await;
    let goaway = raw::frame(raw::GOAWAY, 0, 0, &[])[3..9].to_vec();
    assert!(raw::find(&answer, &goaway).is_some(), "{answer:?}");
    nothing_in_progress(&proxy).await;
    assert_eq!(requests.load(SeqCst), 0);

    // A few are not held against a client, and are told of.
    let app = Upstream::named("app").await;
    let proxy = before(&app, "http1", "").await;
    let end = raw::END_HEADERS | raw::END_STREAM;
    let mut frames = vec![raw::frame(raw::HEADERS, end, 1, &head)];
    for stream in [3, 5, 7] {
        frames.push(raw::frame(raw::HEADERS, end, stream, &head));
        frames.push(raw::frame(raw::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    assert_eq!(raw::fate(proxy.inbound(), &frames).await, raw::Fate::Answered(200));
    let log = proxy.log(4).await;
    let gone = log.iter().filter(|line| line["response_code_details"] == "client_gone");
    assert_eq!((gone.count(), app.seen().len()), (3, 1), "{log:?}");
}

#[tokio::test]
async fn floods_of_frames_that_say_nothing_end_the_connection() {
    let app = Upstream::http(|_| std::future::pending::<Response<upstream::Body>>()).await;
    let proxy = before(&app, "http2", "").await;
    let head = raw::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "app"),
        (":path", "/"),
    ]);
    let open = raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &head);
    let unended = raw::frame(raw::HEADERS, 0, 1, &head);
    let empty = raw::frame(raw::DATA, 0, 1, &[]);
    let more = raw::frame(raw::CONTINUATION, 0, 1, &[]);
    for (name, first, flood) in [("empty data", open, empty), ("continuation", unended, more)] {
        let frames: Vec<_> =
            std::iter::once(first).chain(std::iter::repeat_n(flood, 100_000)).collect();
        let fate = raw::fate(proxy.inbound(), &frames).await;
        let ended = matches!(fate, raw::Fate::GoneAway | raw::Fate::Closed | raw::Fate::Reset);
        assert!(ended, "{name}: {fate:?}");
        nothing_in_progress(&proxy).await;
    }
}

/// An upstream that closes without a word: what was not written to it is sent again, of any method.
#[tokio::test]
async fn a_request_that_meets_a_closed_connection_is_sent_again() {
    for client_of in ["HTTP/1", "HTTP/2"] {
        let (close, closed) =
            (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (wait, tell) = (close.clone(), closed.clone());
        let app = Upstream::raw(move |mut stream| {
            let (wait, tell) = (wait.clone(), tell.clone());
            async move {
                {
                    let mut connection =
                        h2::server::handshake(&mut stream).await.expect("a handshake");
                    loop {
                        tokio::select! {
                            accepted = connection.accept() => {
                                let Some(Ok((_, mut respond))) = accepted else { return };
                                let _ = respond.send_response(Response::new(()), true);
                            }
                            () = wait.notified() => break,
                        }
                    }
                    // Without the GOAWAY of a connection that is dropped in good order.
                    std::mem::forget(connection);
                }
                let _ = stream.shutdown().await;
                drop(stream);
                tell.notify_one();
            }
        })
        .await;
        let proxy = before(&app, "http2", "").await;
        let mut one = client::http1(proxy.inbound()).await;
        let mut two = client::http2(proxy.inbound()).await;
        for _ in 0..20 {
            let body = http_body_util::Full::new(Bytes::from_static(b"x"));
            let status = if client_of == "HTTP/1" {
                let request = Request::post("/").header("host", "app").body(body);
                within(one.ready()).await.expect("a connection");
                within(one.send_request(request.expect("a request")))
                    .await
                    .expect("an answer")
                    .status()
            } else {
                let request = Request::post("http://app/").body(body).expect("a request");
                within(two.send_request(request)).await.expect("an answer").status()
            };
            assert_eq!(status, 200, "{client_of}");
            close.notify_one();
            within(closed.notified()).await;
        }
        assert_eq!(app.connections(), 20, "{client_of}");
    }
}

#[tokio::test]
async fn a_tunnel_ends_with_a_reset_of_its_stream() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let app = Upstream::raw(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            let grant = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhi";
            stream.write_all(grant).await.expect("sent");
            let _ = told.send(stream.read_to_end(&mut Vec::new()).await.is_ok());
        }
    })
    .await;
    let proxy = before(&app, "http1", "").await;
    let mut sender = connect(&proxy, 65_535).await;
    let mut ask = request(Method::CONNECT, "/");
    ask.extensions_mut().insert(h2::ext::Protocol::from_static("chat"));
    let (response, mut stream) = sender.send_request(ask, false).expect("sent");
    let mut response = within(response).await.expect("a head");
    assert_eq!(response.status(), 200);
    assert_eq!(within(response.body_mut().data()).await.expect("data").expect("data"), "hi");
    stream.send_reset(Reason::CANCEL);
    within(ends.recv()).await.expect("the app is told");
    nothing_in_progress(&proxy).await;

    // A length makes no sense of it.
    let mut ask = request(Method::CONNECT, "/");
    ask.extensions_mut().insert(h2::ext::Protocol::from_static("chat"));
    ask.headers_mut().insert("content-length", "5".parse().expect("a value"));
    let (response, _stream) = sender.send_request(ask, false).expect("sent");
    let error = within(response).await.expect_err("a reset");
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
}

/// RFC 9110 8.6: it has none, and clients of HTTP/2 refuse one that says otherwise.
#[tokio::test]
async fn a_204_says_nothing_of_a_length() {
    let app = Upstream::canned(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n").await;
    let proxy = before(&app, "http1", "").await;
    let mut sender = connect(&proxy, 65_535).await;
    let (response, _) = sender.send_request(request(Method::GET, "/"), true).expect("sent");
    let response = within(response).await.expect("a head");
    assert_eq!(response.status(), 204);
    assert!(!response.headers().contains_key("content-length"), "{:?}", response.headers());
}

/// `NO_ERROR` ends an answer that was complete while its request was not (RFC 9113 8.1), and no other one.
#[tokio::test]
async fn an_answer_that_is_reset_before_its_end_is_not_complete() {
    let (go_on, wait) = mpsc::channel(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    let app = streams(move |_, mut respond| {
        let wait = wait.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("a head");
            stream.send_data(Bytes::from_static(b"part"), false).expect("sent");
            wait.lock().await.recv().await;
            stream.send_reset(Reason::NO_ERROR);
        }
    })
    .await;
    let proxy = before(&app, "http2", "").await;
    let mut sender = connect(&proxy, 65_535).await;
    let (response, _) = sender.send_request(request(Method::GET, "/"), true).expect("sent");
    let mut response = within(response).await.expect("a head");
    let part = within(response.body_mut().data()).await.expect("data").expect("data");
    assert_eq!(part, "part");
    go_on.send(()).await.expect("an upstream");
    let end = within(response.body_mut().data()).await.expect("it ended as if complete");
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn who_takes_no_more_streams_is_left_for_a_new_connection() {
    // Each connection takes one request, and then none.
    let app = Upstream::raw(|mut stream| async move {
        let ok = raw::frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, 1, b"\x88");
        let no_more = raw::frame(raw::SETTINGS, 0, 0, b"\0\x03\0\0\0\0");
        stream.write_all(&raw::frame(raw::SETTINGS, 0, 0, b"")).await.expect("written");
        let mut seen = Vec::new();
        let mut answered = false;
        while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
            // A request's head, whatever frames come before it.
            let head = [raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, 0, 0, 0, 1];
            if !answered && raw::find(&seen, &head).is_some() {
                answered = true;
                stream.write_all(&[&no_more[..], &ok].concat()).await.expect("written");
            }
        }
    })
    .await;
    let proxy = before(&app, "http2", "").await;
    for _ in 0..3 {
        let answer = within(client::get(proxy.inbound(), "/")).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(app.connections(), 3);
}
