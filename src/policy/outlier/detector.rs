//! The outlier detection of one service: who looks at the records, and sends endpoints away.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Cause, OutlierConfig, Verdict, may_eject, outliers};
use crate::clock::Instant;
use crate::endpoint::{Endpoint, State};
use crate::policy::{Mode, Would};

#[derive(Debug)]
pub struct Detector {
    pub config: OutlierConfig,
    /// When the present interval ends; 0 before the first.
    due: AtomicU64,
    /// Held while it is decided who goes, so that two workers do not send away one too many.
    ejecting: Mutex<()>,
}

/// What became of an endpoint that there was a cause to eject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It is left alone for so long.
    Ejected(Duration),
    /// In shadow mode: it would be.
    WouldEject(Duration),
    /// As many are ejected as may be, or it is the last one.
    Spared,
    /// It is ejected already.
    Gone,
}

impl Ruling {
    pub const WOULD_EJECT: Would = Would { policy: "outlier_detection", act: "eject" };
}

impl Detector {
    pub fn new(config: OutlierConfig) -> Self {
        Self { config, due: AtomicU64::new(0), ejecting: Mutex::default() }
    }

    /// Takes in how a call to `endpoint`, which is one of `all`, ended.
    pub fn note(
        &self,
        endpoint: &Endpoint,
        all: &[Arc<Endpoint>],
        verdict: Verdict,
        now: Instant,
    ) -> Option<(Cause, Ruling)> {
        let cause = endpoint.state.record.note(verdict, &self.config)?;
        Some((cause, self.rule(endpoint, all, now)))
    }

    /// Whether an interval has passed; if so, the next one begins. For one who looks alone.
    pub fn is_due(&self, now: Instant) -> bool {
        let due = self.due.load(Relaxed);
        let is_due = now.0 >= due;
        if is_due {
            self.due.store((now + self.config.interval).0, Relaxed);
        }
        is_due && due > 0
    }

    /// Ends an interval: who did worse in it than the others, and what became of them.
    pub fn look(&self, all: &[Arc<Endpoint>], now: Instant) -> Vec<(usize, Cause, Ruling)> {
        let intervals: Vec<_> =
            all.iter().map(|endpoint| endpoint.state.record.end_interval(now)).collect();
        let found = outliers(&intervals, &self.config).into_iter();
        found.map(|(index, cause)| (index, cause, self.rule(&all[index], all, now))).collect()
    }

