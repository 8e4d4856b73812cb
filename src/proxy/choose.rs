//! Which route and service a request means.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::header::VIA;
use http::request::Parts;
use http::uri::PathAndQuery;

use super::attempt::Choice;
use super::connection::Connection;
use super::error::Failure;
use super::target::{Target, with_path};
use crate::config::snapshot::{
    Action, Destination, ListenerKind, OutboundService, Route, Snapshot, Unknown,
};
use crate::endpoint::{Address, Endpoint};
use crate::route::{self, Router};
use crate::worker::{View, Worker};

pub struct Chosen {
    pub route: Arc<Route>,
    /// Normalised where a route of this listener looks at paths, so that app and route see the same.
    pub path: PathAndQuery,
    pub authority: HeaderValue,
    /// The host itself, where no service of the configuration has its name. What goes there bears our
    /// `Via`, so that we know it when its name turns out to be ours.
    pub host: Option<Arc<Endpoint>>,
}

/// Finds the route of a request.
///
/// # Errors
/// There is none, or the path cannot be matched safely.
pub fn route(
    worker: &Worker,
    view: &View,
    connection: &Connection,
    target: &Target,
    path: PathAndQuery,
    parts: &Parts,
) -> Result<Chosen, Failure> {
    let snapshot = &view.snapshot;
    let mut authority = target.authority.clone();
    let mut host = None;
    let (path, route) = match connection.listener.kind {
        ListenerKind::Inbound => {
            let inbound = &snapshot.inbound;
            let path = normalised(path, inbound.path_sensitive)?;
            let found = find(&inbound.router, target, &path, parts);
            let route = found.or(inbound.fallback.as_ref()).cloned();
            (path, route)
        }
        ListenerKind::Outbound => match known(snapshot, &target.host) {
            Some((service, name)) => {
                if let Some(name) = name {
                    authority = name;
                }
                let path = normalised(path, service.path_sensitive)?;
                let route = find(&service.router, target, &path, parts);
                let route = route.unwrap_or(&service.fallback).clone();
                (path, Some(route))
            }
            None => {
                if parts.headers.get_all(VIA).iter().any(|via| *via == worker.via) {
                    return Err(Failure::Loop { host: target.host.clone() });
                }
                host = Some(passthrough(worker, snapshot, connection, target, 80)?);
                (path, Some(snapshot.outbound.unknown_route.clone()))
            }
        },
        ListenerKind::Port => match snapshot.outbound.ports.get(&connection.listener.address) {
            Some(port) => {
                let path = normalised(path, port.service.path_sensitive)?;
                let route = find(&port.service.router, target, &path, parts);
                let route = route.unwrap_or(&port.service.fallback).clone();
                (path, Some(route))
            }
            None => (path, None),
        },
    };
    let route = route.ok_or_else(|| Failure::NoRoute {
        host: target.host.clone(),
        path: path.path().to_owned(),
    })?;
    Ok(Chosen { route, path, authority, host })
}

/// Where a `CONNECT` leads.
///
/// # Errors
/// The host is not known and may not be reached.
pub fn tunnel(
    worker: &Worker,
    view: &View,
    connection: &Connection,
    target: &Target,
) -> Result<(Arc<Route>, Choice, u32), Failure> {
    let snapshot = &view.snapshot;
    if let Some((service, _)) = known(snapshot, &target.host) {
        let to = match &service.fallback.action {
            Action::Forward(forward) => forward.to.first(),
            _ => Destination { cluster: service.cluster, group: 0 },
        };
        return Ok((service.fallback.clone(), Choice::Group(to), to.cluster));
    }
    let host = passthrough(worker, snapshot, connection, target, 443)?;
    let route = snapshot.outbound.unknown_route.clone();
    Ok((route, Choice::Host(host), snapshot.passthrough_cluster()))
}

fn find<'a>(
    router: &'a Router<Arc<Route>>,
    target: &Target,
    path: &PathAndQuery,
    parts: &Parts,
) -> Option<&'a Arc<Route>> {
    router.find(&route::Request {
        host: &target.host,
        method: &parts.method,
        path: path.path(),
        query: path.query(),
        headers: &parts.headers,
    })
}

fn normalised(path: PathAndQuery, sensitive: bool) -> Result<PathAndQuery, Failure> {
    if !sensitive || path.as_str() == "*" {
        return Ok(path);
    }
    let normal = match route::path::normalise(path.path()) {
        Ok(normal) => normal,
        Err(error) => return Err(Failure::BadPath(error.to_string())),
    };
    if *normal == *path.path() {
        return Ok(path);
    }
    let normal = normal.into_owned();
    with_path(&path, &normal)
}

/// The service of a host name; with the name that the service knows itself by, where the client used
/// the form `user-service.localhost`, which resolves to us without a line in `/etc/hosts`.
fn known<'a>(
    snapshot: &'a Snapshot,
    host: &str,
) -> Option<(&'a Arc<OutboundService>, Option<HeaderValue>)> {
    let hosts = &snapshot.outbound.hosts;
    if let Some(service) = hosts.get(host) {
        return Some((service, None));
    }
    let name = host.strip_suffix(".localhost")?;
    Some((hosts.get(name)?, HeaderValue::from_str(name).ok()))
}

fn passthrough(
    worker: &Worker,
    snapshot: &Snapshot,
    connection: &Connection,
    target: &Target,
    default_port: u16,
) -> Result<Arc<Endpoint>, Failure> {
    let port = target.port.unwrap_or(default_port);
    let ip = target.host.parse::<IpAddr>();
    let local = match ip {
        Ok(ip) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified() || ip == connection.local.ip().to_canonical()
        }
        Err(_) => target.host == "localhost" || target.host.ends_with(".localhost"),
    };
    let is_ours = |port| snapshot.listeners.iter().any(|listener| listener.address.port() == port);
    if local && (connection.local.port() == port || is_ours(port)) {
        return Err(Failure::Loop { host: format!("{}:{port}", target.host) });
    }
    if snapshot.outbound.unknown == Unknown::Reject {
        return Err(Failure::UnknownHost { host: target.host.clone() });
    }
    Ok(worker.passthrough(match ip {
        Ok(ip) => Address::Socket((ip, port).into()),
        Err(_) => Address::Name { host: target.host.as_str().into(), port },
    }))
}
