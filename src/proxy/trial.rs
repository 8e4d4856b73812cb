//! What an attempt tells of its endpoint and its service: to their breakers, which have to let it through
//! first, and to outlier detection.

use std::sync::Arc;

use crate::clock::Instant;
use crate::config::snapshot::Cluster;
use crate::endpoint::Endpoint;
use crate::policy::breaker::{Admission, BreakerState, Seen, SharedBreaker};
use crate::policy::outlier::{Ruling, Verdict};
use crate::policy::{End, Mode, Would};
use crate::worker::Worker;

/// What a breaker in shadow mode would do.
pub const WOULD_REFUSE: Would = Would { policy: "circuit_breaker", act: "reject" };

/// Dropped without [`Trial::end`], it has told nothing.
pub struct Trial {
    began: Instant,
    /// What the head of its answer says, and when it came.
    answered: Option<(End, Instant)>,
    /// It is the end of the body that shows how it ended, not what comes first of it.
    pub is_whole: bool,
    of_service: Option<Admission>,
    of_endpoint: Option<Admission>,
    /// A breaker in shadow mode would have refused it.
    pub would_refuse: bool,
    /// Its endpoint is away, and so many are that it was picked nevertheless.
    pub in_panic: bool,
    /// See [`Picked::note`](crate::balance::Picked::note).
    pub note: Option<&'static str>,
}

impl Trial {
    /// Asks the breaker of the service.
    ///
    /// # Errors
    /// It is open until then.
    pub fn begin(cluster: &Cluster, now: Instant) -> Result<Self, Instant> {
        let mut trial = Self {
            began: now,
            answered: None,
            is_whole: false,
            of_service: None,
            of_endpoint: None,
            would_refuse: false,
            in_panic: false,
            note: None,
        };
        if let Some(breaker) = &cluster.breaker {
            trial.of_service = trial.admission(breaker)?;
        }
        Ok(trial)
    }

    /// Asks the breaker of an endpoint.
    ///
    /// # Errors
    /// It is open until then.
    pub fn at(&mut self, endpoint: &Endpoint) -> Result<(), Instant> {
        if let Some(breaker) = &endpoint.breaker {
            self.of_endpoint = self.admission(breaker)?;
        }
        Ok(())
    }

    fn admission(&mut self, breaker: &Arc<SharedBreaker>) -> Result<Option<Admission>, Instant> {
        let admission = breaker.admit(self.began);
        if admission.is_none() {
            match breaker.config.mode {
                // Where a probe was given back meanwhile it is not known until when; the next one finds out.
                Mode::Enforce => return Err(breaker.blocked(self.began).unwrap_or(self.began)),
                Mode::Shadow => self.would_refuse = true,
            }
        }
        Ok(admission)
    }

    /// Whether nobody wants to know how it ends.
    pub fn is_idle(&self, cluster: &Cluster) -> bool {
        self.of_endpoint.is_none() && self.of_service.is_none() && cluster.outliers.is_none()
    }

    /// A head came that is no failure by itself.
    pub fn answered(self, end: End, at: Instant, is_whole: bool) -> Self {
        Self { answered: Some((end, at)), is_whole, ..self }
    }

    /// What its head said.
    pub fn head(&self) -> Option<End> {
        self.answered.map(|(end, _)| end)
    }

    /// Tells how it ended. What a policy in shadow mode would do about it is returned.
    pub fn end(
        self,
        worker: &Worker,
        cluster: &Cluster,
        endpoint: &Endpoint,
        end: End,
        now: Instant,
    ) -> Option<Would> {
        if self.is_idle(cluster) {
            return None;
        }
        let took = self.answered.map_or(now, |(_, at)| at).saturating_duration_since(self.began);
        let record = |breaker: &SharedBreaker, admission: Admission| {
            let config = &breaker.config;
            let slow = config.slow_call_rate.is_some() && took > config.slow_call;
            let seen = Seen { failed: config.failures.contains(end), slow };
            let chance = worker.random.borrow_mut().f64();
            breaker.record(admission, seen, now, chance)
        };
        if let (Some(breaker), Some(admission)) = (&endpoint.breaker, self.of_endpoint)
            && let Some(state) = record(breaker, admission)
        {
            let mode = breaker.config.mode;
            changed(worker, cluster, Some(endpoint), state, mode);
            if (state, mode) == (BreakerState::Closed, Mode::Enforce) {
                endpoint.state.come_back(now);
            }
        }
        if let (Some(breaker), Some(admission)) = (&cluster.breaker, self.of_service)
            && let Some(state) = record(breaker, admission)
        {
            changed(worker, cluster, None, state, breaker.config.mode);
        }
        let outliers = cluster.outliers.as_ref()?;
        let verdict = Verdict::of(end);
        let (cause, ruling) = outliers.note(endpoint, cluster.endpoints(), verdict, now)?;
        worker.recorder.ruled(&cluster.name, endpoint, cause, ruling);
        matches!(ruling, Ruling::WouldEject(_)).then_some(Ruling::WOULD_EJECT)
    }
}

fn changed(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: Option<&Endpoint>,
    state: BreakerState,
    mode: Mode,
) {
    let scope = if endpoint.is_some() { "endpoint" } else { "service" };
    worker.recorder.breaker_changes.inc([&cluster.name, scope, state.as_str()]);
    let service = &*cluster.name;
    let endpoint = endpoint.map_or("", |endpoint| &endpoint.label);
    match state {
        BreakerState::Closed => {
            tracing::info!(service, scope, endpoint, ?mode, "circuit breaker closed");
        }
        BreakerState::Open | BreakerState::HalfOpen => {
            tracing::warn!(service, scope, endpoint, ?mode, "circuit breaker opened");
        }
    }
}
