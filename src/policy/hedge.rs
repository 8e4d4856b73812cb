//! Whether a request that waits for its answer is sent to a second endpoint as well (Dean and Barroso, "The
//! Tail at Scale", 2013; gRFC A6). The first good answer counts. The budget of the service
//! ([`super::Budget`]) is asked afterwards, as for retries: it counts what is decided here.

use std::time::Duration;

use super::Mode;
use super::percentile::Latencies;
use crate::clock::Instant;

/// How a route hedges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hedge {
    pub mode: Mode,
    pub after: After,
    /// How often at most for one request.
    pub max: u32,
    /// Whether requests of any method are hedged, not only idempotent ones.
    pub any_method: bool,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Delay(Duration),
    /// As long as so many percent of the requests of the service take at most.
    Percentile(u8),
}

impl Default for Hedge {
    fn default() -> Self {
        Self { mode: Mode::Enforce, after: After::Percentile(95), max: 1, any_method: false }
    }
}

/// A request whose answer is overdue for hedging.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation {
    /// An endpoint is left that was not tried and does well.
    pub has_other: bool,
    /// Breakers let nobody through.
    pub refused: bool,
    /// All of its body is kept.
    pub replayable: bool,
    /// Until the request is overdue.
    pub left: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Send,
    /// It is not allowed; for the metric.
    Skip(&'static str),
}

impl Hedge {
    /// Whether a request is one that may be sent twice. What asks for another protocol is not: a tunnel would
    /// be opened twice.
    pub fn takes(&self, idempotent: bool, upgrades: bool) -> bool {
        self.max > 0 && !upgrades && (idempotent || self.any_method)
    }

    /// How long an answer is waited for; unknown where too little is known of the service.
    pub fn delay(&self, latencies: &Latencies, now: Instant) -> Option<Duration> {
        match self.after {
            After::Delay(delay) => Some(delay),
            After::Percentile(percentile) => latencies.percentile(percentile, now),
        }
    }
}

/// Whether a request whose answer is overdue is sent once more.
pub fn next(situation: &Situation) -> Next {
    if situation.left.is_some_and(|left| left.is_zero()) {
        return Next::Skip("deadline");
    }
    if situation.refused {
        return Next::Skip("circuit_breaker_open");
    }
    if !situation.has_other {
        return Next::Skip("no_other_endpoint");
    }
    if !situation.replayable {
        return Next::Skip("body_too_large");
    }
    Next::Send
}

#[cfg(test)]
mod tests {
    use super::super::percentile::MIN_SAMPLES;
    use super::*;

    const GOOD: Situation = Situation {
        has_other: true,
        refused: false,
        replayable: true,
        left: Some(Duration::from_secs(1)),
    };

    #[test]
    fn only_what_may_be_sent_twice() {
        let hedge = Hedge::default();
        assert!(hedge.takes(true, false));
        assert!(!hedge.takes(false, false), "a POST");
        assert!(!hedge.takes(true, true), "a WebSocket");
        let any = Hedge { any_method: true, ..Hedge::default() };
        assert!(any.takes(false, false));
        assert!(!any.takes(true, true));
        assert!(!Hedge { max: 0, ..any }.takes(true, false));
    }

    #[test]
    fn to_another_endpoint_and_in_time() {
        assert_eq!(next(&GOOD), Next::Send);
        assert_eq!(next(&Situation { left: None, ..GOOD }), Next::Send);
        for (situation, reason) in [
            (Situation { left: Some(Duration::ZERO), ..GOOD }, "deadline"),
            (Situation { refused: true, ..GOOD }, "circuit_breaker_open"),
            (Situation { has_other: false, ..GOOD }, "no_other_endpoint"),
            (Situation { replayable: false, ..GOOD }, "body_too_large"),
        ] {
            assert_eq!(next(&situation), Next::Skip(reason));
        }
    }

    #[test]
    fn a_percentile_has_to_be_known() {
        let (hedge, latencies, now) = (Hedge::default(), Latencies::default(), Instant(1 << 40));
        assert_eq!(hedge.delay(&latencies, now), None);
        for _ in 0..MIN_SAMPLES {
            latencies.observe(now, Duration::from_millis(8));
        }
        let delay = hedge.delay(&latencies, now).expect("known");
        assert!(delay > Duration::from_millis(8) && delay < Duration::from_millis(9), "{delay:?}");
        let fixed = Hedge { after: After::Delay(Duration::ZERO), ..hedge };
        assert_eq!(fixed.delay(&Latencies::default(), now), Some(Duration::ZERO));
    }
}
