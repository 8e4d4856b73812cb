//! What the head of an answer says of its body, and of the connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::response::Builder;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::clock;
use crate::http1::Coding;
use crate::listen::http1::answer::{Asked, Sent};
use crate::listen::http1::head::{HeadLimits, HeadParser};
use crate::listen::http1::{After, Connection, Next};
use crate::names::Names;

/// Frames of which only their end tells how many there are.
#[derive(Default)]
struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn data(pieces: &[&'static str]) -> Self {
        Self(pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes()))).collect())
    }

    fn trailer(mut self, name: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, HeaderValue::from_static("1"));
        trailers.insert("x-other", HeaderValue::from_static("2"));
        self.0.push_back(Frame::trailers(trailers));
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
const CONNECT: &str = "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
const KEPT: &str = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";

/// The head of the answer to `request`, without its last empty line.
fn written(
    request: &str,
    answer: Builder,
    body: &impl Body<Data = Bytes>,
    closing: bool,
) -> (String, Sent) {
    let (mut bytes, mut parser) = (BytesMut::from(request), HeadParser::default());
    let head = parser.feed(&bytes, &HeadLimits::default()).expect("good").expect("whole");
    let (request, _) = parser.take(&mut bytes, &head).expect("a request");
    let (parts, ()) = answer.body(()).expect("an answer").into_parts();
    let mut out = Vec::new();
    let asked = Asked::of(request.method(), &head);
    let sent = asked.write(&parts, body, &Names::default(), closing, &mut out);
    let text = String::from_utf8(out).expect("text");
    (text.strip_suffix("\r\n").expect("an end").to_owned(), sent)
}

fn ok() -> Builder {
    Response::builder()
}

#[test]
fn how_the_body_is_framed() {
    let known = Full::from("hello");
    let (none, frames) = (Empty::new(), Frames::default());
    let length = |length| ok().header("content-length", length);
    let status = |status: u16| ok().status(status);
    // With a body of known length, with one of unknown length, and without.
    let lines = |request, answer: &dyn Fn() -> Builder| {
        [
            written(request, answer(), &known, false),
            written(request, answer(), &frames, false),
            written(request, answer(), &none, false),
        ]
        .map(|(text, sent)| {
            let (status, fields) = text.split_once("\r\n").expect("a line");
            assert!(status.starts_with("HTTP/1."), "{text}");
            (fields.trim_end().to_owned(), sent.coding)
        })
    };
    let (chunked, close) = (Some(Coding::Chunked), Some(Coding::Close));
    let of = |length| Some(Coding::Length(length));
    let said = |text: &str, coding| (text.to_owned(), coding);

    let zero = || said("content-length: 0", None);
    assert_eq!(
        lines(GET, &ok),
        [said("content-length: 5", of(5)), said("transfer-encoding: chunked", chunked), zero(),]
    );
    assert_eq!(lines(OLD, &ok), [said("content-length: 5", of(5)), said("", close), zero()]);
    // What the head says itself is believed as far as there is a body.
    assert_eq!(
        lines(GET, &|| length(7)),
        [said("content-length: 7", of(7)), said("content-length: 7", of(7)), zero()]
    );
    assert_eq!(lines(GET, &|| length(0))[2], zero());
    let twice = || length(7).header("content-length", 8);
    assert_eq!(lines(GET, &twice)[1], said("content-length: 7", of(7)));
    let wrong = || ok().header("content-length", "7 ");
    assert_eq!(lines(GET, &wrong)[1], said("transfer-encoding: chunked", chunked));
    let hop = || ok().header("transfer-encoding", "gzip");
    assert_eq!(lines(GET, &hop)[1], said("transfer-encoding: chunked", chunked));
    // The answer to HEAD says what it says, and no more.
    let told = said("content-length: 7", None);
    assert_eq!(lines(HEAD, &|| length(7)), [told.clone(), told.clone(), told]);
    for (request, code) in [(HEAD, 200), (GET, 204), (GET, 304), (GET, 101), (CONNECT, 200)] {
        let nothing = || said("", None);
        assert_eq!(lines(request, &|| status(code)), [nothing(), nothing(), nothing()], "{code}");
        if request != HEAD {
            let found = lines(request, &|| length(7).status(code));
            assert_eq!(found, [nothing(), nothing(), nothing()], "{code}");
        }
    }
    // A tunnel that is refused is an answer like others.
    assert_eq!(lines(CONNECT, &|| status(405))[0], said("content-length: 5", of(5)));
    // Trailers need chunks.
    let trailer = || ok().header("trailer", "x-sum");
    assert!(lines(GET, &trailer)[1].0.starts_with("trailer: x-sum\r\n"));
    assert_eq!(lines(OLD, &trailer)[1], said("", close));
    assert_eq!(lines(HEAD, &trailer)[1], said("", None));
}

