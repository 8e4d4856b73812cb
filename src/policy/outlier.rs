//! Outlier detection: an endpoint that does worse than the others of its service is left alone for a while.
//!
//! What is decided here is pure; what an endpoint remembers is in [`Record`], which workers share. Failures in
//! a row eject at once, shares over an interval when control looks at it. An ejection lasts the longer the
//! more there were, and never takes the last endpoint that could answer.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Mode;
use super::condition::{DATA_LOSS, DEADLINE_EXCEEDED, End, INTERNAL, UNAVAILABLE, UNKNOWN};
use crate::clock::Instant;

mod detector;

pub use detector::{Detector, Ruling};

#[derive(Debug, Clone, PartialEq)]
pub struct OutlierConfig {
    pub mode: Mode,
    /// Ejects after so many 5xx, or calls without an answer, in a row.
    pub consecutive_5xx: Option<u32>,
    /// The same for 502, 503, 504 and no answer.
    pub consecutive_gateway_errors: Option<u32>,
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
    /// How often shares are looked at.
    pub interval: Duration,
    /// An ejection lasts so long times the number of ejections.
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// Share of the endpoints that may be ejected at a time, 0 to 1; one of two or more always may.
    pub max_ejected: f64,
}

/// Ejects whose share of successes is so many standard deviations below the mean, and by so much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    pub min_endpoints: u32,
    pub min_calls: u32,
    pub deviations: f64,
    /// With less below the mean, 0 to 1, nobody is an outlier: where nearly all is well, two errors are already
    /// many deviations.
    pub min_gap: f64,
}

/// Ejects whose share of failures is at least this, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailurePercentage {
    pub threshold: f64,
    pub min_endpoints: u32,
    pub min_calls: u32,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            consecutive_5xx: Some(5),
            consecutive_gateway_errors: None,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            // Envoy's is a tenth. A rollout that is bad for a fifth of the endpoints is then left in the
            // traffic by half, see docs/simulation.md; the panic threshold is the other bound.
            max_ejected: 0.5,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { min_endpoints: 5, min_calls: 100, deviations: 1.9, min_gap: 0.05 }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 0.85, min_endpoints: 5, min_calls: 50 }
    }
}

/// Why an endpoint is ejected: one of a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayErrors,
    SuccessRate,
    FailurePercentage,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
        }
    }
}

/// How a call ended, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// A 5xx that is no gateway error.
    ServerError,
    /// 502, 503, 504, or no answer.
    GatewayError,
}

impl Verdict {
    /// gRPC statuses count as the HTTP statuses that they are mapped to.
    pub fn of(end: End) -> Self {
        let End::Answered { status, grpc } = end else { return Self::GatewayError };
        match (status.as_u16(), grpc) {
            (502..=504, _) | (_, Some(UNAVAILABLE | DEADLINE_EXCEEDED)) => Self::GatewayError,
            (500..=599, _) | (_, Some(UNKNOWN | INTERNAL | DATA_LOSS)) => Self::ServerError,
            _ => Self::Good,
        }
    }
}

/// What an endpoint remembers. Workers count in it, control looks at its interval.
#[derive(Debug, Default)]
pub struct Record {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Calls of this interval in the upper half, the good ones of them in the lower.
    interval: AtomicU64,
    /// When its ejection ends; 0 if it never was ejected.
    until: AtomicU64,
    /// Ejections, less one for each interval without.
    ejections: AtomicU32,
}

impl Record {
    /// Counts a call. A cause is given where it is one to eject for; it is given again with each further
    /// failure, until [`Record::eject`].
    pub fn note(&self, verdict: Verdict, config: &OutlierConfig) -> Option<Cause> {
        self.interval.fetch_add(1 << 32 | u64::from(verdict == Verdict::Good), Relaxed);
        let count = |counter: &AtomicU32, counts: bool| match counts {
            true => counter.fetch_add(1, Relaxed).saturating_add(1),
            false => {
                // Mostly it is 0 already, and then the line need not be written.
                if counter.load(Relaxed) != 0 {
                    counter.store(0, Relaxed);
                }
                0
            }
        };
        let errors = count(&self.errors, verdict != Verdict::Good);
        let gateway = count(&self.gateway_errors, verdict == Verdict::GatewayError);
        let reached = |limit: Option<u32>, count| limit.is_some_and(|limit| count >= limit);
        if reached(config.consecutive_5xx, errors) {
            Some(Cause::Consecutive5xx)
        } else if reached(config.consecutive_gateway_errors, gateway) {
            Some(Cause::ConsecutiveGatewayErrors)
        } else {
            None
        }
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        now.0 < self.until.load(Relaxed)
    }

