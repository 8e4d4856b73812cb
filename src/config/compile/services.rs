//! Services and the app: clusters with their endpoints, and how each is reached from the app.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::super::discovered::Discovered;
use super::super::members::Membership;
use super::super::schema::{self, Config, Service};
use super::super::snapshot::{Destination, Detect, OutboundService, PortTarget, Selector};
use super::super::units::{self, Name};
use super::balancer::{self, selectors};
use super::health::health;
use super::policy::overlay;
use super::resilience::Governance;
use super::routes::{Scope, path_sensitive};
use super::{
    Compiler, Draft, Mistake, OrOff, Owner, PASSTHROUGH, Path, Protocol, detect, has_routes,
    path_to, protocol, quote,
};
use crate::balance::Plan;
use crate::endpoint::{Address, Instance};
use crate::policy::Policy;
use crate::route::Router;

/// Where only this host reaches us.
pub(super) const LOCAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A service of which nothing is said but by registries.
static NOTHING_TYPED: Service = Service {
    endpoints: None,
    hosts: None,
    protocol: None,
    load_balancer: None,
    zone_aware: None,
    health_check: None,
    policy: None,
    routes: None,
};

type Hosts = HashMap<Box<str>, Arc<OutboundService>, foldhash::fast::RandomState>;

impl<'a> Compiler<'a> {
    /// A cluster for each service, without its routes, which may lead to any of them.
    pub(super) fn services(&mut self) {
        let defaults =
            self.config.services.as_ref().and_then(|services| services.defaults.as_ref());
        let of_all = defaults.and_then(|defaults| defaults.policy.as_ref());
        self.check_rate_limits(of_all, &path_to!["services", "defaults", "policy"]);
        self.check_defaults(defaults);
        let mut selectors = selectors(self.config);
        for (name, service) in self.all_services() {
            let selectors = selectors.remove(name).unwrap_or_default();
            let cluster = self.service(name, service, defaults, selectors);
            self.by_name.insert(name, cluster.cluster);
        }
        self.check_service_policies();
    }

    /// Those of the configuration; where registries are asked, those that are called as well, and where it names
    /// registries, those that it only refers to.
    pub(super) fn all_services(&self) -> BTreeMap<&'a str, &'a Service> {
        let mut all = BTreeMap::new();
        if self.discovers {
            // Without a word of registries a name that is nowhere else is a slip.
            let referred = self.config.registry.iter().flat_map(|_| referred(self.config));
            let named = referred.chain(self.demanded());
            all.extend(named.map(|name| (name.as_str(), &NOTHING_TYPED)));
        }
        let typed = self.config.services.iter().flat_map(|services| &services.by_name);
        all.extend(typed.map(|(name, service)| (name.as_str(), service)));
        all
    }

    /// Services that are called, as far as the configuration lets them be. What it has for a host of a service, or
    /// for itself, is no service of its own because somebody called it.
    fn demanded(&self) -> impl Iterator<Item = &'a Name> + use<'a> {
        let on_demand = self.config.discovery.as_ref().and_then(|it| it.on_demand.as_ref());
        let is_on = !matches!(on_demand, Some(OrOff::Off));
        let services = self.config.services.iter().flat_map(|services| services.by_name.values());
        let hosts: BTreeSet<&str> =
            services.flat_map(|it| it.hosts.iter().flatten()).map(|host| host.as_str()).collect();
        let may = move |name: &&Name| {
            is_on && name.as_str() != PASSTHROUGH && !hosts.contains(name.as_str())
        };
        self.demanded.iter().filter(may)
    }

