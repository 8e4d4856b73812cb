//! Reads a chunked body strictly (RFC 9112 7.1). Every byte is judged before anything behind it is looked
//! at, so that what was read is always the beginning of a valid body.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use super::rejection::Rejection;
use super::syntax::{is_tchar, is_value_byte, trim_ows, value_end};

/// Extensions of one chunk, and of all chunks of a body.
const MAX_EXTENSION: u32 = 4 * 1024;
const MAX_EXTENSIONS: u32 = 16 * 1024;
/// Bytes of the trailer section with its empty line.
const MAX_TRAILERS: u32 = 16 * 1024;
/// 16 digits always fit into a u64.
const MAX_DIGITS: u8 = 16;

/// Where in a chunked body we are.
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    /// The size as read so far, then the bytes of data that are still to come.
    size: u64,
    digits: u8,
    extension: u32,
    extensions: u32,
    trailers: u32,
    trailer_fields: usize,
    /// The trailers as they came, to be read when all of them are here.
    section: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum At {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Begin of a line after the last chunk.
    TrailerLine,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl Chunked {
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// How many bytes of data the current chunk still has.
    pub fn left(&self) -> u64 {
        if self.at == At::Data { self.size } else { 0 }
    }

    /// Takes the next frame off `bytes`. None: the body is done, or more bytes are needed. `max_fields`
    /// bounds the fields of its trailers.
    ///
    /// # Errors
    /// The first byte of those that are left cannot be there.
    pub fn take(
        &mut self,
        bytes: &mut BytesMut,
        max_fields: usize,
    ) -> Result<Option<Frame<Bytes>>, Rejection> {
        if self.at == At::Data {
            return Ok(self.data(bytes));
        }
        let begin = if self.at >= At::TrailerLine { 0 } else { usize::MAX };
        let (taken, result) = self.judge(bytes, begin, max_fields);
        bytes.advance(taken);
        result?;
        match self.at {
            At::Data => Ok(self.data(bytes)),
            At::Done => Ok(trailers(&std::mem::take(&mut self.section)).map(Frame::trailers)),
            _ => Ok(None),
        }
    }

    fn data(&mut self, bytes: &mut BytesMut) -> Option<Frame<Bytes>> {
        if bytes.is_empty() {
            return None;
        }
        let len = usize::try_from(self.size).map_or(bytes.len(), |size| size.min(bytes.len()));
        self.size -= len as u64;
        if self.size == 0 {
            self.at = At::DataCr;
        }
        Some(Frame::data(bytes.split_to(len).freeze()))
    }

    /// Follows `input` up to data or the end of the body: how many bytes are good, and whether the one
    /// after them is not. What is of the trailers, from `begin` on, is kept.
    fn judge(
        &mut self,
        input: &[u8],
        mut begin: usize,
        max_fields: usize,
    ) -> (usize, Result<(), Rejection>) {
        let mut index = 0;
        let mut result = Ok(());
        while index < input.len() && !matches!(self.at, At::Data | At::Done) {
            if self.at == At::TrailerValue {
                // Stops short of the limit, which is looked at below, at the byte after the value.
                let room = (MAX_TRAILERS - 1).saturating_sub(self.trailers) as usize;
                let window = &input[..input.len().min(index + room)];
                let stop = value_end(window, index);
                self.trailers += (stop - index) as u32;
                index = stop;
                if index == input.len() {
                    break;
                }
            }
            if let Err(rejection) = self.step(input[index], max_fields) {
                result = Err(rejection);
                break;
            }
            index += 1;
            if self.at == At::TrailerLine {
                begin = begin.min(index);
            }
        }
        if begin < index {
            self.section.extend_from_slice(&input[begin..index]);
        }
        (index, result)
    }

    fn step(&mut self, byte: u8, max_fields: usize) -> Result<(), Rejection> {
        match self.at {
            At::Size => return self.size_byte(byte),
            At::Extension => return self.extension_byte(byte),
            At::SizeLf => {
                expect_lf(byte)?;
                self.at = if self.size == 0 { At::TrailerLine } else { At::Data };
            }
            At::DataCr => match byte {
                b'\r' => self.at = At::DataLf,
                _ => return Err(Rejection::BAD_CHUNK_END),
            },
            At::DataLf => {
                expect_lf(byte)?;
                self.at = At::Size;
                self.digits = 0;
                self.extension = 0;
            }
            // Skipped by `judge`.
            At::Data | At::Done => {}
            At::TrailerLine | At::TrailerName | At::TrailerValue | At::TrailerLf | At::LastLf => {
                return self.trailer_byte(byte, max_fields);
            }
        }
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), Rejection> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => {
                self.at = At::SizeLf;
                return Ok(());
            }
            b';' if self.digits > 0 => {
                self.at = At::Extension;
                return Ok(());
            }
            b'\n' => return Err(Rejection::BARE_LF),
            _ => return Err(Rejection::BAD_CHUNK_SIZE),
        };
        if self.digits == MAX_DIGITS {
            return Err(Rejection::BAD_CHUNK_SIZE);
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(())
    }

    fn extension_byte(&mut self, byte: u8) -> Result<(), Rejection> {
        match byte {
            b'\r' => self.at = At::SizeLf,
            b'\n' => return Err(Rejection::BARE_LF),
            _ if !is_value_byte(byte) => return Err(Rejection::BAD_CHUNK_EXTENSION),
            _ => {
                self.extension += 1;
                self.extensions += 1;
                if self.extension > MAX_EXTENSION || self.extensions >= MAX_EXTENSIONS {
                    return Err(Rejection::CHUNK_EXTENSION_TOO_LONG);
                }
            }
        }
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8, max_fields: usize) -> Result<(), Rejection> {
        self.trailers += 1;
        if self.trailers >= MAX_TRAILERS {
            return Err(Rejection::TRAILERS_TOO_LARGE);
        }
        self.at = match (self.at, byte) {
            (At::TrailerLine, b'\r') => At::LastLf,
            (At::TrailerLine, b' ' | b'\t') => return Err(Rejection::OBS_FOLD),
            (At::TrailerLine, _) if is_tchar(byte) => {
                if self.trailer_fields == max_fields {
                    return Err(Rejection::TRAILERS_TOO_LARGE);
                }
                self.trailer_fields += 1;
                At::TrailerName
            }
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerName, b' ' | b'\t') => return Err(Rejection::SPACE_BEFORE_COLON),
            (At::TrailerName, b'\r') => return Err(Rejection::NO_COLON),
            (At::TrailerName, _) if is_tchar(byte) => At::TrailerName,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::TrailerLine,
            (At::LastLf, b'\n') => At::Done,
            (At::TrailerLf | At::LastLf, _) => return Err(Rejection::BARE_CR),
            (_, b'\n') => return Err(Rejection::BARE_LF),
            (At::TrailerValue, _) => return Err(Rejection::BAD_FIELD_VALUE),
            _ => return Err(Rejection::BAD_FIELD_NAME),
        };
        Ok(())
    }
}

fn expect_lf(byte: u8) -> Result<(), Rejection> {
    if byte == b'\n' { Ok(()) } else { Err(Rejection::BARE_CR) }
}

/// The fields of a trailer section that was judged; none is none.
fn trailers(section: &[u8]) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    for line in section.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(trim_ows(&line[colon + 1..line.len() - 1])).ok()?;
        trailers.append(name, value);
    }
    (!trailers.is_empty()).then_some(trailers)
}
