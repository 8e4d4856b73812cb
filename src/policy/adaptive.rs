//! How many requests a service bears, found out by its latency: the gradient limiter of Envoy's adaptive
//! concurrency. From time to time the limit goes down to a minimum and the latency without a queue is
//! measured (minRTT). In between, the limit follows the quotient of that and of what is measured now: it
//! grows while they are alike, and shrinks while requests take longer than without load.

use std::time::Duration;

use crate::clock::Instant;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveLimits {
    pub min: u32,
    pub max: u32,
    /// How often the limit follows.
    pub update: Duration,
    /// How often the latency without load is measured, and by how many requests.
    pub measure: Duration,
    pub samples: u32,
    /// The interval between two measurements grows by up to this share, at random.
    pub jitter: f64,
    /// The share by which latency may grow before the limit shrinks.
    pub buffer: f64,
}

impl Default for AdaptiveLimits {
    fn default() -> Self {
        Self {
            min: 3,
            max: 1000,
            update: Duration::from_millis(100),
            measure: Duration::from_secs(60),
            samples: 50,
            jitter: 0.15,
            buffer: 0.25,
        }
    }
}

/// Windows in a row at the minimum after which the minRTT is held to be wrong, as Envoy has it.
const AT_MIN: u32 = 5;
/// Samples of one window that are kept: beyond, one takes the place of another.
const KEPT: usize = 256;

#[derive(Debug)]
pub struct Gradient {
    limit: u32,
    min_rtt: Option<Duration>,
    phase: Phase,
    samples: Vec<u32>,
    /// Of this window or measurement.
    seen: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// The limit is the minimum. Requests from before say nothing.
    Measuring {
        since: Instant,
        limit_before: u32,
    },
    Following {
        window_ends: Instant,
        measure_at: Instant,
        windows_at_min: u32,
    },
}

