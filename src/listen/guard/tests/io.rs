//! The guard under hyper's own server, with a scripted client at the other end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::properties::stream;
use crate::listen::guard::{GuardedIo, HeadLimits, Shared};

const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// What one connection's service saw, and what it is to do.
struct Script {
    shared: Arc<Shared>,
    /// `METHOD path body` of each call, or the reason of its rejection.
    seen: RefCell<Vec<String>>,
    /// Before it answers `/slow`.
    delay: Duration,
}

impl Script {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if let Some(rejection) = self.shared.next_request() {
            self.seen.borrow_mut().push(rejection.reason.to_owned());
            let mut response = Response::new(Full::from(rejection.message));
            *response.status_mut() = rejection.status.try_into().expect("a status");
            self.shared.response_done(now());
            return response;
        }
        let line = format!("{} {}", request.method(), request.uri().path());
        let mut response = Response::new(Full::from(line.clone()));
        match request.uri().path() {
            "/slow" => tokio::time::sleep(self.delay).await,
            "/hint" => {
                assert!(self.shared.inject(b"HTTP/1.1 103 Early Hints\r\n"));
                assert!(self.shared.inject(b"link: </x>\r\n\r\n"));
            }
            "/upgrade" => {
                self.shared.decide_upgrade(true);
                let upgrade = hyper::upgrade::on(request);
                tokio::spawn(async move { echo(upgrade.await.expect("upgraded")).await });
                *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                self.shared.response_done(now());
                return response;
            }
            "/unread" => {
                self.shared.response_done(now());
                return response;
            }
            _ => {}
        }
        let line = match request.into_body().collect().await {
            Ok(body) => format!("{line} {}", body.to_bytes().escape_ascii()),
            Err(_) => {
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
                let reason = self.shared.body_rejection().map_or("none", |found| found.reason);
                format!("{line} broken: {reason}")
            }
        };
        self.seen.borrow_mut().push(line);
        self.shared.response_done(now());
        response
    }
}

/// Sends back what comes over an upgraded connection, without hyper.
async fn echo(upgraded: hyper::upgrade::Upgraded) {
    let parts = upgraded.downcast::<GuardedIo<DuplexStream>>().expect("the guard");
    let (mut io, rest) = parts.io.into_inner();
    io.write_all(&parts.read_buf).await.expect("write");
    io.write_all(&rest).await.expect("write");
    let mut buffer = [0; 64];
    while let Ok(len @ 1..) = io.read(&mut buffer).await {
        io.write_all(&buffer[..len]).await.expect("write");
    }
}

