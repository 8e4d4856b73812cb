//! The upstreams: one process, which answers HTTP/1.1, HTTP/2, gRPC and WebSockets on the same ports (the
//! first bytes tell), and echoes or pours out plain TCP on others.

use crate::engine::{End, Session};
use crate::http1::{self, Reading};

/// The length of a large answer's body, and of a large request's.
pub const LARGE: usize = 100 * 1024;

/// What is answered. The small one is 304 bytes, head and all.
pub fn answers() -> &'static Answers {
    static ANSWERS: std::sync::LazyLock<Answers> =
        std::sync::LazyLock::new(|| Answers { small: answer(SMALL_BODY), large: answer(LARGE) });
    &ANSWERS
}

const SMALL_BODY: usize = 183;

pub struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
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
    Echo,
    Source(Vec<u8>),
}

impl Server {
    pub fn new(role: Role) -> Self {
        match role {
            Role::Http => Server::Http,
            Role::Echo => Server::Echo,
            Role::Source => Server::Source(text(256 << 10).collect()),
        }
    }
}

impl Session for Server {
    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        match self {
            Server::Http => {
                *self = Server::Http1(Http1 { reading: Reading::Done, answer: &[], close: false });
                self.received(input, out)
            }
            Server::Http1(http) => http.received(input, out),
            Server::Echo => {
                out.extend_from_slice(input);
                Ok(input.len())
            }
            Server::Source(_) => Ok(input.len()),
        }
    }

    fn drained(&mut self, out: &mut Vec<u8>) {
        if let Server::Source(bytes) = self {
            out.extend_from_slice(bytes);
        }
    }
}

pub struct Http1 {
    /// The body of the request that is being read, and what it will be answered with.
    reading: Reading,
    answer: &'static [u8],
    close: bool,
}

impl Http1 {
    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        loop {
            if self.answer.is_empty() {
                let Some(head) = http1::head(&input[used..])? else { return Ok(used) };
                used += head.length;
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
