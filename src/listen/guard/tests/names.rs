//! Field names keep their case on the way through the guard and hyper's server, however it writes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use proptest::prelude::*;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::Instant;

use super::properties::stream;
use crate::listen::guard::{GuardedIo, HeadLimits, Messages, Shared, check};
use crate::names::Names;

/// hyper puts equal names together.
const HEAD: &str = "HTTP/1.1 200 OK\r\nX-Own: aB\r\nX-OWN: c\r\nVia: x-own\r\ncontent-length: ";
const LOWER: &str =
    "HTTP/1.1 200 OK\r\nx-own: aB\r\nx-own: c\r\nvia: x-own\r\ncontent-length: 6\r\n\r\n/lower";

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

fn names(names: &[&str]) -> Names {
    Names::collect(names.iter().map(|name| name.as_bytes()))
}

/// A pipe that takes so many bytes at once, and lets the writer wait before each.
struct Pipe {
    io: DuplexStream,
    vectored: bool,
    at_once: usize,
    waits: bool,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = buf.len().min(self.at_once);
        Pin::new(&mut self.io).poll_write(cx, &buf[..len])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        assert!(self.vectored);
        let joined: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The fields of each request as its client wrote them, and what the path asks of the answer.
struct Service {
    shared: Arc<Shared>,
    seen: RefCell<Vec<String>>,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let rejected = self.shared.next_request();
        self.seen.borrow_mut().push(match rejected {
            Some(rejection) => format!("{} {:?}", rejection.reason, self.shared.take_names()),
            None => format!("{} {:?}", request.uri().path(), self.shared.take_names()),
        });
        let path = request.uri().path().to_owned();
        let mut response = Response::new(Full::from(path.clone()));
        for (name, value) in [("x-own", "aB"), ("via", "x-own"), ("x-own", "c")] {
            response.headers_mut().append(name, http::HeaderValue::from_static(value));
        }
        let answer_names = || self.shared.answer_names(names(&["X-Own", "Via", "X-OWN"]));
        match &*path {
            "/lower" => {}
            "/hint" => {
                answer_names();
                assert!(self.shared.inject(b"HTTP/1.1 103 Early Hints\r\nvia: b\r\n\r\n"));
            }
            "/early" => {
                answer_names();
                *response.body_mut() = Full::default();
                tokio::spawn(request.into_body().collect());
            }
            "/first" => {
                answer_names();
                request.into_body().collect().await.expect("a body");
            }
            _ => {
                request.into_body().collect().await.expect("a body");
                answer_names();
            }
        }
        self.shared.response_done(now());
        response
    }
}

/// How the server's side is written to.
#[derive(Debug, Clone, Copy)]
struct Writes {
    vectored: bool,
    at_once: usize,
    /// Bytes in the pipe.
    room: usize,
}

const PLAIN: Writes = Writes { vectored: true, at_once: usize::MAX, room: 64 * 1024 };

/// What the client reads until the server closes, and what the service saw.
async fn exchange(
    writes: Writes,
    client: impl AsyncFnOnce(DuplexStream, Arc<Shared>) -> String,
) -> (String, Vec<String>) {
    let Writes { vectored, at_once, room } = writes;
    let (ours, io) = duplex(room);
    let io = Pipe { io, vectored, at_once, waits: at_once == usize::MAX };
    let shared = Shared::new(now());
    let service = Rc::new(Service { shared: shared.clone(), seen: RefCell::default() });
    let io = GuardedIo::new(io, Bytes::new(), Arc::new(HeadLimits::default()), shared.clone());
    let calls = service.clone();
    let connection =
        http1::Builder::new().header_read_timeout(None).auto_date_header(false).serve_connection(
            io,
            service_fn(move |request| {
                let service = calls.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            }),
        );
    let (_, output) = tokio::join!(connection, client(ours, shared));
    (output, service.seen.take())
}

async fn send(writes: Writes, input: &str, piece: usize) -> (String, Vec<String>) {
    exchange(writes, async |io, _| {
        let (mut from_server, mut to_server) = tokio::io::split(io);
        let mut output = String::new();
        let write = async {
            for piece in input.as_bytes().chunks(piece) {
                to_server.write_all(piece).await.expect("write");
                tokio::task::yield_now().await;
            }
        };
        let (read, ()) = tokio::join!(from_server.read_to_string(&mut output), write);
        read.expect("read");
        output
    })
    .await
}

fn answer(path: &str) -> String {
    match path {
        "/early" => format!("{HEAD}0\r\n\r\n"),
        _ => format!("{HEAD}{}\r\n\r\n{path}", path.len()),
    }
}

fn last(answer: &str) -> String {
    let (head, body) = answer.split_once("content-length").expect("a length");
    format!("{head}connection: close\r\ncontent-length{body}")
}

