//! `x-forwarded-for`, `-proto`, `-host` and `forwarded` (RFC 7239) on what we take in.
//!
//! The rule: where the peer is in `inbound.trusted_proxies`, what it says is kept and its own address
//! appended. Any other peer's claims are removed, and only what we saw ourselves is written.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

pub static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Whether a field claims to know the client. A field with underscores is the same one for an app behind
/// CGI or WSGI, where both become `HTTP_X_FORWARDED_FOR`.
fn is_claim(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('x').and_then(|rest| rest.strip_prefix(['-', '_'])) else {
        return false;
    };
    rest.starts_with("forwarded-")
        || rest.starts_with("forwarded_")
        || rest == "real-ip"
        || rest == "real_ip"
}

/// `host` is the authority that the client asked for.
pub fn apply(headers: &mut HeaderMap, peer: IpAddr, trusted: bool, host: &HeaderValue) {
    let peer = peer.to_canonical();
    let mut text = String::with_capacity(64);
    if !trusted {
        let claims: SmallVec<[HeaderName; 4]> =
            headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    append(headers, &FOR, trusted, &mut text, |text| {
        let _ = write!(text, "{peer}");
    });
    append(headers, &FORWARDED, trusted, &mut text, |text| {
        let _ = match peer {
            IpAddr::V4(peer) => write!(text, "for={peer}"),
            IpAddr::V6(peer) => write!(text, "for=\"[{peer}]\""),
        };
        if let Ok(host) = host.to_str() {
            let _ = write!(text, ";host=\"{host}\"");
        }
        text.push_str(";proto=http");
    });
    // What the first proxy saw is what the client said: a trusted value stays.
    if !(trusted && headers.contains_key(&PROTO)) {
        headers.insert(PROTO.clone(), HeaderValue::from_static("http"));
    }
    if !(trusted && headers.contains_key(&HOST)) {
        headers.insert(HOST.clone(), host.clone());
    }
}

fn append(
    headers: &mut HeaderMap,
    name: &HeaderName,
    trusted: bool,
    text: &mut String,
    element: impl FnOnce(&mut String),
) {
    text.clear();
    if trusted {
        for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
            text.push_str(value);
            text.push_str(", ");
        }
    }
    element(text);
    // Made of header text and an address, so it is a valid value; a host with a quote is not taken.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(before: &[(&'static str, &'static str)], peer: &str, trusted: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let host = HeaderValue::from_static("shop.example:8080");
        apply(&mut headers, peer.parse().unwrap(), trusted, &host);
        let mut lines: Vec<_> =
            headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn claims_of_a_stranger_are_replaced() {
        let before = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
        ];
        assert_eq!(
            run(&before, "10.0.0.9", false),
            [
                "forwarded: for=10.0.0.9;host=\"shop.example:8080\";proto=http",
                "x-forwarded-for: 10.0.0.9",
                "x-forwarded-host: shop.example:8080",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_appended() {
        let before = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4"),
        ];
        assert_eq!(
            run(&before, "10.0.0.9", true),
            [
                "forwarded: for=1.2.3.4, for=10.0.0.9;host=\"shop.example:8080\";proto=http",
                "x-forwarded-for: 1.2.3.4, 5.6.7.8, 10.0.0.9",
                "x-forwarded-host: shop.example:8080",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn addresses_of_ipv6() {
        let lines = run(&[], "2001:db8::1", false);
        assert!(lines[0].starts_with("forwarded: for=\"[2001:db8::1]\";"), "{lines:?}");
        assert_eq!(lines[1], "x-forwarded-for: 2001:db8::1");
        // A client of IPv4 on a socket of both families is a client of IPv4.
        assert_eq!(run(&[], "::ffff:10.1.2.3", false)[1], "x-forwarded-for: 10.1.2.3");
    }
}
