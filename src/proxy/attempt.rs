//! The attempts of one request, and the only place where a request is sent again. Without a word of the policy
//! that is done for what was provably never processed: nothing was written, `REFUSED_STREAM`, or a
//! stream above the last one that a GOAWAY names (RFC 9113 6.8, 8.7). Then any method is safe.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, EXPECT, HOST, HeaderName, RETRY_AFTER, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Response, StatusCode, Version};
use smallvec::SmallVec;

use super::admission;
use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::gate::Gate;
use super::hints::Hints;
use super::http2::ClientStream;
use super::report::Report;
use super::upgrade;
use super::upload::{RequestBody, Upload, UploadFault};
use crate::clock::{self, Instant};
use crate::config::snapshot::{Cluster, Destination, Protocol};
use crate::endpoint::{Endpoint, InFlight, Outcome};
use crate::names::Names;
use crate::policy::retry::{self, Next, Situation, is_idempotent};
use crate::policy::{Conditions, End, Policy, deadline};
use crate::upstream::{
    ConnectError, ConnectErrorKind, Lease, ResponseBody, Reuse, SendError, Wire, http1, http2,
};
use crate::worker::{View, Worker};

/// Which attempt at a request this is, from the second one on.
static ATTEMPT: HeaderName = HeaderName::from_static("x-pilotfish-attempt");
/// By it a client says that a request may be processed twice.
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request that is ready to be sent, whichever endpoint takes it.
pub struct Call<'a> {
    pub worker: &'a Rc<Worker>,
    pub view: &'a Rc<View>,
    pub connection: &'a Connection,
    pub cluster: &'a Cluster,
    /// The place of `cluster` in the snapshot.
    pub cluster_index: u32,
    pub to: Choice,
    /// What the balancer wants to know of the request.
    pub wish: Option<u64>,
    pub policy: &'a Policy,
    /// The head, hop-by-hop fields off.
    pub parts: Parts,
    /// How the client wrote the names of its fields.
    pub names: Names,
    pub authority: HeaderValue,
    pub path: PathAndQuery,
    pub upload: Option<Rc<Upload>>,
    /// Closed until the upstream wants the body.
    pub gate: Option<Rc<Gate>>,
    /// The client's, on HTTP/2.
    pub stream: Option<Rc<ClientStream>>,
    /// The protocol to switch to.
    pub upgrade: Option<&'a HeaderValue>,
    pub wire: Wire,
    pub client_version: Version,
    /// What the client said it will wait, if that is less than the policy.
    pub client_timeout: Option<Duration>,
    pub is_grpc: bool,
    /// The body may be wanted again after the answer.
    pub keeps_body: bool,
    /// When its first attempt begins.
    pub began: Instant,
}

/// Among what an endpoint is picked.
#[derive(Clone)]
pub enum Choice {
    Group(Destination),
    /// The one host that the client named.
    Host(Arc<Endpoint>),
}

/// The head of a response, and what has to live as long as its body.
pub struct Answer {
    pub response: Response<ResponseBody<RequestBody>>,
    pub lease: Lease<RequestBody>,
    pub in_flight: InFlight,
    /// What stands in its head.
    pub fields: Fields,
    /// How its fields are written.
    pub names: Names,
    /// When it came.
    pub at: Instant,
    /// The key that a WebSocket was asked with by us.
    pub sent_key: Option<HeaderValue>,
}

/// What is spoken to a cluster for one request: HTTP/2 for gRPC, which has no other form, HTTP/1.1 for
/// all else unless the service says so.
pub fn wire(protocol: Protocol, grpc: bool) -> Option<Wire> {
    match protocol {
        Protocol::Auto if grpc => Some(Wire::Http2),
        Protocol::Auto | Protocol::Http1 => Some(Wire::Http1),
        Protocol::Http2 => Some(Wire::Http2),
        Protocol::Tcp => None,
    }
}

