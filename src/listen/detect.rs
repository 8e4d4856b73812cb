//! What a new connection speaks: HTTP/1 by its request line, HTTP/2 by its preface, or something else.
//!
//! Where it may be something else, the server may be the one who speaks first (MySQL, SMTP). After
//! [`SILENCE`] of the client the server is dialled, and whoever speaks first decides: words of the
//! server make it an opaque tunnel without the seconds of delay that a plain timeout costs.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

use crate::stream::Stream;

/// How long a client may be silent before the server is asked.
pub const SILENCE: Duration = Duration::from_millis(50);
/// How long a server may take for its first word; the longest that a server is kept for a silent client.
const GREETING: Duration = Duration::from_secs(10);
/// What is read at most to find out: a request line longer than this is HTTP for all we know, and the
/// server of HTTP/1 refuses it.
const ENOUGH: usize = 16 * 1024;
/// What is read at once of a client that was silent: most requests are smaller.
const PIECE: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    Opaque,
    /// Nothing came, or the client left.
    Gone,
}

#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Before the server is dialled.
    pub silence: Duration,
    /// Until a verdict, where the server may not speak first either.
    pub total: Duration,
}

/// The verdict on the first bytes of a client; none while they could still become several things.
///
/// In doubt it is HTTP/1: an app may read more leniently than we do, and what passes as opaque bytes
/// passes every route and every check. So a known method and a blank are enough, and so is `HTTP/`.
pub fn classify(bytes: &[u8]) -> Option<Detected> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if bytes.starts_with(PREFACE) {
        return Some(Detected::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // Empty lines before a request are allowed (RFC 9112 2.2).
    let blank = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let bytes = &bytes[blank..];
    if bytes.is_empty() {
        return None;
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let word = line.iter().position(|byte| b" \t\x0b\x0c\r".contains(byte));
    let method = &line[..word.unwrap_or(line.len())];
    if word.is_some() && METHODS.iter().any(|known| method.eq_ignore_ascii_case(known)) {
        return Some(Detected::Http1);
    }
    if line.windows(5).any(|five| five.eq_ignore_ascii_case(b"HTTP/")) {
        return Some(Detected::Http1);
    }
    if !could_be_request_line(method, &line[method.len()..]) || line_end.is_some() {
        return Some(Detected::Opaque);
    }
    (bytes.len() >= ENOUGH).then_some(Detected::Http1)
}

/// The methods of RFC 9110, PATCH, and those of WebDAV (RFC 4918) that an app may know.
const METHODS: [&[u8]; 17] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PRI",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
];

/// Whether a line that may be cut short has only what a request line has.
fn could_be_request_line(method: &[u8], rest: &[u8]) -> bool {
    const LONGEST_METHOD: usize = 32;
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    method.len() <= LONGEST_METHOD
        && method.iter().all(is_token)
        && rest.iter().all(|byte| !byte.is_ascii_control() || b"\r\t".contains(byte))
}

/// The verdict when no more bytes come: what could have become a request is one, and is answered as the
/// broken request that it is.
fn given_up(early: &[u8]) -> Detected {
    match classify(early) {
        _ if early.is_empty() => Detected::Gone,
        Some(found) => found,
        None => Detected::Http1,
    }
}

/// Waits for bytes and reads some; none at the end of the stream. Until they come this holds nothing.
pub async fn first_bytes<T: AsyncRead + Unpin>(stream: &mut T) -> Option<Bytes> {
    std::future::poll_fn(|cx| {
        let mut scratch = [MaybeUninit::<u8>::uninit(); PIECE];
        let mut read = ReadBuf::uninit(&mut scratch);
        let result = ready!(Pin::new(&mut *stream).poll_read(cx, &mut read));
        let is_some = result.is_ok() && !read.filled().is_empty();
        Poll::Ready(is_some.then(|| Bytes::copy_from_slice(read.filled())))
    })
    .await
}

/// For a listener that takes HTTP alone: HTTP/2 by its preface, all else goes to HTTP/1, which answers
/// what is malformed. `early` was read before.
pub async fn http(stream: &mut Stream, early: Bytes, limit: Duration) -> (Detected, Bytes) {
    let mut early = BytesMut::from(early);
    let found = timeout(limit, async {
        loop {
            match classify(&early) {
                Some(Detected::Http2) => return Detected::Http2,
                None if early.starts_with(b"PRI") => {}
                None if b"PRI".starts_with(&early) => {}
                _ => return Detected::Http1,
            }
            early.reserve(PIECE);
            match stream.read_buf(&mut early).await {
                Ok(1..) => {}
                _ => return Detected::Gone,
            }
        }
    });
    // A preface that never ends is answered as the malformed HTTP/1 that it is; silence is not.
    let found =
        found.await.unwrap_or(if early.is_empty() { Detected::Gone } else { Detected::Http1 });
    (found, early.freeze())
}

/// For a listener that takes anything. `early` was read before. `dial` connects to the server that gets
/// what is not HTTP; it is awaited at most once.
pub async fn any<D: AsRef<Stream>>(
    stream: &mut Stream,
    early: Bytes,
    patience: Patience,
    dial: impl Future<Output = Option<D>>,
) -> (Detected, Bytes, Option<D>) {
    let mut early = BytesMut::from(early);
    let found = timeout(patience.silence, read_verdict(stream, &mut early)).await;
    if let Ok(found) = found {
        return (found, early.freeze(), None);
    }
    let mut dialled = dial.await;
    let found = loop {
        let total = if dialled.is_some() { patience.total.max(GREETING) } else { patience.total };
        tokio::select! {
            biased;
            found = read_verdict(stream, &mut early) => break found,
            speaks = server_speaks(dialled.as_ref()) => match speaks {
                true => break Detected::Opaque,
                // An app that closes what says nothing; a connection that was opened ahead of its first
                // request must survive that.
                false => dialled = None,
            },
            () = sleep(total) => break given_up(&early),
        }
    };
    (found, early.freeze(), dialled)
}

async fn read_verdict(stream: &mut Stream, early: &mut BytesMut) -> Detected {
    loop {
        if let (false, Some(found)) = (early.is_empty(), classify(early)) {
            return found;
        }
        early.reserve(PIECE);
        // `read_buf` loses nothing when it is cancelled.
        match stream.read_buf(early).await {
            Ok(1..) => {}
            Ok(0) => return given_up(early),
            Err(_) => return Detected::Gone,
        }
    }
}

/// Whether the server says something, rather than nothing for [`GREETING`] or goodbye.
async fn server_speaks<D: AsRef<Stream>>(dialled: Option<&D>) -> bool {
    let Some(dialled) = dialled else {
        return std::future::pending().await;
    };
    timeout(GREETING, dialled.as_ref().peek()).await.is_ok_and(|peeked| matches!(peeked, Ok(1..)))
}

/// A connection with the bytes that were read to find out what it is.
pub struct Prefixed<T> {
    early: Bytes,
    io: T,
}

impl<T> Prefixed<T> {
    pub fn new(early: Bytes, io: T) -> Self {
        Self { early, io }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..n]);
        self.early.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verdicts() {
        use Detected::{Gone, Http1, Http2, Opaque};
        for (bytes, verdict) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Http1)),
            (b"GET / HTTP/1.0\n", Some(Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"P", None),
            (b"POS", None),
            (b"POST /a", Some(Http1)),
            (b"PROPFIND /a HTTP/1.1\r\n", Some(Http1)),
            // What a lenient app may take for a request.
            (b"GET /secret HTTP/1.1 \r\n", Some(Http1)),
            (b"GET\t/secret\tHTTP/1.1\r\n", Some(Http1)),
            (b"GET /secret\r\n", Some(Http1)),
            (b"get /secret", Some(Http1)),
            (b"BREW\x0b/pot\x0bHTTP/1.1\r\n", Some(Http1)),
            (b"BREW /pot", None),
            (b"\x16\x03\x01\x02\x00", Some(Opaque)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Opaque)),
            (b"EHLO mail.example\r\n", Some(Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Opaque)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Opaque)),
            (b"AMQP\x00\x00\x09\x01", Some(Opaque)),
            (b"thisisasinglewordthatismuchlongerthananymethod", Some(Opaque)),
        ] {
            assert_eq!(classify(bytes), verdict, "{}", bytes.escape_ascii());
        }
        assert_eq!(given_up(b""), Gone);
        assert_eq!(given_up(b"BREW /pot"), Http1);
        assert_eq!(given_up(b"P"), Http1);
        assert_eq!(classify(&[b"BREW /".as_slice(), &[b'a'; ENOUGH]].concat()), Some(Http1));
    }

    proptest! {
        /// More bytes never overturn a verdict that was given.
        #[test]
        fn a_verdict_stands(
            bytes in prop_oneof![
                prop::collection::vec(proptest::num::u8::ANY, 1..60),
                "[A-Z]{1,8} /[a-z]{0,9} HTTP/1.1\r\n[a-z]{0,9}".prop_map(String::into_bytes),
                "PRI \\* HTTP/2.0\r\n\r\nSM\r\n\r\n.{0,9}".prop_map(String::into_bytes),
            ]
        ) {
            let verdicts: Vec<_> = (1..=bytes.len()).filter_map(|n| classify(&bytes[..n])).collect();
            prop_assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
        }
    }
}
