//! What a request needs, resolved: made by `compile`, published by `live`, never changed.
//! A request reads it once and finishes under it, whatever is published meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;

use super::discovered::{Discovered, FirstAnswer};
use super::members::{Before, Membership};
use crate::balance::{Availability, Balancer, Key, Split};
use crate::clock::Instant;
use crate::endpoint::{Endpoint, Instance, Load};
use crate::policy::breaker::SharedBreaker;
use crate::policy::health::{CheckKind, HealthCheck};
use crate::policy::outlier::Detector;
use crate::policy::percentile::Latencies;
use crate::policy::rate_limit::Scope;
use crate::policy::shed::ShedLimits;
use crate::policy::{Budget, BudgetLimits, Bulkhead, BulkheadLimits, HeaderOps, Policy, RateLimit};
use crate::redis::Redis;
use crate::registry::settings as registry;
use crate::route::Router;
use crate::telemetry::Direction;
use crate::telemetry::access_log::Format;
use crate::upstream::PoolLimits;

type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Cheap to clone: when a registry tells of endpoints, all else is shared with the one before.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows with each snapshot.
    pub generation: u64,
    /// The app that we stand beside.
    pub service: Service,
    pub inbound: Arc<Inbound>,
    pub outbound: Arc<Outbound>,
    pub clusters: Box<[Arc<Cluster>]>,
    pub listeners: Arc<[Listener]>,
    pub limits: Limits,
    /// When requests are refused because the proxy itself has too little.
    pub shed: Option<ShedLimits>,
    /// Every rate limit, by its slot.
    pub rate_limits: Arc<[Arc<RateLimit>]>,
    /// What rate limits are shared by.
    pub redis: Option<Arc<Redis>>,
    /// Instances of our own service, at least 1. A registry sets it as it learns of them; until then it is
    /// what the configuration tells.
    pub instances: u32,
    /// Who knows where services run, in the order in which they are asked.
    pub registries: Arc<[registry::Settings]>,
    pub discovery: Arc<registry::Discovery>,
    /// Share of the traces that begin here which are marked as sampled, 0 to 1.
    pub trace_sample: f64,
    pub access_log: Option<AccessLog>,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub drain: Drain,
    /// Number of routes: their `slot` is below it.
    pub route_slots: u32,
    /// Number of groups over all clusters: their `slot` is below it.
    pub group_slots: u32,
    /// What was typed, for `/config_dump`.
    pub source: Arc<serde_json::Value>,
}

#[derive(Debug, Clone, Default)]
pub struct Service {
    pub name: Arc<str>,
    pub version: Option<String>,
    pub zone: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// Whether there is somebody to be announced in registries.
    pub is_announced: bool,
    /// Whether, for want of a health check, a connection is tried before that.
    pub is_tried: bool,
}

pub struct Inbound {
    pub router: Router<Arc<Route>>,
    /// What matches no route; none where the routes are all there is (a gateway without an app).
    pub fallback: Option<Arc<Route>>,
    /// Whether a route looks at the path: then the path is normalised before it is matched.
    pub path_sensitive: bool,
    pub trusted_proxies: Box<[IpNet]>,
    pub protocol: Detect,
    /// The app, for what is not HTTP.
    pub app: Option<Destination>,
}

pub struct Outbound {
    /// Lower-case host name to service.
    pub hosts: FastMap<Box<str>, Arc<OutboundService>>,
    /// What the local ports lead to.
    pub ports: HashMap<SocketAddr, PortTarget>,
    pub unknown: Unknown,
    pub unknown_route: Arc<Route>,
    pub names: Names,
}

/// Which host names can be those of services that registries know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Whether services are looked for that the configuration does not name.
    pub on_demand: bool,
    /// What may follow the name of a service, as `.service.consul`.
    pub suffixes: Box<[&'static str]>,
    /// The most labels that a name has: a service of Kubernetes may be in a namespace.
    pub labels: usize,
}

impl Names {
    /// The name of a service in a host name.
    pub fn short<'a>(&self, host: &'a str) -> &'a str {
        self.suffixes.iter().find_map(|suffix| host.strip_suffix(suffix)).unwrap_or(host)
    }

    /// The service that a registry may know by this host name.
    pub fn discoverable<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = self.short(host);
        let is_address = || name.parse::<std::net::IpAddr>().is_ok();
        let may_be = self.on_demand
            && name.split('.').count() <= self.labels
            && name != "localhost"
            && !is_address();
        may_be.then_some(name)
    }
}

pub struct OutboundService {
    pub cluster: u32,
    pub router: Router<Arc<Route>>,
    pub fallback: Arc<Route>,
    pub path_sensitive: bool,
}

