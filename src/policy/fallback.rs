//! What is answered in place of a failure.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;

use crate::config::snapshot::Respond;

/// Why a request has no good answer, as the configuration calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    BreakerOpen,
    NoEndpoint,
    ConnectFailure,
    /// The connection broke before there was an answer.
    Reset,
    Timeout,
    /// A bulkhead was full.
    Overflow,
    /// The proxy had too little of something.
    Shed,
    RateLimited,
    /// What the answer would have been, the upstream's or ours.
    Status(StatusCode),
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailure => "connect_failure",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Overflow => "overflow",
            Self::Shed => "overload_shed",
            Self::RateLimited => "rate_limited",
            Self::Status(_) => "status",
        }
    }

    /// As [`Cause::as_str`], and a status as its number.
    pub fn text(self) -> Cow<'static, str> {
        match self {
            Self::Status(status) => Cow::Owned(status.as_str().to_owned()),
            named => Cow::Borrowed(named.as_str()),
        }
    }

    /// Where no list is typed: whenever there is no answer of the service.
    pub const DEFAULT: [Self; 6] = [
        Self::BreakerOpen,
        Self::NoEndpoint,
        Self::ConnectFailure,
        Self::Reset,
        Self::Timeout,
        Self::Overflow,
    ];
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    pub on: Vec<Cause>,
    pub instead: Instead,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Instead {
    Answer(Box<Respond>),
    /// The answer of another service, by its name.
    Service(Arc<str>),
}

impl Fallback {
    /// Which of its causes a failure has: the one that is told, or else the status that it would have.
    pub fn takes(&self, cause: Option<Cause>, status: StatusCode) -> Option<Cause> {
        [cause, Some(Cause::Status(status))]
            .into_iter()
            .flatten()
            .find(|cause| self.on.contains(cause))
    }

    /// The service that may answer instead.
    pub fn service(&self) -> Option<&Arc<str>> {
        match &self.instead {
            Instead::Answer(_) => None,
            Instead::Service(name) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_comes_before_the_status() {
        let fallback =
            |on: &[Cause]| Fallback { on: on.to_vec(), instead: Instead::Service("a".into()) };
        let (unavailable, late) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT);
        let status = Cause::Status(unavailable);
        let both = fallback(&[status, Cause::NoEndpoint]);
        assert_eq!(both.takes(Some(Cause::NoEndpoint), unavailable), Some(Cause::NoEndpoint));
        assert_eq!(both.takes(Some(Cause::Reset), unavailable), Some(status));
        assert_eq!(both.takes(None, unavailable), Some(status));
        assert_eq!(both.takes(Some(Cause::Timeout), late), None);
        assert_eq!(both.takes(None, StatusCode::OK), None);
    }
}
