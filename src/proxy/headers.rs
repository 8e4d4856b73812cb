//! What belongs to one connection and must not travel on (RFC 9110 7.6.1), and what may stand in
//! trailers (6.5).

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, MAX_FORWARDS, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::fields::{Fields, is_claim};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || *name == PROXY_AUTHORIZATION
        || *name == PROXY_AUTHENTICATE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
        || *name == HTTP2_SETTINGS
}

/// Removes the hop-by-hop fields and those that `Connection` names. `TE: trailers` stays, because it
/// is what gRPC asks for. Returns the `Upgrade` that the message asks for, if
/// `Connection` names it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, fields: Fields) -> Option<HeaderValue> {
    if !fields.has(Fields::HOP_BY_HOP.and(Fields::CONNECTION)) {
        return None;
    }
    if !fields.has(Fields::HOP_BY_HOP) && names_nothing(headers) {
        headers.remove(CONNECTION);
        return None;
    }
    let mut gone: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    let mut upgrade = false;
    for token in tokens(headers, &CONNECTION) {
        if token.eq_ignore_ascii_case("upgrade") {
            upgrade = true;
        } else if let Ok(name) = HeaderName::try_from(token)
            && name != HOST
            && name != CONTENT_LENGTH
            && name != FORWARDED
            && !is_claim(name.as_str())
        {
            gone.push(name);
        }
    }
    let upgrade = if upgrade { headers.get(UPGRADE).cloned() } else { None };
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in gone {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Whether `Connection` says only whether the connection goes on, which is what most of them say.
fn names_nothing(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().all(|value| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    })
}

/// The elements of a comma-separated field over all its lines. What is not text is skipped.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Drops the trailers that could change how the message is framed, routed or trusted.
pub fn retain_trailers(trailers: &mut HeaderMap) {
    let unwanted = |name: &HeaderName| {
        is_hop_by_hop(name)
            || is_claim(name.as_str())
            || ["x-request-id", "traceparent", "tracestate", "baggage"].contains(&name.as_str())
            || [
                HOST,
                CONTENT_LENGTH,
                TRAILER,
                AUTHORIZATION,
                COOKIE,
                SET_COOKIE,
                CONTENT_TYPE,
                CONTENT_ENCODING,
                CONTENT_RANGE,
                EXPECT,
                FORWARDED,
                CACHE_CONTROL,
                MAX_FORWARDS,
            ]
            .contains(name)
    };
    let gone: SmallVec<[HeaderName; 4]> =
        trailers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// Whether the client waits for `100 Continue` before it sends the body.
pub fn expects_continue(headers: &HeaderMap, fields: Fields) -> bool {
    fields.has(Fields::EXPECT)
        && headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

pub fn is_grpc(headers: &HeaderMap, fields: Fields) -> bool {
    fields.has(Fields::CONTENT_TYPE)
        && headers.get(CONTENT_TYPE).is_some_and(|value| {
            value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| {
                // application/grpc-web is plain HTTP: its status stands in the body.
                rest.is_empty() || matches!(rest[0], b'+' | b';')
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    fn strip(headers: &mut HeaderMap) -> Option<HeaderValue> {
        strip_hop_by_hop(headers, Fields::of(headers))
    }

    fn is_grpc_of(headers: &HeaderMap) -> bool {
        is_grpc(headers, Fields::of(headers))
    }

    #[test]
    fn connection_fields_and_what_they_name_go() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Auth"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("x-auth", "secret"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("accept", "*/*"),
        ]);
        assert_eq!(strip(&mut headers), None);
        assert_eq!(headers, map(&[("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn an_upgrade_needs_connection() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip(&mut headers).unwrap(), "websocket");
        assert!(headers.is_empty());
        let mut headers = map(&[("upgrade", "websocket")]);
        assert_eq!(strip(&mut headers), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn connection_cannot_name_the_framing_away() {
        let mut headers =
            map(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "3")]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
        // Nor what a proxy before us has said of the client.
        let mut headers =
            map(&[("connection", "x-forwarded-for, forwarded"), ("x-forwarded-for", "a")]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("x-forwarded-for", "a")]));
    }

    #[test]
    fn trailers_that_change_meaning_go() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
            ("content-length", "4"),
            ("authorization", "x"),
            ("x-checksum", "abc"),
        ]);
        retain_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0"), ("x-checksum", "abc")]));
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc_of(&map(&[("content-type", value)])), expected, "{value}");
        }
    }
}
