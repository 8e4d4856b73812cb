//! Which endpoint is asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use super::super::admission;
use super::super::error::Failure;
use super::super::report::Report;
use super::super::trial::{Trial, WOULD_REFUSE};
use super::Call;
use super::outcome::{connect_failure, failed};
use crate::balance::NonePicked;
use crate::clock::{self, Instant};
use crate::config::snapshot::{Cluster, Destination};
use crate::endpoint::{Endpoint, InFlight};
use crate::policy::{End, Mode, Would};
use crate::stream::Stream;
use crate::upstream::ConnectErrorKind;
use crate::worker::{View, Worker};

/// Among what an endpoint is picked.
#[derive(Clone)]
pub enum Choice {
    Group(Destination),
    /// The one host that the client named.
    Host(Arc<Endpoint>),
}

/// The other end of a connection that carries no HTTP.
pub struct Dialled {
    pub endpoint: Arc<Endpoint>,
    pub in_flight: InFlight,
    pub stream: Stream,
    /// How often it was tried.
    pub attempts: u32,
    /// What policies in shadow mode would have done about it.
    pub shadow: Vec<Would>,
}

impl AsRef<Stream> for Dialled {
    fn as_ref(&self) -> &Stream {
        &self.stream
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
) -> Result<Dialled, Failure> {
    const ATTEMPTS: usize = 3;
    let cluster = view.snapshot.cluster(to);
    let group = view.snapshot.group(to);
    let wish = group.balancer.wish_of_peer(peer);
    let mut tried = SmallVec::<[u32; 4]>::new();
    let mut shadow = Vec::new();
    cluster.budget.deposit(clock::now());
    loop {
        let (index, trial) = ask(worker, view, to, &tried, wish, clock::now())?;
        tried.push(index as u32);
        let endpoint = &group.endpoints[index];
        let held = admission::connection(worker, cluster, endpoint, None).await;
        let held = held.map_err(|error| connect_failure(cluster, error))?;
        let began = clock::now();
        let mut note = |would| {
            worker.recorder.shadow(would);
            shadow.push(would);
        };
        if trial.would_refuse {
            note(WOULD_REFUSE);
        }
        let tell = |end| {
            trial.end(worker, cluster, endpoint, end, clock::now()).into_iter().for_each(note)
        };
        let in_flight = endpoint.begin(began).holding(held);
        match crate::upstream::connect::connect(&endpoint.address, connect_timeout).await {
            Ok(stream) => {
                tell(End::Answered { status: StatusCode::OK, grpc: None });
                let attempts = tried.len() as u32;
                return Ok(Dialled {
                    endpoint: endpoint.clone(),
                    in_flight,
                    stream,
                    attempts,
                    shadow,
                });
            }
            Err(error) => {
                if error.kind == ConnectErrorKind::Exhausted {
                    worker.pool.close_idle();
                } else {
                    failed(&in_flight, began);
                    tell(End::ConnectFailure);
                }
                let failure = connect_failure(cluster, error);
                if tried.len() >= ATTEMPTS.min(group.endpoints.len()) {
                    return Err(failure);
                }
                if !cluster.budget.withdraw(clock::now(), cluster.budget_limits) {
                    worker.recorder.retry_skipped.inc(["budget"]);
                    return Err(failure);
                }
                worker.recorder.retries.inc([&cluster.name, failure.reason()]);
            }
        }
    }
}

fn refused(cluster: &Cluster, until: Instant, now: Instant) -> Failure {
    Failure::BreakerOpen {
        service: cluster.name.to_string(),
        after: until.saturating_duration_since(now),
    }
}

/// An endpoint that may be asked now, another one than those `tried` where there is one.
fn ask(
    worker: &Worker,
    view: &View,
    to: Destination,
    tried: &[u32],
    wish: Option<u64>,
    now: Instant,
) -> Result<(usize, Trial), Failure> {
    let cluster = view.snapshot.cluster(to);
    let mut trial = Trial::begin(cluster, now).map_err(|until| refused(cluster, until, now))?;
    loop {
        let picked = view.pick(to, tried, wish, &mut worker.random.borrow_mut(), now);
        let picked = picked.map_err(|none| match none {
            NonePicked::NoEndpoint => Failure::NoEndpoint { service: cluster.name.to_string() },
            NonePicked::Refused(until) => refused(cluster, until, now),
        })?;
        // Otherwise another worker was quicker with the last probe, and the next pick knows.
        if trial.at(&view.snapshot.group(to).endpoints[picked.index]).is_ok() {
            (trial.in_panic, trial.note) = (picked.in_panic, picked.note);
            if picked.in_panic {
                worker.recorder.panic_picks.inc([&cluster.name]);
            }
            return Ok((picked.index, trial));
        }
    }
}

impl Call<'_> {
    /// An endpoint for the next attempt, with the leave of the breakers.
    pub(super) fn pick(
        &self,
        tried: &mut SmallVec<[u32; 4]>,
        report: &mut Report,
        now: Instant,
    ) -> Result<(Arc<Endpoint>, Trial), Failure> {
        let (endpoint, trial) = match &self.to {
            Choice::Host(endpoint) => {
                let trial = Trial::begin(self.cluster, now);
                let trial = trial.map_err(|until| refused(self.cluster, until, now))?;
                (endpoint.clone(), trial)
            }
            Choice::Group(to) => {
                let (index, trial) = ask(self.worker, self.view, *to, tried, self.wish, now)?;
                tried.push(index as u32);
                (self.view.snapshot.group(*to).endpoints[index].clone(), trial)
            }
        };
        if trial.would_refuse {
            report.enforced(Mode::Shadow, WOULD_REFUSE);
        }
        if trial.in_panic {
            report.note("panic_threshold", "ignored");
        }
        if let Some(note) = trial.note {
            report.note("load_balancer", note);
        }
        Ok((endpoint, trial))
    }

    /// Whether an endpoint is left that was not tried and does well. What cannot be reached now cannot be
    /// reached in the next microsecond either.
    pub(super) fn has_other(&self, tried: &[u32], now: Instant) -> bool {
        match &self.to {
            Choice::Host(_) => false,
            Choice::Group(to) => self.view.has_other(*to, tried, now),
        }
    }

    /// Whether breakers let nobody through to the service.
    pub(super) fn is_refused(&self, now: Instant) -> bool {
        if self.cluster.breaker.as_ref().is_some_and(|breaker| breaker.refuses(now).is_some()) {
            return true;
        }
        match &self.to {
            Choice::Host(_) => false,
            Choice::Group(to) => {
                let endpoints = &self.view.snapshot.group(*to).endpoints;
                endpoints.iter().all(|endpoint| endpoint.refuses(now).is_some())
            }
        }
    }
}
