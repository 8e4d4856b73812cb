//! HTTP/2 (RFC 9113) with frames that are written by hand. Fields are put into the table of HPACK
//! (RFC 7541) by the first message of a connection and are references to it in all others, as with any
//! client that sends the same again.

use super::{Connection, Message};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct Client {
    request: &'static Message,
    /// Of the next request.
    stream: u32,
}

impl Client {
    pub fn new(request: &'static Message) -> Self {
        Self { request, stream: 1 }
    }

    pub fn requests(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let first = self.stream == 1;
            if first {
                bytes.extend_from_slice(PREFACE);
                hello(&mut bytes);
            }
            message(&mut bytes, self.stream, self.request, first);
            self.stream += 2;
        }
        bytes
    }

    pub fn answers(&mut self, connection: &mut Connection) -> usize {
        let mut answers = 0;
        while let Some(frame) = Frame::take(&mut connection.unread) {
            assert!(!frame.is_failure(), "the answer is {:?}", frame.payload);
            answers += usize::from(frame.ends());
            frame.acknowledge(connection);
        }
        answers
    }
}

pub struct Server {
    answer: &'static Message,
    greeted: bool,
    answered: bool,
}

impl Server {
    pub fn new(answer: &'static Message) -> Self {
        Self { answer, greeted: false, answered: false }
    }

    /// How many requests were answered.
    pub fn turn(&mut self, connection: &mut Connection) -> usize {
        if !self.greeted {
            if connection.unread.len() < PREFACE.len() {
                return 0;
            }
            assert!(connection.unread.starts_with(PREFACE), "the proxy does not speak HTTP/2");
            connection.unread.drain(..PREFACE.len());
            self.greeted = true;
            let mut bytes = Vec::new();
            hello(&mut bytes);
            connection.write(&bytes);
        }
        let mut answers = Vec::new();
        let mut answered = 0;
        while let Some(frame) = Frame::take(&mut connection.unread) {
            if frame.ends() {
                message(&mut answers, frame.stream, self.answer, !self.answered);
                self.answered = true;
                answered += 1;
            }
            frame.acknowledge(connection);
        }
        if answered > 0 {
            connection.write(&answers);
        }
        answered
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn take(unread: &mut Vec<u8>) -> Option<Self> {
        let head = unread.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        if unread.len() < 9 + length {
            return None;
        }
        let payload = unread[9..9 + length].to_vec();
        unread.drain(..9 + length);
        assert!(kind != RST_STREAM && kind != GOAWAY, "the proxy ends a stream: {payload:?}");
        Some(Self { kind, flags, stream, payload })
    }

    /// Whether it ends what the other side has to say on its stream.
    fn ends(&self) -> bool {
        (self.kind == HEADERS || self.kind == DATA) && self.flags & END_STREAM != 0
    }

    /// Whether it is the head of another answer than 200. `:status` comes first: 200 has the first of its
    /// places in the static table (RFC 7541 A), others have the next ones or are literals with that name.
    fn is_failure(&self) -> bool {
        self.kind == HEADERS
            && matches!(self.payload.first(), None | Some(0x89..=0x8e | 0x08 | 0x18 | 0x48))
    }

    fn acknowledge(&self, connection: &mut Connection) {
        if self.kind == SETTINGS && self.flags & ACK == 0 {
            let mut bytes = Vec::new();
            frame(&mut bytes, SETTINGS, ACK, 0, &[]);
            connection.write(&bytes);
        }
    }
}

/// Settings, and a window that no measurement uses up.
fn hello(bytes: &mut Vec<u8>) {
    const WINDOW: u32 = (1 << 31) - 1 - 65_535;
    frame(bytes, SETTINGS, 0, 0, &[]);
    frame(bytes, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
}

/// A request or an answer on `stream`.
fn message(bytes: &mut Vec<u8>, stream: u32, message: &Message, first: bool) {
    let end = |last: bool| if last { END_STREAM } else { 0 };
    let (no_body, no_trailers) = (message.body.is_empty(), message.trailers.is_empty());
    let block = if first { indexed(message.fields) } else { references(message.fields.len()) };
    frame(bytes, HEADERS, END_HEADERS | end(no_body && no_trailers), stream, &block);
    if !no_body {
        frame(bytes, DATA, end(no_trailers), stream, message.body);
    }
    if !no_trailers {
        let block = literals(0x00, message.trailers);
        frame(bytes, HEADERS, END_HEADERS | END_STREAM, stream, &block);
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Fields that go into the table.
fn indexed(fields: &[(&str, &str)]) -> Vec<u8> {
    literals(0x40, fields)
}

/// The same fields, out of the table: the one that was put there last has the lowest number.
fn references(count: usize) -> Vec<u8> {
    const FIRST_DYNAMIC: usize = 62;
    let index = |i: usize| u8::try_from(FIRST_DYNAMIC + i).expect("few fields");
    (0..count).rev().map(|i| 0x80 | index(i)).collect()
}

fn literals(form: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(form);
        for text in [name, value] {
            // Seven bits of length, without Huffman's code.
            assert!(text.len() < 127, "a longer text needs more bytes for its length");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
