//! Which sockets take connections, and that no two of them want the same one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::super::report::Segment;
use super::super::schema::OrOff;
use super::super::snapshot::{Listener, ListenerKind};
use super::super::units::Listen;
use super::services::{LOCAL, address as address_of, port_addresses};
use super::{Compiler, Mistake, Path, has_routes, path_to};
use crate::endpoint::Address;

pub(super) struct Listeners {
    pub data: Vec<Listener>,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

const INBOUND_PORT: u16 = 15006;
const OUTBOUND_PORT: u16 = 15001;
const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;

const ALL: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// An address that we take, and where the configuration says so.
#[derive(Clone)]
struct Used {
    address: SocketAddr,
    path: Path,
    /// Whether it is there. A default is not.
    typed: bool,
}

impl Compiler<'_> {
    pub(super) fn listeners(&mut self) -> Listeners {
        let (inbound, outbound) = (self.inbound_config(), self.outbound_config());
        let mut used: Vec<Used> = Vec::new();
        let mut data = Vec::new();
        let mut listen = |kind, addresses: Vec<SocketAddr>, path: &Path, typed| {
            for address in addresses {
                data.push(Listener { kind, address });
                let path = path.clone();
                used.push(Used { address, path, typed });
            }
        };
        listen(
            ListenerKind::Inbound,
            self.inbound_addresses(),
            &path_to!["inbound", "listen"],
            inbound.is_some_and(|inbound| inbound.listen.is_some()),
        );
        listen(
            ListenerKind::Outbound,
            self.outbound_addresses(),
            &path_to!["outbound", "listen"],
            outbound.is_some_and(|outbound| outbound.listen.is_some()),
        );
        let ports = outbound.and_then(|outbound| outbound.ports.as_ref());
        for (port, target) in ports.into_iter().flatten() {
            let at = path_to!["outbound", "ports", port];
            let at = match target.listen {
                Some(_) => at.join("listen"),
                None => at,
            };
            listen(ListenerKind::Port, port_addresses(*port, target), &at, true);
        }
        let typed = self.config.admin.as_ref();
        let mut server = |typed: Option<&OrOff<Listen>>, key, default| {
            let address = match typed {
                None => default,
                Some(typed) => typed.on()?.0,
            };
            used.push(Used { address, path: path_to!["admin", key], typed: typed.is_some() });
            Some(address)
        };
        let admin = server(
            typed.and_then(|admin| admin.listen.as_ref()),
            "listen",
            SocketAddr::new(LOCAL[0], ADMIN_PORT),
        );
        let metrics = server(
            typed.and_then(|admin| admin.metrics.as_ref()),
            "metrics",
            SocketAddr::new(ALL, METRICS_PORT),
        );
        self.check_twice(&used);
        self.check_app(&used);
        self.check_services(&used);
        Listeners { data, admin, metrics }
    }

    fn inbound_addresses(&mut self) -> Vec<SocketAddr> {
        let has_routes = self.inbound_config().is_some_and(has_routes);
        match &self.config.inbound {
            Some(OrOff::Off) => return Vec::new(),
            // Nothing to take in: neither an app nor a route.
            None if self.app.is_none() => return Vec::new(),
            Some(OrOff::On(_)) if self.config.service.is_none() && !has_routes => {
                let mistake =
                    Mistake::at_key(path_to!["inbound"], "what comes in has nowhere to go")
                        .help("add `service: { name: ..., port: ... }` or `inbound.routes`");
                self.mistake(
                    mistake
                        .unless_wrong(path_to!["service"])
                        .unless_wrong(path_to!["inbound", "routes"]),
                );
            }
            _ => {}
        }
        let listen = self.inbound_config().and_then(|inbound| inbound.listen.as_ref());
        vec![listen.map_or(SocketAddr::new(ALL, INBOUND_PORT), |listen| listen.0)]
    }

    fn outbound_addresses(&self) -> Vec<SocketAddr> {
        if matches!(self.config.outbound, Some(OrOff::Off)) {
            return Vec::new();
        }
        match self.outbound_config().and_then(|outbound| outbound.listen.as_ref()) {
            Some(listen) => vec![listen.0],
            None => LOCAL.map(|ip| SocketAddr::new(ip, OUTBOUND_PORT)).into(),
        }
    }

