//! WebSocket frames (RFC 6455), unfragmented ones.

use base64::Engine;
use sha1::{Digest, Sha1};

use crate::engine::End;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub fn accept(key: &[u8]) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

pub fn put(out: &mut Vec<u8>, payload: &[u8], masked: bool) {
    let mask_bit = if masked { 0x80 } else { 0 };
    out.push(TEXT);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => out.push(mask_bit | length as u8),
        Ok(length) => {
            out.push(mask_bit | 126);
            out.extend(length.to_be_bytes());
        }
        Err(_) => {
            out.push(mask_bit | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend(MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        out.extend_from_slice(payload);
    }
}

/// The next message's payload into `payload`, and its length on the wire.
pub fn take(input: &[u8], payload: &mut Vec<u8>) -> Result<Option<usize>, End> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if *first == CLOSE {
        return Err(End);
    }
    let (length, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u16::from_be_bytes(*bytes) as usize, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes) as usize, rest),
            None => return Ok(None),
        },
        length => (length as usize, rest),
    };
    let (mask, rest) = match second & 0x80 {
        0 => ([0; 4], rest),
        _ => match rest.split_first_chunk() {
            Some((mask, rest)) => (*mask, rest),
            None => return Ok(None),
        },
    };
    let Some(content) = rest.get(..length) else { return Ok(None) };
    payload.clear();
    payload.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(Some(input.len() - rest.len() + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        for length in [0, 5, 125, 126, 65_535, 65_536] {
            for masked in [false, true] {
                let message: Vec<u8> = (0..length).map(|at| at as u8).collect();
                let (mut out, mut payload) = (Vec::new(), Vec::new());
                put(&mut out, &message, masked);
                for end in [0, 1, out.len() - 1] {
                    assert_eq!(take(&out[..end], &mut payload).unwrap(), None);
                }
                out.push(7);
                assert_eq!(take(&out, &mut payload).unwrap(), Some(out.len() - 1));
                assert_eq!(payload, message);
            }
        }
    }
}
