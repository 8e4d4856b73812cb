use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::{Body, Frame};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::body::Decoder;
use super::head::{self, Framing, Parsed};
use super::{Connection, Error};
use crate::http1::{Coding, Outgoing};
use crate::names::Names;
use crate::stream::Stream;

/// Frames that are there at once.
struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn data(pieces: &[&[u8]]) -> Self {
        Self(pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect())
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

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn pair() -> (Connection<Frames>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(Stream::Unix(ours), 64 << 10), theirs)
}

fn head(method: Method, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri("/a?b");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn parse(text: &str, method: &Method) -> Result<Option<Parsed>, Error> {
    head::parse(&mut text.into(), method)
}

async fn read_all(connection: &Connection<Frames>) -> Result<(Vec<u8>, HeaderMap), Error> {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = std::future::poll_fn(|cx| connection.poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap()),
        }
    }
    Ok((data, trailers))
}

/// Sends a request and plays the upstream: what it got is returned with the answer.
async fn exchange(
    connection: &Connection<Frames>,
    theirs: &mut UnixStream,
    request: (Parts, Option<Frames>),
    expected: usize,
    answer: &[u8],
) -> (String, Result<StatusCode, Error>) {
    let names = Names::default();
    let ours = connection.send(&request.0, &names, request.1, |_, _| {});
    let upstream = async {
        let mut got = vec![0; expected];
        theirs.read_exact(&mut got).await.unwrap();
        theirs.write_all(answer).await.unwrap();
        String::from_utf8(got).unwrap()
    };
    let (response, got) = tokio::join!(ours, upstream);
    (got, response.map(|(response, _)| response.status()))
}

#[tokio::test(flavor = "local")]
async fn requests_follow_each_other_on_one_connection() {
    let (connection, mut theirs) = pair();
    let get = "GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for _ in 0..3 {
        assert!(connection.is_reusable() && connection.is_quiet());
        let request = (head(Method::GET, &[("host", "a")]), None);
        let (got, status) = exchange(&connection, &mut theirs, request, get.len(), answer).await;
        assert_eq!((got.as_str(), status.unwrap()), (get, StatusCode::OK));
        assert!(!connection.is_reusable(), "its body is not read");
        assert_eq!(read_all(&connection).await.unwrap().0, b"ok");
    }
    drop(theirs);
    // It was closed, and the runtime comes to know of it.
    while connection.is_quiet() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn bodies_go_out_as_the_head_frames_them() {
    let large = "x".repeat(100_000);
    for (fields, pieces, expected) in [
        (&[("content-length", "5")][..], &["he", "llo"][..], "hello".to_owned()),
        (
            &[("transfer-encoding", "chunked")],
            &["hello", "", &large],
            format!("5\r\nhello\r\n186a0\r\n{large}\r\n0\r\n\r\n"),
        ),
        (&[("content-length", "100000")], &[&large], large.clone()),
    ] {
        let (connection, mut theirs) = pair();
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let request = (head(Method::POST, fields), Some(Frames::data(&pieces)));
        let (name, value) = fields[0];
        let expected = format!("POST /a?b HTTP/1.1\r\n{name}: {value}\r\n\r\n{expected}");
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        let (got, status) =
            exchange(&connection, &mut theirs, request, expected.len(), answer).await;
        assert_eq!(status.unwrap(), StatusCode::NO_CONTENT);
        assert!(got == expected, "{name}");
        assert!(connection.is_reusable());
    }
}

/// Takes a byte, and nothing the next time.
#[derive(Default)]
struct Dripping {
    taken: Vec<u8>,
    full: bool,
}

impl tokio::io::AsyncWrite for Dripping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.full = !self.full;
        if !self.full {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.taken.push(bytes[0]);
        Poll::Ready(Ok(1))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).expect("something to write");
        self.poll_write(cx, first)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_chunked_body_survives_a_socket_that_takes_a_byte_at_a_time() {
    let large = vec![b'x'; 5000];
    let mut out = Outgoing::default();
    let body = Frames::data(&[&large, b"small", &large]);
    out.begin().extend_from_slice(b"head\r\n\r\n");
    out.set_body(body, Coding::Chunked, None);
    let mut io = Dripping::default();
    std::future::poll_fn(|cx| out.poll_send(&mut io, cx)).await.unwrap();
    let wire = String::from_utf8(io.taken).unwrap();
    let (_, body) = wire.split_once("\r\n\r\n").unwrap();
    let large = String::from_utf8(large).unwrap();
    assert_eq!(body, format!("1388\r\n{large}\r\n5\r\nsmall\r\n1388\r\n{large}\r\n0\r\n\r\n"));
}

#[tokio::test(flavor = "local")]
async fn interim_answers_have_an_end() {
    let (connection, mut theirs) = pair();
    theirs.write_all("HTTP/1.1 102 Processing\r\n\r\n".repeat(101).as_bytes()).await.unwrap();
    let request = head(Method::GET, &[]);
    let sent = connection.send(&request, &Names::default(), None, |_, _| {}).await;
    assert!(matches!(sent, Err(Error::Malformed(_))), "{sent:?}");
}