#[test]
fn whether_the_connection_goes_on() {
    let says = |value: &'static str| ok().header("connection", value);
    let frames = Frames::default();
    let cases: [(_, Builder, _, &[&str], _); 16] = [
        (GET, ok(), false, &[], true),
        (GET, ok(), true, &["close"], false),
        (GET, says("close"), false, &["close"], false),
        (GET, says("x, Close"), true, &["x, Close"], false),
        (GET, says("x"), true, &["x", "close"], false),
        (LAST, ok(), false, &["close"], false),
        (OLD, ok(), false, &[], false),
        (OLD, says("close"), true, &["close"], false),
        (KEPT, ok(), false, &["keep-alive"], true),
        (KEPT, says("Keep-Alive"), false, &["Keep-Alive"], true),
        (KEPT, ok(), true, &[], false),
        (KEPT, says("close"), false, &["close"], false),
        (CONNECT, ok(), false, &[], false),
        (CONNECT, ok().status(405), false, &[], true),
        // It names the protocol, and nothing else.
        (GET, says("upgrade").status(101), true, &["upgrade"], false),
        (LAST, says("upgrade").status(101), false, &["upgrade"], false),
    ];
    for (request, answer, closing, wanted, keep_alive) in cases {
        let (text, sent) = written(request, answer, &Empty::new(), closing);
        let fields = text.lines().filter_map(|line| line.strip_prefix("connection: "));
        assert_eq!(fields.collect::<Vec<_>>(), wanted, "{request}: {text}");
        assert_eq!(sent.keep_alive, keep_alive, "{request}: {text}");
        let version = if request.contains("1.0") { "HTTP/1.0 " } else { "HTTP/1.1 " };
        assert!(text.starts_with(version), "{text}");
    }
    // The close is the end of the body.
    let (text, sent) = written(KEPT, ok(), &frames, false);
    assert_eq!((sent.coding, sent.keep_alive), (Some(Coding::Close), false));
    assert!(!text.contains("connection"), "{text}");
}

#[test]
fn a_reason_is_passed_on() {
    let line = |answer: Builder| {
        let (text, _) = written(GET, answer, &Empty::new(), false);
        text.lines().next().expect("a line").to_owned()
    };
    assert_eq!(line(ok()), "HTTP/1.1 200 OK");
    assert_eq!(line(ok().status(404)), "HTTP/1.1 404 Not Found");
    assert_eq!(line(ok().status(599)), "HTTP/1.1 599 <none>");
    assert_eq!(line(ok().extension(ReasonPhrase::from_static(b"Fine"))), "HTTP/1.1 200 Fine");
}

/// What a client of `request` gets, and what comes after it.
async fn exchange<B>(request: &str, response: Response<B>) -> (String, After)
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut ours, theirs) = duplex(1 << 20);
    ours.write_all(request.as_bytes()).await.expect("write");
    let limits = HeadLimits::default();
    let mut http = Connection::<B, _>::new(theirs, Bytes::new(), limits, clock::now());
    let Next::Request(_) = poll_fn(|cx| http.poll_next(cx)).await else { panic!() };
    http.answer(response, false);
    let after = poll_fn(|cx| http.poll_answer(cx)).await;
    drop(http);
    let mut output = String::new();
    ours.read_to_string(&mut output).await.expect("read");
    let (_, body) = output.split_once("\r\n\r\n").expect("a head");
    (body.to_owned(), after)
}

#[tokio::test]
async fn a_body_is_sent_as_its_head_says() {
    let of = |pieces: &[&'static str]| Response::new(Frames::data(pieces));
    let chunks = "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".to_owned();
    assert_eq!(exchange(GET, of(&["ab", "", "c"])).await, (chunks, After::Next));
    assert_eq!(exchange(OLD, of(&["ab", "", "c"])).await, ("abc".into(), After::Close));
    assert_eq!(exchange(KEPT, of(&["ab", "", "c"])).await, ("abc".into(), After::Close));
    assert_eq!(exchange(HEAD, of(&["ab"])).await, ("".into(), After::Next));
    let mut response = of(&["ab", "c"]);
    response.headers_mut().insert("content-length", HeaderValue::from(3));
    assert_eq!(exchange(GET, response).await, ("abc".into(), After::Next));
}

/// The client must see that something is missing, and nothing may be taken for the next answer.
#[tokio::test]
async fn a_body_of_another_length_than_announced_ends_the_connection() {
    for pieces in [&["ab"][..], &[], &["ab", "cd"]] {
        let mut response = Response::new(Frames::data(pieces));
        response.headers_mut().insert("content-length", HeaderValue::from(3));
        let (body, after) = exchange(GET, response).await;
        assert_eq!(after, After::Broken, "{pieces:?}");
        assert!(body.len() < 3, "{pieces:?}: {body}");
    }
}

#[tokio::test]
async fn trailers_go_to_who_wants_them_and_was_told_of_them() {
    let wants = GET.replace("host", "te: trailers\r\nhost");
    let answer = |announced| {
        let mut response = Response::new(Frames::data(&["a"]).trailer("x-sum"));
        response.headers_mut().insert("trailer", HeaderValue::from_static(announced));
        response
    };
    let with = "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n".to_owned();
    let without = "1\r\na\r\n0\r\n\r\n".to_owned();
    assert_eq!(exchange(&wants, answer("X-Sum, x-more")).await, (with, After::Next));
    assert_eq!(exchange(&wants, answer("x-more")).await, (without.clone(), After::Next));
    assert_eq!(exchange(GET, answer("x-sum")).await, (without, After::Next));
}
