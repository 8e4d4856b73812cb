//! How a server is asked whether it is well.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Condition, Host, Period, Ratio, UrlPath};

/// Asks from time to time whether a server is well: by one of `http`, `tcp`, `grpc`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// The path of a GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<UrlPath>,
    /// `true`: whether a connection can be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<bool>,
    /// By gRPC's health checking protocol: the name of a service, or `""` for the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Which statuses are good, of `http`. Default: `[2xx]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<Condition>>,
    /// The host that is asked for. Default: the name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// Another port than that of the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// How often. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long a check may take. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// By what share an interval is longer at random. Default: `10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Ratio>,
    /// Failures in a row after which it is not well. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub unhealthy_after: Option<u32>,
    /// Successes in a row after which it is well again. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub healthy_after: Option<u32>,
}
