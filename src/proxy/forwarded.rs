//! `x-forwarded-for`, `-proto`, `-host` and `forwarded` (RFC 7239) on what we take in.
//!
//! The rule: where the peer is in `inbound.trusted_proxies`, what it says is kept and its own address
//! appended. Any other peer's claims are removed, and only what we saw ourselves is written.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::fields::{Fields, is_claim};
use super::target::Target;

pub static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is said of a client: its address, as text. Made once for a connection.
pub fn element(peer: IpAddr) -> HeaderValue {
    // An address is visible ASCII.
    HeaderValue::try_from(peer.to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// The address of the client: the peer, or, where that is one of the `trusted`, the last one in
/// `x-forwarded-for` that is not. What stands before that anybody can have written.
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    let lines = headers.get_all(&FOR).iter().rev();
    for element in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(ip) = address(element) else {
            break;
        };
        client = ip;
        if !is_trusted(&ip) {
            break;
        }
    }
    client
}

/// Of an element of `x-forwarded-for`, which some write with a port.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    let ip = text.parse::<IpAddr>().ok();
    let ip = ip.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    ip.or_else(bracketed).map(|ip| ip.to_canonical())
}

/// `peer` is its [`element`]; `fields` are those of `headers`, as far as it matters here.
pub fn apply(
    headers: &mut HeaderMap,
    fields: Fields,
    peer: &HeaderValue,
    trusted: bool,
    target: &Target,
) {
    if !trusted && fields.has(Fields::CLAIM) {
        let claims: SmallVec<[HeaderName; 4]> =
            headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    let forwarded = target.forwarded.get_or_init(|| forwarded(peer, &target.authority));
    set(headers, &FOR, trusted && fields.has(Fields::CLAIM), peer);
    set(headers, &FORWARDED, trusted && fields.has(Fields::FORWARDED), forwarded);
    // What the first proxy saw is what the client said: a trusted value stays.
    let keep = trusted && fields.has(Fields::CLAIM);
    if !(keep && headers.contains_key(&PROTO)) {
        headers.insert(PROTO.clone(), HeaderValue::from_static("http"));
    }
    if !(keep && headers.contains_key(&HOST)) {
        headers.insert(HOST.clone(), target.authority.clone());
    }
}

fn forwarded(peer: &HeaderValue, host: &HeaderValue) -> HeaderValue {
    let peer = peer.to_str().unwrap_or("unknown");
    let mut text =
        if peer.contains(':') { format!("for=\"[{peer}]\"") } else { format!("for={peer}") };
    if let Ok(host) = host.to_str() {
        text.push_str(&format!(";host=\"{host}\""));
    }
    text.push_str(";proto=http");
    // Made of header text and an address, so it is a valid value; a host with a quote is not taken.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// Writes `element`, after what stands there already if that is to be kept.
fn set(headers: &mut HeaderMap, name: &HeaderName, keep: bool, element: &HeaderValue) {
    if !(keep && headers.contains_key(name)) {
        headers.insert(name.clone(), element.clone());
        return;
    }
    let mut text = String::new();
    for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
        text.push_str(value);
        text.push_str(", ");
    }
    text.push_str(element.to_str().unwrap_or_default());
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::LastTarget;
    use super::*;

    fn run(before: &[(&'static str, &'static str)], peer: &str, trusted: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let (parts, ()) = http::Request::builder()
            .header("host", "shop.example:8080")
            .body(())
            .unwrap()
            .into_parts();
        let target = LastTarget::default().or_of(&parts).unwrap();
        let fields = Fields::of(&headers);
        apply(&mut headers, fields, &element(peer.parse().unwrap()), trusted, &target);
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
    fn the_client_is_the_last_that_no_trusted_proxy_is() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        for (lines, peer, expected) in [
            // A stranger is the client, whatever it says.
            (&["1.2.3.4"][..], "192.0.2.1", "192.0.2.1"),
            (&["1.2.3.4"], "10.0.0.1", "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"], "10.0.0.1", "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4 ,fd00::1"], "::ffff:10.0.0.1", "1.2.3.4"),
            (&["::ffff:1.2.3.4"], "10.0.0.1", "1.2.3.4"),
            (&["1.2.3.4:5678"], "10.0.0.1", "1.2.3.4"),
            (&["[2001:db8::1]:443"], "10.0.0.1", "2001:db8::1"),
            (&["[2001:db8::1]"], "10.0.0.1", "2001:db8::1"),
            // Up to what can be read.
            (&["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.1", "10.0.0.2"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.1", "10.0.0.3"),
            (&[], "10.0.0.1", "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&FOR, HeaderValue::from_static(line));
            }
            let client = client(&headers, peer.parse().unwrap(), &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{lines:?} from {peer}");
        }
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
