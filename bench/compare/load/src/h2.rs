//! As much of HTTP/2 (RFC 9113) as both ends of the comparison need: frames, windows, and nothing of HPACK but
//! a few fixed header blocks. What the peer's header blocks say need not be known: an upstream answers every
//! stream alike, and a client looks at the status alone, which all proxies write as one indexed byte.

use std::collections::{HashMap, VecDeque};

use crate::engine::End;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What the peer may send beyond what is announced to it at the beginning, before it is told so again.
const REFILL: usize = 1 << 28;

#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Without padding and priority.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    pub fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0 && matches!(self.kind, DATA | HEADERS)
    }

    /// Does the header block begin with `:status: 200`, after changes of the table's size?
    pub fn is_200(&self) -> bool {
        let mut block = self.payload;
        while let [first, rest @ ..] = block
            && first >> 5 == 1
        {
            block = rest;
            if first & 0x1f == 0x1f {
                let more = block.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
                block = block.get(more..).unwrap_or_default();
            }
        }
        block.first() == Some(&0x88)
    }
}

/// The next frame and its length on the wire.
pub fn parse(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, End> {
    let Some((head, rest)) = input.split_at_checked(9) else { return Ok(None) };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let Some(mut payload) = rest.get(..length) else { return Ok(None) };
    let (kind, flags) = (head[3], head[4]);
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    if matches!(kind, DATA | HEADERS) {
        if flags & PADDED != 0 {
            let (padding, rest) = payload.split_first().ok_or(End)?;
            payload =
                rest.get(..rest.len().checked_sub(*padding as usize).ok_or(End)?).ok_or(End)?;
        }
        if kind == HEADERS && flags & PRIORITY != 0 {
            payload = payload.get(5..).ok_or(End)?;
        }
    }
    Ok(Some((Frame { kind, flags, stream, payload }, 9 + length)))
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header block of fields that are neither indexed nor compressed.
pub fn block(status: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = if status { vec![0x88] } else { Vec::new() };
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0).min(126));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// What one side knows of a connection: how much it may send.
pub struct Link {
    window: i64,
    initial: i64,
    streams: HashMap<u32, i64>,
    /// What no window has room for yet, in order.
    blocked: VecDeque<(u32, Item)>,
    received: usize,
}

enum Item {
    Data(Vec<u8>, u8),
    Headers(&'static [u8], u8),
}

impl Link {
    pub fn new() -> Self {
        Link {
            window: 65_535,
            initial: 65_535,
            streams: HashMap::new(),
            blocked: VecDeque::new(),
            received: 0,
        }
    }

    /// Our settings: windows that never fill.
    pub fn greet(out: &mut Vec<u8>) {
        let mut settings = vec![0, 4];
        settings.extend(WINDOW_MAX.to_be_bytes());
        // Many requests at once.
        settings.extend([0, 3, 0, 0, 0x10, 0]);
        put(out, SETTINGS, 0, 0, &settings);
        put(out, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
    }

    pub fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    /// The stream was reset.
    pub fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.blocked.retain(|(blocked, _)| *blocked != stream);
    }

    /// Sees to what is not of one stream's content. True: the frame is done with.
    pub fn control(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<bool, End> {
        match frame.kind {
            DATA => {
                self.received += frame.payload.len();
                if self.received > REFILL {
                    put(out, WINDOW_UPDATE, 0, 0, &(self.received as u32).to_be_bytes());
                    self.received = 0;
                }
                return Ok(false);
            }
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks_exact(6) {
                    if setting[..2] == [0, 4] {
                        let value = i64::from(number(&setting[2..])?);
                        let more = value - std::mem::replace(&mut self.initial, value);
                        self.streams.values_mut().for_each(|window| *window += more);
                    }
                }
                put(out, SETTINGS, ACK, 0, &[]);
                self.unblock(out);
            }
            PING if frame.flags & ACK == 0 => put(out, PING, ACK, 0, frame.payload),
            WINDOW_UPDATE => {
                let more = i64::from(number(frame.payload)?);
                if frame.stream == 0 {
                    self.window += more;
                } else if let Some(window) = self.streams.get_mut(&frame.stream) {
                    *window += more;
                }
                self.unblock(out);
            }
            HEADERS | RST_STREAM | GOAWAY => return Ok(false),
            _ => {}
        }
        Ok(true)
    }

    /// With `END_STREAM` it is the last of the stream.
    pub fn data(&mut self, out: &mut Vec<u8>, stream: u32, bytes: &[u8], flags: u8) {
        if self.blocked.is_empty() && self.may_send(stream, bytes.len()) {
            self.put(out, DATA, flags, stream, bytes);
        } else {
            self.blocked.push_back((stream, Item::Data(bytes.to_vec(), flags)));
        }
    }

    pub fn headers(&mut self, out: &mut Vec<u8>, stream: u32, block: &'static [u8], flags: u8) {
        if self.blocked.is_empty() {
            self.put(out, HEADERS, flags | END_HEADERS, stream, block);
        } else {
            self.blocked.push_back((stream, Item::Headers(block, flags)));
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        put(out, kind, flags, stream, payload);
        if flags & END_STREAM != 0 {
            self.streams.remove(&stream);
        }
    }

    fn may_send(&mut self, stream: u32, length: usize) -> bool {
        let length = length as i64;
        let Some(window) = self.streams.get_mut(&stream) else { return false };
        if self.window < length || *window < length {
            return false;
        }
        self.window -= length;
        *window -= length;
        true
    }

    fn unblock(&mut self, out: &mut Vec<u8>) {
        while let Some((stream, item)) = self.blocked.pop_front() {
            match item {
                Item::Data(bytes, flags) if self.may_send(stream, bytes.len()) => {
                    self.put(out, DATA, flags, stream, &bytes);
                }
                Item::Data(..) => return self.blocked.push_front((stream, item)),
                Item::Headers(block, flags) => {
                    self.put(out, HEADERS, flags | END_HEADERS, stream, block);
                }
            }
        }
    }
}

fn number(bytes: &[u8]) -> Result<u32, End> {
    Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| End)?) & WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(mut input: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((frame, length)) = parse(input).unwrap() {
            frames.push((frame.kind, frame.flags, frame.stream, frame.payload.to_vec()));
            input = &input[length..];
        }
        assert!(input.is_empty());
        frames
    }

    #[test]
    fn frames_are_parsed_when_they_are_complete_and_without_padding() {
        let mut out = Vec::new();
        put(&mut out, DATA, PADDED | END_STREAM, 7, &[2, b'a', b'b', 0, 0]);
        for end in 0..out.len() {
            assert_eq!(parse(&out[..end]).unwrap(), None);
        }
        let (frame, length) = parse(&out).unwrap().unwrap();
        assert_eq!((frame.stream, frame.payload, length), (7, &b"ab"[..], 14));
        assert!(frame.ends_stream());
        put(&mut out, DATA, PADDED, 7, &[2, 0]);
        assert!(parse(&out[14..]).is_err());
    }

    #[test]
    fn the_status_is_found_behind_changes_of_the_table() {
        let is_200 =
            |payload: &[u8]| Frame { kind: HEADERS, flags: 0, stream: 1, payload }.is_200();
        assert!(is_200(&[0x88]));
        assert!(is_200(&[0x20, 0x3f, 0xe1, 0x1f, 0x88, 1]));
        assert!(!is_200(&[0x8d]));
        assert!(!is_200(&[]));
    }

    #[test]
    fn what_no_window_has_room_for_waits_in_order() {
        let (mut link, mut out) = (Link::new(), Vec::new());
        link.open(1);
        link.data(&mut out, 1, &[0; 65_000], 0);
        link.data(&mut out, 1, &[1; 1000], 0);
        link.headers(&mut out, 1, b"\x88", END_STREAM);
        assert_eq!(frames(&out).len(), 1);
        for (stream, expected) in [(0, 1), (1, 3)] {
            let payload = 1000u32.to_be_bytes();
            let frame = Frame { kind: WINDOW_UPDATE, flags: 0, stream, payload: &payload };
            assert!(link.control(&frame, &mut out).unwrap());
            assert_eq!(frames(&out).len(), expected);
        }
        let last = frames(&out).pop().unwrap();
        assert_eq!((last.0, last.1), (HEADERS, END_STREAM | END_HEADERS));
    }
}
