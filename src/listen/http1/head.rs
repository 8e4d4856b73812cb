//! Reads the head of an HTTP/1 request strictly, line by line as it arrives (RFC 9112 2 to 6).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use smallvec::SmallVec;

use super::rejection::Rejection;
use super::said::Said;
use super::syntax::{target_end, target_form, token_end, trim_ows, value_end};
use crate::names::{Names, has_upper};

/// Empty lines that are overlooked before a request line (RFC 9112 2.2).
const MAX_BLANK_LINES: usize = 4;
const MAX_METHOD: usize = 32;
/// A longer field name is refused; it bounds what a client that sends byte by byte can cost.
const MAX_NAME: usize = 256;
/// About as many fields as a request gets on its way through, so that its map grows once.
const ADDED_FIELDS: usize = 8;

/// What a client may take of us while it sends a head, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a head with its last empty line.
    pub max_head: usize,
    /// Bytes of a request target; below the 65,534 that a [`Uri`] may have, and below `max_head`.
    pub max_target: usize,
    /// Fields of a head, and of trailers.
    pub max_fields: usize,
    /// From the first byte of a head, or the start of the connection, until it is complete.
    pub header_timeout: Duration,
    /// How long a connection may stand between two requests.
    pub idle_timeout: Duration,
    /// How long it may do so before it is to be parked.
    pub park_after: Duration,
}

impl HeadLimits {
    /// When an idle connection is first worth a look.
    pub(super) fn first_look(&self) -> Duration {
        self.park_after.min(self.idle_timeout)
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            max_head: 64 * 1024,
            max_target: 16 * 1024,
            max_fields: 100,
            header_timeout: Duration::from_secs(10),
            // Longer than the pools of common clients keep a connection (Go: 90 s), so that it is
            // the client that closes.
            idle_timeout: Duration::from_secs(120),
            park_after: Duration::MAX,
        }
    }
}

/// How the end of the body is found (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    /// Never zero.
    Length(u64),
    Chunked,
}

/// What a head that passed says to the server itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes from the start of the input to the end of the last empty line.
    pub len: usize,
    pub framing: Framing,
    /// CONNECT, or an `Upgrade` that `Connection` names: another protocol may follow.
    pub upgrade: bool,
    pub expect_continue: bool,
    pub version10: bool,
    /// The client may go on with the connection.
    pub keep_alive: bool,
    /// It takes trailers.
    pub trailers: bool,
}

/// Takes a head as it arrives. Each complete line is judged once, and what is wrong is seen as soon
/// as its byte is there: the verdict does not depend on how the bytes were split.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// Offset of the first line that is not taken yet.
    line: usize,
    /// Offset up to which the value of that line is known to be clean.
    clean: usize,
    request_line: Option<RequestLine>,
    fields: SmallVec<[Field; 32]>,
    /// A name has a letter in upper case.
    upper: bool,
    said: Said,
}

#[derive(Debug, Clone, Copy)]
struct RequestLine {
    method: Place,
    target: Place,
    connect: bool,
    version10: bool,
}

/// A piece of the head, by its offsets.
#[derive(Debug, Clone, Copy)]
struct Place {
    begin: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Place,
    value: Place,
}

impl Place {
    /// A head of more than 4 GB is refused long before.
    fn new(begin: usize, end: usize) -> Self {
        Self { begin: begin as u32, end: end as u32 }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.begin as usize..self.end as usize
    }
}

/// What became of one line.
enum Line {
    Taken,
    /// Its end is not there yet.
    Partial,
    /// The empty line; the head ends before this offset.
    Last(usize),
}