#[tokio::test(flavor = "local")]
async fn only_announced_trailers_go_out() {
    let (connection, mut theirs) = pair();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    trailers.insert("x-other", HeaderValue::from_static("2"));
    let mut frames = Frames::data(&[b"a"]);
    frames.0.push_back(Frame::trailers(trailers));
    let fields = [("transfer-encoding", "chunked"), ("trailer", "X-Sum, x-more")];
    let end = "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n";
    let request = (head(Method::POST, &fields), Some(frames));
    let length =
        "POST /a?b HTTP/1.1\r\ntransfer-encoding: chunked\r\ntrailer: X-Sum, x-more\r\n\r\n".len()
            + end.len();
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Md5: q\r\n\r\n";
    let (got, status) = exchange(&connection, &mut theirs, request, length, answer).await;
    assert!(got.ends_with(end), "{got}");
    assert_eq!(status.unwrap(), StatusCode::OK);
    let (data, trailers) = read_all(&connection).await.unwrap();
    assert_eq!((&data[..], trailers["x-md5"].as_bytes()), (&b"ok"[..], &b"q"[..]));
    assert!(connection.is_reusable());
}

#[tokio::test(flavor = "local")]
async fn a_body_of_another_length_than_announced_is_an_error() {
    for pieces in [&[&b"toolong"[..]][..], &[b"short"]] {
        let (connection, _theirs) = pair();
        let request = head(Method::POST, &[("content-length", "6")]);
        let sent = connection
            .send(&request, &Names::default(), Some(Frames::data(pieces)), |_, _| {})
            .await;
        assert!(matches!(sent, Err(Error::RequestBody)), "{sent:?}");
        assert!(!connection.is_reusable());
    }
}

#[tokio::test(flavor = "local")]
async fn interim_answers_are_told_and_the_final_one_is_returned() {
    let (connection, mut theirs) = pair();
    theirs
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n")
        .await
        .unwrap();
    let mut told = Vec::new();
    let request = head(Method::GET, &[]);
    let response = connection
        .send(&request, &Names::default(), None, |status, _| told.push(status.as_u16()))
        .await
        .unwrap();
    assert_eq!((told, response.0.status().as_u16()), (vec![100, 103], 304));
    assert!(connection.is_end_stream() && connection.is_reusable());
}

