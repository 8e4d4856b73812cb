//! From a request to a tunnel: `CONNECT`, and the protocols that a request may switch to.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};

use super::attempt::{self, Answer, Choice};
use super::body::Body;
use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::http2::ClientStream;
use super::report::Report;
use super::target::Target;
use super::tunnel::{self, End, Tally, TunnelEnd};
use super::upload::RequestBody;
use super::{Answered, admission, choose, discover, headers, limits, shed, upgrade};
use crate::clock;
use crate::config::snapshot::{ListenerKind, Route};
use crate::drain::{Drain, Phase};
use crate::endpoint::{Held as Counted, InFlight};
use crate::upstream::{ConnectError, Lease, Wire, connect::connect};
use crate::worker::{View, Worker};

/// The upstream's consent to another protocol, in the form that the client's version has for it.
pub fn switched(
    mut answer: Answer,
    route: &Route,
    version: Version,
    protocol: &HeaderValue,
    key: Option<&HeaderValue>,
    client: Option<Rc<ClientStream>>,
    service: &str,
) -> Result<Answered, Failure> {
    let (mut head, body) = answer.response.into_parts();
    let bad = |detail: &str| Failure::BadResponse {
        service: service.to_owned(),
        detail: detail.to_owned(),
    };
    let (server, lease, connection) = match answer.lease.wire() {
        Wire::Http2 => {
            let tunnel = answer.lease.take_tunnel(body);
            let tunnel = tunnel.ok_or_else(|| bad("200 to what was no CONNECT"))?;
            (End::multiplexed(tunnel), Some(answer.lease), Counted::default())
        }
        Wire::Http1 => {
            // The lease alone has the connection then.
            drop(body);
            let (stream, early, counted) = answer
                .lease
                .into_stream()
                .ok_or_else(|| bad("101 before the end of the request's body"))?;
            (End::socket(stream, early), None, counted)
        }
    };
    headers::strip_hop_by_hop(&mut head.headers, answer.fields);
    if let Some(ops) = &route.response_headers {
        ops.apply(&mut head.headers);
    }
    let mut response = Response::from_parts(head, Body::empty());
    *response.version_mut() = Version::HTTP_11;
    upgrade::grant(&mut response, version, protocol, key);
    let held = Held { _in_flight: answer.in_flight, _lease: lease, _connection: connection };
    Ok(Answered::Tunnel(response, Box::new(Opening { client, server, held })))
}

/// `CONNECT`: a tunnel to a service, or to the host that the client names.
pub async fn open(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    connection: &Rc<Connection>,
    target: &Target,
    (headers, fields): (&HeaderMap, Fields),
    client: Option<Rc<ClientStream>>,
    report: &mut Report,
) -> Result<Answered, Failure> {
    if connection.listener.kind != ListenerKind::Outbound {
        return Err(Failure::ConnectRefused);
    }
    let settled;
    let (view, (route, to, cluster)) = match choose::tunnel(worker, view, connection, target, true)?
    {
        Ok(way) => (view, way),
        Err(unsettled) => {
            let (now, way) =
                discover::settled_tunnel(worker, connection, target, unsettled).await?;
            settled = now;
            report.follow(&settled);
            (&settled, way)
        }
    };
    report.route(&route);
    report.service(cluster);
    if let Some(limits) = &route.policy.rate_limits {
        limits::admit(worker, view, connection, limits, headers, fields, report).await?;
    }
    shed::check(worker, view, connection.direction, &route.policy, headers, None)?;
    let limit = route.policy.timeouts.connect;
    let (endpoint, in_flight, stream) = match to {
        Choice::Group(to) => {
            let dialled = attempt::dial(worker, view, to, connection.peer.ip(), limit).await?;
            dialled.shadow.into_iter().for_each(|would| report.shadowed(would));
            (dialled.endpoint, dialled.in_flight, dialled.stream)
        }
        Choice::Host(endpoint) => {
            let service = target.host.clone();
            let failed = |error| Failure::Connect { service, error };
            let passthrough = &view.snapshot.clusters[cluster as usize];
            let (held, stream) = async {
                let room = admission::connection(worker, passthrough, &endpoint, None);
                Ok::<_, ConnectError>((room.await?, connect(&endpoint.address, limit).await?))
            }
            .await
            .map_err(failed)?;
            let in_flight = endpoint.begin(clock::now()).holding(held);
            (endpoint, in_flight, stream)
        }
    };
    report.attempt(&endpoint);
    report.answered(StatusCode::OK, clock::now());
    let held = Held { _in_flight: in_flight, _lease: None, _connection: Counted::default() };
    let opening = Opening { client, server: End::socket(stream, Bytes::new()), held };
    Ok(Answered::Tunnel(Response::new(Body::empty()), Box::new(opening)))
}

/// A tunnel that begins when the client has its answer.
pub struct Opening {
    /// On HTTP/2; on HTTP/1 the connection itself becomes the client's end.
    client: Option<Rc<ClientStream>>,
    server: End,
    held: Held,
}

/// What counts at its endpoint for as long as the tunnel lives: the request, and on HTTP/2 its stream.
struct Held {
    _in_flight: InFlight,
    _lease: Option<Lease<RequestBody>>,
    _connection: Counted,
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
            Some(client) => client.become_tunnel(tunnel),
        }
    }
}

/// A request that has become a tunnel.
pub struct Tunnel {
    server: End,
    held: Held,
    report: Box<Report>,
    idle: Duration,
}

impl Tunnel {
    /// Carries bytes until the tunnel ends or the drain cuts it.
    pub async fn run(self, client: End, drain: &Drain) {
        let Self { server, held, report, idle } = self;
        let tally = Tally::default();
        let end = tokio::select! {
            end = tunnel::run(client, server, Some(idle), &tally) => end,
            () = drain.reached(Phase::Cut) => TunnelEnd::Cut,
        };
        report.finish_tunnel(&tally, end);
        drop(held);
    }
}
