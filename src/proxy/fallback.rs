//! An answer in place of a failure: one that the route has in store, or another service's.

use http::header::HeaderName;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, StatusCode};

use super::attempt::{self, Answer, Call, Choice};
use super::body::Body;
use super::error::Failure;
use super::report::Report;
use super::{direct, send};
use crate::clock;
use crate::config::snapshot::Destination;
use crate::names::Names;
use crate::policy::Policy;
use crate::policy::fallback::{Cause, Fallback, Instead};
use crate::upstream::ConnectErrorKind;

/// Says of an answer that it stands in for another one, and why.
pub static FALLBACK: HeaderName = HeaderName::from_static("x-pilotfish-fallback");

/// Why a request failed, as the configuration of fallbacks calls it.
fn cause(failure: &Failure) -> Option<Cause> {
    Some(match failure {
        Failure::BreakerOpen { .. } => Cause::BreakerOpen,
        Failure::NoEndpoint { .. } | Failure::Undiscovered { .. } => Cause::NoEndpoint,
        Failure::Connect { error, .. } => match error.kind {
            ConnectErrorKind::Overflow => Cause::Overflow,
            _ => Cause::ConnectFailure,
        },
        Failure::Timeout { .. } => Cause::Timeout,
        Failure::Reset { .. } | Failure::Refused { .. } | Failure::Unwritten { .. } => Cause::Reset,
        Failure::Overflow { .. } => Cause::Overflow,
        Failure::Shed { .. } => Cause::Shed,
        Failure::RateLimited { .. } => Cause::RateLimited,
        Failure::Malformed(_)
        | Failure::BadPath(_)
        | Failure::ConnectRefused
        | Failure::BodyTooLarge { .. }
        | Failure::Overload { .. }
        | Failure::Fault(_)
        | Failure::NoRoute { .. }
        | Failure::UnknownHost { .. }
        | Failure::Loop { .. }
        | Failure::NotHttp { .. }
        | Failure::BodyTimeout { .. }
        | Failure::BodyBroken
        | Failure::BadResponse { .. }
        | Failure::Panic => return None,
    })
}

/// The stored answer for a failure, where the route has one for it. gRPC has no answer that would fit.
pub fn instead_of(failure: &Failure, report: &mut Report) -> Option<Response<Body>> {
    let route = report.routed()?.clone();
    let fallback = route.policy.fallback.as_deref()?;
    let Instead::Answer(answer) = &fallback.instead else { return None };
    if report.is_grpc() {
        return None;
    }
    let cause = fallback.takes(cause(failure), failure.status())?;
    report.failed(failure);
    report.fell_back(cause);
    let mut response = direct::responded(answer, &route, report);
    mark(&mut response, report);
    Some(response)
}

/// The stored answer in place of an upstream's with this status.
pub fn instead_of_status(status: StatusCode, report: &mut Report) -> Option<Response<Body>> {
    let route = report.routed()?.clone();
    let fallback = route.policy.fallback.as_deref()?;
    let Instead::Answer(answer) = &fallback.instead else { return None };
    if report.is_grpc() {
        return None;
    }
    let cause = fallback.takes(None, status)?;
    report.fell_back(cause);
    let mut response = direct::responded(answer, &route, report);
    mark(&mut response, report);
    Some(response)
}

/// Notes on an answer that it is a fallback, where it is one.
pub fn mark(response: &mut Response<Body>, report: &Report) {
    if let Some(cause) = report.fallback()
        && let Ok(value) = HeaderValue::try_from(&*cause.text())
    {
        response.headers_mut().insert(FALLBACK.clone(), value);
    }
}

/// What another service would be asked with.
struct Spare {
    parts: Parts,
    names: Names,
    path: PathAndQuery,
    authority: HeaderValue,
}

/// The fallback of a request for which another service may be asked.
pub fn of_service<'a>(call: &Call<'a>) -> Option<&'a Fallback> {
    let policy: &'a Policy = call.policy;
    policy.fallback.as_deref().filter(|fallback| fallback.service().is_some())
}

async fn send(call: &mut Call<'_>, report: &mut Report) -> Result<Answer, Failure> {
    send::enter(call, report).await?;
    attempt::run(call, report).await
}

/// Sends a request, and where that fails, to the service that stands in.
///
/// # Errors
/// Why there is no answer: of the service that was asked last.
pub async fn run(
    call: &mut Call<'_>,
    fallback: &Fallback,
    report: &mut Report,
) -> Result<Answer, Failure> {
    let spare = Spare {
        parts: call.parts.clone(),
        names: call.names.clone(),
        path: call.path.clone(),
        authority: call.authority.clone(),
    };
    call.keeps_body = true;
    let answered = send(call, report).await;
    let (cause, status) = match &answered {
        Ok(answer) => (None, answer.response.status()),
        Err(failure) => (cause(failure), failure.status()),
    };
    let taken = fallback.takes(cause, status).filter(|_| call.upgrade.is_none());
    let hosts = &call.view.snapshot.outbound.hosts;
    let known = fallback.service().and_then(|name| hosts.get(&**name));
    let (Some(cause), Some(other)) = (taken, known) else {
        if let (Ok(_), Some(upload)) = (&answered, &call.upload) {
            upload.forget_replay();
        }
        return answered;
    };
    let cluster = &call.view.snapshot.clusters[other.cluster as usize];
    let Some(wire) = attempt::wire(cluster.protocol, call.is_grpc) else { return answered };
    if call.upload.as_ref().is_some_and(|upload| !upload.can_replay()) {
        report.not_again("body_too_large");
        return answered;
    }
    // Its slots and its place at the endpoint are free again, and soon its connection.
    if let Ok(answer) = answered {
        answer.discard();
    }
    report.fell_back(cause);
    report.service(other.cluster);
    // It has the time that its own policy gives it. The client waits no longer than it said.
    let now = clock::now();
    let passed = now.saturating_duration_since(call.started);
    let mut instead = Call {
        cluster,
        cluster_index: other.cluster,
        to: Choice::Group(Destination { cluster: other.cluster, group: 0 }),
        policy: &other.fallback.policy,
        parts: spare.parts,
        names: spare.names,
        authority: spare.authority,
        path: spare.path,
        upload: call.upload.clone(),
        gate: call.gate.clone(),
        stream: call.stream.clone(),
        wire,
        overrun: report.overrun(other.fallback.policy.timeouts.mode),
        keeps_body: false,
        client_timeout: call.client_timeout.map(|limit| limit.saturating_sub(passed)),
        started: now,
        began: now,
        ..*call
    };
    send(&mut instead, report).await
}