/// Serves the connection until its end, then says what the service saw.
async fn serve<T>(io: T, prefix: &str, limits: HeadLimits, script: Rc<Script>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let prefix = Bytes::copy_from_slice(prefix.as_bytes());
    let io = GuardedIo::new(io, prefix, Arc::new(limits), script.shared.clone());
    let service = service_fn(move |request| {
        let script = script.clone();
        async move { Ok::<_, Infallible>(script.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .auto_date_header(false)
        .serve_connection(io, service)
        .with_upgrades();
    // How it ends is seen by the client.
    let _ = connection.await;
}

fn script() -> Rc<Script> {
    let shared = Shared::new(now());
    let delay = Duration::from_secs(30);
    Rc::new(Script { shared, seen: RefCell::default(), delay })
}

/// Runs `client` against a server; returns what the client returns and what the service saw.
async fn with_client<F: Future>(
    limits: HeadLimits,
    client: impl FnOnce(DuplexStream, Arc<Shared>) -> F,
) -> (F::Output, Vec<String>) {
    let script = script();
    let (ours, theirs) = duplex(64 * 1024);
    let client = client(ours, script.shared.clone());
    let (_, output) = tokio::join!(serve(theirs, "", limits, script.clone()), client);
    let seen = script.seen.take();
    (output, seen)
}

/// Sends all of `input`, keeps its side open, and reads until the server closes.
async fn exchange(input: &[u8]) -> (String, Vec<String>) {
    with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        io.write_all(input).await.expect("write");
        read_to_end(&mut io).await
    })
    .await
}

async fn read_to_end(io: &mut DuplexStream) -> String {
    let mut output = Vec::new();
    let _ = io.read_to_end(&mut output).await;
    String::from_utf8(output).expect("text")
}

/// Reads until `output` ends so.
async fn read_until(io: &mut DuplexStream, end: &str) -> String {
    let mut output = Vec::new();
    while !output.ends_with(end.as_bytes()) {
        output.push(io.read_u8().await.expect("more to come"));
    }
    String::from_utf8(output).expect("text")
}

fn statuses(output: &str) -> Vec<&str> {
    let codes = output.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]);
    codes.filter(|code| code.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

#[test]
fn the_guard_can_be_upgraded_by_hyper() {
    fn is_send<T: Send + Unpin + 'static>() {}
    is_send::<GuardedIo<TcpStream>>();
}

#[tokio::test]
async fn requests_one_after_the_other() {
    let (counts, seen) =
        with_client(HeadLimits::default(), async |mut io: DuplexStream, shared: Arc<Shared>| {
            assert!(shared.is_idle());
            for _ in 0..3 {
                io.write_all(PLAIN.as_bytes()).await.expect("write");
                read_until(&mut io, "GET /plain").await;
                tokio::task::yield_now().await;
                assert!(shared.is_idle());
            }
            io.write_all(LAST.as_bytes()).await.expect("write");
            let output = read_to_end(&mut io).await;
            assert!(output.ends_with("GET /last"), "{output}");
            (shared.bytes_read(), shared.requests())
        })
        .await;
    assert_eq!(counts, ((3 * PLAIN.len() + LAST.len()) as u64, 4));
    assert_eq!(seen, ["GET /plain ", "GET /plain ", "GET /plain ", "GET /last "]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let input = format!("{PLAIN}{PLAIN}GET /bad HTTP/1.1\nHost: a\r\n\r\n{PLAIN}");
    let (output, seen) = exchange(input.as_bytes()).await;
    assert_eq!(statuses(&output), ["200", "200", "400"]);
    assert!(output.contains("connection: close"));
    assert_eq!(seen, ["GET /plain ", "GET /plain ", "bare_lf"]);
}

#[tokio::test]
async fn a_refused_head_is_told_with_its_request_line() {
    let (line, seen) =
        with_client(HeadLimits::default(), async |mut io: DuplexStream, shared: Arc<Shared>| {
            io.write_all(b"PUT /x?y HTTP/1.1\r\n\r\n").await.expect("write");
            assert_eq!(statuses(&read_to_end(&mut io).await), ["400"]);
            shared.rejected_line().expect("a line")
        })
        .await;
    assert_eq!((line.method.as_str(), line.target.as_str()), ("PUT", "/x?y"));
    assert_eq!(seen, ["no_host"]);
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_rejection() {
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
        io.shutdown().await.expect("shutdown");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["400"]);
}

#[tokio::test]
async fn limits_are_answered() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    let (output, seen) = exchange(head.as_bytes()).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["431"], "head_too_large"));

    let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(65_535));
    let (output, seen) = exchange(head.as_bytes()).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["414"], "target_too_long"));

    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
    let (output, seen) = exchange(head.as_bytes()).await;
    assert_eq!((statuses(&output), seen[0].as_str()), (vec!["431"], "too_many_fields"));

    let head = format!(
        "GET /most HTTP/1.1\r\nHost: a\r\n{}Connection: close\r\n\r\n",
        format!("x: {}\r\n", "y".repeat(600)).repeat(98)
    );
    let (output, _) = exchange(head.as_bytes()).await;
    assert_eq!(statuses(&output), ["200"]);
}

/// A socket that is closed with unread bytes is reset, and the answer is lost.
#[tokio::test]
async fn a_client_that_still_sends_gets_to_read_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut ours =
        TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    let (theirs, _) = listener.accept().await.expect("accept");
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    let client = async {
        ours.write_all(head.as_bytes()).await.expect("write");
        let mut output = String::new();
        ours.read_to_string(&mut output).await.expect("no reset");
        output
    };
    let (_, output) = tokio::join!(serve(theirs, "", HeadLimits::default(), script()), client);
    assert_eq!(statuses(&output), ["431"]);
}

