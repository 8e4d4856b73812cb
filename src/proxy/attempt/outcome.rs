//! What an attempt ended with.

use http::{Response, StatusCode};

use super::super::error::{Failure, Fault};
use super::super::fields::Fields;
use super::super::report::Report;
use super::super::trial::Trial;
use super::super::upload::UploadFault;
use super::{Answer, Call};
use crate::clock::{self, Instant};
use crate::config::snapshot::Cluster;
use crate::endpoint::{InFlight, Outcome};
use crate::policy::{Conditions, End};
use crate::upstream::{ConnectError, ConnectErrorKind, SendError, http1, http2};

pub(super) fn connect_failure(cluster: &Cluster, error: ConnectError) -> Failure {
    Failure::Connect { service: cluster.name.to_string(), error }
}

pub(super) fn failed(in_flight: &InFlight, began: Instant) {
    let now = clock::now();
    in_flight.observe(now, now - began, Outcome::Failed);
}

/// The same failure, once what it says about the endpoint is known there. A client that breaks off says nothing;
/// one whose time was up only that the endpoint would have taken longer.
pub(super) fn blamed(failure: Failure, in_flight: &InFlight, began: Instant) -> Failure {
    match &failure {
        failure if failure.fault() == Fault::Upstream => failed(in_flight, began),
        Failure::Timeout { .. } => {
            let now = clock::now();
            in_flight.outrun(now, now - began);
        }
        _ => {}
    }
    failure
}

/// Whether a response may be passed on: an unasked 101 would let the upstream take over the client's
/// connection.
///
/// # Errors
/// It may not, and why.
pub fn check_response<B>(response: &Response<B>, service: &str) -> Result<(), Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "101 that nobody asked for".to_owned();
        return Err(Failure::BadResponse { service: service.to_owned(), detail });
    }
    Ok(())
}

/// Whether an answer is one to try again after.
pub(super) fn again_after(on: &Conditions, answer: &Answer, grpc: bool) -> Option<End> {
    let end = answered(answer, grpc);
    on.contains(end).then_some(end)
}

/// How an attempt ended that was answered, as far as the head tells.
fn answered(answer: &Answer, grpc: bool) -> End {
    let headers = answer.response.headers();
    let status = || headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    End::Answered { status: answer.response.status(), grpc: if grpc { status() } else { None } }
}

impl Call<'_> {
    /// Tells breakers and outlier detection how an attempt ended. What ends by somebody else's doing says
    /// nothing, nor does a connection that was dead before (`stale`).
    pub(super) fn tell(
        &self,
        trial: Trial,
        result: &Result<Answer, Failure>,
        stale: bool,
        report: &mut Report,
    ) {
        if trial.is_idle(self.cluster) {
            return;
        }
        let (end, now) = match result {
            Ok(answer) => match answered(answer, report.is_grpc()) {
                // So far it went well. What becomes a tunnel has no other end.
                end @ End::Answered { status, grpc: None }
                    if !status.is_server_error() && self.upgrade.is_none() =>
                {
                    let whole = !report.is_grpc() && answer.fields.has(Fields::CONTENT_LENGTH);
                    return report.expect(trial.answered(end, answer.at, whole));
                }
                end => (end, answer.at),
            },
            Err(failure) => match failure.end() {
                Some(end) if failure.fault() == Fault::Upstream && !stale => (end, clock::now()),
                _ => return,
            },
        };
        report.tell(trial, end, now);
    }

    pub(super) fn connect_failure(&self, error: ConnectError) -> Failure {
        if error.kind == ConnectErrorKind::Exhausted {
            self.worker.pool.close_idle();
        }
        let failure = connect_failure(self.cluster, error);
        self.worker.recorder.upstream_connections.inc([&self.cluster.name, failure.reason()]);
        failure
    }

    pub(super) fn send_failure(&self, error: &SendError) -> Failure {
        let service = self.cluster.name.to_string();
        let fault = self.upload.as_ref().and_then(|upload| upload.fault());
        match fault {
            Some(UploadFault::TooLarge) => {
                return Failure::BodyTooLarge { limit: self.policy.max_body.unwrap_or(0) };
            }
            Some(UploadFault::Broken) => {
                let http1 = self.connection.http1.as_ref();
                let why = http1.and_then(|http1| http1.body_rejection());
                return why.map_or(Failure::BodyBroken, Failure::Malformed);
            }
            None => {}
        }
        match error {
            SendError::Http1(error) => {
                let detail = error.to_string();
                match error {
                    http1::Error::Unwritten => Failure::Unwritten { service },
                    http1::Error::Malformed(_) => Failure::BadResponse { service, detail },
                    http1::Error::Closed | http1::Error::Io(_) | http1::Error::RequestBody => {
                        Failure::Reset { service, detail }
                    }
                }
            }
            SendError::Http2(error) => {
                let detail = error.to_string();
                match error {
                    http2::Error::Unwritten => Failure::Unwritten { service },
                    http2::Error::Malformed(_) => Failure::BadResponse { service, detail },
                    error if error.is_refusal() => Failure::Refused { service, detail },
                    http2::Error::Stream(_) | http2::Error::RequestBody => {
                        Failure::Reset { service, detail }
                    }
                }
            }
        }
    }
}
