//! A proxy, as far as it decides: which endpoint, whether again, what it makes of an answer. Everything is
//! decided by `pilotfish`, under a snapshot that it compiled; here the decisions stand in the order in which
//! `proxy::attempt` has them, without the sockets.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use pilotfish::balance::{Cursor, Panic, Pick};
use pilotfish::clock::Instant;
use pilotfish::config::load::Origin;
use pilotfish::config::snapshot::{Cluster, Snapshot};
use pilotfish::endpoint::{InFlight, Outcome};
use pilotfish::policy::breaker::{Admission, BreakerState, Seen};
use pilotfish::policy::bulkhead::Bulkhead;
use pilotfish::policy::health::{Finding, Health, HealthCheck};
use pilotfish::policy::hedge::{self, After, Hedge};
use pilotfish::policy::outlier::{Ruling, Verdict};
use pilotfish::policy::retry::{self, Next, Situation};
use pilotfish::policy::slots::{Asked, Slot, Slots};
use pilotfish::policy::{BulkheadLimits, End, Policy};

use crate::settings::{Foreign, SERVICE, Settings};

pub struct Caller {
    snapshot: Snapshot,
    cluster: usize,
    pub policy: Arc<Policy>,
    /// What active checks have come to, by endpoint.
    healths: Vec<Health>,
    foreign: Foreign,
    /// Retries at the same time.
    retries: Option<OfService>,
    cursor: Cursor,
    panic: Panic,
    random: fastrand::Rng,
}

/// An attempt under way. Dropped, it tells nothing: the client has gone.
pub struct Flight {
    pub endpoint: usize,
    pub began: Instant,
    in_flight: InFlight,
    of_endpoint: Option<Admission>,
    of_service: Option<Admission>,
    _leave: Option<Leave>,
    /// Of its endpoint, where that has a limit.
    _of_endpoint: Option<Slot<Arc<Slots>>>,
}

/// A call may be sent again. To be held until that attempt has ended.
pub type Leave = Option<ServiceSlot>;

/// The slots of a service.
#[derive(Clone)]
pub struct OfService(Arc<Bulkhead>);

pub type ServiceSlot = Slot<OfService>;

impl Deref for OfService {
    type Target = Slots;

    fn deref(&self) -> &Slots {
        &self.0.requests
    }
}