    fn service(
        &mut self,
        name: &'a str,
        service: &Service,
        defaults: Option<&schema::ServiceDefaults>,
        mut selectors: BTreeSet<Selector>,
    ) -> Destination {
        let at = path_to!["services", name];
        if name == PASSTHROUGH {
            let message = format!("`{PASSTHROUGH}` names what no service has, in logs and metrics");
            self.mistake(Mistake::at_key(at.clone(), message).help("choose another name"));
        }
        let of_all = defaults.and_then(|defaults| defaults.policy.as_ref());
        let outbound = self.outbound_config().and_then(|outbound| outbound.policy.as_ref());
        let layers = [outbound, of_all, service.policy.as_ref()];
        let mut policy = layers.into_iter().fold(Policy::default(), overlay);
        self.check_rate_limits(service.policy.as_ref(), &at.join("policy"));
        policy.rate_limits = self.rate_limits(&layers, &format!("services.{name}")).flatten();
        let of_all = defaults.and_then(|defaults| defaults.protocol);
        let protocol = self::protocol(service.protocol.or(of_all));
        let plan = self.plan(name, service, defaults, protocol, &at);
        let of_all = defaults.and_then(|defaults| defaults.health_check.as_ref());
        let health = health(&[of_all, service.health_check.as_ref()]);
        self.check_health(service.health_check.as_ref(), &at.join("health_check"));
        let governance = Governance { health, ..Governance::of_service(&layers) };
        let breaker = governance.breaker.clone().filter(|it| it.scope.has_endpoint());
        let owner = Owner::Service(name.into());
        let (instances, discovered) = match &service.endpoints {
            None if self.discovers => self.discovered(&owner, name),
            _ => (self.typed_instances(service, &at), None),
        };
        let own = service.health_check.as_ref();
        self.check_health_port(governance.health.as_deref(), own, &instances, &at);
        if discovered.is_none() {
            selectors.retain(|selector| instances.iter().any(|it| selector.takes(it)));
        }
        self.cluster(Draft {
            owner,
            name: name.into(),
            protocol,
            policy,
            governance,
            membership: Membership { plan, breaker },
            instances,
            discovered,
            selectors,
        })
    }

    /// What registries have told of a service.
    fn discovered(&self, owner: &Owner, name: &str) -> (Vec<Instance>, Option<Discovered>) {
        let typed = self.config.services.as_ref().map(|services| &services.by_name);
        let is_named = typed.is_some_and(|typed| typed.contains_key(name))
            || referred(self.config).any(|referred| referred.as_str() == name);
        let kept = self.kept.get(owner).filter(|kept| kept.discovered.is_some());
        let (instances, before) = match kept {
            Some(kept) => (kept.instances.clone(), kept.discovered.clone()),
            None => (Vec::new(), None),
        };
        let before = before.unwrap_or_default();
        let on_demand = (!is_named).then(|| before.on_demand.clone().unwrap_or_default());
        let exists = before.exists || is_named;
        (instances, Some(Discovered { on_demand, exists, ..before }))
    }

    /// Tells what is wrong in the policies of services, which may name any of them.
    fn check_service_policies(&mut self) {
        let services = self.config.services.iter();
        let defaults = services.clone().filter_map(|services| {
            let policy = services.defaults.as_ref()?.policy.as_ref()?;
            Some((policy, path_to!["services", "defaults", "policy"], false))
        });
        let each = services.flat_map(|services| &services.by_name).filter_map(|(name, service)| {
            let is_tcp = service.protocol == Some(schema::Protocol::Tcp);
            Some((service.policy.as_ref()?, path_to!["services", name, "policy"], is_tcp))
        });
        for (policy, at, is_tcp) in defaults.chain(each) {
            self.check_limits(policy, &at);
            self.check_resilience(policy, &at);
            self.check_faults(policy, &at);
            self.check_timeouts(policy, &at);
            if is_tcp {
                self.check_tcp_policy(policy, &at);
            }
        }
    }

