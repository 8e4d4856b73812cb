//! A proxy, as far as it decides: which endpoint, whether again, what it makes of an answer. All that is
//! decided is decided by `pilotfish`; here it is put together as the proxy does it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use pilotfish::balance::{Balancer, Cursor};
use pilotfish::endpoint::{Address, Endpoint, InFlight, Nanos, Outcome};
use pilotfish::policy::breaker::{Admission, BreakerState, Seen, SharedBreaker};
use pilotfish::policy::bulkhead::Bulkhead;
use pilotfish::policy::outlier::{self, Interval, Record, Verdict};
use pilotfish::policy::retry::{self, Next, Situation};
use pilotfish::policy::slots::{Asked, Slot, Slots};
use pilotfish::policy::{Budget, BulkheadLimits, End};

use crate::settings::{RetryBound, Settings};

pub struct Caller {
    pub settings: Arc<Settings>,
    endpoints: Vec<Arc<Endpoint>>,
    guards: Vec<Guard>,
    panic_at: u64,
    panics: bool,
    balancer: Balancer,
    cursor: Cursor,
    random: fastrand::Rng,
    budget: Budget,
    bulkhead: OfService,
    /// Retries at the same time, where it is their number that is bounded.
    retries: OfService,
}

/// What watches an endpoint.
struct Guard {
    breaker: Option<Arc<SharedBreaker>>,
    record: Record,
}

/// An attempt under way. Dropped, it tells nothing: the client has gone.
pub struct Flight {
    pub endpoint: usize,
    in_flight: InFlight,
    admission: Option<Admission>,
    sent: Nanos,
    _leave: Option<Leave>,
}

/// A call may be sent again. Held until that attempt has ended.
pub struct Leave(Option<ServiceSlot>);

/// The slots of a bulkhead.
#[derive(Clone)]
pub struct OfService(Arc<Bulkhead>);

pub type ServiceSlot = Slot<OfService>;

impl Deref for OfService {
    type Target = Slots;

    fn deref(&self) -> &Slots {
        &self.0.requests
    }
}

impl OfService {
    fn new(limits: &BulkheadLimits) -> Self {
        Self(Arc::new(Bulkhead::new(limits, Nanos(0))))
    }
}

impl Caller {
    pub fn new(settings: Arc<Settings>, endpoints: usize, mut random: fastrand::Rng) -> Self {
        let endpoint = |index: usize| {
            let port = u16::try_from(index + 1).expect("a port for each");
            let address = Address::Name { host: "service".into(), port };
            Arc::new(Endpoint::new(address, Arc::default()))
        };
        let guard = |_| Guard {
            breaker: settings.breaker.clone().map(|it| Arc::new(SharedBreaker::new(Arc::new(it)))),
            record: Record::default(),
        };
        let parallel = match settings.bound {
            RetryBound::Parallel(max) => {
                BulkheadLimits { max_requests: max, max_pending: 0, ..BulkheadLimits::UNLIMITED }
            }
            RetryBound::None | RetryBound::Budget(_) => BulkheadLimits::UNLIMITED,
        };
        let endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
        Self {
            panic_at: 0,
            panics: false,
            guards: (0..endpoints.len()).map(guard).collect(),
            balancer: Balancer::new(settings.balancer, &endpoints),
            cursor: Cursor::starting_at(&mut random),
            budget: Budget::default(),
            bulkhead: OfService::new(&settings.bulkhead),
            retries: OfService::new(&parallel),
            endpoints,
            random,
            settings,
        }
    }

    /// A call begins: it has a slot of the service, waits for one, or is refused.
    pub fn begin(&mut self, now: Nanos) -> Asked<OfService> {
        self.budget.deposit(since_start(now));
        Slot::ask(self.bulkhead.clone(), || now)
    }

    /// An attempt: the endpoint that it goes to, if there is one. `tried` are those that the call has tried.
    pub fn send(&mut self, tried: &[usize], leave: Option<Leave>, now: Nanos) -> Option<Flight> {
        let mut passed = tried.to_vec();
        loop {
            let endpoint = self.pick(&passed, now)?;
            let breaker = self.guards[endpoint].breaker.as_ref();
            let admission = breaker.map(|breaker| breaker.admit(now));
            if matches!(admission, Some(None)) && passed.len() < self.endpoints.len() {
                // Half-open, with its probes out.
                passed.push(endpoint);
                continue;
            }
            return Some(Flight {
                endpoint,
                in_flight: self.endpoints[endpoint].begin(now),
                admission: admission.flatten(),
                sent: now,
                _leave: leave,
            });
        }
    }

