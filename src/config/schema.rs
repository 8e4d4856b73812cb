//! The configuration as it is typed. Nothing here has a default yet and nothing refers to anything:
//! `None` is what was not typed. Each field's comment ends with the default that it will get, and
//! the comments are what editors show.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::json_schema::{Map, OrOff};
use super::units::{Address, Cidr, Duration, Listen, LogPath, Name, Port, Ratio, Size};

mod balancer;
mod fault;
mod health;
mod overload;
mod policy;
mod rate_limit;
mod registry;
mod resilience;
mod route;
mod upstream;

pub use balancer::{
    Algorithm, Chooser, HashKey, LoadBalancer, LoadBalancerSettings, MaglevHash, RingHash,
    SameSite, StickyCookie, ZoneAware,
};
pub use fault::{Fallback, FallbackCause, FallbackOn, Fault, FaultAbort, FaultDelay, Mirror};
pub use health::HealthCheck;
pub use overload::{
    AdaptiveConcurrency, Bulkhead, Codel, EndpointBulkhead, LagThresholds, MemoryThresholds,
    MinRtt, Overload, Priority, PriorityName, ShareThresholds,
};
pub use policy::{
    Hedge, Mode, Policy, Retry, RetryBackoff, RetryBudget, RetryMethods, Timeout, Timeouts,
};
pub use rate_limit::{
    RateLimit, RateLimitClient, RateLimitHeader, RateLimitKey, RateLimitScope, RateLimits, Redis,
};
pub use registry::{
    Advertise, Consul, ConsulCheck, Directory, Discovery, Dns, DnsRecords, Etcd, Eureka,
    Kubernetes, Metadata, OnDemand, Registries, Registry, RegistrySettings, Removal,
};
pub use resilience::{
    BreakerCalls, BreakerScope, BreakerWindow, CircuitBreaker, FailurePercentage, OutlierDetection,
    SlowStart, SuccessRate,
};
pub use route::{
    HeaderEdits, Match, Redirect, RedirectScheme, Respond, Rewrite, Route, Target, To,
    ValueCondition, ValueMatch,
};
pub use upstream::{Endpoint, Service, ServiceDefaults, Services};

/// The configuration of a Pilotfish sidecar.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Pilotfish configuration")]
pub struct Config {
    /// Our own app: what runs beside this proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<OwnService>,
    /// Who knows where services run, in which order they are asked; or `off`. Default: `directory`, so that
    /// the sidecars of one host find each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<OrOff<Registries>>,
    /// What we make of what registries say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Requests that come to our app, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<OrOff<Inbound>>,
    /// Requests that our app sends to others, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<OrOff<Outbound>>,
    /// The services that we call, by name, and `defaults` for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// The Redis that rate limits are shared by. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Limits of the whole proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// When requests are refused because the proxy itself has too little, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<OrOff<Overload>>,
    /// Logs and traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// The admin server and the metrics server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// How the proxy stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// How the proxy runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// Our own app. One of `port` and `address` says where it listens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnService {
    /// The name under which others know it.
    pub name: Name,
    /// The port on which it listens on 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Where it listens, if not on a port of 127.0.0.1: `127.0.0.1:3002` or `unix:/run/app.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// What it speaks. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How it is asked whether it is well, or `off`. We are ready when it is. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<OrOff<HealthCheck>>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The zone in which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What else others may know of it, by registries. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP; the version follows the request.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, gRPC among it.
    Http2,
    /// Bytes that we do not look into.
    Tcp,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientProtocol {
    /// Found out from the first bytes.
    Auto,
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// Bytes that we do not look into.
    Tcp,
}

/// Requests that come to our app.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// Where to listen. Default: port 15006 of all addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// What clients speak. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ClientProtocol>,
    /// The proxies whose `x-forwarded-*` headers are believed. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<Cidr>>,
    /// What happens to which request; the most specific route that matches is taken. Default: all
    /// requests go to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Changes of the headers of all requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEdits>,
    /// Changes of the headers of all responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEdits>,
    /// The policy of all routes that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// Requests that our app sends to others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Where to listen. Default: port 15001 of 127.0.0.1 and ::1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// A local port for a service: what comes to the port goes to the service. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Map<Port, OutboundPort>>,
    /// What happens to requests for a service that we do not know. Default: `passthrough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// The policy of all services that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// What happens to requests for a service that we do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// They go where they were sent.
    Passthrough,
    /// They are refused.
    Reject,
}

