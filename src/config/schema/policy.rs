//! How requests are governed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AdaptiveConcurrency, Bulkhead, CircuitBreaker, Fallback, Fault, Mirror, OrOff,
    OutlierDetection, Priority, RateLimits, SlowStart,
};
use crate::config::units::{Condition, Duration, HeaderName, HedgeDelay, Period, Ratio, Size};

/// How requests are governed. It has the same shape everywhere; what is not given comes from the
/// policy around it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How long things may take: a duration for the whole request, `off`, or each by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<OrOff<Timeout>>,
    /// Sending again what did not do, or `off`. Default: what was provably never processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<OrOff<Retry>>,
    /// Asking a second endpoint where the first one is slow, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<OrOff<Hedge>>,
    /// The longest request body, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<OrOff<Size>>,
    /// How much of the proxy one service may take, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<OrOff<Bulkhead>>,
    /// Not calling what fails, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<OrOff<CircuitBreaker>>,
    /// Leaving endpoints alone that do worse than the others of their service, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OrOff<OutlierDetection>>,
    /// With less than this share of the endpoints left, those that were ejected are asked as well, or
    /// `off`. Default: `50%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<OrOff<Ratio>>,
    /// Endpoints that are new or back get their share little by little, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<OrOff<SlowStart>>,
    /// The limit of requests is found out by latency, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<OrOff<AdaptiveConcurrency>>,
    /// How important requests are while the proxy is overloaded: `critical`, `default`, `sheddable`,
    /// or where the request says it. Default: `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// What is answered in place of a failure, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<OrOff<Fallback>>,
    /// Failures on purpose, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<OrOff<Fault>>,
    /// Copies of requests for another service, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<OrOff<Mirror>>,
    /// How many requests may pass in a time: a limit, a list of limits, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<OrOff<RateLimits>>,
}

/// How long things may take: of the whole request, or each by its name.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Timeout {
    /// Of the whole request.
    Request(Period),
    /// Each by its name.
    Each(Timeouts),
}

impl Timeout {
    /// The long form.
    pub fn each(&self) -> Timeouts {
        match self {
            Self::Request(duration) => {
                Timeouts { request: Some(OrOff::On(*duration)), ..Timeouts::default() }
            }
            Self::Each(timeouts) => timeouts.clone(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Whether `request`, `stream_idle` and `retry.per_try_timeout` cut what is late, or only tell what they
    /// would have cut; or `off`. Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// From the end of the request to the head of the response, all attempts together,
    /// or `off`. Default: `15s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<OrOff<Period>>,
    /// To connect to an endpoint. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Period>,
    /// The longest silence of a body, in either direction, or `off`. A tunnel has
    /// `limits.idle_timeout`. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<OrOff<Period>>,
    /// The header by which clients say how long they will wait, and we how much of it is left; or `off`. gRPC
    /// has `grpc-timeout`. Default: `x-request-deadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_header: Option<OrOff<HeaderName>>,
    /// Whether the service is told what is left of `request` where the client has said nothing.
    /// Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagate: Option<bool>,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It acts.
    Enforce,
    /// It only counts and logs what it would have done.
    Shadow,
}

/// Sending again what did not do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How often at most. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_retries: Option<u32>,
    /// After which ends of an attempt: statuses (`503`, `5xx`, `gateway_error`), gRPC statuses by
    /// name (`unavailable`), `connect_failure`, `refused_stream`, `reset`, `timeout`. Default:
    /// `[connect_failure, refused_stream]`, what was provably never processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<Condition>>,
    /// Which requests are sent again that may have been processed. Requests with an
    /// `Idempotency-Key` always are. Default: `idempotent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
    /// How long one attempt may wait for its answer, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<OrOff<Period>>,
    /// The pause before a retry: at random up to a bound that doubles each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<RetryBackoff>,
    /// The longest `Retry-After` of a server that is waited for; one that asks for more gets no
    /// retry. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retry_after: Option<Duration>,
    /// How much traffic retries may add.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// Which requests are sent twice that may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryMethods {
    /// GET, HEAD, OPTIONS, TRACE, PUT, DELETE.
    Idempotent,
    /// All of them.
    All,
}

/// The pause before a retry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBackoff {
    /// The bound of the first pause. Default: `25ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// The bound of all of them. Default: `250ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// Asking a second endpoint where the first one is slow; the first good answer counts. What that adds is part
/// of `retry.budget`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// Whether it acts, or only tells what it would have done; or `off`. Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// How long an answer is waited for: a duration, or `p50` to `p99`, as long as so many percent of the
    /// requests of the service take. Default: `p95`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<HedgeDelay>,
    /// How many more endpoints one request may be sent to, each after waiting anew. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub max: Option<u32>,
    /// Which requests: idempotent ones and those with an `Idempotency-Key`, or all. Default: `idempotent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
}

/// How much traffic retries may add.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries as a share of the requests. Default: `20%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// Retries a second that are allowed beyond the share. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_per_second: Option<u32>,
}
