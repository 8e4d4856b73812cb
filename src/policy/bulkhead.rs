//! How much of us one service, or one endpoint, may take: requests and connections at the same time, with a
//! bounded queue for what is too much. What one service cannot take then does not fill up the whole proxy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::adaptive::{AdaptiveLimits, Gradient};
use super::codel::CodelLimits;
use super::queue::QueueLimits;
use super::slots::{Refused, SlotLimits, Slots, UNLIMITED};
use crate::clock::Instant;

/// What is typed for a service, every default filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BulkheadLimits {
    pub max_requests: u32,
    pub max_connections: u32,
    pub max_pending: u32,
    pub queue_timeout: Duration,
    pub codel: Option<CodelLimits>,
    pub endpoint: EndpointLimits,
    /// Finds the limit of requests in place of `max_requests`.
    pub adaptive: Option<AdaptiveLimits>,
}

/// What is typed for each endpoint of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointLimits {
    pub max_requests: u32,
    pub max_connections: u32,
    pub max_pending: u32,
}

impl EndpointLimits {
    pub const NONE: Self =
        Self { max_requests: UNLIMITED, max_connections: UNLIMITED, max_pending: 1024 };

    fn is_none(self) -> bool {
        self.max_requests == UNLIMITED && self.max_connections == UNLIMITED
    }
}

impl Default for BulkheadLimits {
    fn default() -> Self {
        Self { max_requests: 1024, max_connections: 1024, ..Self::UNLIMITED }
    }
}

impl BulkheadLimits {
    pub const UNLIMITED: Self = Self {
        max_requests: UNLIMITED,
        max_connections: UNLIMITED,
        max_pending: 1024,
        queue_timeout: Duration::from_secs(1),
        codel: None,
        endpoint: EndpointLimits::NONE,
        adaptive: None,
    };

    fn slots(&self, max: u32, pending: u32) -> SlotLimits {
        let queue = QueueLimits { max: pending, timeout: self.queue_timeout, codel: self.codel };
        SlotLimits { max, queue }
    }

    fn requests(&self) -> SlotLimits {
        self.slots(self.max_requests, self.max_pending)
    }

    fn connections(&self) -> SlotLimits {
        self.slots(self.max_connections, self.max_pending)
    }

    /// The slots of one endpoint; none where it has no limit of its own.
    pub fn of_endpoint(&self) -> Option<(SlotLimits, SlotLimits)> {
        (!self.endpoint.is_none()).then(|| self.endpoint_slots())
    }

    pub fn endpoint_slots(&self) -> (SlotLimits, SlotLimits) {
        let slots = |max| self.slots(max, self.endpoint.max_pending);
        (slots(self.endpoint.max_requests), slots(self.endpoint.max_connections))
    }
}

/// Why a request does not pass a bulkhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The service has all its requests, and none may wait.
    Requests,
    /// All its requests, and all that may wait.
    Pending,
    /// It has waited for too long.
    QueueTimeout,
    /// Its queue stands, so that it could not wait for as long as usual.
    QueueDelay,
    /// The endpoint has all its requests, as all others have.
    Endpoint,
}

impl Overflow {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Requests => "overflow_requests",
            Self::Pending => "overflow_pending",
            Self::QueueTimeout => "queue_timeout",
            Self::QueueDelay => "queue_delay",
            Self::Endpoint => "overflow_endpoint",
        }
    }
}

impl From<Refused> for Overflow {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Requests,
            Refused::QueueFull => Self::Pending,
            Refused::Late => Self::QueueDelay,
        }
    }
}

/// The bulkhead of a service. Shared by the workers, kept by service across reloads.
#[derive(Debug)]
pub struct Bulkhead {
    pub requests: Slots,
    pub connections: Arc<Slots>,
    /// Copies of other services' requests that were sent to this one.
    pub copies: Arc<Slots>,
    gradient: Mutex<Option<Gradient>>,
}

impl Bulkhead {
    pub fn new(limits: &BulkheadLimits, now: Instant) -> Self {
        let none = QueueLimits { max: 0, timeout: Duration::ZERO, codel: None };
        let bulkhead = Self {
            requests: Slots::new(limits.requests()),
            connections: Arc::new(Slots::new(limits.connections())),
            copies: Arc::new(Slots::new(SlotLimits { max: UNLIMITED, queue: none })),
            gradient: Mutex::default(),
        };
        bulkhead.apply(limits, now);
        bulkhead
    }

    /// Has these limits hold from now on. What is in use stays so, even where it is more.
    pub fn apply(&self, limits: &BulkheadLimits, now: Instant) {
        self.connections.set_limits(limits.connections(), now);
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = limits.requests();
        match &limits.adaptive {
            Some(adaptive) => {
                let gradient = gradient.get_or_insert_with(|| Gradient::new(adaptive, now));
                gradient.adopt(adaptive);
                requests.max = gradient.limit();
            }
            None => *gradient = None,
        }
        self.requests.set_limits(requests, now);
    }

    /// Tells the adaptive limit, where there is one, how long a request took.
    pub fn observe(&self, limits: &AdaptiveLimits, now: Instant, random: f64, rtt: Duration) {
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gradient) = &mut *gradient
            && gradient.observe(limits, now, random, rtt)
        {
            // Under the lock, so that an older limit cannot come after a newer one.
            self.requests.set_limit(gradient.limit(), now);
        }
    }

    /// The adaptive limit and the latency without load, where they are found out.
    pub fn adaptive(&self) -> Option<(u32, Option<Duration>)> {
        let gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        gradient.as_ref().map(|gradient| (gradient.limit(), gradient.min_rtt()))
    }
}

/// The bulkhead of one endpoint.
#[derive(Debug)]
pub struct EndpointBulkhead {
    pub requests: Arc<Slots>,
    pub connections: Arc<Slots>,
}

impl EndpointBulkhead {
    pub fn new((requests, connections): (SlotLimits, SlotLimits)) -> Self {
        Self {
            requests: Arc::new(Slots::new(requests)),
            connections: Arc::new(Slots::new(connections)),
        }
    }

    pub fn apply(&self, (requests, connections): (SlotLimits, SlotLimits), now: Instant) {
        self.requests.set_limits(requests, now);
        self.connections.set_limits(connections, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adaptive_limit_takes_the_place_of_the_fixed_one() {
        let limits = BulkheadLimits::default();
        let bulkhead = Bulkhead::new(&limits, Instant(1));
        assert_eq!((bulkhead.requests.limit(), bulkhead.adaptive()), (1024, None));
        let adaptive = AdaptiveLimits { samples: 1, update: Duration::ZERO, ..Default::default() };
        let with = BulkheadLimits { adaptive: Some(adaptive), ..limits };
        bulkhead.apply(&with, Instant(2));
        assert_eq!((bulkhead.requests.limit(), bulkhead.adaptive()), (3, Some((3, None))));
        for now in 3..10 {
            bulkhead.observe(&adaptive, Instant(now), 0.5, Duration::ZERO);
        }
        let found = bulkhead.requests.limit();
        assert!(found > 3, "{found}");
        assert_eq!(bulkhead.adaptive(), Some((found, Some(Duration::from_micros(1)))));
        // It lives on where the configuration is read again.
        bulkhead.apply(&with, Instant(20));
        assert_eq!(bulkhead.requests.limit(), found);
        bulkhead.apply(&limits, Instant(21));
        assert_eq!((bulkhead.requests.limit(), bulkhead.adaptive()), (1024, None));
    }
}
