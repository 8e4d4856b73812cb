//! From a request to a tunnel: `CONNECT`, and the protocols that a request may switch to.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use super::attempt::{self, Answer, Choice};
use super::body::Body;
use super::connection::Connection;
use super::error::Failure;
use super::report::{Ending, Report};
use super::target::Target;
use super::tunnel::{self, End, Tally, TunnelEnd};
use super::upload::RequestBody;
use super::{Answered, choose, headers, upgrade};
use crate::clock;
use crate::config::snapshot::{ListenerKind, Route};
use crate::drain::{Drain, Phase};
use crate::endpoint::InFlight;
use crate::stream::Stream;
use crate::upstream::{Lease, Wire, connect::connect};
use crate::worker::{View, Worker};

/// The upstream's consent to another protocol, in the form that the client's version has for it.
pub fn switched(
    mut answer: Answer,
    route: &Route,
    version: Version,
    protocol: &HeaderValue,
    key: Option<&HeaderValue>,
    client: Option<OnUpgrade>,
    service: &str,
) -> Result<Answered, Failure> {
    let on_upgrade = hyper::upgrade::on(&mut answer.response);
    let (mut head, body) = answer.response.into_parts();
    // On HTTP/1 the lease alone has the connection now.
    drop(body);
    let (server, lease) = match answer.lease.wire() {
        Wire::Http2 => (Far::Upgrade(on_upgrade), Some(answer.lease)),
        Wire::Http1 => {
            let (stream, early) =
                answer.lease.into_stream().ok_or_else(|| Failure::BadResponse {
                    service: service.to_owned(),
                    detail: "101 before the end of the request's body".to_owned(),
                })?;
            (Far::Socket(stream, early), None)
        }
    };
    headers::strip_hop_by_hop(&mut head.headers, answer.fields);
    if let Some(ops) = &route.response_headers {
        ops.apply(&mut head.headers);
    }
    let mut response = Response::from_parts(head, Body::empty());
    *response.version_mut() = Version::HTTP_11;
    upgrade::grant(&mut response, version, protocol, key);
    let held = Held { _in_flight: answer.in_flight, _lease: lease };
    Ok(Answered::Tunnel(response, Opening { client, server, held }))
}

/// `CONNECT`: a tunnel to a service, or to the host that the client names.
pub async fn open(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    connection: &Rc<Connection>,
    target: &Target,
    parts: &mut Parts,
    report: &mut Report,
) -> Result<Answered, Failure> {
    if connection.listener.kind != ListenerKind::Outbound {
        return Err(Failure::ConnectRefused);
    }
    let client = super::take_on_upgrade(parts);
    let (route, to, cluster) = choose::tunnel(worker, view, connection, target)?;
    report.route(&route);
    report.service(cluster);
    let limit = route.policy.timeouts.connect;
    let (endpoint, in_flight, stream) = match to {
        Choice::Group(to) => attempt::dial(worker, view, to, limit).await?,
        Choice::Host(endpoint) => {
            let in_flight = endpoint.begin(clock::nanos(clock::now()));
            let service = target.host.clone();
            let stream = connect(&endpoint.address, limit)
                .await
                .map_err(|error| Failure::Connect { service, error })?;
            (endpoint, in_flight, stream)
        }
    };
    report.attempt(&endpoint);
    report.answered(StatusCode::OK, clock::now());
    let held = Held { _in_flight: in_flight, _lease: None };
    let opening = Opening { client, server: Far::Socket(stream, Bytes::new()), held };
    Ok(Answered::Tunnel(Response::new(Body::empty()), opening))
}

/// A tunnel that begins when the client has its answer.
pub struct Opening {
    /// On HTTP/2; on HTTP/1 the connection itself becomes the client's end.
    client: Option<OnUpgrade>,
    server: Far,
    held: Held,
}

/// What counts at its endpoint for as long as the tunnel lives: the request, and on HTTP/2 its stream.
struct Held {
    _in_flight: InFlight,
    _lease: Option<Lease<RequestBody>>,
}

enum Far {
    Upgrade(OnUpgrade),
    /// With what was read from it already.
    Socket(Stream, Bytes),
}

impl Opening {
    pub fn begin(self, worker: &Rc<Worker>, connection: &Connection, report: Box<Report>) {
        let limits = worker.view().snapshot.limits;
        let tunnel =
            Tunnel { server: self.server, held: self.held, report, idle: limits.idle_timeout };
        match self.client {
            None => {
                *connection.tunnel.borrow_mut() = Some(tunnel);
            }
            Some(client) => {
                let drain = worker.drain.clone();
                tokio::task::spawn_local(async move {
                    match client.await {
                        Ok(client) => tunnel.run(End::upgraded(client), &drain).await,
                        Err(_) => tunnel.report.finish(Ending::ClientGone, clock::now()),
                    }
                });
            }
        }
    }
}

/// A request that has become a tunnel.
pub struct Tunnel {
    server: Far,
    held: Held,
    report: Box<Report>,
    idle: Duration,
}

impl Tunnel {
    /// Carries bytes until the tunnel ends or the drain cuts it.
    pub async fn run(self, client: End, drain: &Drain) {
        let Self { server, held, report, idle } = self;
        let server = match server {
            Far::Socket(stream, early) => End::socket(stream, early),
            Far::Upgrade(upgrade) => match upgrade.await {
                Ok(upgraded) => End::upgraded(upgraded),
                Err(_) => return report.finish(Ending::UpstreamBroken, clock::now()),
            },
        };
        let tally = Tally::default();
        let end = tokio::select! {
            end = tunnel::run(client, server, Some(idle), &tally) => end,
            () = drain.reached(Phase::Cut) => TunnelEnd::Cut,
        };
        report.finish_tunnel(&tally, end);
        drop(held);
    }
}
