//! The alphabets of HTTP/1 and the checks of single elements (RFC 9110 5.6, 9112 3, 3986 3.2).

use std::net::Ipv6Addr;

use super::rejection::Rejection;

/// `tchar` of RFC 9110 5.6.2: methods and field names.
pub const fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// What may stand in a field value (RFC 9110 5.5): HTAB, SP, visible characters, obs-text.
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            )
            || matches!(b, b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

const PATH: u8 = 1;
const QUERY: u8 = 2;

/// What we take in a target. Beyond RFC 3986 it has the characters that clients send unencoded and
/// that the `http` crate takes too: whatever passes here must not fail there. The backslash is left
/// out: some servers read it as a slash.
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        let b = byte as u8;
        table[byte] = match b {
            b'#' | b'\\' | b'<' | b'>' => 0,
            b'"' => PATH,
            b'`' => QUERY,
            _ => PATH | QUERY,
        };
        byte += 1;
    }
    table
};

/// Index of the first byte from `at` on that cannot belong to a request target.
pub fn target_end(bytes: &[u8], at: usize) -> usize {
    let mut part = PATH;
    for (offset, &byte) in bytes[at..].iter().enumerate() {
        if TARGET[byte as usize] & part == 0 {
            return at + offset;
        }
        if byte == b'?' {
            part = QUERY;
        }
    }
    bytes.len()
}

/// Index of the first byte from `at` on that cannot belong to a field name.
pub fn token_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| !is_tchar(byte)).map_or(bytes.len(), |offset| at + offset)
}

/// Index of the first byte from `at` on that cannot belong to a field value; eight bytes a step.
pub fn value_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        // A borrow can only mark a byte above one that is truly marked: the lowest mark is exact.
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete & HIGH;
        let marks = control | delete;
        if marks == 0 {
            at += 8;
            continue;
        }
        at += marks.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    bytes[at..].iter().position(|&b| !is_value_byte(b)).map_or(bytes.len(), |offset| at + offset)
}

/// Cuts optional white space (SP, HTAB) off both ends.
pub fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, trimmed; empty ones too.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_ows)
}

/// `Content-Length`: digits only, no leading zero, below 2^63.
pub fn content_length(value: &[u8]) -> Option<u64> {
    // 19 digits always fit into a u64.
    if value.is_empty() || value.len() > 19 || (value[0] == b'0' && value.len() > 1) {
        return None;
    }
    let mut number = 0_u64;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(byte - b'0');
    }
    (number < 1 << 63).then_some(number)
}

/// Whether `name` is `wanted` (lower case, hyphens) when case and underscores are overlooked.
pub fn is_twin(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted).all(|(&a, &b)| {
            let folded = if a == b'_' { b'-' } else { a.to_ascii_lowercase() };
            folded == b
        })
}

/// Whether a `host[:port]` has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Present,
    Absent,
}

/// Checks `uri-host [":" port]`: a name or IPv4 address of letters, digits, `-`, `.` and `_`, or an
/// IPv6 address in brackets; a port from 1 to 65535 without leading zeros. Percent-encoding,
/// zones, user information and empty ports are refused: parsers disagree about them.
pub fn authority(bytes: &[u8]) -> Option<Port> {
    let rest = if let [b'[', inner @ ..] = bytes {
        let close = inner.iter().position(|&byte| byte == b']')?;
        std::str::from_utf8(&inner[..close]).ok()?.parse::<Ipv6Addr>().ok()?;
        &inner[close + 1..]
    } else {
        let end = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
        let host = &bytes[..end];
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.len() > 255
            || !host.iter().all(valid)
            || !host.iter().any(|byte| byte.is_ascii_alphanumeric())
        {
            return None;
        }
        &bytes[end..]
    };
    match rest {
        [] => Some(Port::Absent),
        [b':', b'1'..=b'9', ..] if rest.len() <= 6 => {
            let port = content_length(&rest[1..])?;
            (port <= 65_535).then_some(Port::Present)
        }
        _ => None,
    }
}

/// Checks the form of a target whose bytes are known to be clean (RFC 9112 3.2).
pub fn target_form(method: &[u8], target: &[u8]) -> Result<(), Rejection> {
    if method == b"CONNECT" {
        return match authority(target) {
            Some(Port::Present) => Ok(()),
            _ => Err(Rejection::BAD_TARGET),
        };
    }
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        _ => absolute_form(target),
    }
}

fn absolute_form(target: &[u8]) -> Result<(), Rejection> {
    let colon = target.windows(3).position(|part| part == b"://").ok_or(Rejection::BAD_TARGET)?;
    let (scheme, rest) = (&target[..colon], &target[colon + 3..]);
    if !scheme.eq_ignore_ascii_case(b"http") {
        let alphabet = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let is_scheme = !scheme.is_empty() && scheme.iter().all(alphabet);
        return Err(if is_scheme { Rejection::BAD_SCHEME } else { Rejection::BAD_TARGET });
    }
    // A query right after the authority is refused: written in origin-form it would lack its slash.
    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    if rest[..end].contains(&b'@') {
        return Err(Rejection::USERINFO);
    }
    authority(&rest[..end]).map(|_| ()).ok_or(Rejection::BAD_TARGET)
}

/// Judges a `Transfer-Encoding` that stands in an HTTP/1.1 request.
pub fn transfer_encoding(value: &[u8]) -> Result<(), Rejection> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let known = [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"];
    let is_known = |coding: &[u8]| known.iter().any(|name| coding.eq_ignore_ascii_case(name));
    let mut codings = 0;
    let mut last_is_chunked = false;
    for coding in elements(value) {
        if last_is_chunked {
            return Err(Rejection::BAD_TRANSFER_ENCODING);
        }
        last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if !last_is_chunked && !is_known(coding) {
            return Err(Rejection::BAD_TRANSFER_ENCODING);
        }
        codings += 1;
    }
    if last_is_chunked && codings > 1 {
        return Err(Rejection::UNKNOWN_TRANSFER_CODING);
    }
    Err(Rejection::BAD_TRANSFER_ENCODING)
}
