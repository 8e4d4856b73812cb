//! The head of an answer, and how its body is framed (RFC 9112 4, 6).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body;
use hyper::ext::ReasonPhrase;

use super::head::Head;
use super::syntax::elements;
use crate::http1::{Coding, content_length, write_field};
use crate::names::Names;

/// What of a request shapes its answer. The default is of one that was refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    head: bool,
    connect: bool,
    version10: bool,
    keep_alive: bool,
    /// The client takes trailers.
    pub trailers: bool,
    /// Another protocol may follow.
    pub upgrade: bool,
}

/// What was made of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Of its body; none is sent without.
    pub coding: Option<Coding>,
    /// Another request may follow.
    pub keep_alive: bool,
}

/// Which body an answer may have, by its status and the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// None, and its head says nothing of one.
    HaveNone,
    /// None, though its head tells what it would be.
    Tell,
    Have,
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

    /// Appends the head of an answer, its fields named as in `names`. `closing`: the answer is the last one,
    /// whatever it says.
    pub fn write(
        self,
        head: &Parts,
        body: &impl Body<Data = Bytes>,
        names: &Names,
        closing: bool,
        out: &mut Vec<u8>,
    ) -> Sent {
        self.write_status(head, out);
        let may = self.may(head.status);
        let ended = may != May::Have || body.is_end_stream();
        let mut spelling = names.spelling();
        let mut write = |name: &HeaderName, value: &HeaderValue| {
            let name = name.as_str().as_bytes();
            write_field(spelling.of(name).unwrap_or(name), value, out);
        };
        let mut length = None;
        let mut connection = Connection::default();
        for (name, value) in &head.headers {
            let written = match *name {
                CONTENT_LENGTH if may != May::HaveNone && length.is_none() => {
                    // Who reads one that is not true waits for ever.
                    let is_true = |length: &u64| may == May::Tell || !ended || *length == 0;
                    length = content_length(value).filter(is_true);
                    length.is_some()
                }
                // It concerns another hop.
                CONTENT_LENGTH | TRANSFER_ENCODING => false,
                TRAILER => may == May::Have && !self.version10,
                CONNECTION => {
                    connection.read(value);
                    true
                }
                _ => true,
            };
            if written {
                write(name, value);
            }
        }
        let coding = match length.or_else(|| body.size_hint().exact()) {
            _ if ended => None,
            Some(length) => Some(Coding::Length(length)),
            None if self.version10 => Some(Coding::Close),
            None => Some(Coding::Chunked),
        };
        let switches = self.switches(head.status);
        let keep_alive = self.keep_alive
            && !(closing || connection.close || switches || head.status.is_informational())
            && coding != Some(Coding::Close);
        if self.version10 && keep_alive && !connection.keep_alive {
            write(&CONNECTION, &HeaderValue::from_static("keep-alive"));
        } else if !(self.version10 || keep_alive || switches || connection.close) {
            write(&CONNECTION, &HeaderValue::from_static("close"));
        }
        match coding {
            Some(Coding::Chunked) => {
                write(&TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
            }
            Some(Coding::Length(exact)) if length.is_none() => {
                write(&CONTENT_LENGTH, &HeaderValue::from(exact));
            }
            None if length.is_none() && may == May::Have => {
                write(&CONTENT_LENGTH, &HeaderValue::from_static("0"));
            }
            Some(Coding::Length(_) | Coding::Close) | None => {}
        }
        out.extend_from_slice(b"\r\n");
        Sent { coding, keep_alive }
    }

    /// Whether an answer makes another protocol of the connection.
    fn switches(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.connect && status.is_success()
    }

    fn may(self, status: StatusCode) -> May {
        let none = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match self.head {
            _ if none || self.switches(status) => May::HaveNone,
            true => May::Tell,
            false => May::Have,
        }
    }

    fn write_status(self, head: &Parts, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.version10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(head.status.as_str().as_bytes());
        out.push(b' ');
        let own = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        let reason = || head.status.canonical_reason().unwrap_or("<none>").as_bytes();
        out.extend_from_slice(own.unwrap_or_else(reason));
        out.extend_from_slice(b"\r\n");
    }
}

/// What an answer says in `Connection`.
#[derive(Debug, Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
}

impl Connection {
    fn read(&mut self, value: &HeaderValue) {
        for option in elements(value.as_bytes()) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}
