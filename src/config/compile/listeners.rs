//! Which sockets take connections, and that no two of them want the same one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::schema::OrOff;
use super::super::snapshot::{Listener, ListenerKind};
use super::super::units::Listen;
use super::services::port_address;
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
const LOCAL4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

impl Compiler<'_> {
    pub(super) fn listeners(&mut self) -> Listeners {
        let mut used: Vec<(SocketAddr, Path)> = Vec::new();
        let mut data = Vec::new();
        for address in self.inbound_addresses() {
            used.push((address, path_to!["inbound", "listen"]));
            data.push(Listener {
                kind: ListenerKind::Inbound,
                address,
            });
        }
        for address in self.outbound_addresses() {
            used.push((address, path_to!["outbound", "listen"]));
            data.push(Listener {
                kind: ListenerKind::Outbound,
                address,
            });
        }
        let ports = self
            .outbound_config()
            .and_then(|outbound| outbound.ports.as_ref());
        for (port, target) in ports.into_iter().flatten() {
            let address = port_address(*port, target.listen.as_ref().map(|listen| listen.0));
            used.push((address, path_to!["outbound", "ports", port]));
            data.push(Listener {
                kind: ListenerKind::Port,
                address,
            });
        }
        let typed = self.config.admin.as_ref();
        let admin = or_default(
            typed.and_then(|admin| admin.listen.as_ref()),
            SocketAddr::new(LOCAL4, ADMIN_PORT),
        );
        let metrics = or_default(
            typed.and_then(|admin| admin.metrics.as_ref()),
            SocketAddr::new(ALL, METRICS_PORT),
        );
        used.extend(admin.map(|address| (address, path_to!["admin", "listen"])));
        used.extend(metrics.map(|address| (address, path_to!["admin", "metrics"])));
        self.check_twice(&used);
        self.check_app(&used);
        Listeners {
            data,
            admin,
            metrics,
        }
    }

    fn inbound_addresses(&mut self) -> Vec<SocketAddr> {
        let has_routes = self.inbound_config().is_some_and(has_routes);
        match &self.config.inbound {
            Some(OrOff::Off) => return Vec::new(),
            // Nothing to take in: neither an app nor a route.
            None if self.app.is_none() => return Vec::new(),
            Some(OrOff::On(_)) if self.config.service.is_none() && !has_routes => {
                self.mistake(
                    Mistake::at_key(path_to!["inbound"], "what comes in has nowhere to go")
                        .help("add `service: { name: ..., port: ... }` or `inbound.routes`"),
                );
            }
            _ => {}
        }
        let listen = self
            .inbound_config()
            .and_then(|inbound| inbound.listen.as_ref());
        vec![listen.map_or(SocketAddr::new(ALL, INBOUND_PORT), |listen| listen.0)]
    }

    fn outbound_addresses(&self) -> Vec<SocketAddr> {
        if matches!(self.config.outbound, Some(OrOff::Off)) {
            return Vec::new();
        }
        match self
            .outbound_config()
            .and_then(|outbound| outbound.listen.as_ref())
        {
            Some(listen) => vec![listen.0],
            None => [LOCAL4, LOCAL6]
                .map(|ip| SocketAddr::new(ip, OUTBOUND_PORT))
                .into(),
        }
    }

    fn check_twice(&mut self, used: &[(SocketAddr, Path)]) {
        for (index, (address, path)) in used.iter().enumerate() {
            let earlier = used[..index]
                .iter()
                .find(|(other, _)| overlap(*other, *address));
            let Some((_, earlier)) = earlier else {
                continue;
            };
            if earlier == path {
                continue;
            }
            let message = format!("port {} is used twice, by {earlier} too", address.port());
            self.mistake(Mistake::at(path.clone(), message).help("give each its own port"));
        }
    }

    /// An app on a port of ours would make us our own upstream.
    fn check_app(&mut self, used: &[(SocketAddr, Path)]) {
        let Some(app) = self.app else { return };
        let endpoint = &self.clusters[app.cluster as usize].groups[0].endpoints[0];
        let Address::Socket(address) = endpoint.address else {
            return;
        };
        let Some((_, path)) = used.iter().find(|(other, _)| overlap(*other, address)) else {
            return;
        };
        let key = self
            .config
            .service
            .as_ref()
            .is_some_and(|own| own.port.is_some());
        let at = path_to!["service", if key { "port" } else { "address" }];
        let message = format!("the app is on port {}, which is {path}", address.port());
        self.mistake(Mistake::at(at, message).help("say where the app listens, not the proxy"));
    }
}

fn or_default(typed: Option<&OrOff<Listen>>, default: SocketAddr) -> Option<SocketAddr> {
    match typed {
        None => Some(default),
        Some(typed) => typed.on().map(|listen| listen.0),
    }
}

/// Whether two sockets could not both be bound. Port 0 is a new one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any(a) || any(b))
}