impl Gradient {
    pub fn new(limits: &AdaptiveLimits, now: Instant) -> Self {
        Self {
            limit: limits.min,
            min_rtt: None,
            phase: Phase::Measuring { since: now, limit_before: limits.min },
            samples: Vec::new(),
            seen: 0,
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }

    /// Other limits hold from now on.
    pub fn adopt(&mut self, limits: &AdaptiveLimits) {
        self.limit = self.limit.clamp(limits.min, limits.max);
    }

    /// A request took `rtt` and ended at `now`; `random` is from 0 to 1. Returns whether the limit changed.
    pub fn observe(
        &mut self,
        limits: &AdaptiveLimits,
        now: Instant,
        random: f64,
        rtt: Duration,
    ) -> bool {
        let before = self.limit;
        match self.phase {
            Phase::Measuring { since, limit_before } => {
                if now.saturating_duration_since(since) < rtt {
                    return false;
                }
                self.keep(random, rtt);
                if self.seen >= limits.samples {
                    self.measured(limits, now, random, limit_before);
                }
            }
            Phase::Following { window_ends, measure_at, windows_at_min } => {
                self.keep(random, rtt);
                if now < window_ends {
                    return false;
                }
                self.follow(limits);
                let windows_at_min = if self.limit <= limits.min { windows_at_min + 1 } else { 0 };
                self.phase = if now >= measure_at || windows_at_min >= AT_MIN {
                    let limit_before = std::mem::replace(&mut self.limit, limits.min);
                    Phase::Measuring { since: now, limit_before }
                } else {
                    let window_ends = after(now, limits.update);
                    Phase::Following { window_ends, measure_at, windows_at_min }
                };
            }
        }
        self.limit != before
    }

    fn measured(&mut self, limits: &AdaptiveLimits, now: Instant, random: f64, limit_before: u32) {
        self.min_rtt = self.median();
        self.limit = limit_before.clamp(limits.min, limits.max);
        let next = limits.measure.mul_f64(1.0 + limits.jitter * random);
        self.phase = Phase::Following {
            window_ends: after(now, limits.update),
            measure_at: after(now, next),
            windows_at_min: 0,
        };
    }

    /// limit = limit × gradient + √limit, where the gradient is (minRTT + buffer) / sampleRTT.
    fn follow(&mut self, limits: &AdaptiveLimits) {
        let (Some(min_rtt), Some(sample)) = (self.min_rtt, self.median()) else { return };
        let allowed = min_rtt.as_secs_f64() * (1.0 + limits.buffer);
        let gradient = (allowed / sample.as_secs_f64().max(1e-6)).clamp(0.5, 2.0);
        let limit = f64::from(self.limit) * gradient;
        let limit = limit + limit.max(1.0).sqrt();
        self.limit = (limit as u32).clamp(limits.min, limits.max);
    }

    fn keep(&mut self, random: f64, rtt: Duration) {
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        self.seen = self.seen.saturating_add(1);
        if self.samples.len() < KEPT {
            return self.samples.push(micros);
        }
        // Each of those seen has the same chance to be among those kept.
        let place = (random * f64::from(self.seen)) as usize;
        if let Some(kept) = self.samples.get_mut(place) {
            *kept = micros;
        }
    }

    /// Of the samples so far, which are forgotten.
    fn median(&mut self) -> Option<Duration> {
        let middle = self.samples.len() / 2;
        let median = (!self.samples.is_empty())
            .then(|| Duration::from_micros((*self.samples.select_nth_unstable(middle).1).into()));
        self.samples.clear();
        self.seen = 0;
        median
    }
}

fn after(now: Instant, duration: Duration) -> Instant {
    Instant(now.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Time goes on by a millisecond a sample.
    struct Run {
        limits: AdaptiveLimits,
        gradient: Gradient,
        now: Instant,
    }

    impl Run {
        fn new() -> Self {
            let limits = AdaptiveLimits::default();
            let now = Instant(1_000_000_000);
            Self { limits, gradient: Gradient::new(&limits, now), now }
        }

        fn samples(&mut self, count: usize, rtt: Duration) {
            for _ in 0..count {
                self.now = after(self.now, MS);
                self.gradient.observe(&self.limits, self.now, 0.5, rtt);
            }
        }
    }

    #[test]
    fn it_begins_at_the_minimum_and_measures_fifty() {
        let mut run = Run::new();
        run.samples(49, MS);
        assert_eq!((run.gradient.limit(), run.gradient.min_rtt()), (3, None));
        run.samples(1, MS);
        assert_eq!(run.gradient.min_rtt(), Some(MS));
    }

    #[test]
    fn what_was_sent_before_the_measurement_is_left_out() {
        let mut run = Run::new();
        run.samples(60, 100 * MS);
        // The first 99 ms give nothing.
        assert_eq!(run.gradient.min_rtt(), None);
        run.samples(100, 100 * MS);
        assert_eq!(run.gradient.min_rtt(), Some(100 * MS));
    }

    #[test]
    fn it_grows_while_latency_stays_and_shrinks_when_it_grows() {
        let mut run = Run::new();
        run.samples(2_000, 2 * MS);
        let high = run.gradient.limit();
        assert!(high > 100, "{high}");
        run.samples(1_000, 20 * MS);
        let low = run.gradient.limit();
        assert!(low < high / 4, "{low} of {high}");
    }

    #[test]
    fn it_settles_where_latency_depends_on_the_limit() {
        // A service that works on ten at a time: more of them wait for one another.
        let mut run = Run::new();
        for _ in 0..20_000 {
            let rtt = 10 * MS * run.gradient.limit().max(10) / 10;
            run.samples(1, rtt);
        }
        let limit = run.gradient.limit();
        assert!((10..=25).contains(&limit), "{limit}");
    }

    #[test]
    fn it_measures_again_and_returns_to_where_it_was() {
        let mut run = Run::new();
        run.samples(30_000, MS);
        let before = run.gradient.limit();
        assert_eq!(before, 1000);
        let mut lowest = before;
        for _ in 0..45_000 {
            run.samples(1, MS);
            lowest = lowest.min(run.gradient.limit());
        }
        assert_eq!((lowest, run.gradient.limit()), (3, before));
    }

    proptest! {
        /// Whatever the latencies: the limit stays within its bounds, and is the minimum while measuring.
        #[test]
        fn bounded(samples in prop::collection::vec((0u64..200_000, 0u64..5_000_000, 0.0f64..1.0), 1..2000)) {
            let limits = AdaptiveLimits { min: 3, max: 50, samples: 10, measure: Duration::from_secs(5), ..AdaptiveLimits::default() };
            let mut now = Instant(10_000_000_000);
            let mut gradient = Gradient::new(&limits, now);
            for (step, rtt, random) in samples {
                now = after(now, Duration::from_micros(step));
                let before = gradient.limit();
                let changed = gradient.observe(&limits, now, random, Duration::from_micros(rtt));
                prop_assert!((3..=50).contains(&gradient.limit()));
                prop_assert_eq!(changed, gradient.limit() != before);
                if matches!(gradient.phase, Phase::Measuring { .. }) {
                    prop_assert_eq!(gradient.limit(), 3);
                }
            }
        }
    }
}