    /// Tells what a service that speaks TCP has no use for.
    fn check_tcp_policy(&mut self, typed: &schema::Policy, at: &Path) {
        let given = [
            ("hedge", typed.hedge.is_some()),
            ("max_body", typed.max_body.is_some()),
            ("priority", typed.priority.is_some()),
            ("fallback", typed.fallback.is_some()),
            ("fault", typed.fault.is_some()),
            ("mirror", typed.mirror.is_some()),
            ("rate_limit", typed.rate_limit.is_some()),
            ("adaptive_concurrency", typed.adaptive_concurrency.is_some()),
        ];
        for (key, given) in given {
            if given {
                let message = format!("`{key}` is for requests, and this service speaks tcp");
                let mistake = Mistake::at_key(at.join(key), message);
                self.mistake(mistake.help(
                    "remove it; connections have `timeout.connect`, `bulkhead.max_connections`, \
                     `circuit_breaker` and `outlier_detection`",
                ));
            }
        }
    }

    fn check_defaults(&mut self, defaults: Option<&schema::ServiceDefaults>) {
        let at = path_to!["services", "defaults"];
        let health = defaults.and_then(|defaults| defaults.health_check.as_ref());
        self.check_health(health, &at.join("health_check"));
        if let Some(typed) = defaults.and_then(|defaults| defaults.load_balancer.as_ref()) {
            self.check_balancer(typed, false, &at.join("load_balancer"));
        }
        if let Some(typed) = defaults.and_then(|defaults| defaults.zone_aware.as_ref()) {
            self.check_zone(typed, false, &at.join("zone_aware"));
        }
    }

    /// How a service is balanced.
    fn plan(
        &mut self,
        name: &str,
        service: &Service,
        defaults: Option<&schema::ServiceDefaults>,
        protocol: Protocol,
        at: &Path,
    ) -> Plan {
        let of_all = defaults.and_then(|defaults| defaults.load_balancer.as_ref());
        let plan = balancer::plan(service.load_balancer.as_ref().or(of_all), name);
        if let Some(typed) = &service.load_balancer {
            let is_tcp = protocol == Protocol::Tcp;
            self.check_balancer(typed, is_tcp, &at.join("load_balancer"));
        }
        if let Some(typed) = &service.zone_aware {
            self.check_zone(typed, plan.kind.is_hash(), &at.join("zone_aware"));
        }
        let of_all = defaults.and_then(|defaults| defaults.zone_aware.as_ref());
        let own = self.config.service.as_ref().and_then(|own| own.zone.as_deref());
        Plan { zone: balancer::zone(service.zone_aware.as_ref().or(of_all), own), ..plan }
    }

    /// The instances that are typed.
    fn typed_instances(&mut self, service: &Service, at: &Path) -> Vec<Instance> {
        let Some(typed) = &service.endpoints else {
            let mistake = Mistake::at_key(at.clone(), "the service has no endpoints");
            let help =
                "say where it runs, as in `endpoints: [10.0.0.1:3001]`, or which `registry` knows";
            self.mistake(mistake.help(help).unless_wrong(at.clone()));
            return Vec::new();
        };
        let at = at.join("endpoints");
        let mut seen = HashSet::new();
        let mut instances = Vec::with_capacity(typed.len());
        for (index, endpoint) in typed.iter().enumerate() {
            let instance = instance(endpoint);
            let address = instance.address.clone();
            if !seen.insert(address.clone()) {
                let message = format!("{} is listed twice", quote(&address.to_string()));
                self.mistake(
                    Mistake::at(at.join(index).join("address"), message)
                        .help("remove one; use `weight` to give it more"),
                );
                continue;
            }
            // Weight 0 takes an endpoint out without forgetting where it is.
            if instance.weight > 0 {
                instances.push(instance);
            }
        }
        // An empty list is meant: the service is known and runs nowhere.
        if instances.is_empty() && !typed.is_empty() {
            self.mistake(
                Mistake::at(at.clone(), "the weights of all endpoints are 0")
                    .help("give one of them a weight of at least 1")
                    .unless_wrong(at),
            );
        }
        instances
    }

