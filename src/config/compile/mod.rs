//! From what was typed to what a request needs: a pure function to a [`Snapshot`], or to every mistake
//! in the meaning of a configuration whose form is right.
//!
//! What must outlive a reload (the state of an endpoint, the budget of a service) is taken over from
//! the snapshot before, by service and address.

mod listeners;
mod policy;
mod routes;
mod services;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::report::{Mistake, Path, closest, path_to, quote};
use super::schema::{self, AccessLog, Config, LogFormat};
use super::snapshot::{
    self, Action, Cluster, Destination, Detect, Drain, Forward, Inbound, Limits, Outbound,
    Protocol, Route, Service, Snapshot, Unknown,
};
use super::units::LogPath;
use crate::balance::{Balancer, Kind, Split};
use crate::endpoint::State;
use crate::policy::{Budget, BudgetLimits, HeaderOps, Policy};
use crate::route::Router;
use crate::telemetry::access_log::Format;
use crate::telemetry::log_writer::Target;
use crate::upstream::PoolLimits;

/// Protocols in which the server speaks first, or that are no HTTP for certain: SMTP, MySQL, SQL Server,
/// NATS, submission, PostgreSQL, AMQP, Redis, Kafka, Elasticsearch's and memcached's own, MongoDB.
const OPAQUE_PORTS: [u16; 12] = [
    25, 587, 3306, 4222, 4444, 5432, 5672, 6379, 9092, 9300, 11211, 27017,
];

/// The name of the cluster of hosts that the configuration does not have, in logs and metrics.
pub const PASSTHROUGH: &str = "passthrough";

/// Makes a snapshot. `generation` is larger than that of `previous`.
///
/// # Errors
/// Every mistake that was found.
pub fn compile(
    config: &Config,
    previous: Option<&Snapshot>,
    generation: u64,
) -> Result<Snapshot, Vec<Mistake>> {
    let mut compiler = Compiler::new(config, previous);
    compiler.services();
    compiler.app();
    let passthrough = compiler.passthrough();
    let listeners = compiler.listeners();
    let outbound = compiler.outbound(passthrough);
    let inbound = compiler.inbound();
    let access_log = compiler.access_log();
    let Compiler {
        mistakes,
        clusters,
        routes,
        groups,
        ..
    } = compiler;
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let own = config.service.as_ref();
    Ok(Snapshot {
        generation,
        service: Service {
            name: own.map_or("gateway", |own| own.name.as_str()).into(),
            version: own.and_then(|own| own.version.clone()),
            zone: own.and_then(|own| own.zone.clone()),
        },
        inbound,
        outbound,
        clusters: clusters.into(),
        listeners: listeners.data,
        admin: listeners.admin,
        metrics: listeners.metrics,
        limits: limits(config.limits.as_ref()),
        trace_sample: config
            .telemetry
            .as_ref()
            .and_then(|telemetry| telemetry.tracing.as_ref()?.sample)
            .map_or(1.0, |ratio| ratio.0),
        access_log,
        drain: drain(config.drain.as_ref()),
        route_slots: routes,
        group_slots: groups,
        source: serde_json::to_value(config).unwrap_or_default(),
    })
}

struct Compiler<'a> {
    config: &'a Config,
    /// States and budgets that live on, by service and by the text of the address.
    states: HashMap<(Arc<str>, Box<str>), Arc<State>>,
    budgets: HashMap<Arc<str>, Arc<Budget>>,
    mistakes: Vec<Mistake>,
    clusters: Vec<Cluster>,
    /// Place in `clusters` of each service of the configuration.
    by_name: BTreeMap<&'a str, u32>,
    app: Option<Destination>,
    routes: u32,
    groups: u32,
}

impl<'a> Compiler<'a> {
    fn new(config: &'a Config, previous: Option<&Snapshot>) -> Self {
        let clusters = previous.map_or(&[][..], |previous| &previous.clusters);
        let states = clusters.iter().flat_map(|cluster| {
            let endpoints = cluster
                .groups
                .first()
                .map_or(&[][..], |group| &group.endpoints);
            endpoints
                .iter()
                .map(|e| ((cluster.name.clone(), e.label.clone()), e.state.clone()))
        });
        let budgets = clusters.iter().map(|c| (c.name.clone(), c.budget.clone()));
        Self {
            config,
            states: states.collect(),
            budgets: budgets.collect(),
            mistakes: Vec::new(),
            clusters: Vec::new(),
            by_name: BTreeMap::new(),
            app: None,
            routes: 0,
            groups: 0,
        }
    }

