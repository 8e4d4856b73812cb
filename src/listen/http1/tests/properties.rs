//! The verdict does not depend on how bytes arrive, and what passes means the same to others.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Uri};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::check;
use crate::listen::http1::chunked::Chunked;
use crate::listen::http1::head::{Framing, HeadLimits, HeadParser};
use crate::names::Names;

/// Small limits, so that they are met.
fn limits() -> HeadLimits {
    HeadLimits { max_head: 300, max_target: 60, max_fields: 6, ..HeadLimits::default() }
}

const SEEDS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET /a?b=c HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nx:\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\tChunked \r\n\r\n\
     1\r\nx\r\n0\r\nt: 1\r\nu:2\r\n\r\n",
    "GET http://b.c:1/x HTTP/1.1\r\nConnection: keep-alive, x\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
];

const PIECES: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    " ",
    "\t",
    ":",
    ",",
    "#",
    "?",
    "/",
    "\\",
    "@",
    "%",
    ";",
    "\0",
    "\x7f",
    "0",
    "a",
    "f",
    "*",
    "[",
    "\"",
    "`",
    "<",
    "http://",
    "HTTP/1.0",
    "HTTP/2.0",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content_Length: 1\r\n",
    "x: y\r\n",
    "Expect: 100-continue\r\n",
    "Connection: upgrade\r\nUpgrade: x\r\n",
];

#[derive(Debug, Clone)]
enum Change {
    Insert(Index, &'static str),
    Byte(Index, u8),
    Remove(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), select(PIECES)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        any::<Index>().prop_map(Change::Remove),
    ]
}

/// A few requests one after another, with a few mutations.
pub(super) fn stream(changes: usize) -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop::collection::vec(select(SEEDS), 1..4);
    (seeds, prop::collection::vec(change(), 0..=changes)).prop_map(|(seeds, changes)| {
        let mut bytes = seeds.concat().into_bytes();
        for change in changes {
            if bytes.is_empty() {
                break;
            }
            match change {
                Change::Insert(at, piece) => {
                    let at = at.index(bytes.len());
                    bytes.splice(at..at, piece.bytes());
                }
                Change::Byte(at, byte) => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                Change::Remove(at) => {
                    bytes.remove(at.index(bytes.len()));
                }
            }
        }
        bytes
    })
}

/// What is read from a stream that arrives in pieces: heads, bodies, and why it ends. Nobody upgrades.
fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let limits = limits();
    let mut parser = HeadParser::default();
    let (mut bytes, mut found) = (BytesMut::new(), Vec::new());
    // A body in progress, and what there is of its data.
    let mut body = None;
    let mut data = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match &mut body {
                None => match parser.feed(&bytes, &limits) {
                    Ok(None) => break,
                    Ok(Some(head)) => {
                        let taken = parser.take(&mut bytes, &head).expect("a request");
                        found.push(format!("{taken:?}"));
                        body = Some((head.framing, Chunked::default()));
                    }
                    Err(rejection) => {
                        found.push(rejection.reason.to_owned());
                        return found;
                    }
                },
                Some((Framing::Length(left), _)) if bytes.is_empty() && *left > 0 => break,
                Some((Framing::Length(left @ 1..), _)) => {
                    let len = bytes.len().min(*left as usize);
                    data.extend_from_slice(&bytes.split_to(len));
                    *left -= len as u64;
                }
                Some((Framing::Chunked, chunked)) if !chunked.is_done() => {
                    match chunked.take(&mut bytes, limits.max_fields) {
                        Ok(Some(frame)) => match frame.into_data() {
                            Ok(piece) => data.extend_from_slice(&piece),
                            Err(frame) => found.push(format!("{frame:?}")),
                        },
                        Ok(None) if chunked.is_done() => {}
                        Ok(None) => break,
                        Err(rejection) => {
                            found.push(data.escape_ascii().to_string());
                            found.push(rejection.reason.to_owned());
                            return found;
                        }
                    }
                }
                Some(_) => {
                    found.push(std::mem::take(&mut data).escape_ascii().to_string());
                    body = None;
                }
            }
        }
    }
    found.push(data.escape_ascii().to_string());
    found
}