/// Sends the request until it is answered, fails for good, or may not be sent again.
///
/// # Errors
/// The failure of the last attempt.
pub async fn run(call: &mut Call<'_>, report: &mut Report) -> Result<Answer, Failure> {
    let retry = &call.policy.retry;
    // Later attempts ask the clock.
    let mut began = call.began;
    call.cluster.budget.deposit(clock::since_start(began));
    let idempotent = is_idempotent(&call.parts.method)
        || retry.max > 0 && call.parts.headers.contains_key(&IDEMPOTENCY_KEY);
    let sent_key = call.write_head();
    let mut tried = SmallVec::<[u32; 4]>::new();
    let mut reuse = Reuse::Allowed;
    if call.time_limit() == Some(Duration::ZERO) {
        return Err(call.late(Duration::ZERO));
    }
    loop {
        let endpoint = call.pick(&mut tried, began)?;
        report.attempt(&endpoint);
        call.number(report.attempts(), report.is_grpc(), report.started(), began);
        let (result, stale) = call.once(&endpoint, reuse, began, report.started()).await;
        let (end, reason) = match &result {
            // Nearly always: no answer of an upstream is one to try again after.
            Ok(_) if !retry.on.has_answers() => break call.answered(result, sent_key),
            Ok(answer) => match again_after(&retry.on, answer, report.is_grpc()) {
                Some(end) => (end, "upstream_status"),
                None => break call.answered(result, sent_key),
            },
            Err(failure) => match failure.end() {
                Some(end) => (end, failure.reason()),
                None => break result,
            },
        };
        began = clock::now();
        let retry_after = result.as_ref().ok().and_then(|answer| {
            retry::retry_after(answer.response.headers().get(RETRY_AFTER)?.as_bytes())
        });
        let situation = Situation {
            end,
            retries: report.attempts() - 1,
            idempotent,
            stale: stale && reuse == Reuse::Allowed,
            replayable: call.upload.as_ref().is_none_or(|upload| upload.can_replay()),
            has_other: call.has_other(&tried),
            retry_after,
            left: call.overdue(report.started()).map(|(at, _)| at.saturating_duration_since(began)),
        };
        let Some(wait) = call.may_send_again(&situation, began) else {
            break call.answered(result, sent_key);
        };
        if stale || matches!(result, Err(Failure::Unwritten { .. })) {
            // Where one idle connection was dead, the next one may be as well.
            reuse = Reuse::Not;
        }
        call.worker.recorder.retries.inc([&call.cluster.name, reason]);
        if let Ok(answer) = result {
            answer.discard();
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
            began = clock::now();
        }
    }
}

/// Whether an answer is one to try again after.
fn again_after(on: &Conditions, answer: &Answer, grpc: bool) -> Option<End> {
    let headers = answer.response.headers();
    let status = || headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let grpc = if grpc { status() } else { None };
    let end = End::Answered { status: answer.response.status(), grpc };
    on.contains(end).then_some(end)
}

impl Answer {
    /// Reads what little there may be of it, so that its connection can be used again.
    pub(super) fn discard(self) {
        const LIMIT: usize = 16 * 1024;
        const PATIENCE: Duration = Duration::from_secs(1);
        let Answer { response, lease, in_flight, .. } = self;
        let mut body = response.into_body();
        tokio::task::spawn_local(async move {
            let mut read = 0;
            let rest = async {
                while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
                    read += frame.ok()?.data_ref().map_or(0, |data| data.len());
                    (read <= LIMIT).then_some(())?;
                }
                Some(())
            };
            if let Ok(Some(())) = tokio::time::timeout(PATIENCE, rest).await {
                lease.release(clock::now());
            }
            drop(in_flight);
        });
    }
}