#[tokio::test]
async fn bodies_pass() {
    let body = "b".repeat(300_000);
    let input = format!(
        "POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{body}\
         POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         493e0;x\r\n{body}\r\n1\r\nc\r\n0\r\nt: x\r\n\r\n{LAST}"
    );
    let (_, seen) = exchange(input.as_bytes()).await;
    assert_eq!(seen, [format!("POST /l {body}"), format!("POST /c {body}c"), "GET /last ".into()]);
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_body() {
    let post = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, reason) in [
        ("5 \r\nhello\r\n0\r\n\r\n", "bad_chunk_size"),
        ("5\r\nhello\r\n0\n\r\n", "bare_lf"),
        ("5\r\nhelloworld\r\n0\r\n\r\n", "bad_chunk_end"),
        ("5\r\nhello\r\n0\r\nx : y\r\n\r\n", "space_before_colon"),
    ] {
        let (output, seen) = exchange(format!("{post}{body}{PLAIN}").as_bytes()).await;
        assert_eq!(statuses(&output), ["400"], "{body}");
        assert_eq!(seen, [format!("POST /c broken: {reason}")]);
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_the_answer() {
    let head = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n";
    let input = format!("{head}{}", "b".repeat(500_000));
    let (output, _) = exchange(input.as_bytes()).await;
    assert_eq!(statuses(&output), ["200"]);
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_and_begin_in_the_prefix() {
    for split in 0..=LAST.len() {
        let script = script();
        let (mut ours, theirs) = duplex(1024);
        let client = async {
            for byte in LAST[split..].bytes() {
                ours.write_u8(byte).await.expect("write");
                tokio::task::yield_now().await;
            }
            read_to_end(&mut ours).await
        };
        let server = serve(theirs, &LAST[..split], HeadLimits::default(), script.clone());
        let (_, output) = tokio::join!(server, client);
        assert!(output.ends_with("GET /last"), "{output}");
        assert_eq!(script.shared.bytes_read(), LAST.len() as u64);
    }
}

#[tokio::test]
async fn an_accepted_upgrade_passes_everything() {
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        // The first bytes come together with the request, the others after the answer.
        io.write_all(format!("{UPGRADE}\x01\n").as_bytes()).await.expect("write");
        let mut output = read_until(&mut io, "\x01\n").await;
        io.write_all(b"GET \n\0").await.expect("write");
        output += &read_until(&mut io, "GET \n\0").await;
        output
    })
    .await;
    assert_eq!(statuses(&output), ["101"]);
    assert!(output.ends_with("\r\n\r\n\x01\nGET \n\0"), "{output}");
}

#[tokio::test]
async fn a_refused_upgrade_is_followed_by_a_head() {
    // `/plain` does not decide: its end refuses.
    let upgrade = UPGRADE.replace("/upgrade", "/plain");
    let (output, seen) = exchange(format!("{PLAIN}{upgrade}{LAST}").as_bytes()).await;
    assert_eq!(statuses(&output), ["200", "200", "200"]);
    assert_eq!(seen, ["GET /plain ", "GET /plain ", "GET /last "]);
    let (_, seen) = exchange(format!("{upgrade}\x01\x02").as_bytes()).await;
    assert_eq!(seen, ["GET /plain ", "bad_method"]);
}

#[test]
fn only_the_request_that_asks_can_be_upgraded() {
    let shared = Shared::new(now());
    assert_eq!(shared.next_request(), None);
    // The second head of the client, pipelined behind the first, asks.
    shared.await_upgrade(2);
    shared.decide_upgrade(true);
    shared.response_done(now());
    assert_eq!(shared.take_decision(), None);
    assert_eq!(shared.next_request(), None);
    shared.decide_upgrade(true);
    shared.decide_upgrade(false);
    shared.response_done(now());
    assert_eq!(shared.take_decision(), Some(true));
    assert_eq!(shared.take_decision(), None);
}

#[tokio::test]
async fn hints_come_before_the_answer() {
    let hint = "GET /hint HTTP/1.1\r\nHost: a\r\n\r\n";
    let (output, _) = exchange(format!("{PLAIN}{hint}{LAST}").as_bytes()).await;
    assert_eq!(statuses(&output), ["200", "103", "200", "200"]);
    assert!(output.contains("\r\nlink: </x>\r\n\r\nHTTP/1.1 200"));
}

#[tokio::test]
async fn hints_are_refused_once_something_was_written() {
    let shared = Shared::new(now());
    shared.next_request();
    shared.set_flushed(false);
    assert!(!shared.inject(b"x"), "an earlier answer is on its way");
    shared.set_flushed(true);
    shared.add_written(1);
    assert!(!shared.inject(b"x"), "this answer has begun");
    shared.next_request();
    assert!(shared.inject(b"x"));
}

/// A client that sends `input`, and says how long the server takes to close, and what it sends.
async fn time_to_close(input: &str) -> (Duration, String, Vec<String>) {
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        ..HeadLimits::default()
    };
    let begin = now();
    let (output, seen) = with_client(limits, async |mut io: DuplexStream, _| {
        io.write_all(input.as_bytes()).await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    (begin.elapsed(), output, seen)
}

#[track_caller]
fn assert_about(found: Duration, seconds: u64) {
    let wanted = Duration::from_secs(seconds);
    assert!(found >= wanted && found < wanted + Duration::from_secs(2), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_head_times_out() {
    let (took, output, seen) = time_to_close("GET /x HTTP/1.1\r\nHo").await;
    assert_about(took, 10);
    assert_eq!(statuses(&output), ["408"]);
    assert_eq!(seen, ["header_timeout"]);
    // Behind a request, too.
    let (took, output, _) = time_to_close(&format!("{PLAIN}GET /x HTTP/1.1\r\nHo")).await;
    assert_about(took, 10);
    assert_eq!(statuses(&output), ["200", "408"]);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_has_the_same_time() {
    let begin = now();
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        for byte in PLAIN.bytes().take(9) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            io.write_u8(byte).await.expect("write");
        }
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["408"]);
    assert_about(begin.elapsed(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_later_head_begins_with_its_first_byte() {
    let begin = now();
    let (output, _) = with_client(HeadLimits::default(), async |mut io: DuplexStream, _| {
        io.write_all(PLAIN.as_bytes()).await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        io.write_all(b"GET ").await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["408"]);
    assert_about(begin.elapsed(), 50 + 10);
}

#[tokio::test(start_paused = true)]
async fn silent_connections_are_closed_without_an_answer() {
    let (took, output, _) = time_to_close("").await;
    assert_about(took, 10);
    assert_eq!(output, "");
    let (took, output, _) = time_to_close(PLAIN).await;
    assert_about(took, 60);
    assert_eq!(statuses(&output), ["200"]);
    // Empty lines are not a head.
    let (took, output, _) = time_to_close(&format!("{PLAIN}\r\n")).await;
    assert_about(took, 60);
    assert_eq!(statuses(&output), ["200"]);
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_begins_with_the_last_answer() {
    let limits = HeadLimits { idle_timeout: Duration::from_secs(60), ..HeadLimits::default() };
    let begin = now();
    with_client(limits, async |mut io: DuplexStream, _| {
        for _ in 0..3 {
            io.write_all(PLAIN.as_bytes()).await.expect("write");
            read_until(&mut io, "GET /plain").await;
            tokio::time::sleep(Duration::from_secs(50)).await;
        }
        read_to_end(&mut io).await
    })
    .await;
    assert_about(begin.elapsed(), 100 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_not_idle() {
    let slow = LAST.replace("/last", "/slow");
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        ..HeadLimits::default()
    };
    let begin = now();
    let (output, _) = with_client(limits, async |mut io: DuplexStream, _| {
        io.write_all(slow.as_bytes()).await.expect("write");
        read_to_end(&mut io).await
    })
    .await;
    assert_eq!(statuses(&output), ["200"]);
    assert_about(begin.elapsed(), 30);
}

#[tokio::test(start_paused = true)]
async fn parking_is_proposed_once_when_nothing_was_in_progress_for_long() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let limits = HeadLimits { idle_timeout: minute, park_after: second, ..HeadLimits::default() };
    with_client(limits, async |mut io: DuplexStream, shared: Arc<Shared>| {
        // Not before the first request, which has the time of a head.
        tokio::time::sleep(2 * second).await;
        assert_eq!(shared.take_parking(), None);

        for _ in 0..2 {
            io.write_all(PLAIN.as_bytes()).await.expect("write");
            read_until(&mut io, "GET /plain").await;
            let answered = now();
            tokio::time::sleep(second * 9 / 10).await;
            assert_eq!(shared.take_parking(), None);
            tokio::time::sleep(second / 5).await;
            let until = shared.take_parking().expect("a proposal");
            assert_about(until - answered, 60);
            assert_eq!(shared.take_parking(), None);
        }

        // A head has begun, before the guard looks or just after.
        io.write_all(b"GET /plain HTTP/1.1\r\n").await.expect("write");
        tokio::time::sleep(2 * second).await;
        assert_eq!(shared.take_parking(), None);
        io.write_all(b"Host: a\r\n\r\n").await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(minute / 2).await;
        io.write_all(b"GET /plain HTTP/1.1\r\n").await.expect("write");
        while shared.is_idle() {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.take_parking(), None);

        // The pauses between two looks grow with the request, so that it costs next to nothing.
        let slow = PLAIN.replace("/plain", "/slow");
        io.write_all(format!("Host: a\r\n\r\n{slow}").as_bytes()).await.expect("write");
        read_until(&mut io, "GET /plain").await;
        tokio::time::sleep(minute / 2 - second).await;
        assert_eq!(shared.take_parking(), None);
        read_until(&mut io, "GET /slow").await;
        tokio::time::sleep(minute / 2 + 2 * second).await;
        assert!(shared.take_parking().is_some());
    })
    .await;
}

/// hyper's server, the guard, the service, all at once: what the guard lets through, hyper does not
/// refuse, and each head comes to the service exactly once.
async fn serve_stream(stream: Vec<u8>, piece: usize) -> (u64, Vec<String>, Option<bool>) {
    let script = script();
    let (ours, theirs) = duplex(64);
    let limits = Arc::new(HeadLimits::default());
    let io = GuardedIo::new(theirs, Bytes::new(), limits, script.shared.clone());
    let calls = script.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let script = calls.clone();
        async move {
            let rejected = script.shared.next_request().is_some();
            let connect = request.method() == Method::CONNECT;
            let read = request.into_body().collect().await;
            let text = read.map_or("broken", |_| if rejected { "rejected" } else { "good" });
            script.seen.borrow_mut().push(text.to_owned());
            script.shared.response_done(now());
            let mut response = Response::new(Full::<Bytes>::default());
            if connect {
                *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(true)
        .serve_connection(io, service);
    let (mut from_server, mut to_server) = tokio::io::split(ours);
    let send = async {
        for piece in stream.chunks(piece) {
            // It fails once the server has closed.
            let _ = to_server.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = to_server.shutdown().await;
    };
    let mut answers = Vec::new();
    let receive = from_server.read_to_end(&mut answers);
    let (ended, (), _) = tokio::join!(connection, send, receive);
    let parse_error = ended.err().map(|error| error.is_parse() || error.is_parse_too_large());
    let seen = script.seen.take();
    (script.shared.requests(), seen, parse_error)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn hyper_never_refuses_what_passed(stream in stream(3), piece in 1..200_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("runtime");
        let (calls, seen, parse_error) = runtime.block_on(serve_stream(stream.clone(), piece));
        prop_assert_ne!(parse_error, Some(true), "{}", stream.escape_ascii());
        prop_assert_eq!(calls, seen.len() as u64);
        // Nothing is handled after what was refused.
        let bad = seen.iter().position(|text| text != "good");
        prop_assert!(bad.is_none_or(|bad| bad + 1 == seen.len()), "{:?}", seen);
    }
}
