//! Attempts that run against each other. Where an answer is waited for longer than the policy says, another
//! endpoint is asked as well; the first good answer counts, and the others are dropped: their HTTP/2 streams are
//! reset, their HTTP/1 connections closed, and they are in flight no more.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;

use super::super::admission::{OfService, ServiceSlot};
use super::super::error::{Failure, Fault};
use super::super::report::Report;
use super::super::trial::Trial;
use super::{Answer, Call, again_after, number};
use crate::alarm::Alarm;
use crate::clock::{self, Instant};
use crate::endpoint::Endpoint;
use crate::policy::Would;
use crate::policy::hedge::{self, After, Hedge, Next, Situation};
use crate::policy::slots::Slot;
use crate::upstream::Reuse;

const WOULD_HEDGE: Would = Would { policy: "hedge", act: "send" };

type Ended = (Result<Answer, Failure>, bool);

/// One of the attempts that are under way.
struct Rival<'f> {
    endpoint: Arc<Endpoint>,
    trial: Trial,
    began: Instant,
    running: Pin<Box<dyn Future<Output = Ended> + 'f>>,
    /// Of a hedge: the service has let the request in once.
    slot: Option<ServiceSlot>,
}

/// The attempt that others may run against.
pub(super) struct First<'a, F> {
    pub endpoint: &'a Arc<Endpoint>,
    pub trial: Trial,
    pub attempt: Pin<&'a mut F>,
    pub began: Instant,
}

#[expect(clippy::large_enum_variant, reason = "it is looked at and gone")]
enum Event {
    /// The attempt at this place.
    Ended(usize, Ended),
    /// The answer has been waited for long enough.
    Due,
}

/// One attempt, and others beside it where its answer keeps people waiting. What comes back is of the one that
/// decides, which is the one that `report` talks of then. `hedges`: so many were sent for this request.
pub(super) async fn hedged<F: Future<Output = Ended>>(
    call: &Call<'_>,
    hedge: &Hedge,
    mut first: First<'_, F>,
    tried: &mut SmallVec<[u32; 4]>,
    hedges: &mut u32,
    report: &mut Report,
) -> (Trial, Ended) {
    // What is not known is not waited for.
    let may = *hedges < hedge.max;
    let delay = if may { hedge.delay(&call.cluster.latencies, first.began) } else { None };
    let ended = match delay {
        None => first.attempt.as_mut().await,
        Some(delay) => tokio::select! {
            biased;
            ended = first.attempt.as_mut() => ended,
            () = call.worker.alarms.at(first.began + delay) => {
                // Boxed: hardly any request comes to this, and the others should not have room for it.
                let race = race(call, hedge, delay, first, tried, hedges, report);
                return Box::pin(race).await;
            }
        },
    };
    call.learn(hedge, &ended.0, first.began);
    (first.trial, ended)
}