fn assert_splits_agree(stream: &[u8], piece: usize) {
    let whole = follow(std::iter::once(stream));
    assert_eq!(follow(stream.chunks(piece)), whole, "{} by {piece}", stream.escape_ascii());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn splits_do_not_matter(
        stream in stream(4),
        cuts in prop::collection::vec(any::<Index>(), 0..5),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
        prop_assert_eq!(follow(pieces), follow(std::iter::once(&stream[..])));
        assert_splits_agree(&stream, 1);
    }

    #[test]
    fn what_passes_means_the_same_to_httparse(stream in stream(3)) {
        let Ok(head) = check(&stream, &limits()) else { return Ok(()) };
        let bytes = &stream[..head.len];
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(bytes).expect("httparse takes it");
        prop_assert_eq!(parsed, httparse::Status::Complete(head.len));

        let text: Vec<_> = bytes.split(|byte| *byte == b'\n').map(|line| {
            line.strip_suffix(b"\r").unwrap_or(line)
        }).skip_while(|line| line.is_empty()).collect();
        let parts: Vec<_> = text[0].split(|byte| *byte == b' ').collect();
        prop_assert_eq!(parts.len(), 3);
        let (method, target) = (request.method.expect("method"), request.path.expect("path"));
        prop_assert_eq!(parts[0], method.as_bytes());
        prop_assert_eq!(parts[1], target.as_bytes());
        prop_assert_eq!(request.version, Some(u8::from(!head.version10)));
        let fields: Vec<_> = text[1..].iter().take_while(|line| !line.is_empty()).collect();
        prop_assert_eq!(fields.len(), request.headers.len());
        for (line, header) in fields.iter().zip(request.headers.iter()) {
            let colon = line.iter().position(|byte| *byte == b':').expect("colon");
            prop_assert_eq!(&line[..colon], header.name.as_bytes());
            prop_assert_eq!(line[colon + 1..].trim_ascii(), header.value.trim_ascii());
            prop_assert!(HeaderName::from_bytes(header.name.as_bytes()).is_ok());
            prop_assert!(HeaderValue::from_bytes(header.value).is_ok());
        }

        prop_assert!(Method::from_bytes(method.as_bytes()).is_ok());
        let uri = Uri::try_from(target.as_bytes()).expect("a target that passes is a Uri");
        if target.starts_with('/') {
            prop_assert_eq!(uri.to_string(), target);
        }
    }

    #[test]
    fn names_are_those_of_the_head(stream in stream(3)) {
        let Ok(head) = check(&stream, &limits()) else { return Ok(()) };
        let mut bytes = BytesMut::from(&stream[..]);
        let mut parser = HeadParser::default();
        let _ = parser.feed(&bytes, &limits());
        let (_, names) = parser.take(&mut bytes, &head).expect("a request");
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let _ = request.parse(&stream).expect("httparse takes it");
        let found = request.headers.iter().map(|header| header.name.as_bytes());
        prop_assert_eq!(names, Names::collect(found));
    }

    #[test]
    fn every_byte_of_a_target_is_taken_by_http_too(target in "/[ -~]{0,12}") {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        if check(head.as_bytes(), &limits()).is_ok() {
            let uri = Uri::try_from(target.as_str()).expect("a target that passes is a Uri");
            prop_assert_eq!(uri.to_string(), target);
        }
    }
}

#[test]
fn seeds_agree_at_every_split() {
    for first in SEEDS {
        for second in SEEDS {
            let stream = [first.as_bytes(), second.as_bytes()].concat();
            for piece in 1..=stream.len() {
                assert_splits_agree(&stream, piece);
            }
        }
    }
}