    fn rule(&self, endpoint: &Endpoint, all: &[Arc<Endpoint>], now: Instant) -> Ruling {
        let _guard = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let record = &endpoint.state.record;
        if record.is_ejected(now) {
            return Ruling::Gone;
        }
        let ejected = all.iter().filter(|other| other.state.record.is_ejected(now)).count();
        let others = all.iter().filter(|other| !std::ptr::eq(&***other, endpoint));
        let could_answer = |state: &State| !state.record.is_ejected(now) && !state.is_unhealthy();
        let others = others.filter(|other| could_answer(&other.state)).count();
        if !may_eject(all.len(), ejected, others, &self.config) {
            // So that they are not all counted again at its next failure.
            record.forgive();
            return Ruling::Spared;
        }
        let lasts = record.eject(now, &self.config);
        match self.config.mode {
            Mode::Enforce => {
                endpoint.state.eject(record.until());
                Ruling::Ejected(lasts)
            }
            Mode::Shadow => Ruling::WouldEject(lasts),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::Address;

    const S: u64 = 1_000_000_000;

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        let address = |port| Address::Name { host: "a".into(), port };
        (0..count).map(|port| Arc::new(Endpoint::new(address(port), Arc::default()))).collect()
    }

    fn fail(detector: &Detector, all: &[Arc<Endpoint>], index: usize, now: u64) -> Option<Ruling> {
        let note = |_| detector.note(&all[index], all, Verdict::ServerError, Instant(now));
        (0..5).filter_map(note).last().map(|(cause, ruling)| {
            assert_eq!(cause, Cause::Consecutive5xx);
            ruling
        })
    }

    #[test]
    fn one_is_ejected_for_its_time_and_the_last_is_spared() {
        let detector = Detector::new(OutlierConfig { max_ejected: 1.0, ..Default::default() });
        let all = endpoints(2);
        let lasts = Duration::from_secs(30);
        assert_eq!(fail(&detector, &all, 0, S), Some(Ruling::Ejected(lasts)));
        assert!(
            all[0].state.is_away(Instant(31 * S - 1)) && !all[0].state.is_away(Instant(31 * S))
        );
        assert_eq!(fail(&detector, &all, 0, S), Some(Ruling::Gone));
        assert_eq!(fail(&detector, &all, 1, S), Some(Ruling::Spared));
        assert!(!all[1].state.is_away(Instant(S)));
        // It is back, and the other one may go.
        assert_eq!(fail(&detector, &all, 1, 31 * S), Some(Ruling::Ejected(lasts)));
    }

    /// However many workers find them failing at once, one is left, and no more go than may.
    #[test]
    fn so_many_may_go_whoever_finds_them() {
        for round in 0..50 {
            let detector = Detector::new(OutlierConfig { max_ejected: 0.5, ..Default::default() });
            let (all, now) = (endpoints(8), S + round);
            std::thread::scope(|scope| {
                for first in 0..8 {
                    let (detector, all) = (&detector, &all);
                    scope.spawn(move || {
                        (0..8).for_each(|index| {
                            fail(detector, all, (first + index) % 8, now);
                        });
                    });
                }
            });
            let gone = all.iter().filter(|it| it.state.is_away(Instant(now))).count();
            assert_eq!(gone, 4);
        }
    }

    #[test]
    fn in_shadow_it_keeps_its_own_account_and_nobody_goes() {
        let config = OutlierConfig { mode: Mode::Shadow, ..Default::default() };
        let detector = Detector::new(config);
        let all = endpoints(2);
        let would = Ruling::WouldEject(Duration::from_secs(30));
        assert_eq!(fail(&detector, &all, 0, S), Some(would));
        assert_eq!(fail(&detector, &all, 0, S), Some(Ruling::Gone));
        assert!(!all[0].state.is_away(Instant(S)));
    }

    #[test]
    fn who_does_worst_in_an_interval_goes() {
        let detector = Detector::new(OutlierConfig::default());
        let all = endpoints(10);
        for call in 0..1000 {
            // One in five, as from a server that is half broken.
            let bad = call % 10 == 3 && call % 50 < 10;
            let verdict = if bad { Verdict::ServerError } else { Verdict::Good };
            assert_eq!(detector.note(&all[call % 10], &all, verdict, Instant(S)), None);
        }
        let lasts = Duration::from_secs(30);
        let expected = [(3, Cause::SuccessRate, Ruling::Ejected(lasts))];
        assert_eq!(detector.look(&all, Instant(S)), expected);
        assert_eq!(detector.look(&all, Instant(2 * S)), []);
    }

    proptest! {
        /// Whatever fails whenever: one can always be asked, and no more are away than may be.
        #[test]
        fn one_is_always_left(
            count in 1_u16..30,
            max_ejected in 0.0..1.0_f64,
            events in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..40), 1..300),
        ) {
            let detector = Detector::new(OutlierConfig { max_ejected, ..Default::default() });
            let all = endpoints(count);
            let mut now = 1;
            for (which, seconds) in events {
                now += seconds * S;
                let failed = fail(&detector, &all, which.index(all.len()), now);
                prop_assert!(failed.is_some());
                let away = all.iter().filter(|endpoint| endpoint.state.is_away(Instant(now))).count();
                prop_assert!(away < all.len());
                prop_assert!(away <= 1.max((max_ejected * f64::from(count)) as usize));
            }
        }
    }
}
