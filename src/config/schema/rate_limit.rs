//! Rate limits, and the Redis that shares them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, OrOff, shorthand};
use crate::config::units::{Duration, HeaderName, RedisAddress};

/// One limit, or several that all hold.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimits {
    /// One.
    One(RateLimit),
    /// Several, asked in this order.
    Several(Vec<RateLimit>),
}

impl RateLimits {
    /// Each, with its place in the list if there is one.
    pub fn each(&self) -> impl Iterator<Item = (Option<usize>, &RateLimit)> {
        let (one, several) = match self {
            Self::One(one) => (Some((None, one)), &[][..]),
            Self::Several(several) => (None, &several[..]),
        };
        one.into_iter().chain(several.iter().enumerate().map(|(at, limit)| (Some(at), limit)))
    }
}

/// How many requests may pass in a time; others are answered with 429.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many requests pass.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// In so much time. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<Duration>,
    /// So many may come at once after a silence. Default: as many as `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
    /// What requests are counted by. Default: all requests together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<RateLimitKey>,
    /// Whose requests are counted. Default: `instance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<RateLimitScope>,
    /// Whether it refuses, or only counts what it would have refused (`shadow`), or neither.
    /// Default: `enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrOff<Mode>>,
    /// Whether answers say how much is left, by `RateLimit-Limit`, `-Remaining` and `-Reset`.
    /// Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<bool>,
    /// The most keys that are counted at the same time, of 16 bytes each. Default: 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 10_000_000))]
    pub max_keys: Option<u32>,
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimitKey {
    /// Who sends it.
    Client(RateLimitClient),
    /// What it says.
    Header(RateLimitHeader),
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitClient {
    /// The address of the client; of IPv6 its /64 network.
    ClientIp,
    /// Who the client has proved to be: the name in its certificate, which a trusted proxy tells by
    /// `x-forwarded-client-cert`. Clients without one count together.
    Identity,
}

/// A header of the request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitHeader {
    /// Its name. Requests without it count together.
    pub header: HeaderName,
}

/// Whose requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitScope {
    /// Those of this instance.
    Instance,
    /// Those of the whole service: each instance lets pass its share.
    Service,
    /// Those of the whole service, counted in `redis`.
    Redis,
}

/// The Redis that rate limits are shared by. In YAML the address can stand for all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redis {
    /// Where it is.
    pub address: RedisAddress,
    /// The user. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// The database. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<u32>,
    /// With which all keys begin. Default: `pilotfish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How long an answer may take; then this instance decides alone. Default: `50ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

impl From<RedisAddress> for Redis {
    fn from(address: RedisAddress) -> Self {
        Self {
            address,
            username: None,
            password_file: None,
            database: None,
            prefix: None,
            timeout: None,
        }
    }
}

shorthand! {
    Redis from RedisAddress as address;
    /// The Redis that rate limits are shared by.
    struct RedisMap {
        /// Where it is.
        address: RedisAddress,
        /// The user. Default: none.
        username: Option<String>,
        /// A file with the password. Default: none.
        password_file: Option<String>,
        /// The database. Default: 0.
        database: Option<u32>,
        /// With which all keys begin. Default: `pilotfish`.
        prefix: Option<String>,
        /// How long an answer may take; then this instance decides alone. Default: `50ms`.
        timeout: Option<Duration>,
    }
}
