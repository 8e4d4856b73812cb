//! Bulkheads: a request takes a slot of its service, and of its endpoint where that has a limit; a new
//! connection takes one as well. Who finds none waits its turn, but not longer than the request lives.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::Answer;
use super::error::{Failure, Fault};
use crate::clock::{self, Instant};
use crate::config::snapshot::Cluster;
use crate::endpoint::{Endpoint, Held};
use crate::policy::Bulkhead;
use crate::policy::bulkhead::Overflow;
use crate::policy::slots::{Asked, Slot, Slots, Turn};
use crate::upstream::{ConnectError, ConnectErrorKind};
use crate::worker::{View, Worker};

/// The slots of a service, by what a request has anyway: counting one more owner of an `Arc` would be two
/// more writes that the workers share.
pub struct OfService {
    view: Rc<View>,
    cluster: u32,
}

impl OfService {
    pub fn new(view: &Rc<View>, cluster: u32) -> Self {
        Self { view: view.clone(), cluster }
    }
}

impl Deref for OfService {
    type Target = Slots;

    fn deref(&self) -> &Slots {
        &self.view.snapshot.clusters[self.cluster as usize].bulkhead.requests
    }
}

/// A slot of a service, for as long as a request is in progress.
pub type ServiceSlot = Slot<OfService>;

/// A slot of the service for a request. With it the time, if it had to wait.
///
/// # Errors
/// There is none, and no place in the queue, or not in time.
pub async fn service(
    worker: &Worker,
    view: &Rc<View>,
    cluster: u32,
    deadline: Option<Instant>,
) -> Result<(ServiceSlot, Option<Instant>), Failure> {
    let slots = OfService::new(view, cluster);
    let overflow = match Slot::ask(slots, clock::now) {
        Asked::Taken(slot) => return Ok((slot, None)),
        // Boxed: a request that need not wait should not have room for waiting.
        Asked::Wait(turn, patience) => match Box::pin(wait(turn, patience, deadline)).await {
            Ok(slot) => return Ok((slot, Some(clock::now()))),
            Err(overflow) => overflow,
        },
        Asked::Refused(refused) => refused.into(),
    };
    let service = &view.snapshot.clusters[cluster as usize].name;
    worker.recorder.bulkhead_overflow.inc([service, overflow.reason()]);
    Err(Failure::Overflow { service: service.to_string(), overflow })
}

/// A slot of an endpoint, where it has a limit; and the time, if it had to be waited for.
///
/// # Errors
/// As [`service`].
pub async fn endpoint(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: &Endpoint,
    deadline: Option<Instant>,
) -> Result<(Held, Option<Instant>), Failure> {
    let Some(bulkhead) = endpoint.state.bulkhead() else { return Ok((Held::default(), None)) };
    match Slot::ask(bulkhead.requests.clone(), clock::now) {
        Asked::Taken(slot) => return Ok((Held([Some(slot), None]), None)),
        Asked::Wait(turn, patience) => {
            if let Ok(slot) = Box::pin(wait(turn, patience, deadline)).await {
                return Ok((Held([Some(slot), None]), Some(clock::now())));
            }
        }
        Asked::Refused(_) => {}
    }
    let overflow = Overflow::Endpoint;
    worker.recorder.bulkhead_overflow.inc([&cluster.name, overflow.reason()]);
    Err(Failure::Overflow { service: cluster.name.to_string(), overflow })
}

/// Room for a new connection to `endpoint`.
///
/// # Errors
/// There is none, and none in time. Nothing was dialled.
pub async fn connection(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: &Endpoint,
    deadline: Option<Instant>,
) -> Result<Held, ConnectError> {
    let full = |_| {
        let text = "no connection is free";
        ConnectError::new(ConnectErrorKind::Overflow, &endpoint.address, text)
    };
    let mut held = Held::default();
    let limited = endpoint.state.bulkhead();
    let slots = [Some(&cluster.bulkhead.connections), limited.map(|its| &its.connections)];
    for (place, slots) in held.0.iter_mut().zip(slots) {
        let Some(slots) = slots else { continue };
        let taken = match Slot::ask(slots.clone(), clock::now) {
            Asked::Taken(slot) => Ok(slot),
            Asked::Wait(turn, patience) => {
                worker.make_room(slots);
                wait(turn, patience, deadline).await
            }
            Asked::Refused(refused) => Err(refused.into()),
        };
        *place = Some(taken.map_err(|overflow| {
            worker.recorder.bulkhead_overflow.inc([&cluster.name, "overflow_connections"]);
            full(overflow)
        })?);
    }
    Ok(held)
}

async fn wait<S: Deref<Target = Slots> + Unpin>(
    turn: Turn<S>,
    patience: Duration,
    deadline: Option<Instant>,
) -> Result<Slot<S>, Overflow> {
    let longest = clock::now() + patience;
    let until = deadline.map_or(longest, |deadline| deadline.min(longest));
    tokio::select! {
        biased;
        slot = turn => slot.map_err(Overflow::from),
        () = clock::sleep_until(until) => Err(Overflow::QueueTimeout),
    }
}

/// Tells the adaptive limit of a service, where it has one, how long a request took that began at `began`.
/// Errors that come quickly would make it think that there is room, so they say nothing; a timeout says most.
pub fn observe(
    worker: &Worker,
    cluster: &Cluster,
    began: Instant,
    answered: &Result<Answer, Failure>,
) {
    let Some(limits) = &cluster.bulkhead_limits.adaptive else { return };
    let ended = match answered {
        Ok(answer) if !answer.response.status().is_server_error() => answer.at,
        Err(failure @ Failure::Timeout { .. }) if failure.fault() == Fault::Upstream => {
            clock::now()
        }
        Ok(_) | Err(_) => return,
    };
    let random = worker.random.borrow_mut().f64();
    let rtt = ended.saturating_duration_since(began);
    cluster.bulkhead.observe(limits, ended, random, rtt);
}

/// A copy of a request may use what is free, and waits for nothing.
pub fn copy(bulkhead: &Bulkhead, max: u32) -> Option<Slot<Arc<Slots>>> {
    Slot::try_take_of(bulkhead.copies.clone(), max)
}