/// An endpoint for a connection that carries no HTTP, dialled; as often as a request would be.
///
/// # Errors
/// No endpoint, or the connect failure of the last one.
pub async fn dial(
    worker: &Worker,
    view: &View,
    to: Destination,
    peer: IpAddr,
    connect_timeout: Duration,
) -> Result<(Arc<Endpoint>, InFlight, crate::stream::Stream), Failure> {
    const ATTEMPTS: usize = 3;
    let cluster = view.snapshot.cluster(to);
    let group = view.snapshot.group(to);
    let wish = group.balancer.wish_of_peer(peer);
    let mut tried = SmallVec::<[u32; 4]>::new();
    loop {
        let index = view.pick(to, &tried, wish, &mut worker.random.borrow_mut(), clock::now());
        let Some(index) = index else {
            return Err(no_endpoint(cluster));
        };
        tried.push(index as u32);
        let endpoint = &group.endpoints[index];
        let held = admission::connection(worker, cluster, endpoint, None).await;
        let held = held.map_err(|error| connect_failure(cluster, error))?;
        let began = clock::now();
        let in_flight = endpoint.begin(clock::nanos(began)).holding(held);
        match crate::upstream::connect::connect(&endpoint.address, connect_timeout).await {
            Ok(stream) => return Ok((endpoint.clone(), in_flight, stream)),
            Err(error) => {
                if error.kind == ConnectErrorKind::Exhausted {
                    worker.pool.close_idle();
                } else {
                    failed(&in_flight, began);
                }
                if tried.len() >= ATTEMPTS.min(group.endpoints.len()) {
                    return Err(connect_failure(cluster, error));
                }
            }
        }
    }
}

fn no_endpoint(cluster: &Cluster) -> Failure {
    Failure::NoEndpoint { service: cluster.name.to_string() }
}

fn connect_failure(cluster: &Cluster, error: ConnectError) -> Failure {
    Failure::Connect { service: cluster.name.to_string(), error }
}

fn failed(in_flight: &InFlight, began: Instant) {
    let now = clock::now();
    in_flight.observe(clock::nanos(now), now - began, Outcome::Failed);
}