    fn mistake(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    fn route_slot(&mut self) -> u32 {
        self.routes += 1;
        self.routes - 1
    }

    /// The cluster of hosts that are not in the configuration; its endpoints are made by workers.
    fn passthrough(&mut self) -> Destination {
        let mut policy = Policy::default();
        let typed = self
            .outbound_config()
            .and_then(|outbound| outbound.policy.as_ref());
        self.policy_of(&mut policy, typed, &path_to!["outbound", "policy"], false);
        let cluster = self.cluster(PASSTHROUGH.into(), Protocol::Auto, BudgetLimits::default());
        let group = self.group(None, Vec::new(), Kind::PeakEwma);
        self.clusters[cluster as usize].groups.push(group);
        Destination { cluster, group: 0 }
    }

    fn outbound_config(&self) -> Option<&'a schema::Outbound> {
        self.config
            .outbound
            .as_ref()
            .and_then(|outbound| outbound.on())
    }

    fn inbound_config(&self) -> Option<&'a schema::Inbound> {
        self.config
            .inbound
            .as_ref()
            .and_then(|inbound| inbound.on())
    }

    /// A route that forwards all it gets to `to`.
    fn plain_route(&mut self, name: &str, to: Destination, policy: Policy) -> Arc<Route> {
        Arc::new(Route {
            slot: self.route_slot(),
            name: name.into(),
            pattern: "/*".into(),
            action: Action::Forward(Forward {
                split: only(),
                to: [to].into(),
                prefix: None,
                host: None,
            }),
            policy,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        })
    }

    fn inbound(&mut self) -> Inbound {
        let typed = self.inbound_config();
        let at = path_to!["inbound"];
        let ops = self.both_header_ops(
            typed.and_then(|t| t.request_headers.as_ref()),
            typed.and_then(|t| t.response_headers.as_ref()),
            &at,
        );
        let routes = typed
            .and_then(|typed| typed.routes.as_deref())
            .unwrap_or_default();
        let scope = routes::Scope::inbound(self.app, typed.and_then(|t| t.policy.as_ref()), ops);
        let (compiled, path_sensitive) = self.routes(routes, &at.join("routes"), &scope);
        let fallback = self.app.map(|app| self.fallback_route(&scope, app));
        Inbound {
            router: Router::new(compiled),
            fallback,
            path_sensitive,
            trusted_proxies: typed
                .and_then(|typed| typed.trusted_proxies.as_ref())
                .map(|nets| nets.iter().map(|net| net.0).collect())
                .unwrap_or_default(),
            protocol: self.inbound_detect(typed),
            app: self.app,
        }
    }

    /// What clients may speak: all that the app speaks.
    fn inbound_detect(&self, typed: Option<&schema::Inbound>) -> Detect {
        use schema::ClientProtocol as Typed;
        let app = self.app.map(|app| &self.clusters[app.cluster as usize]);
        match (typed.and_then(|typed| typed.protocol), app) {
            (Some(Typed::Http), _) | (_, None) => Detect::Http,
            (Some(Typed::Tcp), _) => Detect::Tcp,
            (Some(Typed::Auto) | None, Some(app)) => detect(app, typed.is_some_and(has_routes)),
        }
    }

    fn outbound(&mut self, passthrough: Destination) -> Outbound {
        let typed = self.outbound_config();
        let mut policy = Policy::default();
        // Its mistakes were told with the cluster.
        let told = self.mistakes.len();
        let at = path_to!["outbound", "policy"];
        self.policy_of(
            &mut policy,
            typed.and_then(|typed| typed.policy.as_ref()),
            &at,
            false,
        );
        self.mistakes.truncate(told);
        let unknown_route = self.plain_route(PASSTHROUGH, passthrough, policy);
        let (services, hosts) = self.outbound_services();
        let ports = self.outbound_ports(&services);
        Outbound {
            hosts,
            ports,
            unknown: match typed.and_then(|typed| typed.unknown) {
                Some(schema::Unknown::Reject) => Unknown::Reject,
                Some(schema::Unknown::Passthrough) | None => Unknown::Passthrough,
            },
            unknown_route,
        }
    }

    fn access_log(&mut self) -> Option<snapshot::AccessLog> {
        let typed = self
            .config
            .telemetry
            .as_ref()
            .and_then(|t| t.access_log.as_ref());
        let to = match typed {
            None => AccessLog::Format(LogFormat::Text).to(),
            Some(typed) => typed.on()?.to(),
        };
        Some(snapshot::AccessLog {
            format: match to.format {
                Some(LogFormat::Json) => Format::Json,
                Some(LogFormat::Text) | None => Format::Text,
            },
            target: match to.path {
                Some(LogPath::File(path)) => Target::File(path),
                Some(LogPath::Stdout) | None => Target::Stdout,
            },
        })
    }

    /// Tells that `name` is no service, with the one that was probably meant.
    fn unknown_service(&mut self, name: &str, at: Path) {
        let mistake = Mistake::at(at, format!("no service is called {}", quote(name)));
        let names = self.by_name.keys().copied();
        self.mistake(match closest(name, names) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake.help(format!(
                "add it under `services`, as `{name}: {{ endpoints: [...] }}`"
            )),
        });
    }
}