    /// When its last ejection ends or ended.
    pub fn until(&self) -> Instant {
        Instant(self.until.load(Relaxed))
    }

    /// Begins an ejection, and says how long it is. To be called under what bounds the number of ejections.
    pub fn eject(&self, now: Instant, config: &OutlierConfig) -> Duration {
        let times = self.ejections.load(Relaxed).saturating_add(1);
        self.ejections.store(times, Relaxed);
        let lasts = config.base_ejection.saturating_mul(times).min(config.max_ejection);
        self.until.store((now + lasts).0, Relaxed);
        self.forgive();
        lasts
    }

    /// Forgets its ejections.
    pub fn forget(&self) {
        self.until.store(0, Relaxed);
        self.ejections.store(0, Relaxed);
        self.forgive();
    }

    /// Forgets what went wrong so far: after an ejection, in truth or in shadow.
    pub fn forgive(&self) {
        self.errors.store(0, Relaxed);
        self.gateway_errors.store(0, Relaxed);
    }

    /// Ends an interval: what there was in it. Without an ejection in it, the next one is shorter.
    pub fn end_interval(&self, now: Instant) -> Interval {
        let packed = self.interval.swap(0, Relaxed);
        if !self.is_ejected(now) {
            let ejections = self.ejections.load(Relaxed);
            self.ejections.store(ejections.saturating_sub(1), Relaxed);
        }
        Interval { calls: (packed >> 32) as u32, good: packed as u32 }
    }
}

/// The calls of one endpoint in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    pub calls: u32,
    pub good: u32,
}

impl Interval {
    /// 0 to 1.
    fn success(self) -> f64 {
        f64::from(self.good) / f64::from(self.calls.max(1))
    }
}

/// Whether one more of `total` endpoints may be ejected, of which `ejected` are and `others` besides it could
/// still answer.
pub fn may_eject(total: usize, ejected: usize, others: usize, config: &OutlierConfig) -> bool {
    let share = (config.max_ejected * total as f64).floor() as usize;
    others > 0 && ejected < share.max(1)
}

/// The endpoints, by their indices, that do so much worse than the others in an interval that they are to be
/// ejected.
pub fn outliers(intervals: &[Interval], config: &OutlierConfig) -> Vec<(usize, Cause)> {
    let mut found = Vec::new();
    if let Some(rate) = &config.success_rate {
        let counted = enough(intervals, rate.min_calls, rate.min_endpoints);
        if !counted.is_empty() {
            let count = counted.len() as f64;
            let rates = || counted.iter().map(|(_, interval)| interval.success());
            let mean = rates().sum::<f64>() / count;
            let variance = rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
            let least = mean - (rate.deviations * variance.sqrt()).max(rate.min_gap);
            let below = counted.iter().filter(|(_, interval)| interval.success() < least);
            found.extend(below.map(|(index, _)| (*index, Cause::SuccessRate)));
        }
    }
    if let Some(percentage) = &config.failure_percentage {
        let counted = enough(intervals, percentage.min_calls, percentage.min_endpoints);
        let above = counted.iter().filter(|(index, interval)| {
            1.0 - interval.success() >= percentage.threshold
                && !found.iter().any(|(known, _)| known == index)
        });
        let above: Vec<_> = above.map(|(index, _)| (*index, Cause::FailurePercentage)).collect();
        found.extend(above);
    }
    found
}

