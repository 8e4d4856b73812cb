//! As much of HTTP/1.1 as both ends of the comparison need. What a proxy sends here is well-formed, or its
//! figure is worthless anyway: whatever is not understood ends the connection, and counts as an error.

use crate::engine::End;

/// A message's head: how long it is, and what of it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub length: usize,
    /// The first line, without its end.
    pub line: &'a [u8],
    pub body: Body,
    pub close: bool,
    pub upgrade: bool,
    pub websocket_key: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(usize),
    Chunked,
}

/// `Ok(None)`: the head is not complete.
pub fn head(input: &[u8]) -> Result<Option<Head<'_>>, End> {
    let Some(length) = find(input, b"\r\n\r\n") else {
        return if input.len() > 64 << 10 { Err(End) } else { Ok(None) };
    };
    let mut lines = Lines { rest: &input[..length + 2] };
    let line = lines.next().ok_or(End)?;
    let mut head = Head {
        length: length + 4,
        line,
        body: Body::Length(0),
        close: false,
        upgrade: false,
        websocket_key: None,
    };
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(End)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // By length first: of some dozen fields, hardly any name is compared.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let value = std::str::from_utf8(value).map_err(|_| End)?;
                head.body = Body::Length(value.parse().map_err(|_| End)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => head.body = Body::Chunked,
            17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => {
                head.websocket_key = Some(value);
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                head.close = value.eq_ignore_ascii_case(b"close");
                head.upgrade = value.to_ascii_lowercase().windows(7).any(|part| part == b"upgrade");
            }
            _ => {}
        }
    }
    Ok(Some(head))
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\r')?;
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..)?;
        Some(line)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// A body as it comes, of which nothing is kept.
#[derive(Debug, Clone, Copy, Default)]
pub enum Reading {
    Length(usize),
    /// In a chunk's data, and its end of line.
    Chunk(usize),
    ChunkSize,
    Trailers,
    #[default]
    Done,
}

impl Reading {
    pub fn of(body: Body) -> Self {
        match body {
            Body::Length(0) => Reading::Done,
            Body::Length(length) => Reading::Length(length),
            Body::Chunked => Reading::ChunkSize,
        }
    }

    pub fn done(self) -> bool {
        matches!(self, Reading::Done)
    }

    /// Goes on by as much of `input` as can be used; how much that was.
    pub fn advance(&mut self, input: &[u8]) -> Result<usize, End> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match *self {
                Reading::Done => return Ok(used),
                Reading::Length(left) => {
                    let take = left.min(rest.len());
                    used += take;
                    *self = if take == left { Reading::Done } else { Reading::Length(left - take) };
                    if !self.done() {
                        return Ok(used);
                    }
                }
                Reading::Chunk(left) => {
                    let take = left.min(rest.len());
                    used += take;
                    if take < left {
                        *self = Reading::Chunk(left - take);
                        return Ok(used);
                    }
                    *self = Reading::ChunkSize;
                }
                Reading::ChunkSize => {
                    let Some(end) = find(rest, b"\r\n") else { return Ok(used) };
                    let size = std::str::from_utf8(&rest[..end]).map_err(|_| End)?;
                    let size = size.split(';').next().unwrap_or(size).trim();
                    let size = usize::from_str_radix(size, 16).map_err(|_| End)?;
                    used += end + 2;
                    *self = if size == 0 { Reading::Trailers } else { Reading::Chunk(size + 2) };
                }
                Reading::Trailers => {
                    let Some(end) = find(rest, b"\r\n") else { return Ok(used) };
                    used += end + 2;
                    if end == 0 {
                        *self = Reading::Done;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_when_it_is_complete() {
        let text =
            b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nConnection: close\r\n\r\nrest";
        for end in 0..text.len() - 4 {
            assert!(matches!(head(&text[..end]), Ok(None)), "{end}");
        }
        let head = head(text).unwrap().unwrap();
        assert_eq!(head.length, text.len() - 4);
        assert_eq!(head.line, b"GET /a HTTP/1.1");
        assert_eq!(head.body, Body::Length(12));
        assert!(head.close && !head.upgrade);
    }

    #[test]
    fn an_upgrade_is_seen_with_its_key() {
        let text =
            b"GET / HTTP/1.1\r\nconnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: abc=\r\n\r\n";
        let head = head(text).unwrap().unwrap();
        assert!(head.upgrade && !head.close);
        assert_eq!(head.websocket_key, Some(&b"abc="[..]));
    }

    #[test]
    fn bodies_end_where_they_end_however_they_come_in() {
        for (body, text) in [
            (Body::Length(5), &b"12345"[..]),
            (Body::Chunked, b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
            (Body::Chunked, b"1\r\na\r\n0\r\nt: 1\r\nu: 2\r\n\r\n"),
        ] {
            for step in 1..=text.len() {
                let mut reading = Reading::of(body);
                let mut text = [text, b"NEXT"].concat();
                let mut have = 0;
                while !reading.done() {
                    have = (have + step).min(text.len());
                    let used = reading.advance(&text[..have]).unwrap();
                    text.drain(..used);
                    have -= used;
                }
                assert_eq!(text, b"NEXT", "{body:?} by {step}");
            }
        }
    }
}