impl Call<'_> {
    fn pick(&self, tried: &mut SmallVec<[u32; 4]>, now: Instant) -> Result<Arc<Endpoint>, Failure> {
        match &self.to {
            Choice::Host(endpoint) => Ok(endpoint.clone()),
            Choice::Group(to) => {
                let random = &mut self.worker.random.borrow_mut();
                let group = self.view.snapshot.group(*to);
                let none = || no_endpoint(self.cluster);
                let mut index =
                    self.view.pick(*to, tried, self.wish, random, now).ok_or_else(none)?;
                // The one place where endpoints that are there are passed over.
                let unavailable = |index: usize| group.endpoints[index].state.is_full();
                if unavailable(index) {
                    const MOST: usize = 16;
                    let mut passed = tried.clone();
                    while unavailable(index) && passed.len() < tried.len() + MOST {
                        passed.push(index as u32);
                        index = self
                            .view
                            .pick(*to, &passed, self.wish, random, now)
                            .ok_or_else(none)?;
                        if passed.contains(&(index as u32)) {
                            // All of them are.
                            break;
                        }
                    }
                }
                tried.push(index as u32);
                Ok(group.endpoints[index].clone())
            }
        }
    }

    /// Whether an endpoint is left that was not tried. What cannot be reached now cannot be reached in
    /// the next microsecond either.
    fn has_other(&self, tried: &[u32]) -> bool {
        match &self.to {
            Choice::Host(_) => false,
            Choice::Group(to) => tried.len() < self.view.snapshot.group(*to).endpoints.len(),
        }
    }

    /// What is done with the last attempt.
    fn answered(
        &self,
        result: Result<Answer, Failure>,
        sent_key: Option<HeaderValue>,
    ) -> Result<Answer, Failure> {
        admission::observe(self.worker, self.cluster, self.began, &result);
        let answer = result?;
        if let Some(upload) = &self.upload
            && !self.keeps_body
        {
            upload.forget_replay();
        }
        Ok(Answer { sent_key, ..answer })
    }

    /// When to send it again, if it may be: by the policy, then by the budget of the service.
    fn may_send_again(&self, situation: &Situation, now: Instant) -> Option<Duration> {
        let chance = self.worker.random.borrow_mut().f64();
        let skipped = &self.worker.recorder.retry_skipped;
        match retry::next(&self.policy.retry, situation, chance) {
            Next::No => None,
            Next::Skip(reason) => {
                skipped.inc([reason]);
                None
            }
            Next::Again(wait) => {
                let limits = self.cluster.budget_limits;
                if self.cluster.budget.withdraw(clock::since_start(now), limits) {
                    return Some(wait);
                }
                skipped.inc(["budget"]);
                None
            }
        }
    }

    /// Says which attempt this is, and how much time is left for it.
    fn number(&mut self, attempt: u32, grpc: bool, started: Instant, now: Instant) {
        let headers = &mut self.parts.headers;
        if attempt > 1 {
            headers.insert(ATTEMPT.clone(), HeaderValue::from(attempt));
            if grpc {
                // As gRPC's own retries do (gRFC A6).
                headers.insert("grpc-previous-rpc-attempts", HeaderValue::from(attempt - 1));
            }
        }
        if let Some(client) = self.client_timeout
            && now > started
        {
            let left = (started + client).saturating_duration_since(now);
            deadline::write(headers, left, grpc);
        }
    }

    /// Gives the request the form of its wire. Returns the WebSocket key that it made, if any.
    fn write_head(&mut self) -> Option<HeaderValue> {
        let parts = &mut self.parts;
        let from_http2 = parts.version == Version::HTTP_2;
        let key = self.upgrade.and_then(|protocol| {
            upgrade::ask(parts, protocol, self.wire, &mut self.worker.random.borrow_mut())
        });
        address(parts, self.wire, from_http2, &self.authority, &self.path);
        // Whatever the method, a body of unknown length is framed.
        if self.wire == Wire::Http1
            && self.upload.is_some()
            && !parts.headers.contains_key("content-length")
        {
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        key
    }

    /// One attempt. With a failure, whether it may be that its connection was dead before.
    async fn once(
        &mut self,
        endpoint: &Arc<Endpoint>,
        reuse: Reuse,
        began: Instant,
        started: Instant,
    ) -> (Result<Answer, Failure>, bool) {
        let (worker, cluster, deadline) = (self.worker, self.cluster, self.deadline(started));
        let held = match admission::endpoint(worker, cluster, endpoint, deadline).await {
            Ok(held) => held,
            Err(failure) => return (Err(failure), false),
        };
        let in_flight = endpoint.begin(clock::nanos(began)).holding(held);
        let connect = self.policy.timeouts.connect;
        let admit = async || admission::connection(worker, cluster, endpoint, deadline).await;
        let lease = worker.pool.checkout(endpoint, self.wire, connect, reuse, began, admit).await;
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                let own = [ConnectErrorKind::Exhausted, ConnectErrorKind::Overflow];
                if !own.contains(&error.kind) {
                    failed(&in_flight, began);
                }
                return (Err(self.connect_failure(error)), false);
            }
        };
        if !lease.reused {
            self.worker.recorder.upstream_connections.inc([&self.cluster.name, "opened"]);
        }
        let body = self.upload.as_ref().map(RequestBody::of);
        let gate = self.gate.as_deref();
        let mut hints =
            Hints::new(self.client_version, self.connection, self.stream.as_deref(), gate);
        let sent = if lease.reused { began } else { clock::now() };
        let result = tokio::select! {
            biased;
            result = lease.send(&self.parts, &self.names, body, |status, headers| {
                hints.pass_on(status, headers);
            }) => result.map_err(Ok),
            failure = self.expired(started, sent) => Err(Err(failure)),
        };
        let now = clock::now();
        match result
            .map_err(|error| error.map_or_else(|failure| failure, |e| self.send_failure(&e)))
        {
            Ok((response, names)) => {
                let fields = Fields::of(response.headers());
                if fields.has(Fields::KEEP_ALIVE) {
                    lease.note_keep_alive(response.headers());
                }
                in_flight.observe(clock::nanos(now), now - sent, Outcome::Answered);
                let answer =
                    Answer { response, lease, in_flight, fields, names, at: now, sent_key: None };
                (Ok(answer), false)
            }
            Err(failure) => {
                // A client that breaks off says nothing about the endpoint.
                if failure.fault() == super::error::Fault::Upstream {
                    failed(&in_flight, began);
                }
                let stale = lease.reused && lease.is_unanswered();
                (Err(failure), stale)
            }
        }
    }

    fn late(&self, after: Duration) -> Failure {
        Failure::Timeout { service: self.cluster.name.to_string(), after }
    }

    fn connect_failure(&self, error: ConnectError) -> Failure {
        if error.kind == ConnectErrorKind::Exhausted {
            self.worker.pool.close_idle();
        }
        let failure = connect_failure(self.cluster, error);
        self.worker.recorder.upstream_connections.inc([&self.cluster.name, failure.reason()]);
        failure
    }

    /// When the head of the response is overdue, all attempts together, and after how long; unknown while the
    /// request is still being sent.
    fn overdue(&self, started: Instant) -> Option<(Instant, Duration)> {
        let sent = match &self.upload {
            Some(upload) => upload.finished()?,
            None => started,
        };
        self.time_limit().map(|limit| (sent + limit, limit))
    }

    /// By the policy or, if that is less, by what the client will wait.
    fn time_limit(&self) -> Option<Duration> {
        match (self.policy.timeouts.request, self.client_timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Waits until the head of the response is overdue. The clock of the request timeout starts when the
    /// request has been sent to its end, so that a long upload or a gRPC stream is not cut; until then only
    /// silence counts. That of an attempt, which is `sent` here, starts then too.
    async fn expired(&self, started: Instant, sent: Instant) -> Failure {
        let timeouts = self.policy.timeouts;
        let request = self.time_limit();
        // While the body goes out, look again at least this often: its end starts the clock.
        const LOOK: Duration = Duration::from_millis(250);
        // Not the present, but nothing is overdue before the first look at the clock.
        let mut now = started;
        loop {
            let wake = match &self.upload {
                Some(upload) if upload.finished().is_none() => {
                    let silent = timeouts.stream_idle.map(|idle| upload.last_progress() + idle);
                    if let (Some(at), Some(after)) = (silent, timeouts.stream_idle)
                        && at <= now
                    {
                        // An upstream that takes no more is as late as one that does not answer.
                        return match upload.is_starved() {
                            true => Failure::BodyTimeout { after },
                            false => self.late(after),
                        };
                    }
                    let per_try = self.policy.retry.per_try;
                    let look = [request, per_try].into_iter().flatten().fold(LOOK, Duration::min);
                    let look = now + look;
                    Some(silent.map_or(look, |at| at.min(look)))
                }
                upload => {
                    let finished = upload.as_ref().and_then(|upload| upload.finished());
                    let per_try = self.policy.retry.per_try;
                    let attempt = per_try
                        .map(|limit| (finished.map_or(sent, |at| at.max(sent)) + limit, limit));
                    let first = [self.overdue(started), attempt].into_iter().flatten().min();
                    if let Some((at, after)) = first
                        && at <= now
                    {
                        return self.late(after);
                    }
                    first.map(|(at, _)| at)
                }
            };
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            now = clock::now();
        }
    }

    fn send_failure(&self, error: &SendError) -> Failure {
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

/// Gives a head the form of `wire`, with where it goes.
pub fn address(
    parts: &mut Parts,
    wire: Wire,
    from_http2: bool,
    authority: &HeaderValue,
    path: &PathAndQuery,
) {
    match wire {
        Wire::Http1 => {
            if from_http2 {
                join_cookies(parts);
            }
            parts.version = Version::HTTP_11;
            parts.headers.insert(HOST, authority.clone());
            parts.uri = Uri::from(path.clone());
        }
        Wire::Http2 => {
            parts.version = Version::HTTP_2;
            parts.headers.remove(EXPECT);
            // `:authority` says it, and two names could differ (RFC 9113 8.3.1).
            parts.headers.remove(HOST);
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = authority.to_str().ok().and_then(|text| text.parse().ok());
            uri.path_and_query = Some(path.clone());
            // Its authority was parsed when the target was; without one `h2` refuses to send.
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        }
    }
}

/// HTTP/2 may split `Cookie` into crumbs, HTTP/1 wants one line (RFC 9113 8.2.3).
fn join_cookies(parts: &mut Parts) {
    let mut crumbs = parts.headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = Vec::new();
    for crumb in parts.headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        parts.headers.insert(COOKIE, value);
    }
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