pub struct PortTarget {
    pub service: Arc<OutboundService>,
    pub destination: Destination,
    pub detect: Detect,
}

/// What is done with a host that no service of the configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Passthrough,
    Reject,
}

/// Which protocol clients speak on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    /// Found out from the first bytes, of the client or of the server.
    Auto,
    Http,
    Tcp,
}

/// What is spoken to the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 for gRPC, HTTP/1.1 for all else.
    Auto,
    Http1,
    Http2,
    Tcp,
}

#[derive(Clone)]
pub struct Cluster {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub budget: Arc<Budget>,
    pub budget_limits: BudgetLimits,
    /// Of the requests that may be hedged.
    pub latencies: Arc<Latencies>,
    pub bulkhead: Arc<Bulkhead>,
    pub bulkhead_limits: BulkheadLimits,
    /// Of the service as a whole; its endpoints have their own.
    pub breaker: Option<Arc<SharedBreaker>>,
    pub outliers: Option<Arc<Detector>>,
    pub availability: Availability,
    /// How its endpoints are asked whether they are well.
    pub health: Option<Arc<HealthCheck>>,
    /// Where a registry tells its endpoints.
    pub discovered: Option<Discovered>,
    pub membership: Membership,
    pub groups: Arc<[Group]>,
}

/// The endpoints among which one request may choose: all of a service, or those that a route selects.
pub struct Group {
    pub slot: u32,
    pub selector: Selector,
    pub endpoints: Box<[Arc<Endpoint>]>,
    pub balancer: Balancer,
    /// What is in flight to all of them, where it is asked for.
    pub load: Option<Arc<Load>>,
}

/// Some endpoints of a service: of a version, or with all of these labels. The default is all of them.
/// `Display` gives `v1`, `tier=gold,track=canary`, `v1,tier=gold` or `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub version: Option<Box<str>>,
    pub labels: BTreeMap<Box<str>, Box<str>>,
}

impl Selector {
    pub fn takes(&self, instance: &Instance) -> bool {
        let has = |(name, value)| instance.labels.get(name) == Some(value);
        (self.version.is_none() || self.version == instance.version) && self.labels.iter().all(has)
    }

    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        let labels = self.labels.iter().map(|(name, value)| format!("{name}={value}"));
        let parts: Vec<_> = self.version.iter().map(ToString::to_string).chain(labels).collect();
        f.write_str(&parts.join(","))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Index in [`Snapshot::clusters`].
    pub cluster: u32,
    /// Index in [`Cluster::groups`].
    pub group: u32,
}

/// Small, and what is rare behind a pointer: of 10,000 routes each request meets another one, and what it
/// touches of that is not in a cache.
pub struct Route {
    pub slot: u32,
    /// For the access log.
    pub name: Arc<str>,
    /// For metrics: the template, never what a client wrote.
    pub pattern: Arc<str>,
    pub action: Action,
    /// Shared by the routes that have the same.
    pub policy: Arc<Policy>,
    pub request_headers: Option<Box<HeaderOps>>,
    pub response_headers: Option<Box<HeaderOps>>,
}

pub enum Action {
    Forward(Forward),
    Redirect(Box<Redirect>),
    Respond(Box<Respond>),
}

pub struct Forward {
    pub to: To,
    pub rewrite: Option<Box<Rewrite>>,
}

/// Where requests go.
pub enum To {
    One(Destination),
    /// To each with its share.
    Split(Box<(Split, Box<[Destination]>)>),
}

/// What of a request is another one for the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub prefix: Option<PrefixRewrite>,
    pub host: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRewrite {
    /// Length in bytes of the prefix that the route matched.
    pub matched: usize,
    pub replacement: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub status: StatusCode,
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub path: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: StatusCode,
    pub body: Bytes,
    pub headers: HeaderOps,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub max_connections: usize,
    pub max_requests: usize,
    pub max_head: usize,
    pub max_headers: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub detect_timeout: Duration,
    /// How long a client may leave what is written to it unread (`TCP_USER_TIMEOUT`).
    pub write_timeout: Duration,
    pub pool: PoolLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    pub format: Format,
    pub target: crate::telemetry::log_writer::Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    pub linger: Duration,
    pub timeout: Duration,
}

/// A socket that takes connections. Two snapshots that have an equal one share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    pub kind: ListenerKind,
    pub address: SocketAddr,
}

