//! What requests are told apart by, where the same shall go to the same place: a header, a cookie, the
//! client's address, a parameter of the query.
//!
//! The hash is XXH3 (64 bits, seed 0) of the bytes of the value. It is part of what users see: every
//! sidecar of a fleet, of whatever version, has to send a key to the same endpoint. Do not change it.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::route::form_decoded;

/// Where the key of a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// All values of it, as if they stood in one line.
    Header(HeaderName),
    Cookie(Box<str>),
    /// The address of the client.
    Source,
    /// The first parameter of this name, decoded.
    Query(Box<str>),
}

/// What of a request may be a key. `source` is called only where the client's address is asked for.
pub struct Asked<'a, S> {
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
    pub source: S,
}

impl Key {
    /// `None`: the request has no such key, or an empty one, which stands for nobody.
    pub fn hash<S: Fn() -> IpAddr>(&self, asked: &Asked<'_, S>) -> Option<u64> {
        match self {
            Self::Header(name) => header(asked.headers, name),
            Self::Cookie(name) => cookie(asked.headers, name).and_then(hashed),
            Self::Source => Some(source((asked.source)())),
            Self::Query(name) => query(asked.query?, name).and_then(|value| hashed(&value)),
        }
    }

    /// Of a connection that carries no HTTP: there is nothing but the client's address.
    pub fn hash_of_peer(&self, peer: IpAddr) -> Option<u64> {
        (*self == Self::Source).then(|| source(peer))
    }
}

fn hashed(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| xxh3_64(value))
}

/// Several lines of one field are one list (RFC 9110 5.3): who joined them does not matter.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return hashed(first);
    };
    let mut joined = SmallVec::<[u8; 256]>::from_slice(first);
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(value.as_bytes());
    }
    hashed(&joined)
}

/// The octets of the address; one of IPv4 is the same on a socket of both families.
fn source(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => xxh3_64(&address.octets()),
        IpAddr::V6(address) => xxh3_64(&address.octets()),
    }
}

/// The value of the first cookie of this name (RFC 6265 4.2.1), its quotes with it. HTTP/2 may send each
/// pair in a field of its own.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter().map(|field| field.as_bytes());
    let mut pairs = fields.flat_map(|field| field.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = (&pair[..at], &pair[at + 1..]);
        (found.trim_ascii() == name.as_bytes()).then(|| value.trim_ascii())
    })
}

fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut ours = pairs.filter(|(found, _)| *form_decoded(found) == *name.as_bytes());
    ours.next().map(|(_, value)| form_decoded(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn of(key: Key, fields: &[(&'static str, &'static str)], query: Option<&str>) -> Option<u64> {
        let source = || "192.0.2.7".parse().unwrap();
        key.hash(&Asked { headers: &headers(fields), query, source })
    }

    #[test]
    fn the_hash_is_what_it_was_in_every_version() {
        // If these change, every client of every user moves to another endpoint.
        let header = Key::Header(HeaderName::from_static("x-user"));
        assert_eq!(of(header, &[("x-user", "alice")], None), Some(xxh3_64(b"alice")));
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(xxh3_64(b"alice"), 0x4da1_0dd6_1a01_16b0);
    }

    #[test]
    fn lines_of_a_header_are_one_list() {
        let header = || Key::Header(HeaderName::from_static("x-user"));
        let two = of(header(), &[("x-user", "a"), ("x-user", "b")], None);
        assert_eq!(two, of(header(), &[("x-user", "a, b")], None));
        assert_ne!(two, of(header(), &[("x-user", "a")], None));
        assert_eq!(of(header(), &[("x-other", "a")], None), None);
        assert_eq!(of(header(), &[("x-user", "")], None), None);
    }

    #[test]
    fn a_cookie_is_found_wherever_it_stands() {
        let alice = Some(xxh3_64(b"alice"));
        let session = || Key::Cookie("session".into());
        for fields in [
            &[("cookie", "session=alice")][..],
            &[("cookie", "a=b; session=alice; c=d")],
            &[("cookie", "a=b;session = alice")],
            &[("cookie", "xsession=bob; session=alice; session=carol")],
            &[("cookie", "novalue; a=b"), ("cookie", "session=alice")],
        ] {
            assert_eq!(of(session(), fields, None), alice, "{fields:?}");
        }
        for fields in [
            &[("cookie", "Session=alice")][..],
            &[("cookie", "session")],
            &[("cookie", "session=")],
            &[("cookie", "a=session=alice")],
            &[("x-cookie", "session=alice")],
        ] {
            assert_eq!(of(session(), fields, None), None, "{fields:?}");
        }
        // Not its end.
        let padded = of(session(), &[("cookie", "session=a==")], None);
        assert_eq!(padded, Some(xxh3_64(b"a==")));
    }

    #[test]
    fn a_parameter_is_decoded() {
        let user = || Key::Query("the user".into());
        let spaced = Some(xxh3_64(b"a b"));
        assert_eq!(of(user(), &[], Some("x=1&the+user=a%20b")), spaced);
        assert_eq!(of(user(), &[], Some("the%20user=a+b&the+user=c")), spaced);
        assert_eq!(of(user(), &[], Some("the+user")), None);
        assert_eq!(of(user(), &[], Some("user=a")), None);
        assert_eq!(of(user(), &[], None), None);
    }

    #[test]
    fn an_address_is_itself_in_both_families() {
        let ours = of(Key::Source, &[], None);
        assert_eq!(Key::Source.hash_of_peer("::ffff:192.0.2.7".parse().unwrap()), ours);
        assert_ne!(Key::Source.hash_of_peer("192.0.2.8".parse().unwrap()), ours);
        assert_eq!(Key::Cookie("a".into()).hash_of_peer("192.0.2.7".parse().unwrap()), None);
    }
}
