//! Services and the app: clusters with their endpoints, and how each is reached from the app.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::super::schema::{self, Service};
use super::super::snapshot::{Destination, Detect, OutboundService, PortTarget};
use super::super::units;
use super::policy::budget;
use super::routes::Scope;
use super::{Compiler, Mistake, Path, Protocol, detect, kind, path_to, protocol, quote};
use crate::endpoint::{Address, Endpoint};
use crate::policy::{BudgetLimits, Policy};
use crate::route::Router;

type Hosts = HashMap<Box<str>, Arc<OutboundService>, foldhash::fast::RandomState>;

impl<'a> Compiler<'a> {
    /// A cluster for each service, without its routes, which may lead to any of them.
    pub(super) fn services(&mut self) {
        let Some(services) = &self.config.services else {
            return;
        };
        let defaults = services.defaults.as_ref();
        for (name, service) in &services.by_name {
            let at = path_to!["services", name];
            let endpoints = self.endpoints(name.as_str(), service, &at);
            let layers = [
                defaults.and_then(|defaults| defaults.policy.as_ref()),
                service.policy.as_ref(),
            ];
            let protocol = protocol(
                service
                    .protocol
                    .or_else(|| defaults.and_then(|d| d.protocol)),
            );
            let kind = kind(
                service
                    .load_balancer
                    .or_else(|| defaults.and_then(|d| d.load_balancer)),
            );
            let index = self.cluster(name.as_str().into(), protocol, budget(&layers));
            let mut versions: Vec<Box<str>> = endpoints
                .iter()
                .filter_map(|endpoint| endpoint.version.clone())
                .collect();
            versions.sort();
            versions.dedup();
            let mut groups = vec![self.group(None, endpoints.clone(), kind)];
            for version in versions {
                let of_version = endpoints
                    .iter()
                    .filter(|endpoint| endpoint.version.as_ref() == Some(&version))
                    .cloned()
                    .collect();
                groups.push(self.group(Some(version), of_version, kind));
            }
            self.clusters[index as usize].groups = groups;
            self.by_name.insert(name.as_str(), index);
        }
    }

    fn endpoints(&mut self, name: &str, service: &Service, at: &Path) -> Vec<Arc<Endpoint>> {
        let Some(typed) = &service.endpoints else {
            self.mistake(
                Mistake::at_key(at.clone(), format!("service `{name}` has no endpoints"))
                    .help("say where it runs, as in `endpoints: [10.0.0.1:3001]`"),
            );
            return Vec::new();
        };
        let name: Arc<str> = name.into();
        let mut seen = HashSet::new();
        let mut endpoints = Vec::with_capacity(typed.len());
        for (index, endpoint) in typed.iter().enumerate() {
            let at = at.join("endpoints").join(index);
            let address = address(&endpoint.address);
            if !seen.insert(address.clone()) {
                let message = format!("{} is listed twice", quote(&address.to_string()));
                self.mistake(
                    Mistake::at(at, message).help("remove one; use `weight` to give it more"),
                );
                continue;
            }
            let weight = endpoint.weight.unwrap_or(1);
            // Weight 0 takes an endpoint out without forgetting where it is.
            if weight > 0 {
                endpoints.push(self.endpoint(&name, address, weight, endpoint));
            }
        }
        if endpoints.is_empty() && !typed.is_empty() && self.mistakes.is_empty() {
            self.mistake(
                Mistake::at(at.join("endpoints"), "the weights of all endpoints are 0")
                    .help("give one of them a weight of at least 1"),
            );
        }
        endpoints
    }

    fn endpoint(
        &self,
        service: &Arc<str>,
        address: Address,
        weight: u32,
        typed: &schema::Endpoint,
    ) -> Arc<Endpoint> {
        let key = (service.clone(), address.to_string().into_boxed_str());
        let state = self.states.get(&key).cloned().unwrap_or_default();
        Arc::new(Endpoint {
            weight,
            zone: typed.zone.as_deref().map(Into::into),
            version: typed.version.as_deref().map(Into::into),
            ..Endpoint::new(address, state)
        })
    }

    /// The app that we stand beside.
    pub(super) fn app(&mut self) {
        let Some(own) = &self.config.service else {
            return;
        };
        let at = path_to!["service"];
        let address = match (&own.port, &own.address) {
            (Some(port), None) => Address::Socket((Ipv4Addr::LOCALHOST, *port).into()),
            (None, Some(typed)) => address(typed),
            (Some(_), Some(_)) => {
                let mistake = Mistake::at_key(
                    at.join("address"),
                    "`port` and `address` both say where the app is",
                );
                return self.mistake(mistake.help("keep one of them"));
            }
            (None, None) => {
                // An app that only calls others has no door.
                if self
                    .config
                    .inbound
                    .as_ref()
                    .is_none_or(|inbound| inbound.on().is_some())
                {
                    self.mistake(Mistake::at(at, "the app's `port` is missing").help(
                        "add `port: 8080`, or `inbound: off` for an app that only calls others",
                    ));
                }
                return;
            }
        };
        let name: Arc<str> = own.name.as_str().into();
        let typed = schema::Endpoint::from(match &own.address {
            Some(address) => address.clone(),
            None => units::Address::Socket((Ipv4Addr::LOCALHOST, own.port.unwrap_or(0)).into()),
        });
        let endpoint = self.endpoint(&name, address, 1, &typed);
        let cluster = self.cluster(name, protocol(own.protocol), BudgetLimits::default());
        let group = self.group(None, vec![endpoint], kind(None));
        self.clusters[cluster as usize].groups.push(group);
        self.app = Some(Destination { cluster, group: 0 });
    }

