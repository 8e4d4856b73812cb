//! Follows a chunked body strictly (RFC 9112 7.1). Every byte is judged before it may pass, so
//! that what has passed is always the beginning of a valid body.

use super::rejection::Rejection;
use super::syntax::{is_tchar, is_value_byte, value_end};

/// Extensions of one chunk, and of all chunks of a body; hyper's own limit for the sum is the same.
const MAX_EXTENSION: u32 = 4 * 1024;
const MAX_EXTENSIONS: u32 = 16 * 1024;
/// Bytes of the trailer section with its empty line, as hyper's.
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
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
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
}

/// What [`Chunked::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All of the input belongs to the body, and more is to come.
    All,
    /// The body ends after so many bytes.
    End(usize),
    /// So many bytes are good, the next one is not.
    Broken(usize, Rejection),
}

impl Chunked {
    /// Judges the next bytes of the body. `max_fields` bounds the fields of its trailers.
    pub fn take(&mut self, input: &[u8], max_fields: usize) -> Taken {
        let mut index = 0;
        while index < input.len() {
            if self.at == At::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let data = left.min(input.len() - index);
                index += data;
                self.size -= data as u64;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
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
                return Taken::Broken(index, rejection);
            }
            index += 1;
            if self.at == At::LastLf && input[index - 1] == b'\n' {
                return Taken::End(index);
            }
        }
        Taken::All
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
            // Skipped by `take`.
            At::Data => {}
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
            (At::LastLf, b'\n') => At::LastLf,
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