    /// The app that we stand beside.
    pub(super) fn app(&mut self) {
        let Some(own) = &self.config.service else {
            return;
        };
        let at = path_to!["service"];
        self.check_health(own.health_check.as_ref(), &at.join("health_check"));
        let typed = match (&own.port, &own.address) {
            (Some(port), None) => units::Address::Socket((Ipv4Addr::LOCALHOST, *port).into()),
            (None, Some(typed)) => typed.clone(),
            (Some(_), Some(_)) => {
                let mistake = Mistake::at_key(
                    at.join("address"),
                    "`port` and `address` both say where the app is",
                );
                return self.mistake(mistake.help("keep one of them"));
            }
            (None, None) => {
                // An app that only calls others has no door, and a gateway can have a name without an
                // app.
                let has_use = match &self.config.inbound {
                    None => true,
                    Some(OrOff::Off) => false,
                    Some(OrOff::On(inbound)) => !has_routes(inbound),
                };
                if has_use {
                    let mistake = Mistake::at_key(at.clone(), "the app's `port` is missing").help(
                        "add `port: 8080`, or `inbound: off` for an app that only calls others",
                    );
                    let mistake = mistake.unless_wrong(at.clone());
                    self.mistake(mistake.unless_wrong(path_to!["inbound"]));
                } else if let Some(OrOff::On(_)) = own.health_check {
                    let message = "nobody knows where the app is that is to be checked";
                    let mistake = Mistake::at_key(at.join("health_check"), message);
                    self.mistake(mistake.help("add the app's `port`").unless_wrong(at));
                }
                return;
            }
        };
        let instances = vec![address(&typed).into()];
        let health = health(&[own.health_check.as_ref()]);
        self.check_health_port(health.as_deref(), own.health_check.as_ref(), &instances, &at);
        let inbound = self.inbound_config().and_then(|inbound| inbound.policy.as_ref());
        self.app = Some(self.cluster(Draft {
            owner: Owner::App,
            name: own.name.as_str().into(),
            protocol: protocol(own.protocol),
            policy: Policy::default(),
            // What the app bears is limited only where that is said: `limits` are its limits too, and its
            // clients may well keep more than a thousand WebSockets.
            governance: Governance { health, ..Governance::of_one(inbound) },
            membership: Membership::default(),
            instances,
            discovered: None,
            selectors: BTreeSet::new(),
        }));
    }

    /// What the app can call: by service, and by each host name of it.
    pub(super) fn outbound_services(&mut self) -> (HashMap<&'a str, Arc<OutboundService>>, Hosts) {
        let mut services = HashMap::new();
        let mut hosts = Hosts::default();
        // Who has which host, for the mistake of who comes second.
        let mut owners = HashMap::new();
        let all = self.all_services();
        for (name, service) in &all {
            let name = *name;
            let cluster = self.by_name[name];
            let own = Destination { cluster, group: 0 };
            let place = format!("services.{name}.routes");
            let scope = Scope { own: Some(own), own_name: Some(name), place, ..Scope::default() };
            let at = path_to!["services", name, "routes"];
            let routes = service.routes.as_deref().unwrap_or_default();
            let compiled = self.routes(routes, &at, &scope);
            let service_of = Arc::new(OutboundService {
                cluster,
                path_sensitive: path_sensitive(&compiled),
                router: Router::new(compiled),
                fallback: self.plain_route("default", own, &scope),
            });
            services.insert(name, service_of.clone());
            hosts.insert(name.into(), service_of);
            owners.insert(name.to_owned(), name);
        }
        for (name, service) in &all {
            let name = *name;
            for (index, host) in service.hosts.iter().flatten().enumerate() {
                let at = path_to!["services", name, "hosts", index];
                let Some(host) = self.plain_host(host.as_str(), &at) else {
                    continue;
                };
                match owners.insert(host.clone(), name) {
                    Some(other) if other != name => {
                        let message =
                            format!("service `{other}` has the host {} too", quote(&host));
                        self.mistake(Mistake::at(at, message).help("remove it here or there"));
                    }
                    _ => drop(hosts.insert(host.into(), services[name].clone())),
                }
            }
        }
        (services, hosts)
    }

