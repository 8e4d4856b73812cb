//! The head of a request in the form of its wire.

use std::time::Duration;

use http::header::{COOKIE, EXPECT, HOST, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Version};

use super::super::upgrade;
use super::Call;
use crate::policy::Deadline;
use crate::upstream::Wire;

/// Which attempt at a request this is, from the second one on.
static ATTEMPT: HeaderName = HeaderName::from_static("x-pilotfish-attempt");

/// Gives a head the form of `wire`, with where it goes.
pub fn address(
    parts: &mut Parts,
    wire: Wire,
    from_http2: bool,
    authority: &HeaderValue,
    path: &PathAndQuery,
) {
    match wire {
        Wire::Http1 => {
            if from_http2 {
                join_cookies(parts);
            }
            parts.version = Version::HTTP_11;
            parts.headers.insert(HOST, authority.clone());
            parts.uri = Uri::from(path.clone());
        }
        Wire::Http2 => {
            parts.version = Version::HTTP_2;
            parts.headers.remove(EXPECT);
            // `:authority` says it, and two names could differ (RFC 9113 8.3.1).
            parts.headers.remove(HOST);
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = authority.to_str().ok().and_then(|text| text.parse().ok());
            uri.path_and_query = Some(path.clone());
            // Its authority was parsed when the target was; without one `h2` refuses to send.
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        }
    }
}

/// HTTP/2 may split `Cookie` into crumbs, HTTP/1 wants one line (RFC 9113 8.2.3).
fn join_cookies(parts: &mut Parts) {
    let mut crumbs = parts.headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = Vec::new();
    for crumb in parts.headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        parts.headers.insert(COOKIE, value);
    }
}

/// Says which attempt this is, and how much time is left for it.
pub(super) fn number(
    headers: &mut HeaderMap,
    attempt: u32,
    grpc: bool,
    deadline: &Deadline,
    left: Option<Duration>,
) {
    if attempt > 1 {
        headers.insert(ATTEMPT.clone(), HeaderValue::from(attempt));
        if grpc {
            // As gRPC's own retries do (gRFC A6).
            headers.insert("grpc-previous-rpc-attempts", HeaderValue::from(attempt - 1));
        }
    }
    if let Some(left) = left {
        deadline.write(headers, left, grpc);
    }
}

impl Call<'_> {
    /// Gives the request the form of its wire. Returns the WebSocket key that it made, if any.
    pub(super) fn write_head(&mut self) -> Option<HeaderValue> {
        let parts = &mut self.parts;
        let from_http2 = parts.version == Version::HTTP_2;
        let key = self.upgrade.and_then(|protocol| {
            upgrade::ask(parts, protocol, self.wire, &mut self.worker.random.borrow_mut())
        });
        address(parts, self.wire, from_http2, &self.authority, &self.path);
        // Whatever the method, a body of unknown length is framed.
        if self.wire == Wire::Http1
            && self.upload.is_some()
            && !parts.headers.contains_key("content-length")
        {
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        key
    }
}
