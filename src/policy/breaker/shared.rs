//! A breaker that workers share. Closed, it admits by one load; all else takes a short lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Breaker, BreakerConfig, BreakerState, Mode, Pass, Seen};
use crate::clock::Instant;

#[derive(Debug)]
pub struct SharedBreaker {
    pub config: Arc<BreakerConfig>,
    /// The epoch, times two, plus one while it is not closed.
    gate: AtomicU32,
    /// Until when it admits nobody; see [`Breaker::blocked_until`].
    blocked_until: AtomicU64,
    machine: Mutex<Breaker>,
}

impl SharedBreaker {
    pub fn new(config: Arc<BreakerConfig>) -> Self {
        let machine = Mutex::new(Breaker::new(&config));
        Self { config, gate: AtomicU32::new(0), blocked_until: AtomicU64::new(0), machine }
    }

    /// The one that there was, if it was told the same as `config`, with all that it knows.
    pub fn kept(before: Option<&Arc<Self>>, config: &Arc<BreakerConfig>) -> Arc<Self> {
        let kept = before.filter(|before| before.config == *config).cloned();
        kept.unwrap_or_else(|| Arc::new(Self::new(config.clone())))
    }

    /// See [`Breaker::admit`]. The pass is given back when the admission is dropped.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Option<Admission> {
        let gate = self.gate.load(Relaxed);
        if gate & 1 == 0 {
            return Some(Admission { pass: Pass { epoch: gate >> 1 }, place: None });
        }
        let mut machine = self.lock();
        let pass = machine.admit(now, &self.config);
        self.show(&machine);
        drop(machine);
        Some(Admission { pass: pass?, place: Some(self.clone()) })
    }

    /// Whether calls pass that nobody reports of: not while each is one of so many probes.
    pub fn passes_unseen(&self) -> bool {
        self.gate.load(Relaxed) & 1 == 0 || self.config.mode == Mode::Shadow
    }

    pub fn state(&self) -> BreakerState {
        if self.gate.load(Relaxed) & 1 == 0 { BreakerState::Closed } else { self.lock().state() }
    }

    /// When it will admit someone again, where it admits nobody at `now`.
    pub fn blocked(&self, now: Instant) -> Option<Instant> {
        let until = Instant(self.blocked_until.load(Relaxed));
        (now < until).then_some(until)
    }

    /// [`SharedBreaker::blocked`], where that is more than a remark.
    pub fn refuses(&self, now: Instant) -> Option<Instant> {
        self.blocked(now).filter(|_| self.config.mode == Mode::Enforce)
    }

    /// Tells how a call ended that this breaker has admitted; whether that has opened or closed it.
    pub fn record(
        &self,
        mut admission: Admission,
        seen: Seen,
        now: Instant,
        chance: f64,
    ) -> Option<BreakerState> {
        admission.place = None;
        let mut machine = self.lock();
        let before = machine.state();
        machine.record(admission.pass, seen, now, chance, &self.config);
        let after = machine.state();
        // Only a closed breaker that stays so looks the same as before.
        if (before, after) != (BreakerState::Closed, BreakerState::Closed) {
            self.show(&machine);
        }
        (after != before).then_some(after)
    }

    /// Under the lock, after each change.
    fn show(&self, machine: &Breaker) {
        let closed = machine.state() == BreakerState::Closed;
        self.gate.store(machine.epoch << 1 | u32::from(!closed), Relaxed);
        self.blocked_until.store(machine.blocked_until(&self.config).0, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that a breaker has admitted. Dropped without [`SharedBreaker::record`], it tells nothing.
#[derive(Debug)]
#[must_use = "the call counts while this lives"]
pub struct Admission {
    pass: Pass,
    /// Where it has a place that others may want. A closed breaker has no places.
    place: Option<Arc<SharedBreaker>>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(breaker) = self.place.take() {
            let mut machine = breaker.lock();
            machine.cancel(self.pass);
            breaker.show(&machine);
        }
    }
}
