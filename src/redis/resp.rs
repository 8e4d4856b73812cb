//! RESP2, as far as one script needs it (the Redis serialization protocol): commands out, single replies
//! in.

use std::fmt;

use bytes::BytesMut;

/// What Redis answers to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(Box<str>),
    /// `-NOSCRIPT …`
    Error(Box<str>),
    Integer(i64),
    /// A text, or nothing.
    Bulk(Option<Box<[u8]>>),
}

/// What came is no reply to a command of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its answer is none of Redis")
    }
}

/// Longer lines and texts are not what our commands are answered with.
const LONGEST: usize = 64 * 1024;

/// Appends a command.
pub fn write(out: &mut BytesMut, command: &[&[u8]]) {
    let number = |out: &mut BytesMut, mark: u8, number: usize| {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&[mark]);
        out.extend_from_slice(&digits[at..]);
        out.extend_from_slice(b"\r\n");
    };
    number(out, b'*', command.len());
    for part in command {
        number(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and its length, if all of it is there.
///
/// # Errors
/// It is none.
pub fn read(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > LONGEST { Err(Malformed) } else { Ok(None) };
    };
    let (kind, line) = bytes[..end].split_first().ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let after = end + 2;
    let reply = match kind {
        b'+' => Reply::Status(line.into()),
        b'-' => Reply::Error(line.into()),
        b':' => Reply::Integer(line.parse().map_err(|_| Malformed)?),
        b'$' if line == "-1" => Reply::Bulk(None),
        b'$' => {
            let length: usize = line.parse().map_err(|_| Malformed)?;
            if length > LONGEST {
                return Err(Malformed);
            }
            let Some(rest) = bytes.get(after..after + length + 2) else {
                return Ok(None);
            };
            let text = rest.strip_suffix(b"\r\n").ok_or(Malformed)?;
            return Ok(Some((Reply::Bulk(Some(text.into())), after + length + 2)));
        }
        _ => return Err(Malformed),
    };
    Ok(Some((reply, after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands() {
        let mut out = BytesMut::new();
        write(&mut out, &[b"SET", b"", b"a\r\nb\0c......"]);
        assert_eq!(out, &b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\na\r\nb\0c......\r\n"[..]);
    }

    #[test]
    fn replies() {
        let bulk = |text: &[u8]| Reply::Bulk(Some(text.into()));
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Status("OK".into())),
            (b"-NOSCRIPT x\r\n", Reply::Error("NOSCRIPT x".into())),
            (b":-42\r\n", Reply::Integer(-42)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", bulk(b"")),
            (b"$4\r\na\r\nb\r\n", bulk(b"a\r\nb")),
        ] {
            let more = [bytes, b":1"].concat();
            assert_eq!(read(&more), Ok(Some((reply, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(None), "{end} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_of_ours() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"*1\r\n:1\r\n",
            b"\r\n",
            b":\r\n",
            b":1x\r\n",
            b"$-2\r\n",
            b"$1\r\nab\r\n",
            b"$99999999999999999999\r\n",
            b"$70000\r\n",
            b"+\xff\r\n",
        ] {
            assert_eq!(read(bytes), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(read(&[b'+'; LONGEST + 1]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(Some((_, length))) = read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
