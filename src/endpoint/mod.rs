//! What we know of one endpoint: where it is, and how it does.

mod instance;
pub mod latency;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use instance::Instance;
use latency::PeakEwma;

use crate::clock::Instant;
use crate::policy::breaker::SharedBreaker;
use crate::policy::bulkhead::EndpointBulkhead;
use crate::policy::outlier::Record;
use crate::policy::slots::{Slot, Slots};
use crate::policy::{BulkheadLimits, Mode};

/// Where an endpoint listens. `Display` gives `10.0.0.1:80`, `[::1]:80`, `host:80` or
/// `unix:/run/app.sock`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Socket(SocketAddr),
    /// Resolved anew for each connection.
    Name {
        host: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An instance, and what we know of it. Immutable; what changes is in `state`, which outlives it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub instance: Instance,
    /// Its address as text, for logs and labels.
    pub label: Box<str>,
    pub state: Arc<State>,
    /// Where its service has one for each endpoint.
    pub breaker: Option<Arc<SharedBreaker>>,
    /// The groups whose load is bounded and that it belongs to.
    pub loads: Option<Arc<[Arc<Load>]>>,
}

impl Deref for Endpoint {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl Endpoint {
    /// Without a breaker.
    pub fn new(instance: impl Into<Instance>, state: Arc<State>) -> Self {
        let instance = instance.into();
        let label = instance.address.to_string().into();
        Self { instance, label, state, breaker: None, loads: None }
    }

    /// When its breaker will let someone through again, where it lets nobody through at `now`.
    pub fn refuses(&self, now: Instant) -> Option<Instant> {
        self.breaker.as_ref()?.refuses(now)
    }

    /// See [`State::begin`].
    pub fn begin(&self, now: Instant) -> InFlight {
        let mut in_flight = self.state.begin(now);
        in_flight.loads = self.loads.clone();
        for load in in_flight.loads.iter().flat_map(|loads| &**loads) {
            load.0.fetch_add(1, Relaxed);
        }
        in_flight
    }
}

/// How an endpoint does. Shared by all workers, kept by address across reloads.
// Every worker writes it for every request: a cache line of its own keeps the neighbours' out.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct State {
    // What is looked at to pick an endpoint is in the first line.
    in_flight: AtomicU32,
    retired: AtomicBool,
    /// Its active health check fails.
    unhealthy: AtomicBool,
    latency: PeakEwma,
    /// Until when it is ejected.
    away_until: AtomicU64,
    /// Since when it is there, or there again: slow start begins then.
    fresh_since: AtomicU64,
    /// Made when a configuration limits it for the first time.
    bulkhead: OnceLock<Box<EndpointBulkhead>>,
    /// How its calls have ended.
    pub record: Record,
}

/// The requests in flight to all endpoints of a group, where their mean is asked for. Kept by group
/// across reloads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load(AtomicU32);

impl Load {
    pub fn in_flight(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// How a request ended, seen from the endpoint's latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response came, of whatever status.
    Answered,
    /// None came: connect failure, reset, timeout.
    Failed,
}

impl State {
    /// The time constant with which a latency average falls.
    pub const DECAY: Duration = Duration::from_secs(10);
    const ARRIVING: u64 = u64::MAX;
    /// What a failure counts for at least, so that an endpoint that fails fast attracts nothing.
    pub const PENALTY: Duration = Duration::from_secs(1);

