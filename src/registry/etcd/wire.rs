//! etcd's JSON: keys and values in base64, numbers as text, and what is zero is left out.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::{Value, json};

/// Bytes as they stand in requests and answers.
pub fn encoded(bytes: &str) -> String {
    BASE64.encode(bytes)
}

pub fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// All keys that begin with `prefix`, which is not empty and does not end with 0xFF.
pub fn below(prefix: &str) -> Value {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    json!({ "key": encoded(prefix), "range_end": BASE64.encode(end) })
}

/// A number, as text or not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Int(pub i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(IntVisitor)
    }
}

struct IntVisitor;

impl Visitor<'_> for IntVisitor {
    type Value = Int;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of 64 bits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Int, E> {
        text.parse().map(Int).map_err(|_| E::custom("no number"))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Int, E> {
        Ok(Int(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Int, E> {
        number.try_into().map(Int).map_err(|_| E::custom("too big a number"))
    }
}

/// Of which state of the store an answer is.
#[derive(Debug, Deserialize)]
pub struct Header {
    #[serde(default)]
    pub revision: Int,
}

#[derive(Debug, Deserialize)]
pub struct Range {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
pub struct KeyValue {
    pub key: String,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub mod_revision: Int,
    #[serde(default)]
    pub lease: Int,
}

#[derive(Debug, Deserialize)]
pub struct Granted {
    #[serde(rename = "ID")]
    pub id: Int,
}

#[derive(Debug, Deserialize)]
pub struct Token {
    pub token: String,
}

/// A line of a stream.
#[derive(Debug, Deserialize)]
pub struct Line<T> {
    pub result: Option<T>,
    pub error: Option<Refusal>,
}

/// Why not, in the words of the server.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    pub message: String,
}

/// Of a stream of `/v3/lease/keepalive`.
#[derive(Debug, Deserialize)]
pub struct Kept {
    /// None where there is no such lease (any more).
    #[serde(rename = "TTL", default)]
    pub ttl: Int,
}

/// Of a stream of `/v3/watch`.
#[derive(Debug, Deserialize)]
pub struct Watched {
    #[serde(default)]
    pub events: Vec<Event>,
    #[serde(default)]
    pub canceled: bool,
    #[serde(default)]
    pub cancel_reason: String,
    /// What is older has been compacted, and this watch was to begin with it.
    #[serde(default)]
    pub compact_revision: Int,
}

#[derive(Debug, Deserialize)]
pub struct Event {
    /// `DELETE`; none of a put.
    #[serde(rename = "type", default)]
    pub kind: String,
    pub kv: KeyValue,
}

/// Lines of a stream as they come, in pieces of any size.
#[derive(Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// No line ends before it.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole line, without its end.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|at| self.searched + at) else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.truncate(end);
        self.searched = 0;
        Some(line)
    }

    /// How much of a line there is.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}
