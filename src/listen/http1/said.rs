//! What the fields of a head say to the server itself, and what they must not say (RFC 9110, 9112 6).

use super::rejection::Rejection;
use super::syntax::{authority, content_length, elements, is_twin, transfer_encoding};

/// What the fields so far say.
#[derive(Debug, Default, Clone, Copy)]
pub struct Said {
    pub host: bool,
    pub length: Option<u64>,
    pub chunked: bool,
    pub expect_continue: bool,
    pub upgrade_field: bool,
    pub upgrade_option: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub trailers: bool,
}

impl Said {
    /// Judges the fields that frame or route the message. Most others are told by their length.
    pub fn field(&mut self, name: &[u8], value: &[u8], version10: bool) -> Result<(), Rejection> {
        match name.len() {
            2 if name.eq_ignore_ascii_case(b"te") => {
                self.trailers |= elements(value).any(|one| one.eq_ignore_ascii_case(b"trailers"));
            }
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host {
                    return Err(Rejection::TWO_HOSTS);
                }
                self.host = true;
                authority(value).ok_or(Rejection::BAD_HOST)?;
            }
            // RFC 9110 10.1.1: a server ignores it in HTTP/1.0.
            6 if name.eq_ignore_ascii_case(b"expect") && !version10 => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Rejection::BAD_EXPECTATION);
                }
                self.expect_continue = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade_field = true,
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value)?,
            14 if is_twin(name, b"content-length") => self.content_length(name, value)?,
            17 if is_twin(name, b"transfer-encoding") => {
                self.transfer_encoding(name, value, version10)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Rejection> {
        for option in elements(value) {
            let names = |field: &[u8]| option.eq_ignore_ascii_case(field);
            if names(b"host") || names(b"content-length") || names(b"transfer-encoding") {
                return Err(Rejection::BAD_CONNECTION);
            }
            self.upgrade_option |= names(b"upgrade");
            self.close |= names(b"close");
            self.keep_alive |= names(b"keep-alive");
        }
        Ok(())
    }

    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Rejection> {
        if name.contains(&b'_') {
            return Err(Rejection::UNDERSCORE_NAME);
        }
        if self.chunked {
            return Err(Rejection::CONFLICTING_LENGTH);
        }
        if self.length.is_some() {
            return Err(Rejection::TWO_LENGTHS);
        }
        self.length = Some(content_length(value).ok_or(Rejection::BAD_LENGTH)?);
        Ok(())
    }

    fn transfer_encoding(
        &mut self,
        name: &[u8],
        value: &[u8],
        version10: bool,
    ) -> Result<(), Rejection> {
        if name.contains(&b'_') {
            return Err(Rejection::UNDERSCORE_NAME);
        }
        if self.length.is_some() {
            return Err(Rejection::CONFLICTING_LENGTH);
        }
        if self.chunked || version10 {
            return Err(Rejection::BAD_TRANSFER_ENCODING);
        }
        transfer_encoding(value)?;
        self.chunked = true;
        Ok(())
    }
}