    /// `decay`: the time constant of the latency average, [`State::DECAY`] by default.
    pub fn new(decay: Duration) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            unhealthy: AtomicBool::new(false),
            latency: PeakEwma::new(decay),
            away_until: AtomicU64::new(0),
            fresh_since: AtomicU64::new(0),
            bulkhead: OnceLock::new(),
            record: Record::default(),
        }
    }

    /// Of an endpoint that joins others; it is new from when [`State::arrive`] is called.
    pub fn arriving() -> Self {
        let state = Self::default();
        state.fresh_since.store(Self::ARRIVING, Relaxed);
        state
    }

    /// A request is about to be sent; it is in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>, now: Instant) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.latency.expect(now);
        InFlight { state: self.clone(), started: now, held: Held::default(), loads: None }
    }

    /// Its bulkhead, where it ever had a limit.
    pub fn bulkhead(&self) -> Option<&EndpointBulkhead> {
        self.bulkhead.get().map(|bulkhead| &**bulkhead)
    }

    /// Has the limits of its service hold from now on.
    pub fn apply(&self, limits: &BulkheadLimits, now: Instant) {
        match (limits.of_endpoint(), self.bulkhead()) {
            (None, None) => {}
            (None, Some(bulkhead)) => {
                bulkhead.apply(BulkheadLimits::UNLIMITED.endpoint_slots(), now)
            }
            (Some(slots), Some(bulkhead)) => bulkhead.apply(slots, now),
            (Some(slots), None) => drop(self.bulkhead.set(EndpointBulkhead::new(slots).into())),
        }
    }

    /// A request that was given up after `elapsed`, because another endpoint was quicker, tells that it would
    /// have taken longer: the average is not to be less. A quicker one than the average tells nothing.
    pub fn outrun(&self, now: Instant, elapsed: Duration) {
        if self.latency(now).is_none_or(|average| average < elapsed) {
            self.latency.observe(now, elapsed);
        }
    }

    /// Whether it has all the requests that it may have: another one had better be picked.
    pub fn is_full(&self) -> bool {
        self.bulkhead().is_some_and(|bulkhead| bulkhead.requests.is_full())
    }

    /// It is in force. What joined others counts as new from now on.
    pub fn arrive(&self, now: Instant) {
        if self.fresh_since.load(Relaxed) == Self::ARRIVING {
            self.fresh_since.store(now.0, Relaxed);
        }
    }

    /// It had better not be asked until then.
    pub fn eject(&self, until: Instant) {
        self.away_until.store(until.0, Relaxed);
        self.fresh_since.store(until.0, Relaxed);
    }

    /// Ends its ejection, as if it had not been.
    fn recall(&self, now: Instant) {
        self.away_until.store(0, Relaxed);
        if self.fresh_since.load(Relaxed) > now.0 {
            self.fresh_since.store(0, Relaxed);
        }
    }

    /// How outlier detection acts from now on, if it does. What it did to this endpoint stays, unless it would not
    /// do so any more.
    pub fn detect(&self, mode: Option<Mode>, now: Instant) {
        let ejected = now.0 < self.away_until.load(Relaxed);
        let forgets = match mode {
            // It was only told.
            Some(Mode::Enforce) => !ejected && self.record.is_ejected(now),
            Some(Mode::Shadow) => ejected,
            None => true,
        };
        if forgets {
            self.recall(now);
            self.record.forget();
        }
    }

    /// It is back after it could not be asked.
    pub fn come_back(&self, now: Instant) {
        self.fresh_since.store(now.0, Relaxed);
    }

    /// Since when it is there, or there again; 0 if it always was.
    pub fn fresh_since(&self) -> Instant {
        Instant(self.fresh_since.load(Relaxed))
    }

    /// What its active health check says of it. One that was not checked yet, or is not, counts as well.
    pub fn set_healthy(&self, healthy: bool, now: Instant) {
        if self.unhealthy.swap(!healthy, Relaxed) && healthy {
            self.come_back(now);
        }
    }

    pub fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed)
    }

    /// Whether another one had better be asked: this one is ejected, or its health check fails.
    pub fn is_away(&self, now: Instant) -> bool {
        now.0 < self.away_until.load(Relaxed) || self.is_unhealthy()
    }

    /// No configuration has this endpoint any more; its idle connections can be closed.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// Requests that were begun and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The peak average at `now`, faded since the last request; `None` if never measured.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        self.latency_nanos(now).map(|nanos| Duration::from_secs_f32(nanos / 1e9))
    }

    /// [`State::latency`] in nanoseconds, for those who compare it.
    pub fn latency_nanos(&self, now: Instant) -> Option<f32> {
        self.latency.nanos(now)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new(Self::DECAY)
    }
}

/// One request in flight. It lives as long as the response body, so that a request that is
/// cancelled anywhere stops counting.
#[derive(Debug)]
#[must_use = "the request counts as in flight only while this lives"]
pub struct InFlight {
    state: Arc<State>,
    started: Instant,
    held: Held,
    loads: Option<Arc<[Arc<Load>]>>,
}

/// Slots of bulkheads that are in use for as long as this lives: of the service and of the endpoint.
#[derive(Default)]
pub struct Held(pub [Option<Slot<Arc<Slots>>>; 2]);

impl Held {
    /// Whether one of them is of `slots`.
    pub fn is_of(&self, slots: &Arc<Slots>) -> bool {
        self.0.iter().flatten().any(|slot| Arc::ptr_eq(slot.slots(), slots))
    }

    /// Whether somebody waits for one of them.
    pub fn is_wanted(&self) -> bool {
        self.0.iter().flatten().any(|slot| slot.slots().waiting() > 0)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.iter().flatten().count()).finish()
    }
}

impl InFlight {
    /// `held` is in use for as long as the request is in flight.
    pub fn holding(self, held: Held) -> Self {
        // Not by `..self`, which would end the count.
        let mut in_flight = self;
        in_flight.held = held;
        in_flight
    }

    /// Time since [`State::begin`].
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Somebody else broke it off, after it had waited for so long.
    pub fn outrun(&self, now: Instant, elapsed: Duration) {
        self.state.outrun(now, elapsed);
    }

