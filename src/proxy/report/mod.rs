//! What is said of a request once it has ended, however it ended: one value that the access log, the
//! metrics and the gauges are written from.

mod end;
mod tcp;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::admission::ServiceSlot;
use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::forwarded;
use super::overrun::Overrun;
use super::trial::Trial;
use super::tunnel::TunnelEnd;
use super::upload::Upload;
use crate::clock::{self, Instant};
use crate::config::snapshot::Route;
use crate::endpoint::Endpoint;
use crate::policy::fallback::Cause;
use crate::policy::rate_limit::Quota;
use crate::policy::{End, Mode, Would, retry};
use crate::telemetry::flags::Flag;
use crate::telemetry::metrics::OpenGuard;
use crate::telemetry::trace::{TraceContext, X_REQUEST_ID};
use crate::worker::{RequestGuard, View, Worker};
pub use tcp::TcpReport;

/// How the body of a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Complete,
    ClientGone,
    UpstreamBroken,
    IdleTimeout,
    /// It became a tunnel, which ended so.
    Tunnel(TunnelEnd),
}

/// No route or no service.
const NONE: u32 = u32::MAX;

pub struct Report {
    worker: Rc<Worker>,
    view: Rc<View>,
    connection: Rc<Connection>,
    started: Instant,
    wall: SystemTime,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    authority: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    trace: Option<TraceContext>,
    route: Option<Arc<Route>>,
    service: u32,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    tries: u32,
    upload: Option<Rc<Upload>>,
    upstream_time: Option<Duration>,
    /// None until there is an answer.
    status: Option<StatusCode>,
    flag: Option<Flag>,
    reason: &'static str,
    grpc: bool,
    grpc_status: Option<u16>,
    exhausted: bool,
    /// What policies did, as the log has it.
    notes: String,
    /// What policies in shadow mode would have done.
    shadow: Vec<Would>,
    /// What timeouts in shadow mode would have cut.
    overrun: Option<Rc<Overrun>>,
    /// It was delayed on purpose.
    delayed: bool,
    /// Whether a hedge was quicker, where one was sent.
    hedge: Option<&'static str>,
    /// For what another answer stands in.
    fallback: Option<Cause>,
    quota: Option<Quota>,
    /// Of the last attempt, whose body shows how it ends.
    trial: Option<Trial>,
    sent: u64,
    ended: bool,
    _in_flight: OpenGuard,
    /// Counts against `limits.max_requests`.
    admitted: Option<RequestGuard>,
    /// Counts against the bulkhead of the service.
    slot: Option<ServiceSlot>,
}

const VIA_UPSTREAM: &str = "via_upstream";
const ANSWERED_HERE: &str = "direct_response";

impl Report {
    pub fn begin(
        worker: &Rc<Worker>,
        view: &Rc<View>,
        connection: &Rc<Connection>,
        parts: &Parts,
        fields: Fields,
        now: Instant,
    ) -> Box<Self> {
        connection.request_begins();
        Box::new(Self {
            worker: worker.clone(),
            view: view.clone(),
            connection: connection.clone(),
            started: now,
            wall: clock::wall_at(now),
            method: parts.method.clone(),
            path: parts.uri.path_and_query().cloned(),
            version: parts.version,
            authority: None,
            user_agent: fields
                .has(Fields::USER_AGENT)
                .then(|| parts.headers.get(USER_AGENT).cloned())
                .flatten(),
            forwarded_for: None,
            request_id: fields
                .has(Fields::REQUEST_ID)
                .then(|| parts.headers.get(X_REQUEST_ID).cloned())
                .flatten(),
            trace: None,
            route: None,
            service: NONE,
            endpoint: None,
            attempts: 0,
            tries: 0,
            upload: None,
            upstream_time: None,
            status: None,
            flag: None,
            reason: ANSWERED_HERE,
            grpc: super::headers::is_grpc(&parts.headers, fields),
            grpc_status: None,
            exhausted: false,
            notes: String::new(),
            shadow: Vec::new(),
            overrun: None,
            delayed: false,
            hedge: None,
            fallback: None,
            quota: None,
            trial: None,
            sent: 0,
            ended: false,
            _in_flight: worker.recorder.request_started(connection.direction),
            admitted: None,
            slot: None,
        })
    }

    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn admitted(&mut self, guard: RequestGuard) {
        self.admitted = Some(guard);
    }

