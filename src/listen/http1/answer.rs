//! The head of an answer, and how its body is framed (RFC 9112 4, 6).

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, MAX_FORWARDS, TRAILER, TRANSFER_ENCODING,
};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body;
use hyper::ext::ReasonPhrase;

use super::head::Head;
use super::syntax::elements;
use crate::http1::{Coding, announced, content_length, write_field};
use crate::names::Names;

/// What of a request shapes its answer. The default is of one that was refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    head: bool,
    connect: bool,
    version10: bool,
    keep_alive: bool,
    trailers: bool,
    /// Another protocol may follow.
    pub upgrade: bool,
}

/// What is to be made of an answer.
#[derive(Debug)]
pub struct Plan {
    asked: Asked,
    length: Length,
    /// Of the body; none is sent without.
    pub coding: Option<Coding>,
    /// Another request may follow.
    pub keep_alive: bool,
    /// What is to be said of that.
    connection: Option<&'static str>,
}

/// How the head says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// Not at all, or by its version, its status, or the request's method.
    Unsaid,
    /// By the `Content-Length` that it has.
    Own,
    Bytes(u64),
    Chunked,
}

impl Asked {
    pub fn of(method: &Method, head: &Head) -> Self {
        Self {
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
            version10: head.version10,
            keep_alive: head.keep_alive,
            trailers: head.trailers,
            upgrade: head.upgrade,
        }
    }

    /// `closing`: the answer is the last one whatever it says.
    pub fn plan(self, head: &Parts, body: &impl Body<Data = Bytes>, closing: bool) -> Plan {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS
            || self.connect && head.status.is_success();
        let bodiless = switches
            || head.status.is_informational()
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let own = head.headers.get(CONTENT_LENGTH);
        let (length, coding) = if bodiless {
            (Length::Unsaid, None)
        } else if self.head {
            (own.map_or(Length::Unsaid, |_| Length::Own), None)
        } else {
            self.frame(own, body)
        };
        let mut keep_alive = self.keep_alive && !closing && !head.status.is_informational();
        keep_alive &= !switches && coding != Some(Coding::Close);
        let says = |option: &[u8]| {
            let mut values = head.headers.get_all(CONNECTION).iter();
            values
                .any(|value| elements(value.as_bytes()).any(|one| one.eq_ignore_ascii_case(option)))
        };
        keep_alive &= !says(b"close");
        let connection = match (self.version10, keep_alive) {
            (true, true) if !says(b"keep-alive") => Some("keep-alive"),
            (false, false) if !switches && !says(b"close") => Some("close"),
            _ => None,
        };
        Plan { asked: self, length, coding, keep_alive, connection }
    }

    /// Of an answer that may have a body.
    fn frame(
        self,
        own: Option<&HeaderValue>,
        body: &impl Body<Data = Bytes>,
    ) -> (Length, Option<Coding>) {
        let own = own.and_then(content_length);
        if body.is_end_stream() {
            return (if own == Some(0) { Length::Own } else { Length::Bytes(0) }, None);
        }
        match (own, body.size_hint().exact()) {
            (Some(length), _) => (Length::Own, Some(Coding::Length(length))),
            (None, Some(length)) => (Length::Bytes(length), Some(Coding::Length(length))),
            (None, None) if self.version10 => (Length::Unsaid, Some(Coding::Close)),
            (None, None) => (Length::Chunked, Some(Coding::Chunked)),
        }
    }
}

impl Plan {
    /// Appends the head, its fields named as in `names`.
    pub fn write(&self, head: &Parts, names: &Names, out: &mut Vec<u8>) {
        self.write_status(head, out);
        let mut spelling = names.spelling();
        let mut own = self.length == Length::Own;
        for (name, value) in &head.headers {
            let written = match *name {
                CONTENT_LENGTH => std::mem::take(&mut own),
                // There is one more hop that it concerns.
                TRANSFER_ENCODING => false,
                TRAILER => self.coding.is_some() && !self.asked.version10,
                _ => true,
            };
            if written {
                let name = name.as_str().as_bytes();
                write_field(spelling.of(name).unwrap_or(name), value, out);
            }
        }
        let mut add = |name: HeaderName, value: HeaderValue| {
            let name = name.as_str().as_bytes();
            write_field(spelling.of(name).unwrap_or(name), &value, out);
        };
        if let Some(connection) = self.connection {
            add(CONNECTION, HeaderValue::from_static(connection));
        }
        match self.length {
            Length::Unsaid | Length::Own => {}
            Length::Bytes(length) => add(CONTENT_LENGTH, HeaderValue::from(length)),
            Length::Chunked => add(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_status(&self, head: &Parts, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.asked.version10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(head.status.as_str().as_bytes());
        out.push(b' ');
        let own = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        let reason = || head.status.canonical_reason().unwrap_or("<none>").as_bytes();
        out.extend_from_slice(own.unwrap_or_else(reason));
        out.extend_from_slice(b"\r\n");
    }

    /// The trailers that may follow: those that the head announces, to a client that takes any.
    pub fn trailers(&self, head: &Parts) -> impl Iterator<Item = HeaderName> {
        let wanted = self.asked.trailers && self.coding == Some(Coding::Chunked);
        let names = wanted.then(|| announced(&head.headers)).into_iter().flatten();
        // What changes how an answer is handled has no place behind it (RFC 9110 6.5.1).
        names.filter(|name| *name != CACHE_CONTROL && *name != MAX_FORWARDS)
    }
}
