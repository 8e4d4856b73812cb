//! The story of a request. [`handle`] calls the steps in order and each step returns to it; inbound and
//! outbound share it.
//!
//! | file | its part |
//! |---|---|
//! | `connection` | a client's connection, from the first byte to the last |
//! | `target` | which host and path a request means |
//! | `choose` | which route and service that is |
//! | `direct` | answers that a route has in store |
//! | `fields`, `headers`, `forwarded`, `upgrade`, `hints` | what a message may carry on to the next hop |
//! | `shed` | refusing it because the proxy has too little |
//! | `fallback` | another answer where there is none |
//! | `send`: `fault`, `admission`, `mirror` | what stands between a request and its service |
//! | `attempt`, `trial` | sending it, and sending it again; what that tells of endpoints |
//! | `overrun` | what timeouts in shadow mode would have cut |
//! | `incoming`, `body`, `gate`, `opening`, `tunnel` | the bytes, and how a request becomes a tunnel |
//! | `limits` | how many of its kind may pass |
//! | `error`, `isolate` | what can go wrong, and the answer to it |
//! | `report` | what is said of it in the end |

mod admission;
pub mod attempt;
pub mod body;
mod choose;
pub mod connection;
mod direct;
mod discover;
pub mod error;
mod fallback;
mod fault;
mod fields;
mod forwarded;
mod gate;
mod headers;
mod hints;
mod http1;
mod http2;
mod identity;
mod incoming;
mod isolate;
mod limits;
mod mirror;
mod opening;
mod overrun;
mod report;
mod send;
mod shed;
mod target;
mod trial;
mod tunnel;
mod upgrade;
pub mod upload;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, SET_COOKIE, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};

use crate::balance::key;
use crate::clock;
use crate::config::snapshot::{Action, Destination, Forward, Group, Route, To};
use crate::listen::http1::Refused;
use crate::telemetry::Direction;
use crate::telemetry::trace::{self, Origin};
use crate::upstream::Wire;
use crate::worker::{View, Worker};
use attempt::{Answer, Call, Choice};
use body::{Body, Download, IdleTimer};
use choose::{Chosen, Found};
use connection::Connection;
use error::Failure;
use fields::Fields;
use gate::Gate;
use incoming::Incoming;
use isolate::{Isolated, Panicked};
use opening::Opening;
use overrun::Overrun;
use report::Report;
use target::Target;
use upgrade::Asked;
use upload::Upload;