/// `first` has been waited for as long as `delay`.
async fn race<F: Future<Output = Ended>>(
    call: &Call<'_>,
    hedge: &Hedge,
    delay: Duration,
    first: First<'_, F>,
    tried: &mut SmallVec<[u32; 4]>,
    hedges: &mut u32,
    report: &mut Report,
) -> (Trial, Ended) {
    let First { endpoint, trial, attempt, began } = first;
    let running = Box::pin(attempt);
    let first = Rival { endpoint: endpoint.clone(), trial, began, running, slot: None };
    let mut rivals = SmallVec::<[Rival<'_>; 2]>::from_iter([first]);
    let mut waits = true;
    let mut from = began;
    let mut alarm = call.worker.alarms.at(from + delay);
    let mut event = Event::Due;
    loop {
        match event {
            Event::Due => {
                let now = clock::now();
                if let Some(at) = call.hedge_at(from, delay, now) {
                    alarm.set(at);
                } else {
                    let hedged = call.hedge(hedge, tried, report, now);
                    waits = hedged.is_some() && *hedges + 1 < hedge.max;
                    *hedges += u32::from(hedged.is_some());
                    rivals.extend(hedged);
                    from = now;
                    alarm.set(from + delay);
                }
            }
            Event::Ended(index, (result, stale)) => {
                let now = clock::now();
                let Rival { endpoint, trial, began, running, slot } = rivals.swap_remove(index);
                drop(running);
                if slot.is_none() {
                    call.learn(hedge, &result, began);
                }
                let good = call.is_good(&result);
                let decides = good || rivals.is_empty();
                if good && slot.is_some() {
                    call.worker.recorder.hedges.inc([&call.cluster.name, "won"]);
                    report.hedge_won();
                }
                report.turn_to(&endpoint);
                if decides {
                    rivals.drain(..).for_each(|rival| call.outrun(hedge, rival, delay, now));
                    return (trial, (result, stale));
                }
                call.tell(trial, &result, stale, report);
                if let Ok(answer) = result {
                    answer.discard();
                }
            }
        }
        event = poll_fn(|cx| poll(&mut rivals, waits.then_some(&mut alarm), cx)).await;
    }
}

fn poll(
    rivals: &mut [Rival<'_>],
    alarm: Option<&mut Alarm<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    for (index, rival) in rivals.iter_mut().enumerate() {
        if let Poll::Ready(ended) = rival.running.as_mut().poll(cx) {
            return Poll::Ready(Event::Ended(index, ended));
        }
    }
    match alarm {
        Some(alarm) => Pin::new(alarm).poll(cx).map(|()| Event::Due),
        None => Poll::Pending,
    }
}

impl Call<'_> {
    /// Since when an attempt that began at `began` waits for its answer.
    fn waiting_since(&self, began: Instant) -> Instant {
        let finished = self.upload.as_ref().and_then(|upload| upload.finished());
        finished.map_or(began, |at| at.max(began))
    }

    /// When to look again, if an answer to what was sent at `from` has not been waited for long enough: a body
    /// that is not here to its end cannot be sent twice.
    fn hedge_at(&self, from: Instant, delay: Duration, now: Instant) -> Option<Instant> {
        const LOOK: Duration = Duration::from_millis(10);
        if self.upload.as_ref().is_some_and(|upload| upload.finished().is_none()) {
            return Some(now + delay.max(LOOK));
        }
        let at = self.waiting_since(from) + delay;
        (at > now).then_some(at)
    }

    /// One more attempt, if it may be: by the policy, then by the bulkheads and the budget of the service.
    fn hedge(
        &self,
        hedge: &Hedge,
        tried: &mut SmallVec<[u32; 4]>,
        report: &mut Report,
        now: Instant,
    ) -> Option<Rival<'_>> {
        let recorder = &self.worker.recorder;
        match self.try_hedge(hedge, tried, report, now) {
            Ok(rival) => rival,
            Err(reason) => {
                recorder.hedge_skipped.inc([reason]);
                report.note("hedge", reason);
                None
            }
        }
    }

    /// Nothing in shadow mode.
    ///
    /// # Errors
    /// Why it may not be.
    fn try_hedge(
        &self,
        hedge: &Hedge,
        tried: &mut SmallVec<[u32; 4]>,
        report: &mut Report,
        now: Instant,
    ) -> Result<Option<Rival<'_>>, &'static str> {
        let situation = Situation {
            has_other: self.has_other(tried, now),
            refused: self.is_refused(now),
            replayable: self.upload.as_ref().is_none_or(|upload| upload.can_replay()),
            left: self.overdue().map(|at| at.saturating_duration_since(now)),
        };
        if let Next::Skip(reason) = hedge::next(&situation) {
            return Err(reason);
        }
        // It waits for nothing: whoever has to wait is no help.
        let slots = OfService::new(self.view, self.cluster_index);
        let slot = Slot::try_take(slots).ok_or("bulkhead")?;
        let (budget, limits) = (&self.cluster.budget, self.cluster.budget_limits);
        if !budget.has_room(now, limits) {
            return Err("budget");
        }
        if !report.enforced(hedge.mode, WOULD_HEDGE) {
            return Ok(None);
        }
        let picked = self.pick(tried, report, now);
        let (endpoint, trial) = picked.map_err(|_| "circuit_breaker_open")?;
        if endpoint.state.is_full() {
            return Err("bulkhead");
        }
        if !budget.withdraw(now, limits) {
            return Err("budget");
        }
        report.hedged(&endpoint);
        self.worker.recorder.hedges.inc([&self.cluster.name, "sent"]);
        let mut parts = self.parts.clone();
        let attempt = report.tries();
        let left = self.left(now);
        number(&mut parts.headers, attempt, self.is_grpc, &self.policy.deadline, left);
        let to = endpoint.clone();
        let running = async move { self.once(&parts, &to, Reuse::Allowed, now).await };
        let running = Box::pin(running);
        Ok(Some(Rival { endpoint, trial, began: now, running, slot: Some(slot) }))
    }

    /// Whether the others need not be waited for.
    fn is_good(&self, result: &Result<Answer, Failure>) -> bool {
        let on = &self.policy.retry.on;
        let bad = |answer| on.has_answers() && again_after(on, answer, self.is_grpc).is_some();
        result.as_ref().is_ok_and(|answer| !bad(answer))
    }

    /// Counts how long a first attempt took, from which the percentile comes. Errors that come quickly would
    /// make it think that the service is quick.
    fn learn(&self, hedge: &Hedge, result: &Result<Answer, Failure>, began: Instant) {
        if matches!(hedge.after, After::Delay(_)) {
            return;
        }
        let now = match result {
            Ok(answer) if !answer.response.status().is_server_error() => Some(answer.at),
            Err(failure @ Failure::Timeout { .. }) if failure.fault() == Fault::Upstream => {
                Some(clock::now())
            }
            Ok(_) | Err(_) => None,
        };
        if let Some(now) = now {
            let took = now.saturating_duration_since(self.waiting_since(began));
            self.cluster.latencies.observe(now, took);
        }
    }

    /// Drops an attempt, because another one was quicker. How long it would have taken nobody knows; at least
    /// for as long as it was waited for. Told so, an endpoint that hangs looks slow, and the percentile stays what
    /// it is: whatever is longer than it counts as longer, however much. Breakers and outlier detection learn
    /// nothing: to be slower than most is no failure.
    fn outrun(&self, hedge: &Hedge, rival: Rival<'_>, delay: Duration, now: Instant) {
        let took = now.saturating_duration_since(self.waiting_since(rival.began));
        if took < delay {
            return;
        }
        rival.endpoint.state.outrun(now, took);
        if rival.slot.is_none() && matches!(hedge.after, After::Percentile(_)) {
            self.cluster.latencies.observe(now, took);
        }
    }
}