#[tokio::test(flavor = "local")]
async fn names_keep_their_case_both_ways() {
    let (connection, mut theirs) = pair();
    let request = head(Method::GET, &[("host", "a"), ("x-ours", "1")]);
    let names = Names::collect([&b"HoSt"[..]].into_iter());
    theirs.write_all(b"HTTP/1.1 204 No Content\r\nX-ABC: 1\r\n\r\n").await.unwrap();
    let (_, names) = connection.send(&request, &names, None, |_, _| {}).await.unwrap();
    let expected = b"GET /a?b HTTP/1.1\r\nHoSt: a\r\nx-ours: 1\r\n\r\n";
    let mut got = vec![0; expected.len()];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
    assert_eq!(names, Names::collect([&b"X-ABC"[..]].into_iter()));
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_is_closed_before_the_request_has_taken_nothing() {
    let (connection, theirs) = pair();
    drop(theirs);
    let request = head(Method::GET, &[]);
    let sent = connection.send(&request, &Names::default(), None, |_, _| {}).await;
    assert!(matches!(sent, Err(Error::Unwritten)), "{sent:?}");
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_came_before_the_close_counts() {
    let (connection, mut theirs) = pair();
    theirs.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    // It reads nothing, so that the socket is full before all of the body is written.
    let large = vec![b'x'; 4 << 20];
    let request = head(Method::POST, &[("content-length", "4194304")]);
    let response = connection
        .send(&request, &Names::default(), Some(Frames::data(&[&large])), |_, _| {})
        .await;
    assert_eq!(response.unwrap().0.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!connection.is_sent());
    assert_eq!(read_all(&connection).await.unwrap().0, b"no");
    assert!(!connection.is_reusable());
    drop(theirs);
    connection.clone().finish_sending().await;
    assert!(!connection.is_reusable());
}

#[tokio::test(flavor = "local")]
async fn a_switched_connection_is_handed_over_with_what_came_behind() {
    let (connection, mut theirs) = pair();
    theirs.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nearly").await.unwrap();
    let request = head(Method::GET, &[("upgrade", "x"), ("connection", "upgrade")]);
    let response = connection.send(&request, &Names::default(), None, |_, _| {}).await.unwrap();
    assert_eq!(response.0.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(!connection.is_reusable());
    let (_, early, _) = connection.into_stream().unwrap();
    assert_eq!(early, "early");
}

#[test]
fn how_a_body_is_framed() {
    let get = Method::GET;
    for (fields, framing, keep_alive) in [
        ("1.1 200 OK\r\ncontent-length: 3", Framing::Length(3), true),
        ("1.1 200 OK\r\ncontent-length: 3\r\nContent-Length: 3", Framing::Length(3), true),
        ("1.1 200 OK\r\ncontent-length: 3\r\nconnection: foo, Close", Framing::Length(3), false),
        ("1.1 200 OK\r\nconnection: close, keep-alive\r\ncontent-length: 0", Framing::None, false),
        ("1.1 200 OK\r\ntransfer-encoding: CHUNKED ", Framing::Chunked, true),
        ("1.1 200 OK", Framing::Close, false),
        ("1.1 204 OK", Framing::None, true),
        ("1.0 200 OK\r\ncontent-length: 3", Framing::Length(3), false),
        ("1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive", Framing::Length(3), true),
        ("1.1 304 OK\r\ncontent-length: 3", Framing::None, true),
        ("1.1 100 \r\ncontent-length: 3", Framing::None, true),
    ] {
        let parsed = parse(&format!("HTTP/{fields}\r\n\r\n"), &get).unwrap().unwrap();
        assert_eq!((parsed.framing, parsed.keep_alive), (framing, keep_alive), "{fields}");
        let lengths = parsed.response.headers().get_all("content-length").iter().count();
        assert!(lengths <= 1, "{fields}");
    }
    let head = parse("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", &Method::HEAD);
    assert_eq!(head.unwrap().unwrap().framing, Framing::None);
}

#[test]
fn heads_that_are_refused() {
    for fields in [
        "1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4",
        "1.1 200 OK\r\ncontent-length: 3, 3",
        "1.1 200 OK\r\ncontent-length: +3",
        "1.1 200 OK\r\ncontent-length: ",
        "1.1 200 OK\r\ncontent-length: 99999999999999999999",
        "1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked",
        "1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        "1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "1.0 200 OK\r\ntransfer-encoding: chunked",
        "1.1 099 OK",
        "2.0 200 OK",
        "1.1 200 OK\r\na : b",
        "1.1 200 OK\r\na: b\r\n c",
    ] {
        let parsed = parse(&format!("HTTP/{fields}\r\n\r\n"), &Method::GET);
        assert!(matches!(parsed, Err(Error::Malformed(_))), "{fields}: {parsed:?}");
    }
}

/// A body, and what came behind it.
type Decoded = (Vec<u8>, Vec<u8>);

/// Decodes `pieces` as they come. None: the body has not ended.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<Option<Decoded>, Error> {
    let mut decoder = Decoder::new(framing);
    let (mut bytes, mut data) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        while let Some(frame) = decoder.take(&mut bytes)? {
            if let Ok(piece) = frame.into_data() {
                data.extend_from_slice(&piece);
            }
        }
    }
    Ok(decoder.is_done().then(|| (data, bytes.to_vec())))
}

#[test]
fn chunks_that_are_refused() {
    for body in [
        &b"zz\r\n"[..],
        b"\r\n",
        b"5\nhello\r\n",
        b"5\r\nhellooo\r\n",
        b"-5\r\n",
        b"0x5\r\n",
        b"11111111111111111\r\n",
        b"5;\x01\r\n",
        b"5a;\x00\r\n",
        b"0\r\nx : y\r\n\r\n",
    ] {
        let decoded = decode(Framing::Chunked, &[body]);
        assert!(matches!(decoded, Err(Error::Malformed(_))), "{}", body.escape_ascii());
    }
    assert!(decode(Framing::Chunked, &[b"1;", &[b'a'; 5000]]).is_err());
    assert!(decode(Framing::Chunked, &[b"0\r\nx: ", &[b'a'; 20_000]]).is_err());
}

proptest! {
    /// However the bytes are cut, a body is the same, and what follows it is left.
    #[test]
    fn a_chunked_body_does_not_depend_on_how_it_comes(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        trailers in any::<bool>(),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:X};a=\"b\"\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(if trailers { b"0\r\na: b\r\n\r\n" } else { b"0\r\n\r\n" });
        wire.extend_from_slice(b"NEXT");
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        ends.extend([0, wire.len()]);
        ends.sort_unstable();
        let pieces: Vec<_> = ends.windows(2).map(|ends| &wire[ends[0]..ends[1]]).collect();
        let (data, rest) = decode(Framing::Chunked, &pieces).unwrap().unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(rest, b"NEXT");
    }

    /// Nothing that an upstream sends is more than an error.
    #[test]
    fn garbage_is_an_error_or_not_enough(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "(HTTP/1\\.[01] [0-9]{2,4} ?[a-z]{0,3}(\r?\n[a-zA-Z: -]{0,12}){0,4}\r?\n\r?\n.{0,9}){1,2}"
                .prop_map(String::into_bytes),
        ]
    ) {
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(Some(parsed)) = head::parse(&mut buffer, &Method::GET) {
            let _ = Decoder::new(parsed.framing).take(&mut buffer);
        }
        for framing in [Framing::Chunked, Framing::Length(7), Framing::Close] {
            let _ = Decoder::new(framing).take(&mut BytesMut::from(&bytes[..]));
        }
    }
}