/// What a local port leads to. In YAML the name of the service can stand for all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutboundPort {
    /// The service.
    pub service: Name,
    /// What our app speaks on this port. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ClientProtocol>,
    /// Where to listen. Default: this port of 127.0.0.1 and ::1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
}

/// Deserialises and describes a struct of which one field alone is a shorthand.
macro_rules! shorthand {
    (
        $type:ident from $short:ty as $main:ident;
        $(#[$doc:meta])*
        struct $full:ident { $($(#[$field_doc:meta])* $field:ident: $field_type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $full { $($(#[$field_doc])* $field: $field_type,)* }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(untagged)]
                enum Either {
                    Short($short),
                    Full($full),
                }
                Ok(match <Either as serde::Deserialize>::deserialize(d)? {
                    Either::Short(short) => Self::from(short),
                    Either::Full($full { $($field),* }) => Self { $($field),* },
                })
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                concat!(stringify!($type), "Shorthand").into()
            }

            fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "anyOf": [g.subschema_for::<$short>(), g.subschema_for::<$full>()],
                })
            }
        }
    };
}
use shorthand;

impl From<Name> for OutboundPort {
    fn from(service: Name) -> Self {
        Self { service, protocol: None, listen: None }
    }
}

shorthand! {
    OutboundPort from Name as service;
    /// What a local port leads to.
    struct OutboundPortMap {
        /// The service.
        service: Name,
        /// What our app speaks on this port. Default: `auto`.
        protocol: Option<ClientProtocol>,
        /// Where to listen. Default: this port of 127.0.0.1 and ::1.
        listen: Option<Listen>,
    }
}

/// Limits of the whole proxy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open connections of clients. Default: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Requests at the same time. Default: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// The longest head of a request. Default: `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_head: Option<Size>,
    /// Headers of a request. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_headers: Option<u32>,
    /// How long the head of a request may take to come. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout: Option<Duration>,
    /// How long a client's connection may stay without a request. Default: `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// How long a connection to an endpoint is kept for the next request. Default: `3s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_idle_timeout: Option<Duration>,
    /// How many connections to an endpoint are kept. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_idle_per_endpoint: Option<u32>,
    /// How long to wait for the first bytes where the protocol is `auto`. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_timeout: Option<Duration>,
    /// How long a client may leave an answer unread before its connection ends. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<Duration>,
}

/// Logs and traces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// A line for each request: `text`, `json`, `off`, or the format and where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<OrOff<AccessLog>>,
    /// Traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// A line for each request: its format alone, or the format and where it goes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AccessLog {
    /// Its format; it goes to standard output.
    Format(LogFormat),
    /// Its format and where it goes.
    To(AccessLogTo),
}

impl AccessLog {
    /// The long form.
    pub fn to(&self) -> AccessLogTo {
        match self {
            Self::Format(format) => AccessLogTo { format: Some(*format), path: None },
            Self::To(to) => to.clone(),
        }
    }
}

/// The format of the access log, and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLogTo {
    /// Its format. Default: `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// Where it goes: `stdout` or the path of a file. Default: `stdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<LogPath>,
}

/// The format of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Envoy's default line.
    Text,
    /// A JSON object a line.
    Json,
}

/// Traces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The share of the traces beginning here that is marked as sampled. Default: `100%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Ratio>,
}

/// The admin server and the metrics server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where the admin server listens, or `off`. Default: `127.0.0.1:15000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<OrOff<Listen>>,
    /// Where `/metrics`, `/live` and `/ready` alone are served, or `off`. Default: port 15020 of
    /// all addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<OrOff<Listen>>,
}

/// How the proxy stops.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// How long it goes on as before, not ready, until the others have seen it. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linger: Option<Duration>,
    /// How long it then waits for requests in flight. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// How the proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Worker threads. Default: the CPU quota, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<u32>,
    /// A directory for what is to survive a restart: where services ran last. Default: `$STATE_DIRECTORY`, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
}