impl HeadParser {
    /// Judges `input`, the head from its first byte on: on every call all bytes of the calls before,
    /// and more. `None` means that it is good so far but not complete.
    pub fn feed(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Rejection> {
        // Bytes beyond the limit are not looked at, so that the limit wins however they were split.
        let window = &input[..input.len().min(limits.max_head)];
        let last = loop {
            let line = match self.request_line {
                None => self.take_request_line(window, limits)?,
                Some(request) => self.take_field_line(window, request, limits)?,
            };
            match line {
                Line::Taken => {}
                Line::Partial if window.len() == limits.max_head => {
                    return Err(Rejection::HEAD_TOO_LARGE);
                }
                Line::Partial => return Ok(None),
                Line::Last(len) => break len,
            }
        };
        self.finish(last).map(Some)
    }

    /// Whether a head has begun in an input of `len` bytes that was fed. Empty lines do not count.
    pub fn has_begun(&self, len: usize) -> bool {
        self.request_line.is_some() || len > self.line
    }

    /// Takes the head that was judged off `bytes`, as a request and the way its names were written. The
    /// next head may come then.
    ///
    /// # Errors
    /// None that a judged head would have.
    pub fn take(
        &mut self,
        bytes: &mut BytesMut,
        head: &Head,
    ) -> Result<(Request<()>, Names), Rejection> {
        let bytes = bytes.split_to(head.len).freeze();
        let line = self.request_line.take().ok_or(Rejection::INCOMPLETE_HEAD)?;
        let mut request = Request::new(());
        *request.method_mut() =
            Method::from_bytes(&bytes[line.method.range()]).map_err(|_| Rejection::BAD_METHOD)?;
        *request.uri_mut() = Uri::from_maybe_shared(bytes.slice(line.target.range()))
            .map_err(|_| Rejection::BAD_TARGET)?;
        *request.version_mut() = if line.version10 { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut names = Names::default();
        if self.upper {
            self.fields.iter().for_each(|field| names.add(&bytes[field.name.range()]));
        }
        self.put_fields(&bytes, &mut request)?;
        self.reset();
        Ok((request, names))
    }

    fn put_fields(&self, head: &Bytes, request: &mut Request<()>) -> Result<(), Rejection> {
        let headers = request.headers_mut();
        headers.reserve(self.fields.len() + ADDED_FIELDS);
        for field in &self.fields {
            let name = HeaderName::from_bytes(&head[field.name.range()])
                .map_err(|_| Rejection::BAD_FIELD_NAME)?;
            let value = head.slice(field.value.range());
            // SAFETY: `value_end` found no byte in it that a `HeaderValue` may not have.
            let value = unsafe { HeaderValue::from_maybe_shared_unchecked(value) };
            headers.append(name, value);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.line = 0;
        self.clean = 0;
        self.request_line = None;
        self.fields.clear();
        self.upper = false;
        self.said = Said::default();
    }

    fn take_request_line(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Line, Rejection> {
        while let Some(b'\r') = input.get(self.line) {
            match line_feed(input, self.line)? {
                None => return Ok(Line::Partial),
                Some(next) if next > 2 * MAX_BLANK_LINES => return Err(Rejection::BLANK_LINES),
                Some(next) => self.line = next,
            }
        }
        let begin = self.line;
        let method_end = token_end(&input[..input.len().min(begin + MAX_METHOD + 1)], begin);
        if method_end - begin > MAX_METHOD {
            return Err(Rejection::METHOD_TOO_LONG);
        }
        let method = &input[begin..method_end];
        match input.get(method_end) {
            None => return Ok(Line::Partial),
            Some(b' ') if !method.is_empty() => {}
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(_) => return Err(Rejection::BAD_METHOD),
        }
        let target_begin = method_end + 1;
        let window = &input[..input.len().min(target_begin + limits.max_target + 1)];
        let target_stop = target_end(window, target_begin);
        if target_stop - target_begin > limits.max_target {
            return Err(Rejection::TARGET_TOO_LONG);
        }
        let target = &input[target_begin..target_stop];
        match input.get(target_stop) {
            None => return Ok(Line::Partial),
            Some(b' ') => target_form(method, target)?,
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(b'\r') => {
                // A request line without a version is HTTP/0.9.
                return line_feed(input, target_stop)?
                    .map_or(Ok(Line::Partial), |_| Err(Rejection::BAD_VERSION));
            }
            Some(b'#') => return Err(Rejection::FRAGMENT),
            Some(_) => return Err(Rejection::BAD_TARGET),
        }
        let Some((version10, next)) = take_version(input, target_stop + 1)? else {
            return Ok(Line::Partial);
        };
        self.request_line = Some(RequestLine {
            method: Place::new(begin, method_end),
            target: Place::new(target_begin, target_stop),
            connect: method == b"CONNECT",
            version10,
        });
        self.line = next;
        Ok(Line::Taken)
    }

    fn take_field_line(
        &mut self,
        input: &[u8],
        request: RequestLine,
        limits: &HeadLimits,
    ) -> Result<Line, Rejection> {
        let begin = self.line;
        match input.get(begin) {
            None => return Ok(Line::Partial),
            Some(b'\r') => {
                return Ok(line_feed(input, begin)?.map_or(Line::Partial, Line::Last));
            }
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(b' ' | b'\t') => return Err(Rejection::OBS_FOLD),
            Some(_) if self.fields.len() == limits.max_fields => {
                return Err(Rejection::TOO_MANY_FIELDS);
            }
            Some(_) => {}
        }
        let name_end = token_end(&input[..input.len().min(begin + MAX_NAME + 1)], begin);
        if name_end - begin > MAX_NAME {
            return Err(Rejection::HEAD_TOO_LARGE);
        }
        match input.get(name_end) {
            None => return Ok(Line::Partial),
            Some(b':') if name_end > begin => {}
            Some(b' ' | b'\t') => return Err(Rejection::SPACE_BEFORE_COLON),
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(b'\r') => {
                return line_feed(input, name_end)?
                    .map_or(Ok(Line::Partial), |_| Err(Rejection::NO_COLON));
            }
            Some(_) => return Err(Rejection::BAD_FIELD_NAME),
        }
        let value_begin = name_end + 1;
        let value_stop = value_end(input, value_begin.max(self.clean));
        let next = match input.get(value_stop) {
            None => None,
            Some(b'\r') => line_feed(input, value_stop)?,
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(_) => return Err(Rejection::BAD_FIELD_VALUE),
        };
        let Some(next) = next else {
            self.clean = value_stop;
            return Ok(Line::Partial);
        };
        let value = trimmed(input, value_begin, value_stop);
        let name = &input[begin..name_end];
        self.upper = self.upper || has_upper(name);
        self.said.field(name, &input[value.range()], request.version10)?;
        self.fields.push(Field { name: Place::new(begin, name_end), value });
        self.line = next;
        self.clean = 0;
        Ok(Line::Taken)
    }

    fn finish(&self, len: usize) -> Result<Head, Rejection> {
        let request = self.request_line.ok_or(Rejection::INCOMPLETE_HEAD)?;
        let said = &self.said;
        if !said.host && !request.version10 {
            return Err(Rejection::NO_HOST);
        }
        let framing = match said.length {
            _ if said.chunked => Framing::Chunked,
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        };
        if request.connect && framing != Framing::None {
            return Err(Rejection::CONNECT_WITH_BODY);
        }
        // RFC 9110 7.8: Upgrade is ignored in HTTP/1.0, and where Connection does not name it.
        let upgrade = said.upgrade_field && said.upgrade_option && !request.version10;
        Ok(Head {
            len,
            framing,
            upgrade: upgrade || request.connect,
            expect_continue: said.expect_continue,
            version10: request.version10,
            keep_alive: !said.close && (said.keep_alive || !request.version10),
            trailers: said.trailers,
        })
    }
}

/// The value between two offsets without optional white space.
fn trimmed(input: &[u8], begin: usize, end: usize) -> Place {
    let value = trim_ows(&input[begin..end]);
    let begin = value.as_ptr().addr() - input.as_ptr().addr();
    Place::new(begin, begin + value.len())
}

/// Where the line after the CR at `at` begins; `None` if the byte after it is not there yet.
fn line_feed(input: &[u8], at: usize) -> Result<Option<usize>, Rejection> {
    match input.get(at + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(at + 2)),
        Some(_) => Err(Rejection::BARE_CR),
    }
}

/// Takes `HTTP/1.x` and its line end: whether it is 1.0, and where the next line begins.
fn take_version(input: &[u8], at: usize) -> Result<Option<(bool, usize)>, Rejection> {
    const FORM: &[u8; 8] = b"HTTP/0.0";
    for (offset, &wanted) in FORM.iter().enumerate() {
        match input.get(at + offset) {
            None => return Ok(None),
            Some(byte) if *byte == wanted => {}
            Some(byte) if wanted == b'0' && byte.is_ascii_digit() => {}
            Some(b'\n') => return Err(Rejection::BARE_LF),
            Some(_) => return Err(Rejection::BAD_VERSION),
        }
    }
    let version10 = match (input[at + 5], input[at + 7]) {
        (b'1', b'1') => false,
        (b'1', b'0') => true,
        (b'0' | b'1', _) => return Err(Rejection::BAD_VERSION),
        _ => return Err(Rejection::UNKNOWN_VERSION),
    };
    match input.get(at + 8) {
        None => Ok(None),
        Some(b'\r') => Ok(line_feed(input, at + 8)?.map(|next| (version10, next))),
        Some(b'\n') => Err(Rejection::BARE_LF),
        Some(_) => Err(Rejection::BAD_VERSION),
    }
}

/// Method and target of a head that may be broken, for the log: `None` unless both are clean.
pub fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    const LOGGED: usize = 2048;
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let head = &head[begin..head.len().min(begin + LOGGED)];
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target) = (parts.next()?, parts.next()?);
    let method_is_token = !method.is_empty() && token_end(method, 0) == method.len();
    if !method_is_token || !target.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    Some((std::str::from_utf8(method).ok()?, std::str::from_utf8(target).ok()?))
}