#[tokio::test]
async fn each_request_comes_with_its_names() {
    let input = "GET /a HTTP/1.1\r\nHost: a\r\nX-Own: b\r\n\r\n\
         GET /lower HTTP/1.1\r\nhost: a\r\nx-own: b\r\n\r\n\
         POST /c HTTP/1.1\r\nhost: a\r\nContent-Length: 2\r\nx-own: q\r\n\r\nX:\
         \r\nGET /d HTTP/1.1\r\nHOST: a\r\n\r\n\
         GET /e HTTP/1.1\r\nX-Own: b\r\n\r\n";
    let wanted = [
        r#"/a ["Host", "X-Own"]"#,
        "/lower []",
        r#"/c ["host", "Content-Length", "x-own"]"#,
        r#"/d ["HOST"]"#,
        "no_host []",
    ];
    for piece in 1..=input.len() {
        let (_, seen) = send(PLAIN, input, piece).await;
        assert_eq!(seen, wanted, "in pieces of {piece}");
    }
}

#[test]
fn names_that_nobody_takes_do_not_pile_up() {
    let shared = Shared::new(now());
    let named = |name: &str| names(&[name]);
    // Two are pipelined; the first one's are not asked for.
    shared.name_head(1, named("A"));
    shared.name_head(2, named("B"));
    shared.next_request();
    shared.next_request();
    assert_eq!(shared.take_names(), named("B"));
    assert!(shared.take_names().is_empty());
    shared.name_head(3, named("C"));
    shared.name_head(5, named("E"));
    shared.next_request();
    assert_eq!(shared.take_names(), named("C"));
    shared.next_request();
    assert!(shared.take_names().is_empty(), "all in lower case");
    shared.next_request();
    assert_eq!(shared.take_names(), named("E"));
    // Two are always pipelined, and nobody asks for them.
    let mut size = 0;
    for pair in 3..1000 {
        shared.name_head(2 * pair, named("F"));
        shared.name_head(2 * pair + 1, named("G"));
        size = size.max(format!("{shared:?}").len());
        shared.next_request();
        shared.next_request();
    }
    assert!(size < 2000, "{size}");
    assert_eq!(shared.take_names(), named("G"));
}

#[tokio::test]
async fn answers_go_out_with_the_names_that_were_asked_for() {
    let input = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /lower HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /long-enough-to-be-a-body HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let wanted = [
        answer("/a"),
        LOWER.to_owned(),
        answer("/long-enough-to-be-a-body"),
        last(&answer("/last")),
    ]
    .concat();
    for vectored in [false, true] {
        for at_once in (1..30).chain((30..200).step_by(7)).chain([usize::MAX]) {
            let writes = Writes { vectored, at_once, ..PLAIN };
            for piece in [1, input.len()] {
                assert_eq!(send(writes, input, piece).await.0, wanted, "{writes:?}");
            }
        }
    }
}

#[tokio::test]
async fn interim_answers_stay_as_they_are() {
    let input = "GET /hint HTTP/1.1\r\nhost: a\r\n\r\n\
         POST /first HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx\
         POST /then HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\
         connection: close\r\n\r\nx";
    let proceed = "HTTP/1.1 100 Continue\r\n\r\n";
    let wanted = [
        "HTTP/1.1 103 Early Hints\r\nvia: b\r\n\r\n",
        &answer("/hint"),
        proceed,
        &answer("/first"),
        proceed,
        &last(&answer("/then")),
    ]
    .concat();
    for vectored in [false, true] {
        for at_once in [1, 2, 3, 24, 25, 26, usize::MAX] {
            let writes = Writes { vectored, at_once, ..PLAIN };
            for piece in [1, input.len()] {
                assert_eq!(send(writes, input, piece).await.0, wanted, "{writes:?}");
            }
        }
    }
}

/// The upload outlives its answer, so that hyper takes on the next request while that is not out.
#[tokio::test]
async fn an_answer_may_be_behind_another_that_is_not_out() {
    let early = "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    let input = format!(
        "{early}{early}GET /lower HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    );
    let (early_answer, last) = (answer("/early"), last(&answer("/last")));
    let wanted = [&early_answer, &early_answer, LOWER, &last].concat();
    for vectored in [false, true] {
        for room in (1..150).step_by(7) {
            let writes = Writes { vectored, at_once: usize::MAX, room };
            let (output, _) = exchange(writes, async |io, shared| {
                let (mut from_server, mut to_server) = tokio::io::split(io);
                let (begin, end) = input.as_bytes().split_at(2 * early.len());
                for byte in begin {
                    to_server.write_u8(*byte).await.expect("write");
                    tokio::task::yield_now().await;
                }
                // The first answer waits for us to read, and the second is behind it.
                while shared.requests() < 2 {
                    tokio::task::yield_now().await;
                }
                let mut output = String::new();
                let write = to_server.write_all(end);
                let (read, write) = tokio::join!(from_server.read_to_string(&mut output), write);
                read.and(write.map(|()| 0)).expect("an exchange");
                output
            })
            .await;
            assert_eq!(output, wanted, "{writes:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn names_are_those_of_the_head(stream in stream(3), piece in 1..200_usize) {
        let limits = HeadLimits::default();
        let Ok(head) = check(&stream, &limits) else { return Ok(()) };
        let mut messages = Messages::default();
        let mut end = 0;
        while end < head.len {
            end = head.len.min(end + piece);
            messages.scan(&stream[..end], &limits);
        }
        let found: Vec<_> = messages.take_names().collect();
        let names = Names::of(&stream[..head.len]);
        let wanted = (!names.is_empty()).then_some((1, names));
        prop_assert_eq!(found, Vec::from_iter(wanted));
    }
}