/// Answers one request. This is the whole path: what is refused, what is answered here, what is sent
/// on, and what is said of it when its last byte has gone.
pub async fn handle(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let view = worker.view();
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    let has_body = !incoming.is_end_stream();
    let fields = Fields::of(&parts.headers);
    let waits = version == Version::HTTP_11
        && has_body
        && headers::expects_continue(&parts.headers, fields);
    let mut report = Report::begin(&worker, &view, &connection, &parts, fields, clock::now());
    let ended = {
        // Pinned where it is made: moving it would cost more than some of its steps.
        let story = answer(&worker, &view, &connection, parts, fields, incoming, &mut report);
        Isolated(pin!(story)).await
    };
    let answered = match ended {
        Ok(answered) => answered,
        Err(Panicked) => {
            worker.recorder.panics.inc();
            Err(Failure::Panic)
        }
    };
    // Whether a client that waited for `100 Continue` sends its body now or the next request, nobody can
    // tell (RFC 9110 10.1.1).
    // And what is left of a body after an answer of ours is not worth reading.
    let here = !matches!(&answered, Ok(answered) if answered.is_upstreams());
    let unread = waits && !report.asked_for_body() || has_body && here && !report.body_arrived();
    let quota = report.noted_quota();
    let mut response = match answered {
        Ok(Answered::Response(response)) => response.map(|body| body.reported(report)),
        Ok(Answered::Tunnel(response, tunnel)) => {
            tunnel.begin(&worker, &connection, report);
            response
        }
        Err(failure) => {
            let mut response = match fallback::instead_of(&failure, &mut report) {
                Some(response) => response.map(|body| body.reported(report)),
                None => failed(&worker, report, &failure),
            };
            if version == Version::HTTP_2 {
                response.headers_mut().remove(CONNECTION);
            }
            response
        }
    };
    if let Some(quota) = quota {
        limits::tell(quota, response.headers_mut());
    }
    let gone = !view.snapshot.listeners.contains(&connection.listener);
    let ends = worker.drain.is_at(connection::closing(connection.direction));
    let closes = ends || unread || gone;
    // In a 101 this field has to name the upgrade.
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if closes && !switches && version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers what could not be done.
fn failed(worker: &Worker, mut report: Box<Report>, failure: &Failure) -> Response<Body> {
    report.failed(failure);
    let mut response = failure.answer(report.is_grpc());
    let id = report.request_id(|| trace::request_id(&mut worker.random.borrow_mut()));
    response.headers_mut().insert(trace::X_REQUEST_ID, id);
    response.map(|body| body.reported(report))
}

/// Answers a head that is no request, and says of it what is said of any other.
pub fn refuse(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    refused: Refused,
) -> Response<Body> {
    let Refused { rejection, method, path } = refused;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method.unwrap_or_default();
    let fields = Fields::of(&parts.headers);
    let mut report =
        Report::begin(worker, &worker.view(), connection, &parts, fields, clock::now());
    report.path(path);
    failed(worker, report, &Failure::Malformed(rejection))
}

/// What is said of a request whose client was gone before anything was done for it.
pub fn abandoned(worker: &Rc<Worker>, connection: &Rc<Connection>, parts: &Parts) {
    let fields = Fields::of(&parts.headers);
    drop(Report::begin(worker, &worker.view(), connection, parts, fields, clock::now()));
}

/// About as many fields as a request gets on its way through, so that its map grows once.
const ADDED_FIELDS: usize = 8;

enum Answered {
    Response(Response<Body>),
    /// The head that makes the connection a tunnel, and what is at its other end.
    Tunnel(Response<Body>, Box<Opening>),
}

impl Answered {
    fn is_upstreams(&self) -> bool {
        match self {
            Self::Response(response) => response.body().is_upstreams(),
            Self::Tunnel(..) => true,
        }
    }
}

/// The steps themselves, in their order. Longer than a screen because it is the one story: each line is
/// a step, and what a step does stands elsewhere.
async fn answer(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    connection: &Rc<Connection>,
    mut parts: Parts,
    fields: Fields,
    incoming: Incoming,
    report: &mut Report,
) -> Result<Answered, Failure> {
    let limit = view.snapshot.limits.max_requests;
    report.admitted(worker.admit_request(limit).ok_or(Failure::Overload { limit })?);

    let target = connection.last_target.or_of(&parts)?;
    report.authority(&target.authority);
    let asked = upgrade::take(&mut parts, fields);
    if asked == Asked::Connect {
        let (headers, client) = (&parts.headers, incoming.stream());
        return opening::open(worker, view, connection, &target, (headers, fields), client, report)
            .await;
    }
    let path = target::path_and_query(&parts)?;
    let settled;
    let (view, chosen) = match choose::route(worker, view, connection, &target, path, &parts, true)?
    {
        Found::Route(chosen) => (view, chosen),
        // Boxed: a service is called for the first time once.
        Found::Unsettled(unsettled, path) => {
            let first = discover::settled(worker, connection, &target, &parts, unsettled, path);
            let (now, chosen) = Box::pin(first).await?;
            settled = now;
            report.follow(&settled);
            (&settled, chosen)
        }
    };
    let Chosen { route, path, authority, host } = chosen;
    report.route(&route);

    // Before anything is spent on the request.
    if let Some(limits) = &route.policy.rate_limits {
        let headers = &parts.headers;
        limits::admit(worker, view, connection, limits, headers, fields, report).await?;
    }
    limit_body(&parts, fields, route.policy.max_body)?;
    let raw_path = Some(parts.uri.path());
    shed::check(worker, view, connection.direction, &route.policy, &parts.headers, raw_path)?;
    let forward = match &route.action {
        Action::Forward(forward) => forward,
        Action::Redirect(redirect) => {
            let response = direct::redirected(redirect, &route, &target, &path, report);
            return Ok(Answered::Response(response));
        }
        Action::Respond(respond) => {
            return Ok(Answered::Response(direct::responded(respond, &route, report)));
        }
    };
    let (destination, wish) = balanced(worker, view, connection, forward, &parts);
    report.service(destination.cluster);
    let cluster = view.snapshot.cluster(destination);
    let wire = attempt::wire(cluster.protocol, report.is_grpc())
        .ok_or_else(|| Failure::NotHttp { service: cluster.name.to_string() })?;

    let deadline = &route.policy.deadline;
    let client_timeout = match fields.has(Fields::DEADLINE) || deadline.is_named() {
        true => deadline.read(&parts.headers, report.is_grpc()),
        false => None,
    };
    let client_version = parts.version;
    let stream = incoming.stream();
    let gate = gate(&parts, fields, wire);
    parts.headers.reserve(ADDED_FIELDS);
    client_headers(view, connection, &target, &mut parts, fields);
    request_headers(worker, view, &route, &mut parts, fields, report);
    if host.is_some() {
        parts.headers.append(VIA, worker.via.clone());
    }
    let (path, authority) = rewritten(forward, path, authority)?;
    let upload = (!incoming.is_end_stream())
        .then(|| Upload::new(incoming, route.policy.max_body, gate.clone(), report.started()));
    if let Some(upload) = &upload {
        report.upload(upload);
    }
    let protocol = match &asked {
        Asked::Upgrade { protocol, .. } => Some(protocol),
        _ => None,
    };
    let mut call = Call {
        worker,
        view,
        connection,
        cluster,
        cluster_index: destination.cluster,
        to: host.map_or(Choice::Group(destination), Choice::Host),
        wish,
        policy: &route.policy,
        parts,
        names: connection.names_of_request(),
        authority,
        path,
        upload: upload.clone(),
        gate: gate.clone(),
        stream: stream.clone(),
        upgrade: protocol,
        wire,
        client_version,
        client_timeout,
        overrun: report.overrun(route.policy.timeouts.mode),
        is_grpc: report.is_grpc(),
        keeps_body: false,
        started: report.started(),
        began: report.started(),
    };
    let mut answer = match fallback::of_service(&call) {
        None => {
            send::enter(&mut call, report).await?;
            attempt::run(&mut call, report).await?
        }
        // Boxed: few requests have one.
        Some(fallback) => Box::pin(fallback::run(&mut call, fallback, report)).await?,
    };
    let names = std::mem::take(&mut answer.names);
    stick(view.snapshot.group(destination), wish, report, answer.response.headers_mut());

    report.answered(answer.response.status(), answer.at);
    report.trailers(answer.response.headers());
    if let Asked::Upgrade { protocol, key } = &asked
        && upgrade::granted(&answer.response, wire, answer.sent_key.as_ref())
    {
        connection.name_answer(names);
        return opening::switched(
            answer,
            &route,
            client_version,
            protocol,
            key.as_ref(),
            stream,
            &cluster.name,
        );
    }
    attempt::check_response(&answer.response, &cluster.name)?;
    upgrade::check_refusal(&answer.response, &asked, client_version, &cluster.name)?;
    if let Some(gate) = &gate
        && !gate.is_open()
    {
        gate.shut();
    }
    if let Some(response) = fallback::instead_of_status(answer.response.status(), report) {
        answer.discard();
        return Ok(Answered::Response(response));
    }
    connection.name_answer(names);
    let overrun = call.overrun.take();
    let mut response = passed_on(answer, &route, upload, overrun);
    fallback::mark(&mut response, report);
    Ok(Answered::Response(response))
}

/// Where a request goes, and what the balancer there wants to know of it: taken from the request as the
/// client sent it.
fn balanced(
    worker: &Worker,
    view: &View,
    connection: &Connection,
    forward: &Forward,
    parts: &Parts,
) -> (Destination, Option<u64>) {
    let trusted = connection.trusted(view);
    let asked = key::Asked {
        headers: &parts.headers,
        query: parts.uri.query(),
        source: || forwarded::client(&parts.headers, connection.peer.ip(), trusted),
    };
    let hash = forward.to.key().and_then(|key| key.hash(&asked));
    let destination = forward.to.pick(&mut worker.random.borrow_mut(), hash);
    if matches!(forward.to, To::Split(_)) {
        view.count_split(&worker.recorder, destination);
    }
    (destination, view.snapshot.group(destination).balancer.wish(&asked))
}

/// Has a client come back to the endpoint that answered, where the service wants that and the client
/// does not do so already.
fn stick(group: &Group, wish: Option<u64>, report: &Report, headers: &mut HeaderMap) {
    let (Some(cookie), Some(endpoint)) = (group.balancer.cookie(), report.endpoint()) else {
        return;
    };
    if report.fallback().is_some() {
        // That is an endpoint of another service.
        return;
    }
    let wished = group.balancer.wished(wish).and_then(|index| group.endpoints.get(index));
    // One slow answer is no reason to leave an endpoint for good.
    if wished.is_none_or(|wished| !Arc::ptr_eq(wished, endpoint) && !report.is_hedges())
        && let Some(value) = cookie.set(endpoint)
    {
        headers.append(SET_COOKIE, value);
    }
}

/// Refuses a body whose announced length is over the limit before a byte of it is read.
fn limit_body(parts: &Parts, fields: Fields, limit: Option<u64>) -> Result<(), Failure> {
    if !fields.has(Fields::CONTENT_LENGTH) {
        return Ok(());
    }
    let announced = || parts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
    match limit {
        Some(limit) if announced().is_some_and(|length| length > limit) => {
            Err(Failure::BodyTooLarge { limit })
        }
        _ => Ok(()),
    }
}

/// A client that waits for `100 Continue` gets the upstream's, not ours: the upstream may refuse the
/// request before its body is sent. Clients of HTTP/2 do not wait.
fn gate(parts: &Parts, fields: Fields, wire: Wire) -> Option<Rc<Gate>> {
    let waits = parts.version == Version::HTTP_11
        && wire == Wire::Http1
        && headers::expects_continue(&parts.headers, fields);
    waits.then(Rc::default)
}

/// Says on a request that came from outside where it came from.
fn client_headers(
    view: &View,
    connection: &Connection,
    target: &Target,
    parts: &mut Parts,
    fields: Fields,
) {
    if connection.direction == Direction::Inbound {
        let trusted = connection.is_trusted(view);
        forwarded::apply(&mut parts.headers, fields, connection.peer_text(), trusted, target);
    }
}

/// The identity of a request, its part of the trace, and what its route changes.
fn request_headers(
    worker: &Worker,
    view: &View,
    route: &Route,
    parts: &mut Parts,
    fields: Fields,
    report: &mut Report,
) {
    let random = &mut worker.random.borrow_mut();
    let sample = view.snapshot.trace_sample;
    let (context, origin) = match fields.has(Fields::TRACE) {
        true => trace::continue_or_begin(&parts.headers, random, sample),
        false => (trace::begin(random, sample), Origin::Begun),
    };
    if fields.has(Fields::TRACESTATE) && origin != Origin::TraceParent {
        // Its owner says nothing about a trace that is not the one it came with.
        parts.headers.remove(trace::TRACESTATE);
    }
    parts.headers.insert(trace::TRACEPARENT, context.traceparent());
    let id = parts.headers.entry(trace::X_REQUEST_ID).or_insert_with(|| trace::request_id(random));
    let id = id.clone();
    if fields.has(Fields::EXPECT) && parts.version != Version::HTTP_11 {
        parts.headers.remove(http::header::EXPECT);
    }
    if let Some(ops) = &route.request_headers {
        ops.apply(&mut parts.headers);
    }
    report.identity(&parts.headers, &id, context);
}

/// Path and host as the route rewrites them.
fn rewritten(
    forward: &Forward,
    path: http::uri::PathAndQuery,
    authority: HeaderValue,
) -> Result<(http::uri::PathAndQuery, HeaderValue), Failure> {
    let Some(rewrite) = &forward.rewrite else {
        return Ok((path, authority));
    };
    let authority = rewrite.host.clone().unwrap_or(authority);
    let Some(rewrite) = &rewrite.prefix else {
        return Ok((path, authority));
    };
    // `/a` to `/b` makes `/b/c` of `/a/c`; `/a` to `/` makes `/c` of it, with one slash.
    let rest = path.path().get(rewrite.matched..).unwrap_or_default();
    let base = rewrite.replacement.trim_end_matches('/');
    let separator =
        if rest.is_empty() && base.is_empty() || !rest.is_empty() && !rest.starts_with('/') {
            "/"
        } else {
            ""
        };
    let path = target::with_path(&path, &format!("{base}{separator}{rest}"))?;
    Ok((path, authority))
}

/// The upstream's answer, as it goes to the client.
fn passed_on(
    answer: Answer,
    route: &Route,
    upload: Option<Rc<Upload>>,
    overrun: Option<Rc<Overrun>>,
) -> Response<Body> {
    let (mut head, incoming) = answer.response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers, answer.fields);
    head.version = Version::HTTP_11;
    if head.status == StatusCode::NO_CONTENT {
        // Clients of HTTP/2 refuse one (RFC 9110 8.6).
        head.headers.remove(CONTENT_LENGTH);
    }
    if let Some(ops) = &route.response_headers {
        ops.apply(&mut head.headers);
    }
    let idle = IdleTimer::new(route.policy.timeouts.stream_idle, answer.at, overrun);
    let body = Body::upstream(Download {
        incoming,
        lease: Some(answer.lease),
        in_flight: answer.in_flight,
        upload,
        idle,
        ended: false,
        broken: None,
    });
    Response::from_parts(head, body)
}