    /// Tells the endpoint's average of this request: once, when its response head came or when it
    /// is certain that none will. Whoever gives up for a reason of their own (the client left)
    /// does not tell.
    pub fn observe(&self, now: Instant, latency: Duration, outcome: Outcome) {
        let sample = match outcome {
            Outcome::Answered => latency,
            Outcome::Failed => latency.max(State::PENALTY),
        };
        self.state.latency.observe(now, sample);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Relaxed);
        for load in self.loads.iter().flat_map(|loads| &**loads) {
            load.0.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::outlier::OutlierConfig;

    #[test]
    fn addresses_as_text() {
        let text = |address: Address| Endpoint::new(address, Arc::default()).label;
        assert_eq!(&*text(Address::Socket(([10, 0, 0, 1], 80).into())), "10.0.0.1:80");
        let v6: SocketAddr = "[::1]:80".parse().unwrap();
        assert_eq!(&*text(Address::Socket(v6)), "[::1]:80");
        let name = Address::Name { host: "users".into(), port: 80 };
        assert_eq!(&*text(name), "users:80");
        assert_eq!(&*text(Address::Unix("/run/a.sock".into())), "unix:/run/a.sock");
    }

    #[test]
    fn what_a_pick_looks_at_is_in_one_cache_line() {
        assert!(std::mem::offset_of!(State, record) <= 64);
        assert_eq!(size_of::<State>(), 128);
    }

    #[test]
    fn an_ejection_ends_where_it_would_be_none_any_more() {
        let (now, config) = (Instant(1_000_000_000), OutlierConfig::default());
        let eject = |real: bool| {
            let state = State::default();
            state.record.eject(now, &config);
            if real {
                state.eject(state.record.until());
            }
            state
        };
        let detected = |real: bool, mode: Option<Mode>| {
            let state = eject(real);
            state.detect(mode, now);
            (state.is_away(now), state.record.is_ejected(now), state.fresh_since().0 > now.0)
        };
        for (real, mode, expected) in [
            (true, Some(Mode::Enforce), (true, true, true)),
            (true, Some(Mode::Shadow), (false, false, false)),
            (true, None, (false, false, false)),
            // It was only told.
            (false, Some(Mode::Enforce), (false, false, false)),
            (false, Some(Mode::Shadow), (false, true, false)),
            (false, None, (false, false, false)),
        ] {
            assert_eq!(detected(real, mode), expected, "{real} {mode:?}");
        }
    }

    #[test]
    fn a_fast_failure_counts_for_the_penalty_and_a_slow_one_for_its_time() {
        let fast = Arc::new(State::default());
        let now = Instant(1);
        fast.begin(now).observe(now, Duration::from_millis(1), Outcome::Failed);
        assert_eq!(fast.latency(now), Some(State::PENALTY));
        let slow = Arc::new(State::default());
        slow.begin(now).observe(now, Duration::from_secs(4), Outcome::Failed);
        assert_eq!(slow.latency(now), Some(Duration::from_secs(4)));
    }

    #[test]
    fn one_that_was_outrun_never_looks_quicker_for_it() {
        const MS: Duration = Duration::from_millis(1);
        let now = Instant::from(Duration::from_secs(3600));
        let millis = |state: &State| state.latency(now).map(|latency| latency.as_millis());
        let hung = State::default();
        hung.outrun(now, 100 * MS);
        assert_eq!(millis(&hung), Some(100), "of what is not known yet, this much is");

        let state = Arc::new(State::default());
        let begin = state.begin(now);
        begin.observe(now, 10 * MS, Outcome::Answered);
        state.outrun(now, 100 * MS);
        assert_eq!(millis(&state), Some(100));
        let later = now + 100 * MS;
        state.outrun(later, 20 * MS);
        assert!(state.latency(later).is_some_and(|latency| latency > 98 * MS));
    }

    proptest! {
        #[test]
        fn in_flight_returns_to_zero_after_any_mix_of_drops(
            events in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let state = Arc::new(State::default());
            let mut guards = Vec::new();
            for (step, (begins, which)) in events.into_iter().enumerate() {
                let now = Instant(step as u64);
                if begins {
                    guards.push(state.begin(now));
                } else if !guards.is_empty() {
                    let guard = guards.swap_remove(which.index(guards.len()));
                    if step % 2 == 0 {
                        guard.observe(now, guard.elapsed(now), Outcome::Answered);
                    }
                }
                prop_assert_eq!(state.in_flight() as usize, guards.len());
            }
            drop(guards);
            prop_assert_eq!(state.in_flight(), 0);
        }

        /// What is in flight to a group is the sum over its endpoints, whatever ends when.
        #[test]
        fn a_load_is_the_sum(
            events in prop::collection::vec((0_usize..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let (all, some) = (Arc::<Load>::default(), Arc::<Load>::default());
            let endpoints: Vec<_> = (0..4).map(|index| {
                let address = Address::Name { host: "a".into(), port: index };
                let mut loads = vec![all.clone()];
                loads.extend((index % 2 == 0).then(|| some.clone()));
                Endpoint { loads: Some(loads.into()), ..Endpoint::new(address, Arc::default()) }
            }).collect();
            let sum = |step: usize| -> u32 {
                endpoints.iter().step_by(step).map(|endpoint| endpoint.state.in_flight()).sum()
            };
            let mut guards = Vec::new();
            for (begins, ends) in events {
                guards.push(endpoints[begins].begin(Instant(1)));
                if begins == 0 {
                    drop(guards.swap_remove(ends.index(guards.len())));
                }
                prop_assert_eq!((all.in_flight(), some.in_flight()), (sum(1), sum(2)));
            }
            drop(guards);
            prop_assert_eq!((all.in_flight(), some.in_flight()), (0, 0));
        }
    }
}