fn has_routes(inbound: &schema::Inbound) -> bool {
    inbound
        .routes
        .as_ref()
        .is_some_and(|routes| !routes.is_empty())
}

/// What may be spoken to reach `cluster`: what its protocol says, or else what its ports suggest.
fn detect(cluster: &Cluster, has_routes: bool) -> Detect {
    use crate::endpoint::Address;
    let opaque = |address: &Address| match address {
        Address::Socket(address) => OPAQUE_PORTS.contains(&address.port()),
        Address::Name { port, .. } => OPAQUE_PORTS.contains(port),
        Address::Unix(_) => false,
    };
    let mut endpoints = cluster
        .groups
        .iter()
        .flat_map(|group| group.endpoints.iter());
    match cluster.protocol {
        Protocol::Tcp if !has_routes => Detect::Tcp,
        Protocol::Auto if !has_routes && endpoints.clone().next().is_some() => {
            if endpoints.all(|endpoint| opaque(&endpoint.address)) {
                Detect::Tcp
            } else {
                Detect::Auto
            }
        }
        Protocol::Http1 | Protocol::Http2 => Detect::Http,
        Protocol::Tcp | Protocol::Auto => Detect::Auto,
    }
}

/// A split with one destination.
fn only() -> Split {
    Split::new(&[1]).expect("one weight that is not 0")
}

fn protocol(typed: Option<schema::Protocol>) -> Protocol {
    match typed {
        Some(schema::Protocol::Http1) => Protocol::Http1,
        Some(schema::Protocol::Http2) => Protocol::Http2,
        Some(schema::Protocol::Tcp) => Protocol::Tcp,
        Some(schema::Protocol::Auto) | None => Protocol::Auto,
    }
}

fn kind(typed: Option<schema::LoadBalancer>) -> Kind {
    match typed {
        Some(schema::LoadBalancer::RoundRobin) => Kind::RoundRobin,
        Some(schema::LoadBalancer::Random) => Kind::Random,
        Some(schema::LoadBalancer::LeastRequest) => Kind::LeastRequest,
        Some(schema::LoadBalancer::PeakEwma) | None => Kind::PeakEwma,
    }
}

fn limits(typed: Option<&schema::Limits>) -> Limits {
    let typed = typed.cloned().unwrap_or_default();
    let seconds = Duration::from_secs;
    let duration = |typed: Option<super::units::Duration>, default| typed.map_or(default, |d| d.0);
    let max_head = typed.max_head.map_or(64 * 1024, |size| size.0 as usize);
    Limits {
        max_connections: typed.max_connections.unwrap_or(10_000) as usize,
        max_requests: typed.max_requests.unwrap_or(10_000) as usize,
        max_head,
        max_headers: typed.max_headers.unwrap_or(100) as usize,
        header_timeout: duration(typed.header_timeout, seconds(10)),
        idle_timeout: duration(typed.idle_timeout, seconds(3600)),
        detect_timeout: duration(typed.detect_timeout, seconds(5)),
        pool: PoolLimits {
            idle: duration(typed.pool_idle_timeout, seconds(3)),
            max_idle_per_endpoint: typed.max_idle_per_endpoint.unwrap_or(100) as usize,
            max_streams: 100,
            max_head,
        },
    }
}

fn drain(typed: Option<&schema::Drain>) -> Drain {
    let typed = typed.cloned().unwrap_or_default();
    Drain {
        linger: typed.linger.map_or(Duration::from_secs(5), |d| d.0),
        timeout: typed.timeout.map_or(Duration::from_secs(30), |d| d.0),
    }
}

impl Compiler<'_> {
    fn cluster(&mut self, name: Arc<str>, protocol: Protocol, limits: BudgetLimits) -> u32 {
        let budget = self.budgets.get(&name).cloned().unwrap_or_default();
        self.clusters.push(Cluster {
            name,
            protocol,
            budget,
            budget_limits: limits,
            groups: Vec::new(),
        });
        (self.clusters.len() - 1) as u32
    }

    fn group(
        &mut self,
        version: Option<Box<str>>,
        endpoints: Vec<Arc<crate::endpoint::Endpoint>>,
        kind: Kind,
    ) -> snapshot::Group {
        self.groups += 1;
        let balancer = Balancer::new(kind, &endpoints);
        snapshot::Group {
            slot: self.groups - 1,
            version,
            endpoints: endpoints.into(),
            balancer,
        }
    }
}
