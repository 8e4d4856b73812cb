//! An upstream that keeps every byte it gets, and frames of HTTP/2 as a hostile client writes them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::upstream::Upstream;
use super::within;

/// Answers `ok` to each message that is complete, and keeps the bytes of all.
pub struct Recording {
    pub upstream: Upstream,
    bytes: Arc<Mutex<Vec<u8>>>,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Recording {
    pub async fn start() -> Self {
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let (all, complete) = (bytes.clone(), messages.clone());
        let upstream = Upstream::raw(move |mut stream| {
            let (all, complete) = (all.clone(), complete.clone());
            async move {
                let mut buffer = Vec::new();
                loop {
                    let before = buffer.len();
                    match stream.read_buf(&mut buffer).await {
                        Ok(1..) => all.lock().unwrap().extend_from_slice(&buffer[before..]),
                        _ => return,
                    }
                    while let Some(length) = message_length(&buffer) {
                        let message: Vec<u8> = buffer.drain(..length).collect();
                        let message = String::from_utf8_lossy(&message).into_owned();
                        complete.lock().unwrap().push(message);
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        Self { upstream, bytes, messages }
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// All that came, of all connections.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// The messages that came to their end.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }
}

/// The length of the first message in `bytes`, framed as RFC 9112 6.3 says, if it is complete.
pub fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let body = &bytes[head..];
    if text.contains("\r\ntransfer-encoding: chunked\r\n") {
        let end = if body.starts_with(b"0\r\n") { 0 } else { find(body, b"\r\n0\r\n")? + 2 };
        // The trailers, if there are any, end with an empty line.
        return find(&body[end..], b"\r\n\r\n").map(|after| head + end + after + 4);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.trim().parse().expect("a length"));
    (body.len() >= length).then_some(head + length)
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub const HEADERS: u8 = 1;
pub const DATA: u8 = 0;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame (RFC 9113 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A field block of literals that are not indexed and not compressed (RFC 7541 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// What a server did with stream 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered(u16),
    Reset,
    GoneAway,
    Closed,
}

/// Sends the preface, empty settings and `frames`, then reads what becomes of stream 1.
pub async fn fate(address: SocketAddr, frames: &[Vec<u8>]) -> Fate {
    within(async {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frames.concat());
        stream.write_all(&bytes).await.expect("the proxy reads");
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.expect("a payload");
            match (head[3], head[8]) {
                (HEADERS, 1) => return Fate::Answered(status(&payload)),
                (RST_STREAM, 1) => return Fate::Reset,
                (GOAWAY, _) => return Fate::GoneAway,
                _ => {}
            }
        }
        Fate::Closed
    })
    .await
}

/// The status that a field block begins with: of the static table, or a literal with its name.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block[0] {
        index @ 0x88..=0x8e => STATIC[usize::from(index - 0x88)],
        // The name is indexed; the value may be in Huffman's code, in which digits have 5 or 6 bits.
        _ if block[1] & 0x80 == 0 => {
            let length = usize::from(block[1]);
            let text = std::str::from_utf8(&block[2..2 + length]).expect("digits");
            text.parse().expect("a status")
        }
        _ => {
            let length = usize::from(block[1] & 0x7f);
            huffman_digits(&block[2..2 + length])
        }
    }
}

fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut rest = bits.as_str();
    let mut number = 0;
    while rest.len() >= 5 {
        let (width, base) = if rest < "00011" { (5, 0) } else { (6, 3) };
        let Some(code) = rest.get(..width) else { break };
        if code.bytes().all(|bit| bit == b'1') {
            break;
        }
        let value = u16::from_str_radix(code, 2).expect("bits");
        number = number * 10 + if width == 5 { value } else { value - 0b011001 + base };
        rest = &rest[width..];
    }
    number
}
