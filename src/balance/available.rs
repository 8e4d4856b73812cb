//! Which endpoints may be asked at all, whatever a balancer would like best.
//!
//! Some things are orders: an endpoint whose breaker is open is asked by nobody. The rest is advice, in this
//! order, and is dropped when nobody is left: not one that was tried already, not one that is away (ejected),
//! not one that is full, not one that is still warming up more often than its part. Where so many are away that the
//! others could not bear all of it, nobody counts as away (Envoy's panic threshold): what is wrong then is
//! hardly wrong with the endpoints.

use std::cell::LazyCell;
use std::time::Duration;

use super::{Balancer, Candidate, Cursor};
use crate::clock::Instant;
use crate::policy::SlowStart;

/// What a service says of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Availability {
    /// With less than this share of the endpoints not away, nobody counts as away; 0: never.
    pub panic_threshold: f64,
    pub slow_start: Option<SlowStart>,
}

impl Default for Availability {
    fn default() -> Self {
        Self { panic_threshold: 0.5, slow_start: None }
    }
}

/// Whether too many endpoints of a group are away. It is found out when one is met that is, and believed for
/// a little while: counting takes a look at each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Panic {
    is_on: bool,
    until: Instant,
}

impl Panic {
    const BELIEVED: Duration = Duration::from_millis(100);

    fn is_on(&mut self, candidates: &[Candidate], threshold: f64, now: Instant) -> bool {
        if now >= self.until {
            let well = candidates.iter().filter(|candidate| !candidate.state.is_away(now)).count();
            self.is_on = (well as f64) < threshold * candidates.len() as f64;
            self.until = now + Self::BELIEVED;
        }
        self.is_on
    }
}

/// One pick: what it is made from.
#[derive(Clone, Copy)]
pub struct Pick<'a> {
    /// It holds the endpoints that are picked from.
    pub balancer: &'a Balancer,
    pub availability: &'a Availability,
    /// Indices of those that this request was sent to before.
    pub tried: &'a [u32],
    /// See [`Balancer::wish`].
    pub wish: Option<u64>,
    pub now: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    pub index: usize,
    /// It is away, and was picked because so many are.
    pub in_panic: bool,
    /// What is not as the client or its place would have it, for the log.
    pub note: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonePicked {
    NoEndpoint,
    /// The breakers of all of them are open, of the first one until then.
    Refused(Instant),
}

impl Pick<'_> {
    /// # Errors
    /// There is nobody to ask.
    pub fn choose(
        &self,
        cursor: &mut Cursor,
        panic: &mut Panic,
        random: &mut fastrand::Rng,
    ) -> Result<Picked, NonePicked> {
        let threshold = self.availability.panic_threshold;
        let seed = self.availability.slow_start.map(|_| random.u64(..));
        let panics = LazyCell::new(|| panic.is_on(self.candidates(), threshold, self.now));
        let away = |index| self.is_away(index) && !*panics;
        let mut pick = |skip: &dyn Fn(usize) -> bool| {
            let skip = |index| self.is_refused(index) || skip(index);
            self.balancer.pick(cursor, random, self.now, self.wish, &skip)
        };
        let index = pick(&|index| {
            self.is_tried(index)
                || self.candidates()[index].state.is_full()
                || away(index)
                || seed.is_some_and(|seed| self.is_held_back(index, seed))
        })
        .or_else(|| pick(&|index| self.is_tried(index) || away(index)))
        .or_else(|| pick(&away))
        .or_else(|| pick(&|index| self.is_tried(index)))
        .or_else(|| pick(&|_| false))
        .ok_or_else(|| self.nobody())?;
        Ok(Picked { index, in_panic: self.is_away(index) && *panics, note: None })
    }

    /// Whether another pick would find one that was not tried, is not away and not refused.
    pub fn has_other(&self) -> bool {
        (0..self.candidates().len())
            .any(|index| !self.is_tried(index) && !self.is_away(index) && !self.is_refused(index))
    }

    fn candidates(&self) -> &[Candidate] {
        &self.balancer.plain.candidates
    }

    fn is_tried(&self, index: usize) -> bool {
        self.tried.iter().any(|tried| *tried as usize == index)
    }

    fn is_refused(&self, index: usize) -> bool {
        self.candidates()[index].refuses(self.now).is_some()
    }

    fn is_away(&self, index: usize) -> bool {
        self.candidates()[index].state.is_away(self.now)
    }

    /// Whether one that warms up leaves this request to others. A client that belongs to it has no other.
    fn is_held_back(&self, index: usize, seed: u64) -> bool {
        let Some(slow_start) = &self.availability.slow_start else { return false };
        let since = self.candidates()[index].state.fresh_since();
        if since == Instant(0) || self.balancer.kind().is_hash() {
            return false;
        }
        let share = slow_start.share(since, self.now);
        // The same for as long as the pick lasts.
        let chance = || fastrand::Rng::with_seed(seed ^ index as u64).f64();
        share < 1.0 && chance() >= share && self.balancer.wished(self.wish) != Some(index)
    }

    fn nobody(&self) -> NonePicked {
        let until =
            self.candidates().iter().filter_map(|candidate| candidate.refuses(self.now)).min();
        until.map_or(NonePicked::NoEndpoint, NonePicked::Refused)
    }
}
