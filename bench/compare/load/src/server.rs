//! The upstreams: one process, which answers HTTP/1.1, HTTP/2, gRPC and WebSockets on the same ports (the
//! first bytes tell), and echoes or pours out plain TCP on others.

use std::collections::HashSet;

use crate::engine::{End, Session};
use crate::h2::{self, Link};
use crate::http1::{self, Reading};
use crate::websocket;

/// The length of a large answer's body, and of a large request's.
pub const LARGE: usize = 100 * 1024;

/// What is answered. The small one is 304 bytes, head and all.
pub fn answers() -> &'static Answers {
    static ANSWERS: std::sync::LazyLock<Answers> = std::sync::LazyLock::new(|| Answers {
        small: answer(SMALL_BODY),
        large: answer(LARGE),
        h2_head: h2::block(true, &[("content-type", "text/plain"), ("content-length", "183")]),
        h2_body: text(SMALL_BODY).collect(),
        grpc_head: h2::block(true, &[("content-type", "application/grpc")]),
        grpc_trailers: h2::block(false, &[("grpc-status", "0")]),
    });
    &ANSWERS
}

const SMALL_BODY: usize = 183;

pub struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    h2_head: Vec<u8>,
    h2_body: Vec<u8>,
    grpc_head: Vec<u8>,
    grpc_trailers: Vec<u8>,
}

fn answer(length: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.extend(text(length));
    answer
}

fn text(length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(|at| b"0123456789abcdef"[at % 16])
}

/// What a port is for.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    Http,
    Echo,
    Source,
}

pub enum Server {
    /// HTTP whose version is not known yet.
    Http,
    Http1(Http1),
    Http2(Http2),
    WebSocket(Vec<u8>),
    Echo,
    Source,
}

impl Server {
    pub fn new(role: Role) -> Self {
        match role {
            Role::Http => Server::Http,
            Role::Echo => Server::Echo,
            Role::Source => Server::Source,
        }
    }

    fn http(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let known = input.len().min(h2::PREFACE.len());
        if input[..known] != h2::PREFACE[..known] {
            *self = Server::Http1(Http1::default());
            return self.received(input, out);
        }
        if known < h2::PREFACE.len() {
            return Ok(0);
        }
        Link::greet(out);
        *self = Server::Http2(Http2 { link: Link::new(), answering: HashSet::new() });
        Ok(known + self.received(&input[known..], out)?)
    }
}

impl Session for Server {
    fn opened(&mut self, out: &mut Vec<u8>) {
        if self.repeats() {
            out.extend(text(256 << 10));
        }
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        match self {
            Server::Http => self.http(input, out),
            Server::Http1(http) => {
                let used = http.received(input, out)?;
                if http.upgraded {
                    *self = Server::WebSocket(Vec::new());
                }
                Ok(used)
            }
            Server::Http2(http) => http.received(input, out),
            Server::WebSocket(message) => {
                let mut used = 0;
                while let Some(length) = websocket::take(&input[used..], message)? {
                    websocket::put(out, message, false);
                    used += length;
                }
                Ok(used)
            }
            Server::Echo => {
                out.extend_from_slice(input);
                Ok(input.len())
            }
            Server::Source => Ok(input.len()),
        }
    }

    fn repeats(&self) -> bool {
        matches!(self, Server::Source)
    }
}

#[derive(Default)]
pub struct Http1 {
    /// The body of the request that is being read, and what it will be answered with.
    reading: Reading,
    answer: &'static [u8],
    close: bool,
    upgraded: bool,
}

impl Http1 {
    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        loop {
            if self.answer.is_empty() {
                let Some(head) = http1::head(&input[used..])? else { return Ok(used) };
                used += head.length;
                if let (true, Some(key)) = (head.upgrade, head.websocket_key) {
                    let accept = websocket::accept(key);
                    out.extend_from_slice(
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n",
                    );
                    out.extend_from_slice(b"Connection: Upgrade\r\nSec-WebSocket-Accept: ");
                    out.extend_from_slice(accept.as_bytes());
                    out.extend_from_slice(b"\r\n\r\n");
                    self.upgraded = true;
                    return Ok(used);
                }
                let path = head.line.split(|byte| *byte == b' ').nth(1).ok_or(End)?;
                self.answer = match path {
                    b"/large" => &answers().large,
                    _ => &answers().small,
                };
                self.reading = Reading::of(head.body);
                self.close = head.close;
            }
            used += self.reading.advance(&input[used..])?;
            if !self.reading.done() {
                return Ok(used);
            }
            out.extend_from_slice(self.answer);
            self.answer = &[];
            if self.close {
                return Err(End);
            }
            if used == input.len() {
                return Ok(used);
            }
        }
    }
}

/// A stream without a body is answered with the small answer; one with a body gets it back as gRPC, message
/// by message as they come: unary calls and streams alike.
pub struct Http2 {
    link: Link,
    /// The streams whose answer's head is sent.
    answering: HashSet<u32>,
}

impl Http2 {
    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        while let Some((frame, length)) = h2::parse(&input[used..])? {
            used += length;
            if self.link.control(&frame, out)? {
                continue;
            }
            match frame.kind {
                h2::HEADERS => {
                    self.link.open(frame.stream);
                    if frame.ends_stream() {
                        self.link.headers(out, frame.stream, &answers().h2_head, 0);
                        self.end(out, frame.stream, Some(&answers().h2_body));
                    }
                }
                h2::DATA => {
                    if self.answering.insert(frame.stream) {
                        self.link.headers(out, frame.stream, &answers().grpc_head, 0);
                    }
                    if !frame.payload.is_empty() {
                        self.link.data(out, frame.stream, frame.payload, 0);
                    }
                    if frame.ends_stream() {
                        self.end(out, frame.stream, None);
                    }
                }
                h2::GOAWAY => {}
                _ => {
                    self.answering.remove(&frame.stream);
                    self.link.close(frame.stream);
                }
            }
        }
        Ok(used)
    }

    fn end(&mut self, out: &mut Vec<u8>, stream: u32, body: Option<&[u8]>) {
        match body {
            Some(body) => self.link.data(out, stream, body, h2::END_STREAM),
            None => self.link.headers(out, stream, &answers().grpc_trailers, h2::END_STREAM),
        }
        self.answering.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_answer_is_as_long_as_it_is_said_to_be() {
        assert_eq!(answers().small.len(), 304);
    }

    #[test]
    fn pipelined_requests_and_bodies_are_answered_in_order() {
        let mut server = Server::new(Role::Http);
        let text =
            b"POST /up HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /large HTTP/1.1\r\n\r\nGET";
        let mut out = Vec::new();
        let used = server.received(text, &mut out).unwrap();
        assert_eq!(used, text.len() - 3);
        assert_eq!(out, [&answers().small[..], &answers().large[..]].concat());
    }
}
