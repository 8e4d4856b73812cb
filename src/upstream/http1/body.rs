//! The body of a response out of the bytes of a connection (RFC 9112 6.3, 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

use super::head::Framing;
use super::{Error, READ, READ_LARGE};

/// The line of a chunk's size with its extensions; all extensions of a body.
const MAX_LINE: usize = 4 * 1024;
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The trailers with their empty line.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 100;

#[derive(Debug)]
pub struct Decoder {
    at: At,
    /// Bytes of extensions so far.
    extensions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Length(u64),
    Close,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let at = match framing {
            Framing::None | Framing::Length(0) => At::Done,
            Framing::Length(length) => At::Length(length),
            Framing::Chunked => At::ChunkSize,
            Framing::Close => At::Close,
        };
        Self { at, extensions: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Whether the end of the stream is the end of the body.
    pub fn ends_by_close(&self) -> bool {
        self.at == At::Close
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.at {
            At::Length(length) => SizeHint::with_exact(length),
            At::Done => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// How much room the next read should have.
    pub fn wanted(&self) -> usize {
        match self.at {
            At::Length(left) | At::Chunk(left) => {
                usize::try_from(left).map_or(READ_LARGE, |left| left.clamp(READ, READ_LARGE))
            }
            At::Close => 2 * READ,
            At::ChunkSize | At::ChunkEnd | At::Trailers | At::Done => READ,
        }
    }

    /// Takes the next frame off `bytes`. None: the body is done, or more bytes are needed.
    ///
    /// # Errors
    /// A chunk that is none.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        loop {
            match self.at {
                At::Done => return Ok(None),
                _ if bytes.is_empty() => return Ok(None),
                At::Length(left) => {
                    let data = data(bytes, left);
                    let left = left - data.len() as u64;
                    self.at = if left == 0 { At::Done } else { At::Length(left) };
                    return Ok(Some(Frame::data(data)));
                }
                At::Close => return Ok(Some(Frame::data(bytes.split().freeze()))),
                At::Chunk(left) => {
                    let data = data(bytes, left);
                    let left = left - data.len() as u64;
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    return Ok(Some(Frame::data(data)));
                }
                At::ChunkEnd => match bytes[..] {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.at = At::ChunkSize;
                    }
                    [b'\r'] => return Ok(None),
                    _ => return Err(Error::malformed("a chunk is longer than its size")),
                },
                At::ChunkSize => {
                    let Some(line) = line(bytes, MAX_LINE)? else { return Ok(None) };
                    let size = self.size(&bytes[..line])?;
                    bytes.advance(line + 2);
                    self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                }
                At::Trailers => {
                    if bytes.starts_with(b"\r\n") {
                        bytes.advance(2);
                        self.at = At::Done;
                        return Ok(None);
                    }
                    let Some(trailers) = trailers(bytes)? else { return Ok(None) };
                    self.at = At::Done;
                    return Ok(Some(Frame::trailers(trailers)));
                }
            }
        }
    }

    /// The size in a line, which its extensions may follow.
    fn size(&mut self, line: &[u8]) -> Result<u64, Error> {
        let wrong = || Error::malformed("the size of a chunk is none");
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        // 16 digits always fit.
        if !(1..=16).contains(&digits) {
            return Err(wrong());
        }
        self.extensions += extension.len();
        let plain = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        if !matches!(extension, [] | [b';' | b' ' | b'\t', ..]) || !extension.iter().all(plain) {
            return Err(wrong());
        }
        if self.extensions > MAX_EXTENSIONS {
            return Err(Error::malformed("too many extensions of chunks"));
        }
        let size = std::str::from_utf8(size).map_err(|_| wrong())?;
        u64::from_str_radix(size, 16).map_err(|_| wrong())
    }
}

fn data(bytes: &mut BytesMut, most: u64) -> Bytes {
    let length = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
    bytes.split_to(length).freeze()
}

/// The length of the line that `bytes` begin with, without its CR LF, once it is there.
fn line(bytes: &[u8], most: usize) -> Result<Option<usize>, Error> {
    match bytes.iter().take(most).position(|byte| *byte == b'\n') {
        Some(at) if at > 0 && bytes[at - 1] == b'\r' => Ok(Some(at - 1)),
        Some(_) => Err(Error::malformed("a line of a chunked body ends without CR")),
        None if bytes.len() >= most => {
            Err(Error::malformed("a line of a chunked body is too long"))
        }
        None => Ok(None),
    }
}

/// Takes the trailers off `bytes`, once all of them are there.
fn trailers(bytes: &mut BytesMut) -> Result<Option<HeaderMap>, Error> {
    let mut room = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let parsed = httparse::parse_headers(bytes, &mut room)
        .map_err(|error| Error::malformed(format!("invalid trailers: {error}")))?;
    let httparse::Status::Complete((length, fields)) = parsed else {
        return match bytes.len() {
            ..MAX_TRAILERS => Ok(None),
            _ => Err(Error::malformed("the trailers are too long")),
        };
    };
    let wrong = || Error::malformed("invalid trailers");
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong())?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| wrong())?);
    }
    bytes.advance(length);
    Ok(Some(trailers))
}