    /// Of a refused head, whose path may not have been readable.
    pub fn path(&mut self, path: Option<PathAndQuery>) {
        self.path = path;
    }

    pub fn authority(&mut self, authority: &HeaderValue) {
        self.authority = Some(authority.clone());
    }

    /// The request goes on under a later snapshot.
    pub fn follow(&mut self, view: &Rc<View>) {
        self.view = view.clone();
    }

    pub fn route(&mut self, route: &Arc<Route>) {
        self.route = Some(route.clone());
    }

    /// The route that was found.
    pub fn routed(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    pub fn service(&mut self, cluster: u32) {
        self.service = cluster;
    }

    /// It is in the bulkhead of its service until its end.
    pub fn entered(&mut self, slot: ServiceSlot) {
        self.slot = Some(slot);
    }

    pub fn delayed(&mut self) {
        self.delayed = true;
    }

    /// Another answer stands in for the one that `cause` kept from being.
    pub fn fell_back(&mut self, cause: Cause) {
        self.fallback = Some(cause);
        self.tell_expected(Some, clock::now);
        self.tries = 0;
        // What is asked next has a bulkhead of its own.
        self.slot = None;
        let service = self.service_name().unwrap_or_default();
        self.worker.recorder.fallbacks.inc([service, cause.as_str()]);
    }

    pub fn fallback(&self) -> Option<Cause> {
        self.fallback
    }

    /// The request as it goes on: who it is for and part of which trace.
    pub fn identity(&mut self, headers: &HeaderMap, request_id: &HeaderValue, trace: TraceContext) {
        self.forwarded_for = headers.get(&forwarded::FOR).cloned();
        self.request_id = Some(request_id.clone());
        self.trace = Some(trace);
    }

    /// The id of the request: the client's, or what `make` makes.
    pub fn request_id(&mut self, make: impl FnOnce() -> HeaderValue) -> HeaderValue {
        self.request_id.get_or_insert_with(make).clone()
    }

    /// Whether all of the request's body is here.
    pub fn body_arrived(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.finished().is_some())
    }

