//! The attempts of one request, and the only place where a request is sent again. Without a word of the policy
//! that is done for what was provably never processed: nothing was written, `REFUSED_STREAM`, or a
//! stream above the last one that a GOAWAY names (RFC 9113 6.8, 8.7). Then any method is safe.

mod head;
mod hedge;
mod outcome;
mod pick;
mod timing;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, HeaderName, RETRY_AFTER};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, Version};
use smallvec::SmallVec;

use super::admission;
use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::gate::Gate;
use super::hints::Hints;
use super::http2::ClientStream;
use super::overrun::Overrun;
use super::report::Report;
use super::upload::{RequestBody, Upload};
use crate::clock::{self, Instant};
use crate::config::snapshot::{Cluster, Protocol};
use crate::endpoint::{Endpoint, InFlight, Outcome};
use crate::names::Names;
use crate::policy::Policy;
use crate::policy::retry::{self, Next, Situation, is_idempotent};
use crate::upstream::{ConnectErrorKind, Lease, Origin, ResponseBody, Reuse, Wire};
use crate::worker::{View, Worker};
pub use head::address;
use head::number;
use hedge::First;
pub use outcome::check_response;
use outcome::{again_after, blamed, failed};
pub use pick::{Choice, Dialled, dial};

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
    /// What the client said it will wait.
    pub client_timeout: Option<Duration>,
    /// Where timeouts are in shadow mode.
    pub overrun: Option<Rc<Overrun>>,
    pub is_grpc: bool,
    /// The body may be wanted again after the answer.
    pub keeps_body: bool,
    /// When the time begins that it may take.
    pub started: Instant,
    /// When its first attempt begins.
    pub began: Instant,
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
    call.cluster.budget.deposit(began);
    let hedge = call.policy.hedge.as_deref();
    let idempotent = is_idempotent(&call.parts.method)
        || (retry.max > 0 || hedge.is_some()) && call.parts.headers.contains_key(&IDEMPOTENCY_KEY);
    let hedge = hedge.filter(|hedge| hedge.takes(idempotent, call.upgrade.is_some()));
    let mut hedges = 0;
    let sent_key = call.write_head();
    let mut tried = SmallVec::<[u32; 4]>::new();
    let mut reuse = Reuse::Allowed;
    loop {
        if call.is_over(began) {
            return Err(call.late());
        }
        let (endpoint, picked) = call.pick(&mut tried, report, began)?;
        report.attempt(&endpoint);
        let left = call.left(began);
        number(&mut call.parts.headers, report.tries(), call.is_grpc, &call.policy.deadline, left);
        let (trial, (result, stale)) = {
            let attempt = call.once(&call.parts, &endpoint, reuse, began);
            let attempt = pin!(attempt);
            match hedge {
                None => (picked, attempt.await),
                Some(hedge) => {
                    let first = First { endpoint: &endpoint, trial: picked, attempt, began };
                    hedge::hedged(call, hedge, first, &mut tried, &mut hedges, report).await
                }
            }
        };
        call.tell(trial, &result, stale, report);
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
            let headers = answer.response.headers();
            let date = headers.get(DATE).map(HeaderValue::as_bytes);
            retry::retry_after(headers.get(RETRY_AFTER)?.as_bytes(), date)
        });
        let situation = Situation {
            end,
            retries: report.tries() - 1 - hedges,
            idempotent,
            stale: stale && reuse == Reuse::Allowed,
            replayable: call.upload.as_ref().is_none_or(|upload| upload.can_replay()),
            has_other: call.has_other(&tried, began),
            retry_after,
            left: call.overdue().map(|at| at.saturating_duration_since(began)),
        };
        let Some(wait) = call.may_send_again(&situation, began, report) else {
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

impl Call<'_> {
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
    fn may_send_again(
        &self,
        situation: &Situation,
        now: Instant,
        report: &mut Report,
    ) -> Option<Duration> {
        let chance = self.worker.random.borrow_mut().f64();
        let skipped = match retry::next(&self.policy.retry, situation, chance) {
            Next::No => return None,
            Next::Skip(reason) => reason,
            Next::Again(wait) if self.is_refused(now + wait) => "circuit_breaker_open",
            Next::Again(wait) => {
                let (budget, limits) = (&self.cluster.budget, self.cluster.budget_limits);
                if budget.withdraw(now, limits) {
                    return Some(wait);
                }
                "budget"
            }
        };
        report.not_again(skipped);
        None
    }

    /// One attempt, with `parts` for its head. With a failure, whether it may be that its connection was dead
    /// before.
    async fn once(
        &self,
        parts: &Parts,
        endpoint: &Arc<Endpoint>,
        reuse: Reuse,
        began: Instant,
    ) -> (Result<Answer, Failure>, bool) {
        let (worker, cluster, deadline) = (self.worker, self.cluster, self.deadline());
        let (held, waited) = match admission::endpoint(worker, cluster, endpoint, deadline).await {
            Ok(held) => held,
            Err(failure) => return (Err(failure), false),
        };
        // How long we made it wait is none of the endpoint's doing.
        let began = waited.unwrap_or(began);
        let in_flight = endpoint.begin(began).holding(held);
        let connect = self.policy.timeouts.connect;
        let connect = self.per_try().map_or(connect, |per_try| connect.min(per_try));
        let admit = async || admission::connection(worker, cluster, endpoint, deadline).await;
        let lease = tokio::select! {
            biased;
            lease = worker.pool.checkout(endpoint, self.wire, connect, reuse, began, admit) => lease,
            () = self.over(deadline) => {
                return (Err(blamed(self.late(), &in_flight, began)), false);
            }
        };
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
        if lease.origin == Origin::Opened {
            self.worker.recorder.upstream_connections.inc([&self.cluster.name, "opened"]);
        }
        let body = self.upload.as_ref().map(RequestBody::of);
        let gate = self.gate.as_deref();
        let mut hints =
            Hints::new(self.client_version, self.connection, self.stream.as_deref(), gate);
        let sent = if lease.origin == Origin::AtHand { began } else { clock::now() };
        let result = tokio::select! {
            biased;
            result = lease.send(parts, &self.names, body, |status, headers| {
                hints.pass_on(status, headers);
            }) => result.map_err(Ok),
            failure = self.expired(sent) => Err(Err(failure)),
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
                in_flight.observe(now, now - sent, Outcome::Answered);
                let answer =
                    Answer { response, lease, in_flight, fields, names, at: now, sent_key: None };
                (Ok(answer), false)
            }
            Err(failure) => {
                let failure = blamed(failure, &in_flight, began);
                let stale = lease.origin != Origin::Opened && lease.is_unanswered();
                (Err(failure), stale)
            }
        }
    }
}
