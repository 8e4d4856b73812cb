//! What keeps too much work away: from a service, and from the proxy itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OrOff, shorthand};
use crate::config::units::{Duration, HeaderName, Period, Ratio, Size};

/// How much of the proxy one service may take; beyond it requests wait, and then get 503.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bulkhead {
    /// Requests at the same time, or `off`. Default: 1024; of the app: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<OrOff<u32>>,
    /// Requests that wait for their turn; 0: none waits. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Open connections to all its endpoints, or `off`. Default: 1024; of the app: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<OrOff<u32>>,
    /// The longest wait. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
    /// Shorter waits while the queue never empties, or `off`. Default: `off`; on, where
    /// `adaptive_concurrency` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codel: Option<OrOff<Codel>>,
    /// The same for each endpoint. Default: no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointBulkhead>,
}

/// Shorter waits while the queue never empties.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Codel {
    /// The wait that is no harm; while everyone waits longer, nobody may wait longer than twice as
    /// much. Default: `5ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Period>,
    /// For how long everyone has to have waited longer. Default: `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
}

/// How much one endpoint may take. One that has all its requests is not picked while there are others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointBulkhead {
    /// Requests at the same time, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<OrOff<u32>>,
    /// Requests that wait for this endpoint where all are full. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Open connections, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<OrOff<u32>>,
}

/// The limit of a service's requests is found out by its latency, in place of `bulkhead.max_requests`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// The lowest limit, which also holds while the latency without load is measured. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_limit: Option<u32>,
    /// The highest limit. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_limit: Option<u32>,
    /// How often the limit follows the latency. Default: `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_interval: Option<Period>,
    /// The latency without load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rtt: Option<MinRtt>,
}

/// The latency without load: how it is measured, and what is added to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MinRtt {
    /// How often it is measured. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// By how many requests. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<u32>,
    /// The share of the interval by which it is longer at random, so that proxies do not measure at
    /// the same time. Default: `15%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Ratio>,
    /// The share by which latency may grow before the limit shrinks. Default: `25%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<Ratio>,
}

/// How important a request is while the proxy is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorityName {
    /// Never refused.
    Critical,
    /// Refused when it is severe.
    Default,
    /// Refused first.
    Sheddable,
}

/// How important requests are. In YAML the name of a priority can stand for all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Priority {
    /// The header that may say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    /// The priority of requests without that header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<PriorityName>,
}

impl From<PriorityName> for Priority {
    fn from(name: PriorityName) -> Self {
        Self { header: None, default: Some(name) }
    }
}

shorthand! {
    Priority from PriorityName as default;
    /// How important requests are.
    struct PriorityMap {
        /// The header that may say it: `critical`, `default` or `sheddable`. Default: none.
        header: Option<HeaderName>,
        /// The priority of requests without that header. Default: `default`.
        default: Option<PriorityName>,
    }
}

/// When requests are refused because the proxy itself has too little, the least important ones first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overload {
    /// How late the timers of a worker are, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_loop_lag: Option<OrOff<LagThresholds>>,
    /// Memory in use as a share of the limit, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<OrOff<MemoryThresholds>>,
    /// File descriptors in use as a share of the limit, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<OrOff<ShareThresholds>>,
}

/// How late the timers of a worker may be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LagThresholds {
    /// From then on sheddable requests are refused. Default: `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sheddable: Option<Duration>,
    /// From then on all but critical ones are. Default: `500ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Duration>,
}

/// How much memory may be in use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryThresholds {
    /// From then on sheddable requests are refused. Default: `85%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sheddable: Option<Ratio>,
    /// From then on all but critical ones are. Default: `95%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Ratio>,
    /// What this process may take. Default: the limit of the cgroup, and what the cgroup takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Size>,
}

/// How much may be in use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareThresholds {
    /// From then on sheddable requests are refused. Default: `85%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sheddable: Option<Ratio>,
    /// From then on all but critical ones are. Default: `95%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Ratio>,
}