    /// To be replaced by the proxy's own.
    fn pick(&mut self, passed: &[usize], now: Nanos) -> Option<usize> {
        let guards = &self.guards;
        let available = |index: usize| guards[index].is_available(now);
        let total = self.endpoints.len() as f64;
        let ailing = self.settings.breaker.is_some() || self.settings.outlier.is_some();
        if ailing && now.0 >= self.panic_at {
            self.panic_at = now.0 + 100_000_000;
            self.panics = ((0..guards.len()).filter(|index| available(*index)).count() as f64)
                < self.settings.panic * total;
        }
        let panics = self.panics;
        let skip = |index: usize| {
            passed.contains(&index) || ailing && !panics && !available(index)
        };
        let random = &mut self.random;
        let cursor = &mut self.cursor;
        self.balancer.pick(&self.endpoints, cursor, random, now, None, &skip)
    }

    /// Takes in how an attempt ended. Whether its endpoint is left alone from now on.
    pub fn ended(&mut self, flight: Flight, end: End, now: Nanos) -> bool {
        let answered = matches!(end, End::Answered { .. });
        let outcome = match answered || self.settings.failures_are_fast {
            true => Outcome::Answered,
            false => Outcome::Failed,
        };
        flight.in_flight.observe(now, now.since(flight.sent), outcome);
        let guard = &self.guards[flight.endpoint];
        let mut left_alone = false;
        if let Some(admission) = flight.admission {
            let config = admission.config();
            let seen = Seen {
                failed: config.failures.contains(end),
                slow: now.since(flight.sent) > config.slow_call,
            };
            left_alone = admission.record(seen, now, self.random.f64()) == Some(BreakerState::Open);
        }
        if let Some(config) = &self.settings.outlier
            && guard.record.note(verdict(end), config).is_some()
        {
            left_alone |= self.eject(flight.endpoint, now);
        }
        left_alone
    }

    /// What control does at the end of an interval; the endpoints that it ejects.
    pub fn look(&mut self, now: Nanos) -> Vec<usize> {
        let settings = self.settings.clone();
        let Some(config) = &settings.outlier else { return Vec::new() };
        let intervals: Vec<Interval> =
            self.guards.iter().map(|guard| guard.record.end_interval(now)).collect();
        let found = outlier::outliers(&intervals, config);
        found.into_iter().map(|(index, _)| index).filter(|index| self.eject(*index, now)).collect()
    }

    fn eject(&self, index: usize, now: Nanos) -> bool {
        let Some(config) = &self.settings.outlier else { return false };
        let ejected = self.guards.iter().filter(|guard| guard.record.is_ejected(now)).count();
        let others = (0..self.guards.len())
            .filter(|other| *other != index && self.guards[*other].is_available(now))
            .count();
        let record = &self.guards[index].record;
        let may = !record.is_ejected(now)
            && outlier::may_eject(self.guards.len(), ejected, others, config);
        if may {
            record.eject(now, config);
        }
        may
    }

    /// Whether a call is sent again after such an attempt, and after which pause.
    pub fn again(&mut self, situation: &Situation, now: Nanos) -> Option<(Duration, Leave)> {
        let chance = self.random.f64();
        let Next::Again(wait) = retry::next(&self.settings.retry, situation, chance) else {
            return None;
        };
        let slot = match self.settings.bound {
            RetryBound::None => None,
            RetryBound::Budget(limits) => {
                self.budget.withdraw(since_start(now), limits).then_some(())?;
                None
            }
            RetryBound::Parallel(_) => Some(Slot::try_take(self.retries.clone())?),
        };
        Some((wait, Leave(slot)))
    }
}

impl Guard {
    fn is_available(&self, now: Nanos) -> bool {
        !self.record.is_ejected(now)
            && !self.breaker.as_ref().is_some_and(|breaker| breaker.is_open(now))
    }
}

fn verdict(end: End) -> Verdict {
    match end {
        End::Answered { status, .. } if matches!(status.as_u16(), 502..=504) => {
            Verdict::GatewayError
        }
        End::Answered { status, .. } if status.is_server_error() => Verdict::ServerError,
        End::Answered { .. } => Verdict::Good,
        _ => Verdict::GatewayError,
    }
}

/// The budget keeps no request of its first seconds apart from none: it begins where the proxy's clock does.
fn since_start(now: Nanos) -> Duration {
    Duration::from_secs(3600) + Duration::from_nanos(now.0)
}
