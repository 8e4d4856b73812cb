//! Which route and service a request means.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::header::VIA;
use http::request::Parts;
use http::uri::PathAndQuery;

use super::attempt::Choice;
use super::connection::Connection;
use super::discover::Unsettled;
use super::error::Failure;
use super::target::{Target, with_path};
use crate::config::discovered::FirstAnswer;
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

/// What a request means.
pub enum Found {
    Route(Chosen),
    /// Nobody knows yet what it calls; with the path that was given.
    Unsettled(Unsettled, PathAndQuery),
}

/// Finds the route of a request. `may_wait`: whether what nobody knows yet is worth waiting for; otherwise there
/// is a route in any case.
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
    may_wait: bool,
) -> Result<Found, Failure> {
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
        ListenerKind::Outbound => match called(snapshot, &target.host, may_wait) {
            Called::Unsettled(unsettled) => return Ok(Found::Unsettled(unsettled, path)),
            Called::Service(service, name) => {
                if let Some(name) = name {
                    authority = name;
                }
                let path = normalised(path, service.path_sensitive)?;
                let route = find(&service.router, target, &path, parts);
                let route = route.unwrap_or(&service.fallback).clone();
                (path, Some(route))
            }
            Called::Host(silent) => {
                if parts.headers.get_all(VIA).iter().any(|via| *via == worker.via) {
                    return Err(Failure::Loop { host: target.host.clone() });
                }
                host = Some(passthrough(worker, snapshot, connection, target, 80, silent)?);
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
    if may_wait && let Some(unsettled) = pending(snapshot, &route) {
        return Ok(Found::Unsettled(unsettled, path));
    }
    Ok(Found::Route(Chosen { route, path, authority, host }))
}

/// The first of the services that a route leads to of which no registry has told anything yet.
fn pending(snapshot: &Snapshot, route: &Route) -> Option<Unsettled> {
    let Action::Forward(forward) = &route.action else { return None };
    let first = forward.to.all().iter().find_map(|to| snapshot.cluster(*to).pending());
    first.map(|first| Unsettled::Pending(first.clone()))
}

/// Where a `CONNECT` leads: by which route, to whom, and in which cluster that is.
pub type Way = (Arc<Route>, Choice, u32);

/// Where a `CONNECT` leads; `may_wait` as for [`route`].
///
/// # Errors
/// The host is not known and may not be reached.
pub fn tunnel(
    worker: &Worker,
    view: &View,
    connection: &Connection,
    target: &Target,
    may_wait: bool,
) -> Result<Result<Way, Unsettled>, Failure> {
    let snapshot = &view.snapshot;
    match called(snapshot, &target.host, may_wait) {
        Called::Unsettled(unsettled) => Ok(Err(unsettled)),
        Called::Service(service, _) => {
            let to = match &service.fallback.action {
                Action::Forward(forward) => forward.to.first(),
                _ => Destination { cluster: service.cluster, group: 0 },
            };
            if may_wait && let Some(first) = snapshot.cluster(to).pending() {
                return Ok(Err(Unsettled::Pending(first.clone())));
            }
            Ok(Ok((service.fallback.clone(), Choice::Group(to), to.cluster)))
        }
        Called::Host(silent) => {
            let host = passthrough(worker, snapshot, connection, target, 443, silent)?;
            let route = snapshot.outbound.unknown_route.clone();
            Ok(Ok((route, Choice::Host(host), snapshot.passthrough_cluster())))
        }
    }
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

/// What a host name means.
enum Called<'a> {
    /// A service; with the name that it knows itself by, where the client used the form
    /// `user-service.localhost`, which resolves to us without a line in `/etc/hosts`.
    Service(&'a Arc<OutboundService>, Option<HeaderValue>),
    /// A host that is no service; or perhaps one, where no registry could be asked, for this reason.
    Host(Option<Arc<String>>),
    Unsettled(Unsettled),
}

fn called<'a>(snapshot: &'a Snapshot, host: &str, may_wait: bool) -> Called<'a> {
    let outbound = &snapshot.outbound;
    let local = host.strip_suffix(".localhost");
    let known = outbound.hosts.get(host).map(|service| (service, None));
    let known = known.or_else(|| {
        let name = local.and_then(|name| HeaderValue::from_str(name).ok());
        let short = outbound.names.short(local.unwrap_or(host));
        outbound.hosts.get(short).map(|service| (service, name))
    });
    let Some((service, name)) = known else {
        let unknown = outbound.names.discoverable(local.unwrap_or(host)).filter(|_| may_wait);
        return unknown
            .map_or(Called::Host(None), |name| Called::Unsettled(Unsettled::Unknown(name.into())));
    };
    let cluster = &snapshot.clusters[service.cluster as usize];
    match &cluster.discovered {
        None => {}
        Some(discovered) => {
            discovered.is_called();
            if !discovered.exists {
                let pending = cluster.pending().filter(|_| may_wait);
                let wait =
                    |first: &Arc<FirstAnswer>| Called::Unsettled(Unsettled::Pending(first.clone()));
                let host = || Called::Host(discovered.first_answer.failure());
                return pending.map_or_else(host, wait);
            }
        }
    }
    Called::Service(service, name)
}

fn passthrough(
    worker: &Worker,
    snapshot: &Snapshot,
    connection: &Connection,
    target: &Target,
    default_port: u16,
    silent: Option<Arc<String>>,
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
        let host = target.host.clone();
        return Err(match silent {
            Some(error) => Failure::Undiscovered { host, error },
            None => Failure::UnknownHost { host },
        });
    }
    Ok(worker.passthrough(match ip {
        Ok(ip) => Address::Socket((ip, port).into()),
        Err(_) => Address::Name { host: target.host.as_str().into(), port },
    }))
}
