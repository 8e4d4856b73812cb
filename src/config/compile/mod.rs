//! From what was typed to what a request needs: a pure function to a [`Snapshot`], or to every mistake
//! in the meaning of a configuration whose form is right.
//!
//! What must outlive a reload (the state of an endpoint, the budget of a service) is taken over from
//! the snapshot before, by service and address.

mod balancer;
mod fault;
mod health;
mod listeners;
mod matcher;
mod overload;
mod policy;
mod rate_limit;
mod registry;
mod resilience;
mod routes;
mod services;
mod settings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::discovered::Discovered;
use super::members::{Before, Membership};
use super::report::{Mistake, Path, closest, path_to, quote};
use super::schema::{self, Config, OrOff};
use super::snapshot::{
    Cluster, Destination, Detect, Inbound, Names, Outbound, Protocol, Selector, Service, Snapshot,
    Unknown,
};
use super::units::Name;
use crate::clock::Instant;
use crate::endpoint::Instance;
use crate::policy::breaker::SharedBreaker;
use crate::policy::outlier::Detector;
use crate::policy::percentile::Latencies;
use crate::policy::{Budget, Bulkhead, Policy};
use crate::route::Router;
use policy::overlay;
use resilience::Governance;
use routes::{Scope, path_sensitive};
pub use services::{address, instance};

/// Protocols in which the server speaks first, or that are no HTTP for certain: SMTP, MySQL, SQL Server,
/// NATS, submission, PostgreSQL, AMQP, Redis, Kafka, Elasticsearch's and memcached's own, MongoDB.
const OPAQUE_PORTS: [u16; 12] =
    [25, 587, 3306, 4222, 4444, 5432, 5672, 6379, 9092, 9300, 11211, 27017];

/// The name of the cluster of hosts that the configuration does not have, in logs and metrics.
pub const PASSTHROUGH: &str = "passthrough";

/// Makes a snapshot. `generation` is larger than that of `previous`. `demanded` are services that are called
/// and that the configuration does not name.
///
/// # Errors
/// Every mistake that was found.
pub fn compile(
    config: &Config,
    demanded: &BTreeSet<Name>,
    previous: Option<&Snapshot>,
    generation: u64,
) -> Result<Snapshot, Vec<Mistake>> {
    let mut compiler = Compiler::new(config, demanded, previous);
    let registries = compiler.registries();
    let discovery = compiler.discovery();
    compiler.discovers = !registries.is_empty();
    compiler.names = registry::names(&registries, &discovery);
    let redis = compiler.redis(previous.and_then(|previous| previous.redis.as_ref()));
    compiler.services();
    compiler.app();
    compiler.check_overload();
    let passthrough = compiler.passthrough();
    let listeners = compiler.listeners();
    let outbound = compiler.outbound(passthrough);
    let inbound = compiler.inbound();
    let instances = compiler.instances(previous);
    let Compiler { mistakes, clusters, routes, groups, rate_limits, .. } = compiler;
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
            metadata: own.and_then(|own| own.metadata.clone()).unwrap_or_default(),
            is_announced: own.is_some(),
            is_tried: own.is_some_and(|own| own.health_check.is_none()),
        },
        inbound: inbound.into(),
        outbound: outbound.into(),
        clusters: clusters.into_iter().map(Arc::new).collect(),
        listeners: listeners.data.into(),
        admin: listeners.admin,
        metrics: listeners.metrics,
        limits: settings::limits(config.limits.as_ref()),
        shed: overload::shed(config.overload.as_ref()),
        rate_limits: rate_limits.limits.into(),
        redis,
        instances,
        registries: registries.into(),
        discovery: discovery.into(),
        trace_sample: config
            .telemetry
            .as_ref()
            .and_then(|telemetry| telemetry.tracing.as_ref()?.sample)
            .map_or(1.0, |ratio| ratio.0),
        access_log: settings::access_log(config.telemetry.as_ref()),
        drain: settings::drain(config.drain.as_ref()),
        route_slots: routes,
        group_slots: groups,
        source: Arc::new(settings::masked(serde_json::to_value(config).unwrap_or_default())),
    })
}

struct Compiler<'a> {
    config: &'a Config,
    demanded: &'a BTreeSet<Name>,
    /// Whether there is a registry.
    discovers: bool,
    names: Names,
    kept: HashMap<Owner, Kept>,
    mistakes: Vec<Mistake>,
    clusters: Vec<Cluster>,
    /// How each of `clusters` is called where no route says otherwise.
    policies: Vec<Arc<Policy>>,
    /// Place in `clusters` of each service of the configuration.
    by_name: BTreeMap<&'a str, u32>,
    app: Option<Destination>,
    rate_limits: rate_limit::Made,
    routes: u32,
    groups: u32,
}

/// Whose a cluster is. The app may have the name of a service, and is not that service.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Owner {
    App,
    Passthrough,
    Service(Arc<str>),
}