impl Caller {
    /// # Panics
    /// The settings are none.
    pub fn new(settings: &Settings, endpoints: usize, mut random: fastrand::Rng) -> Self {
        let loaded =
            Origin::Text(settings.file(endpoints)).load(&Default::default(), None, 1, false);
        let snapshot = loaded.unwrap_or_else(|refused| panic!("{}", refused.pretty)).snapshot;
        snapshot.apply(Instant(0));
        let service = &snapshot.outbound.hosts[SERVICE];
        let parallel = |max| {
            let limits =
                BulkheadLimits { max_requests: max, max_pending: 0, ..BulkheadLimits::UNLIMITED };
            OfService(Arc::new(Bulkhead::new(&limits, Instant(0))))
        };
        Self {
            cluster: service.cluster as usize,
            policy: service.fallback.policy.clone(),
            healths: vec![Health::new(true); endpoints],
            foreign: settings.foreign,
            retries: settings.foreign.parallel_retries.map(parallel),
            cursor: Cursor::starting_at(&mut random),
            panic: Panic::default(),
            random,
            snapshot,
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.snapshot.clusters[self.cluster]
    }

    /// A call begins: it has a slot of the service, waits for one, or is refused.
    pub fn begin(&mut self, now: Instant) -> Asked<OfService> {
        Slot::ask(OfService(self.cluster().bulkhead.clone()), || now)
    }

    /// Sends an attempt of a call that has tried these endpoints; nowhere, where breakers refuse it.
    pub fn send(&mut self, tried: &[u32], leave: Option<Leave>, now: Instant) -> Option<Flight> {
        let cluster = &self.snapshot.clusters[self.cluster];
        if tried.is_empty() {
            cluster.budget.deposit(now);
        }
        let of_service = match &cluster.breaker {
            Some(breaker) => Some(breaker.admit(now)?),
            None => None,
        };
        let group = &cluster.groups[0];
        let pick = Pick {
            balancer: &group.balancer,
            availability: &cluster.availability,
            tried,
            wish: None,
            now,
        };
        let picked = pick.choose(&mut self.cursor, &mut self.panic, &mut self.random).ok()?;
        let endpoint = &group.endpoints[picked.index];
        let slot = match endpoint.state.bulkhead() {
            // Nobody waits here: no row has limits so tight that all endpoints are full.
            Some(bulkhead) => Some(Slot::try_take(bulkhead.requests.clone())?),
            None => None,
        };
        Some(Flight {
            _of_endpoint: slot,
            endpoint: picked.index,
            began: now,
            of_endpoint: endpoint.breaker.as_ref().and_then(|breaker| breaker.admit(now)),
            of_service,
            in_flight: endpoint.begin(now),
            _leave: leave,
        })
    }

    /// Takes in how an attempt ended. Whether its endpoint is left alone from now on.
    pub fn ended(&mut self, flight: Flight, end: End, now: Instant) -> bool {
        let cluster = &self.snapshot.clusters[self.cluster];
        let endpoint = &cluster.endpoints()[flight.endpoint];
        let took = now.saturating_duration_since(flight.began);
        let answered = matches!(end, End::Answered { .. }) || self.foreign.failures_count_as_fast;
        let outcome = if answered { Outcome::Answered } else { Outcome::Failed };
        flight.in_flight.observe(now, took, outcome);

        let mut is_left_alone = false;
        let of_endpoint = (&endpoint.breaker, flight.of_endpoint, true);
        let of_service = (&cluster.breaker, flight.of_service, false);
        for (breaker, admission, of_endpoint) in [of_endpoint, of_service] {
            let (Some(breaker), Some(admission)) = (breaker, admission) else { continue };
            let config = &breaker.config;
            let slow = config.slow_call_rate.is_some() && took > config.slow_call;
            let seen = Seen { failed: config.failures.contains(end), slow };
            match breaker.record(admission, seen, now, self.random.f64()) {
                Some(BreakerState::Closed) if of_endpoint => endpoint.state.come_back(now),
                Some(BreakerState::Open) => is_left_alone |= of_endpoint,
                _ => {}
            }
        }
        if let Some(outliers) = &cluster.outliers {
            let noted = outliers.note(endpoint, cluster.endpoints(), Verdict::of(end), now);
            is_left_alone |= matches!(noted, Some((_, Ruling::Ejected(_))));
        }
        is_left_alone
    }

    /// What control does once a second; the endpoints that it ejects.
    pub fn look(&mut self, now: Instant) -> Vec<usize> {
        let cluster = self.cluster();
        let Some(outliers) = cluster.outliers.as_ref().filter(|it| it.is_due(now)) else {
            return Vec::new();
        };
        let ruled = outliers.look(cluster.endpoints(), now).into_iter();
        let ejected = ruled.filter(|(.., ruling)| matches!(ruling, Ruling::Ejected(_)));
        ejected.map(|(index, ..)| index).collect()
    }

    /// The active check, where there is one, and for each endpoint when the first one begins.
    pub fn first_checks(&mut self) -> Vec<Duration> {
        let Some(check) = self.check() else { return Vec::new() };
        let count = self.healths.len();
        (0..count).map(|_| check.first(count, self.random.f64())).collect()
    }

    pub fn check(&self) -> Option<Arc<HealthCheck>> {
        self.cluster().health.clone()
    }

    /// Takes in a check. Whether its endpoint is left alone from now on, and when the next one begins.
    pub fn checked(&mut self, index: usize, finding: Finding, now: Instant) -> (bool, Duration) {
        let check = self.check().expect("only what is checked has a finding");
        let changed = self.healths[index].record(finding, &check);
        let healthy = self.healths[index].is_healthy();
        if changed {
            self.cluster().endpoints()[index].state.set_healthy(healthy, now);
        }
        (changed && !healthy, check.next(self.random.f64()))
    }

    /// How long an answer is waited for before another endpoint is asked as well.
    pub fn hedge_after(&self, now: Instant) -> Option<Duration> {
        self.policy.hedge.as_ref()?.delay(&self.cluster().latencies, now)
    }

    /// One more attempt beside those under way, if it may be.
    pub fn hedge(
        &mut self,
        tried: &[u32],
        left: Option<Duration>,
        now: Instant,
    ) -> Option<(Flight, ServiceSlot)> {
        let cluster = self.cluster();
        let of_service = cluster.breaker.as_ref().and_then(|breaker| breaker.refuses(now));
        let all_refuse = || cluster.endpoints().iter().all(|it| it.refuses(now).is_some());
        let situation = hedge::Situation {
            has_other: self.has_other(tried, now),
            refused: of_service.is_some() || all_refuse(),
            replayable: true,
            left,
        };
        if hedge::next(&situation) != hedge::Next::Send {
            return None;
        }
        let slot = Slot::try_take(OfService(cluster.bulkhead.clone()))?;
        if !cluster.budget.has_room(now, cluster.budget_limits) {
            slot.give_back_at(now);
            return None;
        }
        let flight = self.send(tried, None, now);
        let cluster = self.cluster();
        match flight {
            Some(flight) if cluster.budget.withdraw(now, cluster.budget_limits) => {
                Some((flight, slot))
            }
            _ => {
                slot.give_back_at(now);
                None
            }
        }
    }

    /// A first attempt tells how long an answer takes, from which the percentile comes.
    pub fn learn(&self, flight: &Flight, end: End, now: Instant) {
        let tells = match end {
            End::Answered { status, .. } => !status.is_server_error(),
            end => end == End::Timeout,
        };
        if tells && self.asks_for_a_percentile() {
            self.cluster().latencies.observe(now, now.saturating_duration_since(flight.began));
        }
    }

    /// An attempt is given up, because another one was quicker.
    pub fn outrun(&self, flight: Flight, is_first: bool, delay: Duration, now: Instant) {
        let took = now.saturating_duration_since(flight.began);
        if took < delay {
            return;
        }
        self.cluster().endpoints()[flight.endpoint].state.outrun(now, took);
        if is_first && self.asks_for_a_percentile() {
            self.cluster().latencies.observe(now, took);
        }
    }

    fn asks_for_a_percentile(&self) -> bool {
        let after = |hedge: &Arc<Hedge>| matches!(hedge.after, After::Percentile(_));
        self.policy.hedge.as_ref().is_some_and(after)
    }

    /// Whether another endpoint is left than those that a call has tried.
    pub fn has_other(&self, tried: &[u32], now: Instant) -> bool {
        let cluster = self.cluster();
        let group = &cluster.groups[0];
        let (balancer, availability) = (&group.balancer, &cluster.availability);
        Pick { balancer, availability, tried, wish: None, now }.has_other()
    }

    /// Whether a call is sent again after such an attempt, and after which pause.
    pub fn again(&mut self, situation: &Situation, now: Instant) -> Option<(Duration, Leave)> {
        let chance = self.random.f64();
        let Next::Again(wait) = retry::next(&self.policy.retry, situation, chance) else {
            return None;
        };
        let (cluster, then) = (self.cluster(), now + wait);
        let of_service = cluster.breaker.as_ref().and_then(|breaker| breaker.refuses(then));
        if of_service.is_some() || cluster.endpoints().iter().all(|it| it.refuses(then).is_some()) {
            return None;
        }
        let leave = match &self.retries {
            Some(retries) => Some(Slot::try_take(retries.clone())?),
            None => None,
        };
        cluster.budget.withdraw(now, cluster.budget_limits).then_some((wait, leave))
    }

    /// A call that took so long has been answered well, or was late. It tells how much the service bears.
    pub fn took(&mut self, rtt: Duration, now: Instant) {
        let chance = self.random.f64();
        let cluster = self.cluster();
        if let Some(limits) = &cluster.bulkhead_limits.adaptive {
            cluster.bulkhead.observe(limits, now, chance, rtt);
        }
    }
}
