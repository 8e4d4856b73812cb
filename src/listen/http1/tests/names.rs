//! Field names keep their case on the way through the server, however it is written to.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};

use super::service::{Script, serve};
use crate::listen::http1::HeadLimits;
use crate::names::Names;

fn names(names: &[&str]) -> Names {
    Names::collect(names.iter().map(|name| name.as_bytes()))
}

/// A pipe that takes so many bytes at once, and lets the writer wait before each.
struct Pipe {
    io: DuplexStream,
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
        let joined: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &joined)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What a client gets that sends `input` in pieces, and the names of each request.
async fn exchange(at_once: usize, input: &str, piece: usize) -> (String, Vec<Names>) {
    let (ours, io) = duplex(64 * 1024);
    let answer_names = names(&["X-Own", "Via", "Content-Length", "X-OWN"]);
    let script = Script { answer_names, ..Script::default() };
    let pipe = Pipe { io, at_once, waits: at_once == usize::MAX };
    let client = async {
        let (mut from_server, mut to_server) = tokio::io::split(ours);
        let write = async {
            for piece in input.as_bytes().chunks(piece) {
                to_server.write_all(piece).await.expect("write");
                tokio::task::yield_now().await;
            }
        };
        let mut output = String::new();
        let (read, ()) = tokio::join!(from_server.read_to_string(&mut output), write);
        read.expect("read");
        output
    };
    let ((), output) = tokio::join!(serve(pipe, "", HeadLimits::default(), &script), client);
    (output, script.names.take())
}

#[tokio::test]
async fn each_request_comes_with_its_names() {
    let input = "GET /a HTTP/1.1\r\nHost: a\r\nX-Own: b\r\n\r\n\
         GET /lower HTTP/1.1\r\nhost: a\r\nx-own: b\r\n\r\n\
         POST /c HTTP/1.1\r\nhost: a\r\nContent-Length: 2\r\nx-own: q\r\n\r\nX:\
         \r\nGET /d HTTP/1.1\r\nHOST: a\r\n\r\n\
         GET /e HTTP/1.1\r\nX-Own: b\r\n\r\n";
    let wanted: [&[&str]; 4] =
        [&["Host", "X-Own"], &[], &["host", "Content-Length", "x-own"], &["HOST"]];
    for piece in 1..=input.len() {
        let (_, found) = exchange(usize::MAX, input, piece).await;
        assert_eq!(found, wanted.map(names), "in pieces of {piece}");
    }
}

#[tokio::test]
async fn answers_go_out_with_the_names_that_were_asked_for() {
    let input = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /hint HTTP/1.1\r\nhost: a\r\n\r\n\
         POST /b HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx\
         GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    // Interim answers are not of them.
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let proceed = "HTTP/1.1 100 Continue\r\n\r\n";
    let answer = |connection: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nX-Own: aB\r\nX-OWN: c\r\nVia: x-own\r\n{connection}\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let wanted = [
        &answer("", "GET /a"),
        hint,
        &answer("", "GET /hint"),
        proceed,
        &answer("", "POST /b"),
        &answer("connection: close\r\n", "GET /last"),
    ]
    .concat();
    for at_once in (1..30).chain((30..200).step_by(7)).chain([usize::MAX]) {
        for piece in [1, input.len()] {
            assert_eq!(exchange(at_once, input, piece).await.0, wanted, "{at_once} {piece}");
        }
    }
}
