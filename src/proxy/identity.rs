//! Who a client is, as a proxy says that has checked its certificate: `x-forwarded-client-cert`, in
//! the form that Envoy gave it and ingresses write.
//!
//! A list of elements, each added by the proxy that saw that certificate; an element is pairs of key
//! and value, `Hash=468e…;Subject="CN=shop,O=Example";URI=spiffe://example.org/shop`.

use http::{HeaderMap, HeaderName};

static CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What names a client, the most exact first: its SPIFFE ID, its name in DNS, the subject of its
/// certificate, or the certificate itself.
const NAMES: [&str; 4] = ["URI", "DNS", "Subject", "Hash"];

/// The client of the proxy that sent these `headers`: the last element, because what stands before it
/// was said to that proxy. Whether that one is to be believed is the caller's question.
pub fn client(headers: &HeaderMap) -> Option<&[u8]> {
    let line = headers.get_all(&CERTIFICATE).iter().next_back()?.as_bytes();
    let element = unquoted(line, b',').last()?;
    let value = |name| unquoted(element, b';').find_map(|pair| value_of(name, pair));
    NAMES.into_iter().find_map(value)
}

/// The value of a pair, without its quotes; nothing if it is of another key, or empty.
fn value_of<'a>(name: &str, pair: &'a [u8]) -> Option<&'a [u8]> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&pair[..at], &pair[at + 1..]);
    let quoted = || value.strip_prefix(b"\"")?.strip_suffix(b"\"");
    let value = quoted().unwrap_or(value);
    let named = key.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    (named && !value.is_empty()).then_some(value)
}

/// The parts of `text` between those of `separator` that stand outside of quotes.
fn unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        let plain = !escaped;
        escaped = plain && quoted && *byte == b'\\';
        quoted ^= plain && *byte == b'"';
        !quoted && *byte == separator
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client_of(lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&CERTIFICATE, HeaderValue::from_static(line));
        }
        client(&headers).map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    #[test]
    fn the_most_exact_name_of_the_last_certificate() {
        for (lines, expected) in [
            (&[][..], None),
            (&[""], None),
            (&["nothing"], None),
            (&["By=spiffe://here;Chain=\"x\""], None),
            (&["Hash=468e;URI=spiffe://a/b;DNS=c.example;Subject=\"CN=d\""], Some("spiffe://a/b")),
            (&["URI=;DNS=c.example;DNS=e.example"], Some("c.example")),
            (&["hash=468e; subject=\"CN=d\""], Some("CN=d")),
            (&["Hash=468e"], Some("468e")),
            // Each proxy adds what it saw, in the same line or in another one.
            (&["URI=forged,By=x;URI=spiffe://a/b"], Some("spiffe://a/b")),
            (&["URI=forged", "URI=spiffe://a/b"], Some("spiffe://a/b")),
            (&["URI=spiffe://a/b,"], None),
        ] {
            assert_eq!(client_of(lines).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_stands_in_quotes_separates_nothing() {
        let subject = r#"Subject="/C=US,ST=CA;URI=forged/CN=\",URI=forged\\";DNS=real"#;
        assert_eq!(client_of(&[subject]).as_deref(), Some("real"));
        let last = r#"DNS=first,Subject="O=a, b; \"c\"""#;
        assert_eq!(client_of(&[last]).as_deref(), Some(r#"O=a, b; \"c\""#));
        // A quote that never ends takes the rest.
        assert_eq!(client_of(&["URI=a;Subject=\"x,URI=b"]).as_deref(), Some("a"));
    }
}
