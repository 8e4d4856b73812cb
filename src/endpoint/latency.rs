//! How long an endpoint takes to answer, as a moving average that believes bad news at once.
//!
//! Peak EWMA: a sample above the average replaces it; one below it pulls it down with a time
//! constant. Samples come at their own pace, so the weight of the past follows the time between
//! them: `exp(-elapsed / decay)`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Instant;

/// Time in units of 2^24 ns (16.8 ms), so that it fits beside an `f32` in one atomic word. It wraps
/// after 2.3 years of uptime; differences stay right for half of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tick(u32);

const TICK_SHIFT: u32 = 24;

impl From<Instant> for Tick {
    #[allow(clippy::cast_possible_truncation)]
    fn from(now: Instant) -> Self {
        Self((now.0 >> TICK_SHIFT) as u32)
    }
}

impl Tick {
    /// Ticks from `earlier` to `self`; zero if another worker was a little ahead.
    fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > u32::MAX / 2 { 0 } else { difference }
    }

    fn latest(self, other: Self) -> Self {
        if self.since(other) > 0 { self } else { other }
    }
}

/// A peak EWMA of latencies, shared by workers without a lock.
///
/// Nothing heard, the average fades towards zero with the same time constant: what was slow gets
/// another chance. A request under way ([`PeakEwma::expect`]) starts the fading anew from the full
/// average, so that the other chance is one request and not a stampede.
#[derive(Debug)]
pub struct PeakEwma {
    /// Average in nanoseconds as the bits of an `f32`, and the [`Tick`] of its last change below
    /// it. A measured average is at least 1 ns, so zero means: never measured.
    average: AtomicU64,
    /// The [`Tick`] of the last request that was sent.
    asked: AtomicU32,
    /// `-1 / decay`, in ticks.
    rate: f32,
}

impl PeakEwma {
    /// `decay` is the time after which a sample below the average has taken 63 % of the way to it.
    pub fn new(decay: Duration) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let ticks = decay.as_nanos() as f32 / (1_u64 << TICK_SHIFT) as f32;
        Self { average: AtomicU64::new(0), asked: AtomicU32::new(0), rate: -1.0 / ticks.max(1.0) }
    }

    /// A request was sent; a sample may follow.
    pub fn expect(&self, now: Instant) {
        self.asked.store(Tick::from(now).0, Relaxed);
    }

    /// Takes in one sample. Of the samples below the average only the first of a tick counts.
    pub fn observe(&self, now: Instant, sample: Duration) {
        #[allow(clippy::cast_precision_loss)]
        let sample = (sample.as_nanos() as f32).max(1.0);
        let now = Tick::from(now);
        let mut packed = self.average.load(Relaxed);
        loop {
            let next = match unpack(packed) {
                None => pack(sample, now),
                Some((average, stamp)) if sample >= average => pack(sample, now.latest(stamp)),
                Some((average, stamp)) => match now.since(stamp) {
                    0 => return,
                    elapsed => {
                        let past = self.fade(elapsed);
                        pack(average * past + sample * (1.0 - past), now)
                    }
                },
            };
            match self.average.compare_exchange_weak(packed, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => packed = seen,
            }
        }
    }

    /// The average at `now` in nanoseconds; `None` if nothing was measured yet.
    pub fn nanos(&self, now: Instant) -> Option<f32> {
        let (average, stamp) = unpack(self.average.load(Relaxed))?;
        let heard = stamp.latest(Tick(self.asked.load(Relaxed)));
        Some(match Tick::from(now).since(heard) {
            0 => average,
            elapsed => average * self.fade(elapsed),
        })
    }

    #[allow(clippy::cast_precision_loss)]
    fn fade(&self, ticks: u32) -> f32 {
        (ticks as f32 * self.rate).exp()
    }
}

fn pack(average: f32, stamp: Tick) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(stamp.0)
}

