//! How an endpoint is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OrOff;
use crate::config::units::{CookieName, Factor, HeaderName, Period, UrlPath};

/// How an endpoint is chosen: the name of an algorithm, or one of them with its settings.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum LoadBalancer {
    /// Its name.
    Algorithm(Algorithm),
    /// Its settings.
    With(Box<LoadBalancerSettings>),
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Of two at random the one with fewer requests in flight.
    LeastRequest,
    /// Of two at random the one with the lower latency, weighed with its requests in flight.
    PeakEwma,
    /// The same for the same key, which its settings name.
    RingHash,
    /// The same for the same key, which its settings name.
    Maglev,
    /// The same for the same client, by a cookie that it gets.
    StickyCookie,
}

/// How an endpoint is chosen for a client that has no cookie yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chooser {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Of two at random the one with fewer requests in flight.
    LeastRequest,
    /// Of two at random the one with the lower latency, weighed with its requests in flight.
    PeakEwma,
}

/// An algorithm with its settings: one of the three.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancerSettings {
    /// The same endpoint for the same key; when one comes or goes, no key moves that need not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// The same endpoint for the same key, in the most even shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maglev: Option<MaglevHash>,
    /// The same endpoint for the same client, by a cookie that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<StickyCookie>,
}

/// The same endpoint for the same key, on a ring.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RingHash {
    /// By what requests are told apart. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// How much more than the mean an endpoint may have in flight before requests go on to the next
    /// one, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<OrOff<Factor>>,
}

/// The same endpoint for the same key, from a table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaglevHash {
    /// By what requests are told apart. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// How much more than the mean an endpoint may have in flight before requests go on to the next
    /// one, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<OrOff<Factor>>,
    /// Slots of the table, a prime well above the number of endpoints. Default: 65537.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1_000_003))]
    pub table_size: Option<u32>,
}

/// By what requests are told apart. One of the four.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashKey {
    /// The value of this header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    /// The value of this cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieName>,
    /// `true`: the address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<bool>,
    /// The value of this parameter of the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// The same endpoint for the same client, by a cookie that it gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyCookie {
    /// The name of the cookie. Default: `pilotfish-` and the name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<CookieName>,
    /// How long clients keep it. Default: as long as the browser runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
    /// The path below which clients send it. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<UrlPath>,
    /// Whether clients send it over TLS alone. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// With which requests from other sites browsers send it. Default: `lax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,
    /// How an endpoint is chosen for a client without one. Default: `peak_ewma`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Chooser>,
}

/// With which requests from other sites browsers send a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Where somebody follows a link.
    Lax,
    /// With none.
    Strict,
    /// With all; it needs `secure`.
    None,
}

/// Endpoints of our own zone first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZoneAware {
    /// How many endpoints our zone must have, or zones make no difference. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_endpoints: Option<u32>,
}