    /// A host as requests are looked up by it.
    fn plain_host(&mut self, host: &str, at: &Path) -> Option<String> {
        use crate::route::HostPattern;
        match self.pattern(HostPattern::parse(host), at.clone())? {
            HostPattern::Exact(host) => Some(host),
            // The type of the key has no wildcards.
            HostPattern::Suffix(_) => None,
        }
    }

    pub(super) fn outbound_ports(
        &mut self,
        services: &HashMap<&'a str, Arc<OutboundService>>,
    ) -> HashMap<SocketAddr, PortTarget> {
        let mut ports = HashMap::new();
        let typed = self.outbound_config().and_then(|outbound| outbound.ports.as_ref());
        for (port, target) in typed.into_iter().flatten() {
            let at = path_to!["outbound", "ports", port];
            let name = target.service.as_str();
            let Some(service) = services.get(name) else {
                self.unknown_service(name, at.join("service"));
                continue;
            };
            let cluster = &self.clusters[service.cluster as usize];
            let detect = match target.protocol {
                Some(schema::ClientProtocol::Http) => Detect::Http,
                Some(schema::ClientProtocol::Tcp) => Detect::Tcp,
                Some(schema::ClientProtocol::Auto) | None => detect(cluster, false),
            };
            if detect == Detect::Http && cluster.protocol == Protocol::Tcp {
                let message = format!("service `{name}` speaks tcp, the port http");
                let mistake = Mistake::at(at.join("protocol"), message);
                self.mistake(mistake.help("give both the same protocol"));
            }
            for address in port_addresses(*port, target) {
                let destination = Destination { cluster: service.cluster, group: 0 };
                let target = PortTarget { service: service.clone(), destination, detect };
                ports.insert(address, target);
            }
        }
        ports
    }
}

/// The services that routes and local ports lead to.
fn referred(config: &Config) -> impl Iterator<Item = &Name> {
    let inbound = config.inbound.as_ref().and_then(OrOff::on);
    let inbound = inbound.and_then(|inbound| inbound.routes.as_ref());
    let services = config.services.iter().flat_map(|services| services.by_name.values());
    let routes = services.filter_map(|service| service.routes.as_ref()).chain(inbound).flatten();
    let targets = routes.filter_map(|route| route.to.as_ref()).flat_map(|to| &to.0);
    let outbound = config.outbound.as_ref().and_then(OrOff::on);
    let ports = outbound.and_then(|outbound| outbound.ports.as_ref()).into_iter().flatten();
    targets.filter_map(|target| target.service.as_ref()).chain(ports.map(|(_, port)| &port.service))
}

/// Where a local port listens.
pub(super) fn port_addresses(port: units::Port, typed: &schema::OutboundPort) -> Vec<SocketAddr> {
    match &typed.listen {
        Some(listen) => vec![listen.0],
        None => LOCAL.map(|ip| SocketAddr::new(ip, port.0)).into(),
    }
}

pub fn instance(typed: &schema::Endpoint) -> Instance {
    let labels = typed.labels.iter().flatten();
    Instance {
        address: address(&typed.address),
        weight: typed.weight.unwrap_or(1),
        zone: typed.zone.as_deref().map(Into::into),
        version: typed.version.as_deref().map(Into::into),
        labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
    }
}

pub fn address(typed: &units::Address) -> Address {
    match typed {
        units::Address::Socket(address) => Address::Socket(*address),
        units::Address::Name { host, port } => {
            Address::Name { host: host.as_str().into(), port: *port }
        }
        units::Address::Unix(path) => Address::Unix(path.clone()),
    }
}
