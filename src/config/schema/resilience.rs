//! What keeps a service whole whose endpoints fail: when they are left alone, and when they get their calls
//! again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, OrOff};
use crate::config::units::{Condition, Number, Period, Ratio};

/// Stops calling what fails. Of the grades (`consecutive_failures`, `failure_count`, `failure_rate`,
/// `slow_call_rate`) those that are given count; without any, `failure_rate` does with its default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Whether it acts, or only tells what it would have done; or `off`. Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// What has a breaker: each `endpoint`, whose calls then go to others, the `service`, whose calls are then
    /// refused, or `both`. Default: `endpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<BreakerScope>,
    /// Opens after so many failures in a row. Default: not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub consecutive_failures: Option<u32>,
    /// Opens at so many failures in the window. Default: not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub failure_count: Option<u32>,
    /// Opens at this share of failures in the window. Default: `50%`, where no other grade is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<Ratio>,
    /// Opens at this share of slow calls in the window. Default: not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_call_rate: Option<Ratio>,
    /// A call that takes longer for its answer is slow. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_call: Option<Period>,
    /// The calls that count: those of the last so long, or `{ calls: 100 }`, the last so many.
    /// Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<BreakerWindow>,
    /// With fewer calls in the window no share counts. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u32>,
    /// How long it stays open the first time; up to half longer, at random. It doubles with each time in a
    /// row. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for: Option<Period>,
    /// How long at most. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open_for: Option<Period>,
    /// Calls that are let through then, to see whether it is well. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub probes: Option<u32>,
    /// What is a failure, in the words of `retry.on`. Default: no answer, 5xx, and the gRPC statuses by which
    /// a server says that it is in trouble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Vec<Condition>>,
}

/// What has a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerScope {
    /// Each endpoint.
    Endpoint,
    /// The service as a whole.
    Service,
    /// Both.
    Both,
}

/// The calls that count: of a time, or a number of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum BreakerWindow {
    /// Those of the last so long.
    Time(Period),
    /// The last so many.
    Calls(BreakerCalls),
}

/// The last so many calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerCalls {
    /// How many.
    #[schemars(range(min = 1, max = 100_000))]
    pub calls: u32,
}

/// Leaves an endpoint alone that does worse than the others of its service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutlierDetection {
    /// Whether it acts, or only tells what it would have done; or `off`. Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// Ejects after so many 5xx, or calls without an answer, in a row; or `off`. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx: Option<OrOff<u32>>,
    /// The same for 502, 503, 504 and no answer. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<OrOff<u32>>,
    /// Ejects whose share of good calls is far below that of the others; or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<OrOff<SuccessRate>>,
    /// Ejects whose share of failures is this or more. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<OrOff<FailurePercentage>>,
    /// How often shares are looked at. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long an ejection lasts, times the number of them. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<Period>,
    /// How long at most. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<Period>,
    /// How many of the endpoints may be ejected at a time. One of two or more always may, the last one
    /// never. Default: `50%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected: Option<Ratio>,
}

/// Ejects whose share of good calls is far below that of the others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuccessRate {
    /// How many standard deviations below the mean. Default: 1.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviations: Option<Number>,
    /// How far below the mean at least. Default: `5%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gap: Option<Ratio>,
    /// With fewer endpoints that have enough calls there is nothing to compare. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_endpoints: Option<u32>,
    /// Calls in an interval from which on an endpoint counts. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u32>,
}

/// Ejects whose share of failures is this or more.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailurePercentage {
    /// The share. Default: `85%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Ratio>,
    /// With fewer endpoints that have enough calls none is ejected. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_endpoints: Option<u32>,
    /// Calls in an interval from which on an endpoint counts. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_calls: Option<u32>,
}

/// Gives an endpoint that is new or has come back its share little by little.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// How long until it has its full share. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Period>,
    /// Its share at first. Default: `10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_weight: Option<Ratio>,
    /// 1: the share grows evenly; above, faster at first. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggression: Option<Number>,
}
