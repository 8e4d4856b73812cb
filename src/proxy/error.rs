//! What can go wrong with one request, and the answer that the client gets for it. Each failure
//! tells whose fault it is, which status it has, and whether the request may be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::Body;
use super::limits;
use crate::listen::http1::Rejection;
use crate::policy::bulkhead::Overflow;
use crate::policy::fault::Aborted;
use crate::policy::shed::{Priority, Signal};
use crate::policy::{End, RateLimit};
use crate::telemetry::flags::Flag;
use crate::upstream::{ConnectError, ConnectErrorKind};

pub static REASON: HeaderName = HeaderName::from_static("x-pilotfish-reason");

#[derive(Debug)]
pub enum Failure {
    /// The message breaks HTTP.
    Malformed(Rejection),
    /// The request path cannot be matched safely.
    BadPath(String),
    ConnectRefused,
    BodyTooLarge {
        limit: u64,
    },
    Overload {
        limit: usize,
    },
    /// A bulkhead has no room.
    Overflow {
        service: String,
        overflow: Overflow,
    },
    /// The proxy itself has too little of something for a request of this priority.
    Shed {
        priority: Priority,
        signal: Signal,
    },
    /// On purpose.
    Fault(Aborted),
    /// Over a rate limit, which has a token again after so long.
    RateLimited {
        limit: Arc<RateLimit>,
        after: Duration,
    },
    NoRoute {
        host: String,
        path: String,
    },
    UnknownHost {
        host: String,
    },
    /// Perhaps a service has the host: no registry could be asked.
    Undiscovered {
        host: String,
        error: Arc<String>,
    },
    /// The request would come back to us.
    Loop {
        host: String,
    },
    NoEndpoint {
        service: String,
    },
    /// Circuit breakers let nobody through to the service for so long.
    BreakerOpen {
        service: String,
        after: Duration,
    },
    NotHttp {
        service: String,
    },
    Connect {
        service: String,
        error: ConnectError,
    },
    /// No head of a response in time.
    Timeout {
        service: String,
        after: Duration,
        of: TimeLimit,
    },
    /// The client stopped sending its body.
    BodyTimeout {
        after: Duration,
    },
    /// The client's body broke off or broke the framing.
    BodyBroken,
    /// The upstream closed or reset before the head of a response.
    Reset {
        service: String,
        detail: String,
    },
    /// A connection that had been idle was closed before a byte of the request was written on it.
    Unwritten {
        service: String,
    },
    /// The upstream refused it before doing anything with it (RFC 9113 8.7, 6.8).
    Refused {
        service: String,
        detail: String,
    },
    /// The response breaks HTTP.
    BadResponse {
        service: String,
        detail: String,
    },
    Panic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Client,
    Upstream,
    Us,
}

/// Whose time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLimit {
    /// The policy's for the request.
    Request,
    /// The policy's for one attempt.
    Attempt,
    /// That of the client, by what it says of it.
    Client,
}