impl Listener {
    pub fn direction(&self) -> Direction {
        match self.kind {
            ListenerKind::Inbound => Direction::Inbound,
            ListenerKind::Outbound | ListenerKind::Port => Direction::Outbound,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    Inbound,
    Outbound,
    /// A local port that leads to one service.
    Port,
}

impl Cluster {
    /// The same with other instances; those that stay keep their state.
    fn with(&self, instances: Vec<Instance>) -> Self {
        let exists = !instances.is_empty();
        let groups = self.groups.iter().map(|group| (group.slot, group.selector.clone()));
        let groups = self.membership.groups(instances, groups, &Before::of(&self.groups)).into();
        let discovered = self.discovered.clone().map(|it| Discovered {
            exists: it.exists || exists,
            is_settled: true,
            ..it
        });
        Self { groups, discovered, ..self.clone() }
    }

    /// See [`Snapshot::apply`].
    pub fn apply(&self, now: Instant) {
        self.bulkhead.apply(&self.bulkhead_limits, now);
        let mode = self.outliers.as_ref().map(|outliers| outliers.config.mode);
        for endpoint in self.endpoints() {
            endpoint.state.apply(&self.bulkhead_limits, now);
            endpoint.state.arrive(now);
            endpoint.state.detect(mode, now);
            if self.health.is_none() {
                endpoint.state.set_healthy(true, now);
            }
        }
    }

    /// What requests wait for where no registry has told anything yet. A snapshot says so of itself: another one
    /// may have the answer by now, and who waits for that gets it.
    pub fn pending(&self) -> Option<&Arc<FirstAnswer>> {
        self.discovered.as_ref().filter(|it| !it.is_settled).map(|it| &it.first_answer)
    }

    /// All of its endpoints: the first group has them.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        self.groups.first().map_or(&[], |group| &group.endpoints)
    }
}

impl To {
    /// At least one.
    pub fn all(&self) -> &[Destination] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Split(split) => &split.1,
        }
    }

    pub fn first(&self) -> Destination {
        self.all()[0]
    }

    /// What [`To::pick`] goes by, if anything.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::One(_) => None,
            Self::Split(split) => split.0.key(),
        }
    }

    /// `hash` is that of the key.
    pub fn pick(&self, random: &mut fastrand::Rng, hash: Option<u64>) -> Destination {
        match self {
            Self::One(one) => *one,
            Self::Split(split) => split.1[split.0.pick(random, hash)],
        }
    }
}

impl Snapshot {
    pub fn cluster(&self, destination: Destination) -> &Cluster {
        &self.clusters[destination.cluster as usize]
    }

    /// The same with other instances of some services, by the places of their clusters. No address is there
    /// twice for one service.
    pub fn with(&self, changes: impl IntoIterator<Item = (usize, Vec<Instance>)>) -> Self {
        let mut after = self.clone();
        for (index, instances) in changes {
            after.clusters[index] = Arc::new(self.clusters[index].with(instances));
        }
        after
    }

    /// Has what it says of services and endpoints hold, whose state other snapshots share. To be done when
    /// it is published, and not before.
    pub fn apply(&self, now: Instant) {
        self.clusters.iter().for_each(|cluster| cluster.apply(now));
    }

    /// The path by which the app is asked whether it is well.
    pub fn health_path(&self) -> Option<&str> {
        match &self.cluster(self.inbound.app?).health.as_ref()?.kind {
            CheckKind::Http { path, .. } => Some(path.path()),
            CheckKind::Tcp | CheckKind::Grpc { .. } => None,
        }
    }

    /// Every route there is.
    pub fn for_each_route(&self, mut visit: impl FnMut(&Route)) {
        self.inbound
            .router
            .iter()
            .map(|(_, route)| route)
            .chain(&self.inbound.fallback)
            .for_each(|route| visit(route));
        for service in self.outbound.hosts.values() {
            service
                .router
                .iter()
                .map(|(_, route)| route)
                .chain([&service.fallback])
                .for_each(|route| visit(route));
        }
        visit(&self.outbound.unknown_route);
    }

    /// Whether a rate limit is shared by the instances of our own service.
    pub fn counts_instances(&self) -> bool {
        self.rate_limits.iter().any(|limit| limit.spec.scope == Scope::Service)
    }

    /// Whether a rate limit is counted in Redis.
    pub fn uses_redis(&self) -> bool {
        self.rate_limits.iter().any(|limit| limit.spec.scope == Scope::Redis)
    }

    /// The cluster of hosts that the configuration does not have.
    pub fn passthrough_cluster(&self) -> u32 {
        match &self.outbound.unknown_route.action {
            Action::Forward(forward) => forward.to.first().cluster,
            Action::Redirect(_) | Action::Respond(_) => u32::MAX,
        }
    }

    pub fn group(&self, destination: Destination) -> &Group {
        &self.cluster(destination).groups[destination.group as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lines of a cache, with the counts of its `Arc`.
    #[test]
    fn a_route_is_small() {
        let size = size_of::<Route>() + 2 * size_of::<usize>();
        assert!(size <= 128, "{size} bytes");
    }
}