    fn check_twice(&mut self, used: &[Used]) {
        // `outbound.listen` alone is two addresses.
        let mut told = HashSet::new();
        for (index, later) in used.iter().enumerate() {
            let earlier = used[..index].iter().find(|earlier| {
                earlier.path != later.path && overlap(earlier.address, later.address)
            });
            let Some(earlier) = earlier else { continue };
            if !told.insert((&earlier.path, &later.path)) {
                continue;
            }
            // Two defaults never meet, so one of the two is there to point at.
            let (at, other) = match later.typed {
                true => (later, earlier),
                false => (earlier, later),
            };
            let port = at.address.port();
            let message = format!("port {port} is taken by `{}` too", other.path);
            let help = match other.typed {
                true => "give each its own port".to_owned(),
                false => "it is the default there; choose another port for one of them".to_owned(),
            };
            let mistake = match at.path.segments().len() {
                // The key is the port.
                3 => Mistake::at_key(at.path.clone(), message),
                _ => Mistake::at(at.path.clone(), message),
            };
            self.mistake(mistake.help(help));
        }
    }

    /// A service behind a door of the proxy's own would be called through the proxy for ever.
    fn check_services(&mut self, used: &[Used]) {
        // The inbound door leads on to the app, if there is one; admin and metrics lead nowhere.
        let is_loop = |used: &&Used| match used.path.segments().first() {
            Some(Segment::Key(key)) => key == "outbound" || key == "inbound" && self.app.is_none(),
            _ => false,
        };
        let used: Vec<Used> = used.iter().filter(is_loop).cloned().collect();
        let services = self.config.services.as_ref().map(|services| &services.by_name);
        for (name, service) in services.into_iter().flatten() {
            for (index, typed) in service.endpoints.iter().flatten().enumerate() {
                let Some((ours, address)) = leads_to(&used, &address_of(&typed.address)) else {
                    continue;
                };
                let message = format!("{address} is the proxy itself, by `{}`", ours.path);
                let at = path_to!["services", name, "endpoints", index];
                self.mistake(Mistake::at(at, message).help("say where the service listens"));
            }
        }
    }

    /// An app on a port of ours would make us our own upstream.
    fn check_app(&mut self, used: &[Used]) {
        let Some(app) = self.app else { return };
        let endpoint = &self.clusters[app.cluster as usize].groups[0].endpoints[0];
        let Some((ours, address)) = leads_to(used, &endpoint.address) else { return };
        let own = self.config.service.as_ref();
        let key = match own.is_some_and(|own| own.port.is_some()) {
            true => "port",
            false => "address",
        };
        let message = format!(
            "the app cannot be on port {}: the proxy is, by `{}`",
            address.port(),
            ours.path
        );
        let mistake = Mistake::at(path_to!["service", key], message);
        self.mistake(mistake.help("say where the app listens, or move the proxy"));
    }
}

/// Which socket of ours an address leads to, as far as its text tells.
fn leads_to<'a>(used: &'a [Used], address: &Address) -> Option<(&'a Used, SocketAddr)> {
    let address = match address {
        Address::Socket(address) => *address,
        Address::Name { host, port } if &**host == "localhost" => SocketAddr::new(LOCAL[0], *port),
        Address::Name { .. } | Address::Unix(_) => return None,
    };
    // What listens on all addresses has the local ones; of others we cannot know.
    let local = address.ip().is_loopback() || address.ip().is_unspecified();
    let is_ours = |ours: SocketAddr| overlap(ours, address) && (local || ours.ip() == address.ip());
    used.iter().find(|used| is_ours(used.address)).map(|ours| (ours, address))
}

/// Whether two sockets could not both be bound. Port 0 is a new one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // `[::]` takes IPv4 as well.
    let covers = |all: IpAddr, ip: IpAddr| all == ALL || (all.is_unspecified() && ip.is_ipv4());
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}