    /// What the app can call: by service, and by each host name of it.
    pub(super) fn outbound_services(&mut self) -> (HashMap<&'a str, Arc<OutboundService>>, Hosts) {
        let mut services = HashMap::new();
        let mut hosts = Hosts::default();
        let Some(typed) = &self.config.services else {
            return (services, hosts);
        };
        for (name, service) in &typed.by_name {
            let name = name.as_str();
            let Some(&cluster) = self.by_name.get(name) else {
                continue;
            };
            let at = path_to!["services", name];
            let policy = self.service_policy(name, true);
            let to = Destination { cluster, group: 0 };
            let scope = Scope::service(name, to, policy);
            let routes = service.routes.as_deref().unwrap_or_default();
            let (compiled, path_sensitive) = self.routes(routes, &at.join("routes"), &scope);
            let fallback = self.fallback_route(&scope, to);
            let service_of = Arc::new(OutboundService {
                cluster,
                router: Router::new(compiled),
                fallback,
                path_sensitive,
            });
            services.insert(name, service_of.clone());
            hosts.insert(name.into(), service_of);
        }
        for (name, service) in &typed.by_name {
            for (index, host) in service.hosts.iter().flatten().enumerate() {
                let Some(service_of) = services.get(name.as_str()) else {
                    continue;
                };
                let taken = hosts.insert(host.as_str().into(), service_of.clone());
                if taken.is_some_and(|other| !Arc::ptr_eq(&other, service_of)) {
                    let at = path_to!["services", name, "hosts", index];
                    let message = format!("the host {} is another service's", quote(host.as_str()));
                    self.mistake(Mistake::at(at, message).help("a host leads to one service"));
                }
            }
        }
        (services, hosts)
    }

    /// The policy of calls to a service, the routes' own still to come.
    pub(super) fn service_policy(&mut self, name: &str, report: bool) -> Policy {
        let told = self.mistakes.len();
        let mut policy = Policy::default();
        let outbound = self
            .outbound_config()
            .and_then(|outbound| outbound.policy.as_ref());
        self.policy_of(
            &mut policy,
            outbound,
            &path_to!["outbound", "policy"],
            false,
        );
        // Told once, where the outbound side is compiled.
        self.mistakes.truncate(told);
        let Some(services) = &self.config.services else {
            return policy;
        };
        let defaults = services
            .defaults
            .as_ref()
            .and_then(|defaults| defaults.policy.as_ref());
        self.policy_of(
            &mut policy,
            defaults,
            &path_to!["services", "defaults", "policy"],
            true,
        );
        if let Some(service) = services.by_name.iter().find(|(n, _)| n.as_str() == name) {
            let at = path_to!["services", name, "policy"];
            self.policy_of(&mut policy, service.1.policy.as_ref(), &at, true);
        }
        if !report {
            self.mistakes.truncate(told);
        }
        policy
    }

    pub(super) fn outbound_ports(
        &mut self,
        services: &HashMap<&'a str, Arc<OutboundService>>,
    ) -> HashMap<SocketAddr, PortTarget> {
        let mut ports = HashMap::new();
        let typed = self
            .outbound_config()
            .and_then(|outbound| outbound.ports.as_ref());
        for (port, target) in typed.into_iter().flatten() {
            let name = target.service.as_str();
            let Some(service) = services.get(name) else {
                self.unknown_service(name, path_to!["outbound", "ports", port]);
                continue;
            };
            let cluster = &self.clusters[service.cluster as usize];
            let detect = match target.protocol {
                Some(schema::ClientProtocol::Http) => Detect::Http,
                Some(schema::ClientProtocol::Tcp) => Detect::Tcp,
                Some(schema::ClientProtocol::Auto) | None => detect(cluster, false),
            };
            if detect == Detect::Http && cluster.protocol == Protocol::Tcp {
                let at = path_to!["outbound", "ports", port];
                let message = format!("service `{name}` speaks tcp, the port http");
                self.mistake(Mistake::at(at, message).help("give both the same protocol"));
            }
            let destination = Destination {
                cluster: service.cluster,
                group: 0,
            };
            let target = PortTarget {
                service: service.clone(),
                destination,
                detect,
            };
            ports.insert(port_address(*port, target_listen(typed, port)), target);
        }
        ports
    }
}

fn target_listen(
    typed: Option<&schema::Map<units::Port, schema::OutboundPort>>,
    port: &units::Port,
) -> Option<SocketAddr> {
    typed
        .and_then(|ports| ports.get(port)?.listen.as_ref())
        .map(|listen| listen.0)
}

/// Where a local port listens.
pub(super) fn port_address(port: units::Port, listen: Option<SocketAddr>) -> SocketAddr {
    listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.0))
}

fn address(typed: &units::Address) -> Address {
    match typed {
        units::Address::Socket(address) => Address::Socket(*address),
        units::Address::Name { host, port } => Address::Name {
            host: host.as_str().into(),
            port: *port,
        },
        units::Address::Unix(path) => Address::Unix(path.clone()),
    }
}
