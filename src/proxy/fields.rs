//! Which fields of a head concern a proxy: found in one look at all of them, so that a step whose field
//! is not there, which is the usual case, costs a test of a bit instead of a search.

use http::HeaderMap;

/// A set of fields. Those of a head stay what its sender wrote, whatever a later step adds or removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields(u32);

impl Fields {
    /// Those of one connection (RFC 9110 7.6.1) but `Connection` itself.
    pub const HOP_BY_HOP: Self = Self(1);
    /// What says who the client is: `x-forwarded-*`, `x-real-ip`, with dashes or underscores.
    pub const CLAIM: Self = Self(1 << 1);
    pub const FORWARDED: Self = Self(1 << 2);
    /// A trace context in any of the formats that are read.
    pub const TRACE: Self = Self(1 << 3);
    pub const TRACESTATE: Self = Self(1 << 4);
    pub const REQUEST_ID: Self = Self(1 << 5);
    pub const USER_AGENT: Self = Self(1 << 6);
    pub const EXPECT: Self = Self(1 << 7);
    pub const CONTENT_LENGTH: Self = Self(1 << 8);
    pub const CONTENT_TYPE: Self = Self(1 << 9);
    pub const KEEP_ALIVE: Self = Self(1 << 10);
    pub const TRANSFER_ENCODING: Self = Self(1 << 11);
    /// `Connection`, which may name others.
    pub const CONNECTION: Self = Self(1 << 12);
    /// How long the client will wait.
    pub const DEADLINE: Self = Self(1 << 13);

    /// Those that stand in `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |set, name| set | Self::named(name.as_str()).0))
    }

    /// Whether one of `others` is among them.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What a name, in lower case, stands for.
    fn named(name: &str) -> Self {
        // By length first: nearly every name is told by it and one comparison.
        match (name.len(), name) {
            (2, "te")
            | (7, "upgrade")
            | (14, "http2-settings")
            | (16, "proxy-connection")
            | (18, "proxy-authenticate")
            | (19, "proxy-authorization") => Self::HOP_BY_HOP,
            (10, "connection") => Self::CONNECTION,
            (10, "keep-alive") => Self::HOP_BY_HOP.and(Self::KEEP_ALIVE),
            (17, "transfer-encoding") => Self::HOP_BY_HOP.and(Self::TRANSFER_ENCODING),
            (2, "b3")
            | (10, "x-b3-flags")
            | (11, "traceparent" | "x-b3-spanid")
            | (12, "x-b3-traceid" | "x-b3-sampled")
            | (13, "uber-trace-id") => Self::TRACE,
            (10, "tracestate") => Self::TRACESTATE,
            (10, "user-agent") => Self::USER_AGENT,
            (6, "expect") => Self::EXPECT,
            (9, "forwarded") => Self::FORWARDED,
            (12, "content-type") => Self::CONTENT_TYPE,
            (12, "x-request-id") => Self::REQUEST_ID,
            (14, "content-length") => Self::CONTENT_LENGTH,
            (12, "grpc-timeout") | (18, "x-request-deadline") => Self::DEADLINE,
            (9.., _) if is_claim(name) => Self::CLAIM,
            _ => Self(0),
        }
    }
}

/// Whether a field claims to know the client. A field with underscores is the same one for an app behind
/// CGI or WSGI, where both become `HTTP_X_FORWARDED_FOR`.
pub fn is_claim(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('x').and_then(|rest| rest.strip_prefix(['-', '_'])) else {
        return false;
    };
    rest.starts_with("forwarded-")
        || rest.starts_with("forwarded_")
        || rest == "real-ip"
        || rest == "real_ip"
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn what_stands_there_is_found() {
        for (name, expected) in [
            ("te", Fields::HOP_BY_HOP),
            ("upgrade", Fields::HOP_BY_HOP),
            ("connection", Fields::CONNECTION),
            ("http2-settings", Fields::HOP_BY_HOP),
            ("proxy-connection", Fields::HOP_BY_HOP),
            ("proxy-authenticate", Fields::HOP_BY_HOP),
            ("proxy-authorization", Fields::HOP_BY_HOP),
            ("keep-alive", Fields::KEEP_ALIVE.and(Fields::HOP_BY_HOP)),
            ("transfer-encoding", Fields::TRANSFER_ENCODING.and(Fields::HOP_BY_HOP)),
            ("b3", Fields::TRACE),
            ("traceparent", Fields::TRACE),
            ("x-b3-traceid", Fields::TRACE),
            ("x-b3-spanid", Fields::TRACE),
            ("x-b3-sampled", Fields::TRACE),
            ("x-b3-flags", Fields::TRACE),
            ("uber-trace-id", Fields::TRACE),
            ("tracestate", Fields::TRACESTATE),
            ("user-agent", Fields::USER_AGENT),
            ("expect", Fields::EXPECT),
            ("forwarded", Fields::FORWARDED),
            ("content-type", Fields::CONTENT_TYPE),
            ("content-length", Fields::CONTENT_LENGTH),
            ("x-request-id", Fields::REQUEST_ID),
            ("x-forwarded-for", Fields::CLAIM),
            ("x_forwarded_host", Fields::CLAIM),
            ("x-real-ip", Fields::CLAIM),
            ("x_real_ip", Fields::CLAIM),
            ("x-forwarded", Fields(0)),
            ("accept", Fields(0)),
            ("x-real-ips", Fields(0)),
        ] {
            let name = HeaderName::from_static(name);
            let headers = HeaderMap::from_iter([
                (HeaderName::from_static("x-other"), HeaderValue::from_static("")),
                (name.clone(), HeaderValue::from_static("")),
            ]);
            assert_eq!(Fields::of(&headers), expected, "{name}");
        }
        assert_eq!(Fields::of(&HeaderMap::new()), Fields(0));
    }
}