impl Failure {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed(_)
            | Self::BadPath(_)
            | Self::ConnectRefused
            | Self::BodyTooLarge { .. }
            | Self::RateLimited { .. }
            | Self::NoRoute { .. }
            | Self::UnknownHost { .. }
            | Self::Loop { .. }
            | Self::BodyTimeout { .. }
            | Self::BodyBroken
            | Self::Timeout { of: TimeLimit::Client, .. }
            | Self::NotHttp { .. } => Fault::Client,
            Self::NoEndpoint { .. }
            | Self::Undiscovered { .. }
            | Self::BreakerOpen { .. }
            | Self::Timeout { .. }
            | Self::Reset { .. }
            | Self::Refused { .. }
            | Self::BadResponse { .. } => Fault::Upstream,
            Self::Connect { error, .. } => match error.kind {
                ConnectErrorKind::Exhausted | ConnectErrorKind::Overflow => Fault::Us,
                _ => Fault::Upstream,
            },
            Self::Overload { .. }
            | Self::Overflow { .. }
            | Self::Shed { .. }
            | Self::Fault(_)
            | Self::Unwritten { .. }
            | Self::Panic => Fault::Us,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(rejection) => {
                StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::BadPath(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute { .. } | Self::UnknownHost { .. } => StatusCode::NOT_FOUND,
            Self::Loop { .. } => StatusCode::LOOP_DETECTED,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Fault(Aborted::Http(status)) => *status,
            Self::Overload { .. }
            | Self::Overflow { .. }
            | Self::Shed { .. }
            | Self::Fault(Aborted::Grpc(_))
            | Self::NoEndpoint { .. }
            | Self::Undiscovered { .. }
            | Self::BreakerOpen { .. }
            | Self::Connect { .. }
            | Self::Reset { .. }
            | Self::Refused { .. }
            | Self::Unwritten { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::BadResponse { .. } | Self::NotHttp { .. } => StatusCode::BAD_GATEWAY,
            Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn flag(&self) -> Option<Flag> {
        match self {
            Self::Malformed(_)
            | Self::BadPath(_)
            | Self::BodyTooLarge { .. }
            | Self::ConnectRefused
            | Self::BodyBroken => Some(Flag::DownstreamProtocolError),
            Self::Overload { .. }
            | Self::Overflow { .. }
            | Self::Shed { .. }
            | Self::BreakerOpen { .. } => Some(Flag::UpstreamOverflow),
            Self::Fault(_) => Some(Flag::FaultInjected),
            Self::RateLimited { .. } => Some(Flag::RateLimited),
            Self::NoRoute { .. } | Self::UnknownHost { .. } | Self::Loop { .. } => {
                Some(Flag::NoRoute)
            }
            Self::NoEndpoint { .. } | Self::Undiscovered { .. } | Self::NotHttp { .. } => {
                Some(Flag::NoHealthyUpstream)
            }
            Self::Connect { error, .. } => Some(match error.kind {
                ConnectErrorKind::Overflow => Flag::UpstreamOverflow,
                _ => Flag::UpstreamConnectionFailure,
            }),
            Self::Timeout { .. } => Some(Flag::UpstreamTimeout),
            Self::BodyTimeout { .. } => Some(Flag::StreamIdleTimeout),
            Self::Reset { .. } | Self::Unwritten { .. } => {
                Some(Flag::UpstreamConnectionTermination)
            }
            Self::Refused { .. } | Self::BadResponse { .. } => Some(Flag::UpstreamRemoteReset),
            Self::Panic => Some(Flag::LocalReset),
        }
    }

    /// The reason in `x-pilotfish-reason`, the access log and the metrics: one of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(rejection) => rejection.reason,
            Self::BadPath(_) => "bad_path",
            Self::ConnectRefused => "connect_not_allowed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Overload { .. } => "overload",
            Self::Overflow { overflow, .. } => overflow.reason(),
            Self::Shed { .. } => "overload_shed",
            Self::Fault(_) => "fault_abort",
            Self::RateLimited { .. } => "rate_limited",
            Self::NoRoute { .. } => "no_route",
            Self::UnknownHost { .. } => "unknown_host",
            Self::Undiscovered { .. } => "registry_unavailable",
            Self::Loop { .. } => "loop",
            Self::NoEndpoint { .. } => "no_endpoint",
            Self::BreakerOpen { .. } => "circuit_breaker_open",
            Self::NotHttp { .. } => "not_http",
            Self::Connect { error, .. } => match error.kind {
                ConnectErrorKind::Timeout => "connect_timeout",
                ConnectErrorKind::Refused => "connect_refused",
                ConnectErrorKind::Unresolved => "name_unresolved",
                ConnectErrorKind::Handshake => "handshake_failed",
                ConnectErrorKind::Exhausted => "out_of_descriptors",
                ConnectErrorKind::Overflow => "overflow_connections",
                ConnectErrorKind::Other => "connect_failure",
            },
            Self::Timeout { of, .. } => match of {
                TimeLimit::Request => "request_timeout",
                TimeLimit::Attempt => "per_try_timeout",
                TimeLimit::Client => "client_deadline",
            },
            Self::BodyTimeout { .. } => "request_body_timeout",
            Self::BodyBroken => "request_body_broken",
            Self::Reset { .. } => "upstream_reset",
            Self::Refused { .. } => "upstream_refused_stream",
            Self::Unwritten { .. } => "connection_closed",
            Self::BadResponse { .. } => "bad_response",
            Self::Panic => "internal_error",
        }
    }

    /// How the attempt has ended, where it is an attempt that did.
    pub fn end(&self) -> Option<End> {
        match self {
            Self::Connect { error, .. } => {
                let ours =
                    matches!(error.kind, ConnectErrorKind::Exhausted | ConnectErrorKind::Overflow);
                (!ours).then_some(End::ConnectFailure)
            }
            Self::Refused { .. } | Self::Unwritten { .. } => Some(End::RefusedStream),
            Self::Reset { .. } => Some(End::Reset),
            Self::Timeout { .. } => Some(End::Timeout),
            Self::BadResponse { .. } => Some(End::BadResponse),
            _ => None,
        }
    }

    /// One line: what happened, and what to do.
    fn text(&self) -> String {
        match self {
            Self::Malformed(rejection) => rejection.message.to_string(),
            Self::BadPath(text) => text.clone(),
            Self::ConnectRefused => {
                "CONNECT is only taken on the outbound listener; send the request itself".into()
            }
            Self::BodyTooLarge { limit } => {
                format!(
                    "the request body is longer than {limit} bytes; send less or raise policy.max_body"
                )
            }
            Self::Overload { limit } => format!(
                "{limit} requests are in progress; try again later or raise limits.max_requests"
            ),
            Self::Overflow { service, overflow } => {
                format!(
                    "service {service} has as many requests as it may ({}); try again later or raise \
                     policy.bulkhead",
                    overflow.reason()
                )
            }
            Self::Shed { priority, signal } => format!(
                "the proxy is overloaded ({}) and refuses requests of priority {}; try again later",
                signal.as_str(),
                priority.as_str()
            ),
            Self::Fault(_) => "a fault on purpose, by policy.fault".into(),
            Self::RateLimited { limit, after } => format!(
                "more than {} (rate limit {}); try again in {after:.1?}, or raise policy.rate_limit",
                limit.spec, limit.name
            ),
            Self::NoRoute { host, path } => {
                format!("no route for {host}{path}; add one or correct host, path or method")
            }
            Self::UnknownHost { host } => format!(
                "no service has the name {host}; add it under services or set outbound.unknown: passthrough"
            ),
            Self::Undiscovered { host, error } => format!(
                "no registry could tell where {host} runs ({error}); try again later, or see what the proxy knows: \
                 pilotfish endpoints {host}"
            ),
            Self::Loop { host } => format!(
                "{host} is this proxy itself; name a service in Host, as in Host: user-service"
            ),
            Self::NoEndpoint { service } => {
                format!(
                    "service {service} has no endpoint; check services.{service}.endpoints, or what the registry \
                     tells: pilotfish endpoints {service}"
                )
            }
            Self::BreakerOpen { service, after } => format!(
                "service {service} fails too often and is not called now (policy.circuit_breaker); try again \
                 in {after:.1?}"
            ),
            Self::NotHttp { service } => {
                format!(
                    "service {service} speaks protocol tcp; reach it by a port of outbound.ports"
                )
            }
            Self::Connect { service, error } if error.kind == ConnectErrorKind::Overflow => {
                format!(
                    "service {service} has as many connections as it may ({error}); try again later or \
                     raise policy.bulkhead"
                )
            }
            Self::Connect { service, error } => {
                format!(
                    "service {service} cannot be reached at {error}; check that it runs and listens there"
                )
            }
            Self::Timeout { service, after, of } => {
                let raise = match of {
                    TimeLimit::Request => "raise policy.timeout if it needs longer",
                    TimeLimit::Attempt => "raise policy.retry.per_try_timeout if it needs longer",
                    TimeLimit::Client => "which is what the client said it would wait",
                };
                format!("service {service} did not answer within {after:?}; {raise}")
            }
            Self::BodyTimeout { after } => {
                format!("the request body stood still for {after:?}; send it faster")
            }
            Self::BodyBroken => "the request body broke off or is malformed; send it again".into(),
            Self::Reset { service, detail } => format!(
                "service {service} closed the connection before it answered ({detail}); see its log"
            ),
            Self::Unwritten { service } => format!(
                "service {service} closes its connections before a request is written; try again, or \
                 lower limits.pool_idle_timeout"
            ),
            Self::Refused { service, detail } => {
                format!("service {service} refused the request ({detail}); try again later")
            }
            Self::BadResponse { service, detail } => {
                format!(
                    "service {service} answered with invalid HTTP ({detail}); correct the service"
                )
            }
            Self::Panic => "an error inside the proxy; its log has the details".into(),
        }
    }

    /// The answer. A gRPC client gets its status in trailers-only form, as its libraries expect.
    pub fn answer(&self, grpc: bool) -> Response<Body> {
        let line: String =
            self.text().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut response = if grpc { self.grpc_answer(&line) } else { self.plain_answer(&line) };
        let headers = response.headers_mut();
        headers.insert(REASON.clone(), HeaderValue::from_static(self.reason()));
        if matches!(self, Self::ConnectRefused) {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
        }
        if matches!(self, Self::Shed { .. }) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::RateLimited { after, .. } | Self::BreakerOpen { after, .. } = self {
            limits::retry_after(*after, headers);
        }
        if self.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn plain_answer(&self, line: &str) -> Response<Body> {
        let body = Bytes::from(format!("pilotfish: {line}\n"));
        let length = body.len();
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn grpc_answer(&self, line: &str) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(self.grpc_status()));
        // Percent-encoding as the gRPC protocol asks; the value is ASCII after it.
        let mut message = String::from("pilotfish: ");
        for byte in line.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => message.push(byte as char),
                _ => message.push_str(&format!("%{byte:02X}")),
            }
        }
        if let Ok(value) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", value);
        }
        response
    }

    /// The gRPC status of this failure, by gRPC's own mapping of HTTP statuses where one exists.
    pub fn grpc_status(&self) -> u16 {
        const INVALID_ARGUMENT: u16 = 3;
        const DEADLINE_EXCEEDED: u16 = 4;
        const RESOURCE_EXHAUSTED: u16 = 8;
        const UNIMPLEMENTED: u16 = 12;
        const INTERNAL: u16 = 13;
        const UNAVAILABLE: u16 = 14;
        match self {
            Self::Fault(Aborted::Grpc(status)) => *status,
            Self::Fault(Aborted::Http(status)) => grpc_status_of(*status),
            Self::Malformed(_) | Self::BadPath(_) | Self::BodyBroken => INVALID_ARGUMENT,
            Self::Timeout { .. } | Self::BodyTimeout { .. } => DEADLINE_EXCEEDED,
            Self::BodyTooLarge { .. } | Self::RateLimited { .. } => RESOURCE_EXHAUSTED,
            Self::NoRoute { .. } | Self::UnknownHost { .. } | Self::ConnectRefused => UNIMPLEMENTED,
            Self::Panic | Self::Loop { .. } => INTERNAL,
            _ => UNAVAILABLE,
        }
    }

    /// After these the bytes that follow on an HTTP/1 connection cannot be trusted or awaited.
    fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::BodyTooLarge { .. }
                | Self::BodyTimeout { .. }
                | Self::BodyBroken
        )
    }
}

/// What gRPC's clients make of an HTTP status (`http-grpc-status-mapping`).
fn grpc_status_of(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
