//! What both sides of HTTP/1 have in common: how a message is written.

mod outgoing;

use http::HeaderValue;

pub use outgoing::{Coding, Outgoing, SendError};

/// Appends one line of a head or of trailers.
pub fn write_field(name: &[u8], value: &HeaderValue, out: &mut Vec<u8>) {
    let value = value.as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A length in decimal digits and nothing else.
pub fn content_length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