/// What of a cluster lives on.
struct Kept {
    budget: Arc<Budget>,
    latencies: Arc<Latencies>,
    bulkhead: Arc<Bulkhead>,
    breaker: Option<Arc<SharedBreaker>>,
    outliers: Option<Arc<Detector>>,
    members: Before,
    discovered: Option<Discovered>,
    instances: Vec<Instance>,
}

impl Kept {
    fn of(cluster: &Cluster) -> Self {
        Self {
            budget: cluster.budget.clone(),
            latencies: cluster.latencies.clone(),
            bulkhead: cluster.bulkhead.clone(),
            breaker: cluster.breaker.clone(),
            outliers: cluster.outliers.clone(),
            members: Before::of(&cluster.groups),
            discovered: cluster.discovered.clone(),
            instances: match cluster.discovered {
                Some(_) => cluster.endpoints().iter().map(|it| it.instance.clone()).collect(),
                None => Vec::new(),
            },
        }
    }
}

/// A cluster that is to be made.
struct Draft {
    owner: Owner,
    name: Arc<str>,
    protocol: Protocol,
    policy: Policy,
    governance: Governance,
    membership: Membership,
    instances: Vec<Instance>,
    discovered: Option<Discovered>,
    /// What routes choose of it, besides all of it.
    selectors: BTreeSet<Selector>,
}

fn kept(previous: &Snapshot) -> HashMap<Owner, Kept> {
    let app = previous.inbound.app.map(|app| app.cluster);
    let passthrough = previous.passthrough_cluster();
    let owner = |index: u32, cluster: &Cluster| match index {
        index if Some(index) == app => Owner::App,
        index if index == passthrough => Owner::Passthrough,
        _ => Owner::Service(cluster.name.clone()),
    };
    (0..)
        .zip(&previous.clusters)
        .map(|(index, cluster)| (owner(index, cluster), Kept::of(cluster)))
        .collect()
}

impl<'a> Compiler<'a> {
    fn new(config: &'a Config, demanded: &'a BTreeSet<Name>, previous: Option<&Snapshot>) -> Self {
        Self {
            config,
            demanded,
            discovers: false,
            names: Names::default(),
            kept: previous.map(kept).unwrap_or_default(),
            mistakes: Vec::new(),
            clusters: Vec::new(),
            policies: Vec::new(),
            by_name: BTreeMap::new(),
            app: None,
            rate_limits: rate_limit::Made::after(
                previous.map(|previous| previous.rate_limits.to_vec()).unwrap_or_default(),
            ),
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
        let typed = self.outbound_config().and_then(|outbound| outbound.policy.as_ref());
        self.check_policy(typed, &path_to!["outbound", "policy"]);
        let mut policy = overlay(Policy::default(), typed);
        policy.rate_limits = self.rate_limits(&[typed], PASSTHROUGH).flatten();
        self.cluster(Draft {
            owner: Owner::Passthrough,
            name: PASSTHROUGH.into(),
            protocol: Protocol::Auto,
            policy,
            governance: Governance::of_one(typed),
            membership: Membership::default(),
            instances: Vec::new(),
            discovered: None,
            selectors: BTreeSet::new(),
        })
    }

    fn outbound_config(&self) -> Option<&'a schema::Outbound> {
        self.config.outbound.as_ref().and_then(|outbound| outbound.on())
    }