#[allow(clippy::cast_possible_truncation)]
fn unpack(packed: u64) -> Option<(f32, Tick)> {
    (packed >> 32 != 0).then(|| (f32::from_bits((packed >> 32) as u32), Tick(packed as u32)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DECAY: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);

    fn at(since_start: Duration) -> Instant {
        Instant::from(since_start)
    }

    fn read(ewma: &PeakEwma, since_start: Duration) -> f32 {
        ewma.nanos(at(since_start)).expect("measured") / 1e6
    }

    #[test]
    fn unmeasured_is_none_and_the_first_sample_is_taken_as_it_is() {
        let ewma = PeakEwma::new(DECAY);
        assert_eq!(ewma.nanos(Instant(0)), None);
        ewma.observe(Instant(0), Duration::ZERO);
        assert_eq!(ewma.nanos(Instant(0)), Some(1.0));
    }

    #[test]
    fn a_rise_is_taken_at_once_and_a_fall_with_the_time_constant() {
        let ewma = PeakEwma::new(DECAY);
        ewma.observe(at(Duration::ZERO), 10 * MS);
        ewma.observe(at(MS), 100 * MS);
        assert!((read(&ewma, MS) - 100.0).abs() < 0.1);
        ewma.observe(at(DECAY), 10 * MS);
        let expected = 10.0 + 90.0 * (-1.0_f32).exp();
        assert!((read(&ewma, DECAY) - expected).abs() < 0.5, "{}", read(&ewma, DECAY));
    }

    #[test]
    fn many_small_falls_add_up() {
        let ewma = PeakEwma::new(DECAY);
        ewma.observe(at(Duration::ZERO), 100 * MS);
        for tick in 1..=100_000_u32 {
            ewma.observe(at(tick * MS), MS);
        }
        assert!((read(&ewma, 100_000 * MS) - 1.0).abs() < 0.1);
    }

    #[test]
    fn silence_fades_until_a_request_is_sent() {
        let ewma = PeakEwma::new(DECAY);
        ewma.observe(at(Duration::ZERO), 1000 * MS);
        assert!(read(&ewma, 10 * DECAY) < 0.1);
        ewma.expect(at(10 * DECAY));
        assert!((read(&ewma, 10 * DECAY) - 1000.0).abs() < 0.1);
        assert!(read(&ewma, 20 * DECAY) < 0.1);
    }

    #[test]
    fn a_late_observer_never_turns_the_time_back() {
        let ewma = PeakEwma::new(DECAY);
        ewma.observe(at(DECAY), 100 * MS);
        ewma.observe(at(Duration::ZERO), 50 * MS);
        assert!((read(&ewma, DECAY) - 100.0).abs() < 0.1);
        ewma.observe(at(Duration::ZERO), 200 * MS);
        assert!((read(&ewma, DECAY) - 200.0).abs() < 0.1);
    }

    #[test]
    fn concurrent_observers_keep_the_peak() {
        let ewma = PeakEwma::new(DECAY);
        std::thread::scope(|scope| {
            for worker in 1..=4_u32 {
                let ewma = &ewma;
                scope.spawn(move || {
                    for sample in 1..=1000 {
                        ewma.observe(at(MS), sample * worker * MS);
                    }
                });
            }
        });
        assert!((read(&ewma, MS) - 4000.0).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn stays_between_the_extremes_of_its_samples(
            samples in prop::collection::vec((0_u64..100_000, 1_u64..10_000), 1..50),
        ) {
            let ewma = PeakEwma::new(DECAY);
            let mut now = Duration::ZERO;
            for (pause, sample) in &samples {
                now += Duration::from_millis(*pause);
                ewma.observe(at(now), Duration::from_millis(*sample));
            }
            let average = read(&ewma, now);
            let low = samples.iter().map(|(_, sample)| *sample).min().unwrap() as f32;
            let high = samples.iter().map(|(_, sample)| *sample).max().unwrap() as f32;
            let last = samples.last().unwrap().1 as f32;
            prop_assert!(average >= low * 0.999 && average <= high * 1.001);
            prop_assert!(average >= last * 0.999, "below the newest sample");
        }

        #[test]
        fn the_wrap_of_the_tick_is_not_seen(pause in 1_u64..60_000) {
            let wrap = Duration::from_nanos(1 << (32 + TICK_SHIFT)) - MS;
            let later = wrap + Duration::from_millis(pause);
            let (around, plain) = (PeakEwma::new(DECAY), PeakEwma::new(DECAY));
            for (ewma, start) in [(&around, wrap), (&plain, DECAY)] {
                ewma.expect(at(start));
                ewma.observe(at(start), 1000 * MS);
            }
            let (seen, expected) = (read(&around, later), read(&plain, DECAY + (later - wrap)));
            prop_assert!((seen - expected).abs() <= expected * 0.005, "{seen} {expected}");
        }
    }
}
