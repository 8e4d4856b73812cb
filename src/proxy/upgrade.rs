//! Upgrades, `CONNECT` and extended `CONNECT` (RFC 8441), and how one becomes the other where the two
//! sides speak different versions of HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use sha1::{Digest, Sha1};

use super::error::Failure;
use super::fields::Fields;
use super::headers::strip_hop_by_hop;
use crate::upstream::Wire;

/// What else than an answer a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Nothing,
    /// Another protocol on this connection or stream. The key is of a WebSocket over HTTP/1.
    Upgrade {
        protocol: HeaderValue,
        key: Option<HeaderValue>,
    },
    /// A tunnel to a host.
    Connect,
}

/// Takes the hop-by-hop fields off a request and returns what they, or its method, ask for.
pub fn take(parts: &mut Parts, fields: Fields) -> Asked {
    let upgrade = strip_hop_by_hop(&mut parts.headers, fields);
    if parts.method == Method::CONNECT {
        return match parts.extensions.get::<Protocol>() {
            Some(protocol) => match HeaderValue::from_str(protocol.as_str()) {
                Ok(protocol) => Asked::Upgrade { protocol, key: None },
                Err(_) => Asked::Nothing,
            },
            None => Asked::Connect,
        };
    }
    match upgrade {
        // HTTP/1.0 has no upgrade (RFC 9110 7.8).
        Some(_) if parts.version == Version::HTTP_10 => Asked::Nothing,
        // A switch to HTTP/2 concerns this connection alone, and clients go on without it.
        Some(protocol) if !names_h2c(&protocol) => {
            let key = parts.headers.get(SEC_WEBSOCKET_KEY).cloned();
            Asked::Upgrade { protocol, key }
        }
        _ => Asked::Nothing,
    }
}

fn names_h2c(protocols: &HeaderValue) -> bool {
    let mut names = protocols.as_bytes().split(|byte| *byte == b',');
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// Makes of `parts` the request for `protocol` on `wire`.
///
/// Returns the key that was sent, for checking the answer.
pub fn ask(
    parts: &mut Parts,
    protocol: &HeaderValue,
    wire: Wire,
    random: &mut fastrand::Rng,
) -> Option<HeaderValue> {
    match wire {
        Wire::Http1 => {
            if parts.method == Method::CONNECT {
                parts.method = Method::GET;
                parts.extensions.remove::<Protocol>();
            }
            parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
            let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
            if websocket && !parts.headers.contains_key(SEC_WEBSOCKET_KEY) {
                let key = BASE64.encode(random.u128(..).to_be_bytes());
                let key = HeaderValue::try_from(key).ok()?;
                parts.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
                parts
                    .headers
                    .entry(SEC_WEBSOCKET_VERSION)
                    .or_insert(HeaderValue::from_static("13"));
                return Some(key);
            }
            None
        }
        Wire::Http2 => {
            parts.method = Method::CONNECT;
            parts.headers.remove(SEC_WEBSOCKET_KEY);
            let text = protocol.to_str().unwrap_or("websocket").to_ascii_lowercase();
            parts.extensions.insert(Protocol::from(&*text));
            None
        }
    }
}

/// Whether `response` grants what was asked on `wire`.
pub fn granted<B>(response: &Response<B>, wire: Wire, sent_key: Option<&HeaderValue>) -> bool {
    match wire {
        Wire::Http1 => {
            let accepted = || response.headers().get(SEC_WEBSOCKET_ACCEPT);
            response.status() == StatusCode::SWITCHING_PROTOCOLS
                && sent_key.is_none_or(|key| accepted() == Some(&accept(key)))
        }
        Wire::Http2 => response.status() == StatusCode::OK,
    }
}

/// Whether an answer that grants no protocol may be passed on to a client of `version`: a success would open
/// the tunnel on HTTP/2 (RFC 8441 4).
///
/// # Errors
/// It may not, and why.
pub fn check_refusal<B>(
    response: &Response<B>,
    asked: &Asked,
    version: Version,
    service: &str,
) -> Result<(), Failure> {
    if let Asked::Upgrade { protocol, .. } = asked
        && version == Version::HTTP_2
        && response.status().is_success()
    {
        let asked = protocol.to_str().unwrap_or("another protocol");
        let detail = format!("{} in place of `{asked}`", response.status().as_u16());
        return Err(Failure::BadResponse { service: service.to_owned(), detail });
    }
    Ok(())
}

/// Makes of the upstream's grant the one that the client of `version` expects.
pub fn grant<B>(
    response: &mut Response<B>,
    version: Version,
    protocol: &HeaderValue,
    key: Option<&HeaderValue>,
) {
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    if version == Version::HTTP_2 {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        *response.status_mut() = StatusCode::OK;
        return;
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol.clone());
    if let Some(key) = key {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key));
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
    // Base64 is ASCII.
    HeaderValue::try_from(BASE64.encode(digest)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn taken(parts: &mut Parts) -> Asked {
        let fields = Fields::of(&parts.headers);
        take(parts, fields)
    }

    #[test]
    fn the_example_of_rfc_6455() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_websocket_changes_its_form_with_the_wire() {
        let mut parts = parts(
            Request::get("/chat")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("sec-websocket-version", "13"),
        );
        let asked = taken(&mut parts);
        let Asked::Upgrade { protocol, key } = asked else { panic!("{asked:?}") };
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(ask(&mut parts, &protocol, Wire::Http2, &mut random), None);
        assert_eq!(parts.method, Method::CONNECT);
        assert_eq!(parts.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
        assert!(!parts.headers.contains_key("sec-websocket-key"));

        let mut response = Response::new(());
        assert!(granted(&response, Wire::Http2, None));
        grant(&mut response, Version::HTTP_11, &protocol, key.as_ref());
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn from_http2_a_key_is_made_and_its_answer_checked() {
        let mut parts = parts(Request::builder().method("CONNECT").uri("http://a/chat"));
        parts.extensions.insert(Protocol::from_static("websocket"));
        let Asked::Upgrade { protocol, key: None } = taken(&mut parts) else { panic!() };
        let mut random = fastrand::Rng::with_seed(1);
        let sent = ask(&mut parts, &protocol, Wire::Http1, &mut random).unwrap();
        assert_eq!(parts.method, Method::GET);
        assert_eq!(parts.headers["sec-websocket-key"], sent);
        let answer = |accept: HeaderValue| {
            let builder = Response::builder().status(101).header("sec-websocket-accept", accept);
            builder.body(()).unwrap()
        };
        assert!(granted(&answer(accept(&sent)), Wire::Http1, Some(&sent)));
        let wrong = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert!(!granted(&answer(wrong), Wire::Http1, Some(&sent)));
    }

    #[test]
    fn h2c_is_not_passed_on() {
        for protocols in ["h2c", "h2c, websocket", "websocket,H2C"] {
            let mut parts = parts(
                Request::get("/")
                    .header("connection", "Upgrade, HTTP2-Settings")
                    .header("upgrade", protocols),
            );
            assert_eq!(taken(&mut parts), Asked::Nothing, "{protocols}");
        }
    }
}
