//! A call of a client, and its attempts that are under way.

use std::time::Duration;

use pilotfish::clock::Instant;
use pilotfish::policy::Policy;

use crate::caller::{Flight, Leave, ServiceSlot};

/// A client waits so long for an answer, whatever its proxy does.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A call of a client; its place is used again.
#[derive(Default)]
pub struct Call {
    pub serial: u32,
    pub caller: usize,
    pub began: Instant,
    pub tried: Vec<u32>,
    /// Its attempts that are under way: one, and hedges.
    pub rivals: Vec<Rival>,
    /// So many of those that it was sent to were hedges.
    pub hedges: u32,
    /// How long the first of `rivals` was to be waited for before the others came.
    pub delay: Duration,
    pub leave: Option<Leave>,
    pub slot: Option<ServiceSlot>,
}

/// An attempt under way.
pub struct Rival {
    pub serial: u32,
    pub flight: Flight,
    pub overdue: Instant,
    /// Of a hedge: the service has let the call in once.
    pub slot: Option<ServiceSlot>,
}

impl Call {
    /// Until it is overdue.
    pub fn left(&self, policy: &Policy, now: Instant) -> Option<Duration> {
        let limit = policy.timeouts.request?;
        Some((self.began + limit).saturating_duration_since(now))
    }

    /// When an attempt that begins now is overdue.
    pub fn deadline(&self, policy: &Policy, now: Instant) -> Instant {
        let whole = policy.timeouts.request.unwrap_or(PATIENCE).min(PATIENCE);
        let whole = self.began + whole;
        policy.retry.per_try.map_or(whole, |limit| (now + limit).min(whole))
    }
}