    /// Whether the body of the request was ever asked for.
    pub fn asked_for_body(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.asked_for())
    }

    pub fn upload(&mut self, upload: &Rc<Upload>) {
        self.upload = Some(upload.clone());
    }

    pub fn attempt(&mut self, endpoint: &Arc<Endpoint>) {
        self.attempts += 1;
        self.tries += 1;
        self.turn_to(endpoint);
    }

    /// One more attempt, while another one is under way.
    pub fn hedged(&mut self, endpoint: &Arc<Endpoint>) {
        self.attempt(endpoint);
        self.hedge = Some("lost");
    }

    pub fn hedge_won(&mut self) {
        self.hedge = Some("won");
    }

    /// Whether it was a hedge that was answered.
    pub fn is_hedges(&self) -> bool {
        self.hedge == Some("won")
    }

    /// Of several attempts that are under way it is the one to this endpoint that is talked of from now on.
    pub fn turn_to(&mut self, endpoint: &Arc<Endpoint>) {
        // What was answered before is not read to its end: its head has to do.
        self.tell_expected(Some, clock::now);
        self.endpoint = Some(endpoint.clone());
    }

    /// The one that was asked last.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// Attempts at the service that is asked now.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The upstream has answered.
    pub fn answered(&mut self, status: StatusCode, now: Instant) {
        self.status = Some(status);
        self.reason = VIA_UPSTREAM;
        self.upstream_time = Some(now - self.started);
    }

    /// We answer ourselves, because of no failure.
    pub fn answered_here(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Whether a policy that would act here does so. One in shadow mode does not, and that is noted.
    pub fn enforced(&mut self, mode: Mode, would: Would) -> bool {
        if mode == Mode::Shadow {
            self.worker.recorder.shadow(would);
            self.shadow.push(would);
        }
        mode == Mode::Enforce
    }

    /// Notes what a policy did that the answer does not tell.
    pub fn note(&mut self, policy: &str, act: &str) {
        if !self.notes.is_empty() {
            self.notes.push(',');
        }
        self.notes.extend([policy, ":", act]);
    }

    /// As [`Report::note`], of why it was not sent again.
    pub fn not_again(&mut self, reason: &'static str) {
        self.worker.recorder.retry_skipped.inc([reason]);
        self.exhausted |= reason == retry::LIMIT;
        self.note("retry", reason);
    }

    /// What was noted of it elsewhere.
    pub fn shadowed(&mut self, would: Would) {
        self.shadow.push(would);
    }

    /// Where timeouts in this mode note what they would cut, if they are not to cut it.
    pub fn overrun(&mut self, mode: Mode) -> Option<Rc<Overrun>> {
        if self.overrun.is_none() {
            self.overrun = Overrun::of(mode, &self.worker);
        }
        self.overrun.clone()
    }

    /// Tells how the last attempt ended.
    pub fn tell(&mut self, trial: Trial, end: End, now: Instant) {
        let cluster = self.view.snapshot.clusters.get(self.service as usize);
        let (Some(cluster), Some(endpoint)) = (cluster, &self.endpoint) else { return };
        if let Some(would) = trial.end(&self.worker, cluster, endpoint, end, now) {
            self.enforced(Mode::Shadow, would);
        }
    }

    /// The head of the last attempt's answer was good; its body shows how it ends. The end of a body of
    /// known length has to come. Of others, which may be streams without an end, what comes first is
    /// enough: a message or, of gRPC, the trailers with the status.
    pub fn expect(&mut self, trial: Trial) {
        self.trial = Some(trial);
    }

    fn tell_expected(
        &mut self,
        end: impl FnOnce(End) -> Option<End>,
        now: impl FnOnce() -> Instant,
    ) {
        if let Some(trial) = self.trial.take()
            && let Some(end) = trial.head().and_then(end)
        {
            self.tell(trial, end, now());
        }
    }

    /// Notes what is left of a rate limit. Of several the client is told of the narrowest.
    pub fn quota(&mut self, quota: Quota) {
        if self.quota.is_none_or(|noted| quota.remaining <= noted.remaining) {
            self.quota = Some(quota);
        }
    }

    pub fn noted_quota(&self) -> Option<Quota> {
        self.quota
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.slot = None;
        self.flag = failure.flag();
        self.reason = failure.reason();
        self.status = Some(if self.grpc { StatusCode::OK } else { failure.status() });
        self.grpc_status = self.grpc.then(|| failure.grpc_status());
        self.worker.recorder.rejected.inc([failure.reason()]);
        match failure {
            Failure::RateLimited { limit, .. } => self.note("rate_limit", &limit.name),
            Failure::Shed { priority, signal } => {
                self.note(priority.as_str(), signal.as_str());
            }
            _ => {}
        }
    }

    /// `grpc-status` stands in the trailers, or in the head where there is no body.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc
            && let Some(value) = trailers.get("grpc-status")
        {
            self.grpc_status = value.to_str().ok().and_then(|text| text.parse().ok());
            let grpc = self.grpc_status;
            let end = End::Answered { status: StatusCode::OK, grpc };
            self.tell_expected(|_| Some(end), clock::now);
        }
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.trial.as_ref().is_some_and(|trial| !trial.is_whole) {
            self.tell_expected(Some, clock::now);
        }
    }
}
