//! What is answered in place of a failure, failures on purpose, and copies of requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Map, Mode, OrOff, ValueMatch};
use crate::config::units::{Duration, HeaderName, HeaderValue, Name, Ratio, Size};

/// What is answered in place of a failure: `body`, `json`, or the answer of another `service`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// For which failures: names, or statuses that the answer would have. Default: `breaker_open`,
    /// `no_endpoint`, `connect_failure`, `reset`, `timeout`, `overflow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<FallbackOn>>,
    /// The status. Default: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The body as a text. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body as any YAML, which becomes JSON. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// Headers of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<HeaderName, HeaderValue>>,
    /// The service that is asked instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
}

/// A failure by its name, or by the status that the answer would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum FallbackOn {
    /// By the status of the answer, the service's or the proxy's.
    Status(#[schemars(range(min = 400, max = 599))] u16),
    /// By its name.
    Named(FallbackCause),
}

/// A failure by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackCause {
    /// The circuit breaker is open.
    BreakerOpen,
    /// The service has no endpoint.
    NoEndpoint,
    /// The endpoint could not be connected to.
    ConnectFailure,
    /// The connection broke before there was an answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// A bulkhead was full.
    Overflow,
    /// The proxy is overloaded.
    OverloadShed,
    /// Over a rate limit.
    RateLimited,
}

/// Failures on purpose.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// `enforce`, `shadow` or `off`. Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// Requests that are delayed. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests that are answered by the proxy. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Only requests with these headers: a text, or a condition. Default: all requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<HeaderName, ValueMatch>>,
}

/// Requests that are delayed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultDelay {
    /// For how long.
    pub duration: Duration,
    /// The share of the requests. Default: `100%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
}

/// Requests that are answered by the proxy. `status`, `grpc_status`, or both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultAbort {
    /// The status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The status of gRPC calls. Default: what `status` means in gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16))]
    pub grpc_status: Option<u16>,
    /// The share of the requests. Default: `100%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
}

/// Copies of requests for another service, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service that gets the copies.
    pub service: Name,
    /// The share of the requests. Default: `100%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
    /// Copies at the same time; more are dropped. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_in_flight: Option<u32>,
    /// Requests with a longer body are not copied. Default: `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
}
