//! Heads as bytes (RFC 9112 3, 4, 6.3). The syntax of a response is httparse's; what frames its body is
//! judged here, and more strictly than the RFC asks: what two readers could read in two ways is refused.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use super::Error;
use crate::http1::{content_length, write_field};
use crate::names::Names;

/// Fields of a response.
const MAX_FIELDS: usize = 100;

/// How the body of a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    Close,
}

#[derive(Debug)]
pub struct Parsed {
    pub response: Response<()>,
    /// As they were written.
    pub names: Names,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Appends the head of a request, its fields named as in `names`.
pub fn write(head: &Parts, names: &Names, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut spelling = names.spelling();
    for (name, value) in &head.headers {
        let name = name.as_str().as_bytes();
        write_field(spelling.of(name).unwrap_or(name), value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether `bytes`, of which the first `seen` are no whole head, may have one now.
pub fn may_end(bytes: &[u8], seen: usize) -> bool {
    let fresh = &bytes[seen.saturating_sub(3)..];
    let ends = |at: usize| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    fresh.iter().enumerate().any(|(at, byte)| *byte == b'\n' && ends(at))
}

/// Takes the head of a response to a request of `method` off `bytes`, if all of it is there.
///
/// # Errors
/// What breaks HTTP.
pub fn parse(bytes: &mut BytesMut, method: &Method) -> Result<Option<Parsed>, Error> {
    let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut found = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config
        .parse_response_with_uninit_headers(&mut found, bytes, &mut room)
        .map_err(|error| Error::malformed(format!("invalid HTTP: {error}")))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let status = found.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| Error::malformed("invalid HTTP: status"))?;
    let reason = found.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let version = if found.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    // The fields as places in `bytes`, which are taken off it as one shared piece.
    let start = bytes.as_ptr().addr();
    let place = |part: &[u8]| (part.as_ptr().addr() - start, part.len());
    let fields_of =
        |field: &httparse::Header<'_>| (place(field.name.as_bytes()), place(field.value));
    let places: SmallVec<[(Place, Place); 32]> = found.headers.iter().map(fields_of).collect();
    let names = Names::collect(found.headers.iter().map(|field| field.name.as_bytes()));
    let head = bytes.split_to(length).freeze();
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    if let Some(reason) = reason {
        // Our server writes it.
        response.extensions_mut().insert(reason);
    }
    let said = fields(response.headers_mut(), &head, &places, version)?;
    let framing = framing(response.headers_mut(), &said, status, version, method)?;
    let keep_alive = said.keep_alive && !said.close && framing != Framing::Close;
    Ok(Some(Parsed { response, names, framing, keep_alive }))
}

type Place = (usize, usize);

/// What the fields say of the message.
struct Said {
    close: bool,
    /// HTTP/1.0 closes unless it says this.
    keep_alive: bool,
    transfer_encoding: bool,
    content_length: bool,
}

/// Puts the fields into `headers`.
fn fields(
    headers: &mut HeaderMap,
    head: &Bytes,
    places: &[(Place, Place)],
    version: Version,
) -> Result<Said, Error> {
    let mut said = Said {
        close: false,
        keep_alive: version == Version::HTTP_11,
        transfer_encoding: false,
        content_length: false,
    };
    headers.reserve(places.len());
    for ((name, name_length), (value, value_length)) in places {
        let name = HeaderName::from_bytes(&head[*name..name + name_length])
            .map_err(|_| Error::malformed("invalid HTTP: the name of a field"))?;
        let value = HeaderValue::from_maybe_shared(head.slice(*value..value + value_length))
            .map_err(|_| Error::malformed("invalid HTTP: the value of a field"))?;
        if name == CONNECTION {
            said.connection(value.as_bytes());
        }
        said.transfer_encoding |= name == TRANSFER_ENCODING;
        said.content_length |= name == CONTENT_LENGTH;
        headers.append(name, value);
    }
    Ok(said)
}

impl Said {
    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}

fn framing(
    headers: &mut HeaderMap,
    said: &Said,
    status: StatusCode,
    version: Version,
    method: &Method,
) -> Result<Framing, Error> {
    let chunked = said.transfer_encoding && chunked(headers, version)?;
    let length = if said.content_length { length(headers)? } else { None };
    if chunked && length.is_some() {
        return Err(Error::malformed("both transfer-encoding and content-length"));
    }
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || method == Method::HEAD;
    Ok(match (chunked, length) {
        _ if bodiless => Framing::None,
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    })
}

fn chunked(headers: &HeaderMap, version: Version) -> Result<bool, Error> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(false);
    };
    if version == Version::HTTP_10 {
        return Err(Error::malformed("transfer-encoding in HTTP/1.0"));
    }
    let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if !chunked || codings.next().is_some() {
        return Err(Error::malformed("a transfer coding other than chunked"));
    }
    Ok(true)
}

/// The length, once: where it stands several times and is the same, one field is left.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Error> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let wrong = || Error::malformed("content-length is not one number");
    let length = content_length(first).ok_or_else(wrong)?;
    let mut again = false;
    for value in values {
        again = true;
        if content_length(value) != Some(length) {
            return Err(wrong());
        }
    }
    if again {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length))
}