/// Those with at least `calls`; none if there are fewer than `endpoints` of them.
fn enough(intervals: &[Interval], calls: u32, endpoints: u32) -> Vec<(usize, Interval)> {
    let counted: Vec<_> = intervals
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, interval)| interval.calls > 0 && interval.calls >= calls)
        .collect();
    if counted.len() < endpoints as usize { Vec::new() } else { counted }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(calls: u32, good: u32) -> Interval {
        Interval { calls, good }
    }

    #[test]
    fn errors_in_a_row_are_a_cause_until_one_is_good() {
        let config = OutlierConfig { consecutive_gateway_errors: Some(3), ..Default::default() };
        let record = Record::default();
        let noted = |verdicts: &[Verdict]| {
            verdicts.iter().map(|verdict| record.note(*verdict, &config)).collect::<Vec<_>>()
        };
        let (good, server, gateway) = (Verdict::Good, Verdict::ServerError, Verdict::GatewayError);
        assert_eq!(noted(&[server, gateway, server, server, good, gateway, gateway]), [None; 7]);
        assert_eq!(noted(&[gateway]), [Some(Cause::ConsecutiveGatewayErrors)]);
        assert_eq!(noted(&[server, server]), [None, Some(Cause::Consecutive5xx)]);
    }

    #[test]
    fn an_ejection_lasts_longer_each_time_and_good_intervals_shorten_the_next() {
        let config = OutlierConfig::default();
        let record = Record::default();
        let mut now = Instant(1);
        let eject = |now: &mut Instant| {
            let lasts = record.eject(*now, &config);
            assert!(record.is_ejected(*now));
            *now = record.until();
            assert!(!record.is_ejected(*now));
            lasts.as_secs()
        };
        let lengths: Vec<_> = (0..11).map(|_| eject(&mut now)).collect();
        assert_eq!(lengths, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300]);
        for _ in 0..10 {
            record.end_interval(now);
        }
        assert_eq!(eject(&mut now), 60);
    }

    #[test]
    fn one_that_does_far_worse_than_the_mean_is_found() {
        let config = OutlierConfig::default();
        let mut intervals = vec![interval(100, 99); 9];
        intervals.push(interval(100, 80));
        assert_eq!(outliers(&intervals, &config), [(9, Cause::SuccessRate)]);
        // Further below than 1.9 deviations, and not far.
        let mut nearly = vec![interval(1000, 1000); 9];
        nearly.push(interval(1000, 960));
        assert_eq!(outliers(&nearly, &config), []);
        // All alike, however bad.
        assert_eq!(outliers(&[interval(100, 50); 10], &config), []);
        // Too few calls, or too few endpoints that have enough of them.
        intervals[9] = interval(99, 0);
        assert_eq!(outliers(&intervals, &config), []);
        assert_eq!(outliers(&[interval(100, 99), interval(100, 0)], &config), []);
    }

    #[test]
    fn a_share_of_failures_is_found_whatever_the_others_do() {
        let config = OutlierConfig {
            success_rate: None,
            failure_percentage: Some(FailurePercentage { min_endpoints: 2, ..Default::default() }),
            ..Default::default()
        };
        let intervals = [interval(50, 7), interval(50, 8), interval(49, 0), interval(0, 0)];
        assert_eq!(outliers(&intervals, &config), [(0, Cause::FailurePercentage)]);
    }

    #[test]
    fn one_of_two_may_go_and_never_the_last() {
        let config = OutlierConfig::default();
        assert!(!may_eject(1, 0, 0, &config));
        assert!(may_eject(2, 0, 1, &config));
        assert!(!may_eject(2, 1, 0, &config));
        assert!(may_eject(10, 4, 5, &config));
        assert!(!may_eject(10, 5, 4, &config));
        let tenth = OutlierConfig { max_ejected: 0.1, ..config };
        assert!(!may_eject(10, 1, 8, &tenth));
        assert!(may_eject(30, 2, 27, &tenth));
        assert!(!may_eject(30, 3, 26, &tenth));
    }

    proptest! {
        /// Whatever happens, some endpoint is left, and no more are out than the share allows.
        #[test]
        fn never_the_last_and_never_too_many(
            total in 1_usize..40,
            max_ejected in 0.0..1.0_f64,
            events in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..40), 1..300),
        ) {
            let config = OutlierConfig { max_ejected, ..Default::default() };
            let records: Vec<Record> = (0..total).map(|_| Record::default()).collect();
            let mut now = Instant(1);
            for (which, seconds) in events {
                now = Instant(now.0 + seconds * 1_000_000_000);
                let which = which.index(total);
                let ejected = records.iter().filter(|record| record.is_ejected(now)).count();
                let others = total - ejected - usize::from(!records[which].is_ejected(now));
                if !records[which].is_ejected(now) && may_eject(total, ejected, others, &config) {
                    records[which].eject(now, &config);
                }
                let ejected = records.iter().filter(|record| record.is_ejected(now)).count();
                prop_assert!(ejected < total);
                prop_assert!(ejected <= 1.max((max_ejected * total as f64) as usize));
            }
        }
    }
}