    fn inbound_config(&self) -> Option<&'a schema::Inbound> {
        self.config.inbound.as_ref().and_then(|inbound| inbound.on())
    }

    fn inbound(&mut self) -> Inbound {
        let typed = self.inbound_config();
        let at = path_to!["inbound"];
        let ops = self.both_header_ops(
            typed.and_then(|t| t.request_headers.as_ref()),
            typed.and_then(|t| t.response_headers.as_ref()),
            &at,
        );
        let policy = typed.and_then(|typed| typed.policy.as_ref());
        self.check_policy(policy, &at.join("policy"));
        let rate_limits = self.rate_limits(&[policy], "inbound");
        let place = "inbound.routes".to_owned();
        let scope = Scope { own: self.app, own_name: None, policy, rate_limits, place, ops };
        let routes = typed.and_then(|typed| typed.routes.as_deref()).unwrap_or_default();
        let compiled = self.routes(routes, &at.join("routes"), &scope);
        let protocol = self.inbound_detect(typed);
        Inbound {
            path_sensitive: path_sensitive(&compiled),
            router: Router::new(compiled),
            fallback: self.app.map(|app| self.plain_route("default", app, &scope)),
            trusted_proxies: typed
                .and_then(|typed| typed.trusted_proxies.as_ref())
                .map(|nets| nets.iter().map(|net| net.0).collect())
                .unwrap_or_default(),
            protocol,
            app: self.app,
        }
    }

    /// What clients may speak: all that the app speaks.
    fn inbound_detect(&mut self, typed: Option<&schema::Inbound>) -> Detect {
        use schema::ClientProtocol as Typed;
        let has_routes = typed.is_some_and(has_routes);
        let app = self.app.map(|app| &self.clusters[app.cluster as usize]);
        let at = path_to!["inbound", "protocol"];
        match (typed.and_then(|typed| typed.protocol), app) {
            (Some(Typed::Http), Some(app)) if app.protocol == Protocol::Tcp && !has_routes => {
                let mistake = Mistake::at(at, "the app speaks tcp, what comes in http");
                self.mistake(mistake.help("give both the same protocol"));
                Detect::Http
            }
            (Some(Typed::Tcp), _) if has_routes => {
                let mistake = Mistake::at(at, "`inbound.routes` are for HTTP, not for tcp");
                self.mistake(mistake.help("remove the routes, or leave `protocol` out"));
                Detect::Tcp
            }
            (Some(Typed::Http), _) | (_, None) => Detect::Http,
            (Some(Typed::Tcp), Some(_)) => Detect::Tcp,
            (Some(Typed::Auto) | None, Some(app)) => detect(app, has_routes),
        }
    }

    fn outbound(&mut self, passthrough: Destination) -> Outbound {
        let typed = self.outbound_config();
        let unknown_route = self.plain_route(PASSTHROUGH, passthrough, &Scope::default());
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
            names: self.names.clone(),
        }
    }

    fn cluster(&mut self, draft: Draft) -> Destination {
        let Draft { owner, name, protocol, policy, governance, .. } = draft;
        let Draft { membership, instances, discovered, selectors, .. } = draft;
        let all = std::iter::once(Selector::default()).chain(selectors);
        let wanted: Vec<_> = (self.groups..).zip(all).collect();
        self.groups += wanted.len() as u32;
        let kept = self.kept.get(&owner);
        // The limits of one that is kept change when the snapshot is published. A new one has no past.
        let Governance {
            budget,
            bulkhead: bulkhead_limits,
            breaker,
            outliers,
            availability,
            health,
        } = governance;
        let bulkhead = || Arc::new(Bulkhead::new(&bulkhead_limits, Instant(0)));
        let breaker = breaker.filter(|config| config.scope.has_service()).map(|config| {
            SharedBreaker::kept(kept.and_then(|kept| kept.breaker.as_ref()), &config)
        });
        let outliers = outliers.map(|config| {
            let before = kept.and_then(|kept| kept.outliers.as_ref());
            let before = before.filter(|before| before.config == config).cloned();
            before.unwrap_or_else(|| Arc::new(Detector::new(config)))
        });
        let none = Before::default();
        let before = kept.map_or(&none, |kept| &kept.members);
        let groups = membership.groups(instances, wanted, before);
        self.clusters.push(Cluster {
            name,
            protocol,
            budget: kept.map_or_else(Arc::default, |kept| kept.budget.clone()),
            budget_limits: budget,
            latencies: kept.map_or_else(Arc::default, |kept| kept.latencies.clone()),
            bulkhead: kept.map_or_else(bulkhead, |kept| kept.bulkhead.clone()),
            bulkhead_limits,
            breaker,
            outliers,
            availability,
            health,
            discovered,
            membership,
            groups: groups.into(),
        });
        self.policies.push(Arc::new(policy));
        Destination { cluster: (self.clusters.len() - 1) as u32, group: 0 }
    }

    /// Tells that `name` is no service, with the one that was probably meant.
    fn unknown_service(&mut self, name: &str, at: Path) {
        let mistake = Mistake::at(at, format!("no service is called {}", quote(name)));
        let mistake = match self.config.services {
            Some(_) => mistake,
            None => mistake.unless_wrong(path_to!["services"]),
        };
        let names = self.by_name.keys().copied();
        self.mistake(match closest(name, names) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake
                .help(format!("add it under `services`, as `{name}: {{ endpoints: [...] }}`")),
        });
    }
}

fn has_routes(inbound: &schema::Inbound) -> bool {
    inbound.routes.as_ref().is_some_and(|routes| !routes.is_empty())
}

/// What may be spoken to reach `cluster`: what its protocol says, or else what its ports suggest.
fn detect(cluster: &Cluster, has_routes: bool) -> Detect {
    use crate::endpoint::Address;
    let opaque = |address: &Address| match address {
        Address::Socket(address) => OPAQUE_PORTS.contains(&address.port()),
        Address::Name { port, .. } => OPAQUE_PORTS.contains(port),
        Address::Unix(_) => false,
    };
    let mut endpoints = cluster.groups.iter().flat_map(|group| group.endpoints.iter());
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
        // Routes say that it is HTTP: what only looks like it must not slip past them as opaque bytes.
        Protocol::Auto if has_routes => Detect::Http,
        Protocol::Tcp | Protocol::Auto => Detect::Auto,
    }
}

fn protocol(typed: Option<schema::Protocol>) -> Protocol {
    match typed {
        Some(schema::Protocol::Http1) => Protocol::Http1,
        Some(schema::Protocol::Http2) => Protocol::Http2,
        Some(schema::Protocol::Tcp) => Protocol::Tcp,
        Some(schema::Protocol::Auto) | None => Protocol::Auto,
    }
}
