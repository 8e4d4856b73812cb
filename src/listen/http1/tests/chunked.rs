//! What is a chunked body and what is none.

use bytes::BytesMut;
use http::HeaderMap;

use crate::listen::http1::chunked::Chunked;
use crate::listen::http1::rejection::Rejection;

/// The data and the trailers of a body, or why it is none; and what was not taken of `bytes`.
type Read = (Result<(Vec<u8>, HeaderMap), Rejection>, BytesMut);

/// Reads a body that comes in pieces of this length.
fn read(body: &str, piece: usize) -> Read {
    let mut chunked = Chunked::default();
    let (mut bytes, mut data, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
    for piece in body.as_bytes().chunks(piece) {
        bytes.extend_from_slice(piece);
        loop {
            match chunked.take(&mut bytes, 100) {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = frame.into_trailers().expect("trailers"),
                },
                Ok(None) => break,
                Err(rejection) => return (Err(rejection), bytes),
            }
        }
    }
    assert!(chunked.is_done(), "{body}");
    (Ok((data, trailers)), bytes)
}

/// The body is taken to its end and no further, however it comes.
#[track_caller]
fn body_taken(body: &str) -> (Vec<u8>, HeaderMap) {
    let (found, rest) = read(&format!("{body}GET"), usize::MAX);
    assert_eq!(rest, "GET", "{body:?}");
    for piece in [1, 2, 3, 7] {
        assert_eq!(read(body, piece), (found.clone(), BytesMut::new()), "{body:?} by {piece}");
    }
    found.expect("a body")
}

/// `good` bytes of the body are taken, no more, however they come.
#[track_caller]
fn body_broken(body: &str, good: usize, rejection: Rejection) {
    let (found, rest) = read(body, usize::MAX);
    assert_eq!(found, Err(rejection), "{body:?}");
    assert_eq!(rest.len(), body.len() - good, "{body:?}");
    for piece in [1, 2, 3, 7] {
        assert_eq!(read(body, piece).0, Err(rejection), "{body:?} by {piece}");
    }
}

#[test]
fn chunked_bodies() {
    for (body, wanted) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("a\r\n0123456789\r\nA;x=\"y z\"\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789"),
        ("0000000000000001\r\nx\r\n0\r\n\r\n", "x"),
        (&format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(4096)), "x"),
    ] {
        assert_eq!(body_taken(body), (wanted.into(), HeaderMap::new()), "{body:?}");
    }
    let (data, trailers) = body_taken("1;a\tb\r\nx\r\n0;last\r\nX: \t y \r\nz:\r\nx:2\r\n\r\n");
    assert_eq!(data, b"x");
    let fields: Vec<_> =
        trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(fields, [("x", &b"y"[..]), ("x", b"2"), ("z", b"")]);
}

#[test]
fn broken_chunk_sizes() {
    body_broken("5\nhello", 1, Rejection::BARE_LF);
    body_broken("0\n\r\n", 1, Rejection::BARE_LF);
    body_broken("5;\nhello", 2, Rejection::BARE_LF);
    body_broken("5\rhello", 2, Rejection::BARE_CR);
    body_broken("5;x\0\r\n", 3, Rejection::BAD_CHUNK_EXTENSION);
    for (body, good) in [
        ("0x5\r\n", 1),
        ("+5\r\n", 0),
        ("-5\r\n", 0),
        ("5_0\r\n", 1),
        (" 5\r\n", 0),
        ("5,a\r\n", 1),
        ("\r\n", 0),
        (";x\r\n", 0),
        ("5 \r\n", 1),
        ("5\t\r\n", 1),
        ("5 ;x\r\n", 1),
        ("g\r\n", 0),
        ("00000000000000001\r\n", 16),
        ("11111111111111111\r\n", 16),
    ] {
        body_broken(body, good, Rejection::BAD_CHUNK_SIZE);
    }
    let long = format!("5;{}\r\n", "e".repeat(20_000));
    body_broken(&long, 2 + 4096, Rejection::CHUNK_EXTENSION_TOO_LONG);
    let many = format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(20);
    assert_eq!(read(&many, usize::MAX).0, Err(Rejection::CHUNK_EXTENSION_TOO_LONG));
}

#[test]
fn broken_chunk_data() {
    body_broken("5\r\nhellox\r\n", 8, Rejection::BAD_CHUNK_END);
    body_broken("5\r\nhello\n", 8, Rejection::BAD_CHUNK_END);
    body_broken("5\r\nhello\rx", 9, Rejection::BARE_CR);
}

#[test]
fn broken_trailers() {
    body_broken("0\r\n\n", 3, Rejection::BARE_LF);
    body_broken("0\r\n\rx", 4, Rejection::BARE_CR);
    body_broken("0\r\nx: y\n", 7, Rejection::BARE_LF);
    body_broken("0\r\nx: y\rz", 8, Rejection::BARE_CR);
    body_broken("0\r\nx: y\r\n z\r\n\r\n", 9, Rejection::OBS_FOLD);
    body_broken("0\r\n x: y\r\n\r\n", 3, Rejection::OBS_FOLD);
    body_broken("0\r\nx : y\r\n\r\n", 4, Rejection::SPACE_BEFORE_COLON);
    body_broken("0\r\nxy\r\n\r\n", 5, Rejection::NO_COLON);
    body_broken("0\r\n: y\r\n\r\n", 3, Rejection::BAD_FIELD_NAME);
    body_broken("0\r\nx(: y\r\n\r\n", 4, Rejection::BAD_FIELD_NAME);
    body_broken("0\r\nx: \0\r\n\r\n", 6, Rejection::BAD_FIELD_VALUE);
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(101));
    body_broken(&many, 3 + 600, Rejection::TRAILERS_TOO_LARGE);
    body_taken(&format!("0\r\n{}\r\n", "x: y\r\n".repeat(100)));
    let large = format!("0\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    body_broken(&large, 3 + 16 * 1024 - 1, Rejection::TRAILERS_TOO_LARGE);
    let long_name = format!("0\r\n{}: y\r\n\r\n", "x".repeat(20_000));
    body_broken(&long_name, 3 + 16 * 1024 - 1, Rejection::TRAILERS_TOO_LARGE);
}
