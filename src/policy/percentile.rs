//! A percentile of latencies, in bounded memory: two histograms that take turns.
//!
//! One half counts the samples of the current half minute, the other one those of the half minute before; what is
//! older is forgotten. Buckets grow with what they count, as in an HDR histogram: each is a sixteenth of its power
//! of two wide, so that what is read is never less than the truth and at most a sixteenth (and a
//! microsecond) more.

use std::array;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Instant;

/// With fewer samples a percentile says nothing.
pub const MIN_SAMPLES: u32 = 100;
/// What each half counts.
pub const HALF: Duration = Duration::from_secs(30);
/// How long what was read is believed: reading looks at each bucket.
pub const REFRESH: Duration = Duration::from_millis(500);

/// Percentiles that can be asked for.
pub const LOWEST: u8 = 50;
pub const HIGHEST: u8 = 99;
const ASKABLE: usize = (HIGHEST - LOWEST + 1) as usize;

const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// The highest power of two that has buckets of its own, in microseconds: up to 134 s.
const TOP: u32 = 26;
const BUCKETS: usize = (TOP - SUB_BITS + 2) as usize * SUB;

/// How long requests take. Shared by the workers and kept across reloads by service; it takes no memory
/// until the first sample.
#[derive(Debug, Default)]
pub struct Latencies(OnceLock<Box<Windows>>);

#[derive(Debug)]
struct Windows {
    halves: [Half; 2],
    /// When `read` was written.
    refreshed: AtomicU64,
    /// By percentile, in microseconds; 0: not known.
    read: [AtomicU32; ASKABLE],
}

#[derive(Debug)]
struct Half {
    /// The number of the half minute that it counts, from 1; 0: none yet.
    turn: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Latencies {
    /// Takes in a sample. Where two workers begin a new half at the same moment, some may be lost.
    pub fn observe(&self, now: Instant, sample: Duration) {
        let windows = self.0.get_or_init(|| Box::new(Windows::new()));
        let turn = turn(now);
        let half = &windows.halves[(turn % 2) as usize];
        let before = half.turn.load(Relaxed);
        // A worker that is late by a turn must not forget what is newer.
        if before > turn {
            return;
        }
        if before < turn && half.turn.compare_exchange(before, turn, Relaxed, Relaxed).is_ok() {
            half.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
        }
        half.buckets[bucket_of(sample)].fetch_add(1, Relaxed);
    }

    /// The latency that `percentile` (from [`LOWEST`] to [`HIGHEST`]) of the requests do not exceed; `None`
    /// with fewer than [`MIN_SAMPLES`]. It may be [`REFRESH`] old.
    pub fn percentile(&self, percentile: u8, now: Instant) -> Option<Duration> {
        let windows = self.0.get()?;
        let refreshed = windows.refreshed.load(Relaxed);
        if now.saturating_duration_since(Instant(refreshed)) >= REFRESH
            && windows.refreshed.compare_exchange(refreshed, now.0, Relaxed, Relaxed).is_ok()
        {
            windows.refresh(turn(now));
        }
        let index = percentile.clamp(LOWEST, HIGHEST) - LOWEST;
        let micros = windows.read[usize::from(index)].load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }
}

impl Windows {
    fn new() -> Self {
        let zeros = || array::from_fn(|_| AtomicU32::new(0));
        let half = || Half { turn: AtomicU64::new(0), buckets: zeros() };
        Self {
            halves: [half(), half()],
            refreshed: AtomicU64::new(0),
            read: array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    fn refresh(&self, turn: u64) {
        let recent = |half: &&Half| half.turn.load(Relaxed) + 1 >= turn.max(2);
        let halves: Vec<&Half> = self.halves.iter().filter(recent).collect();
        let count = |bucket: usize| -> u64 {
            halves.iter().map(|half| u64::from(half.buckets[bucket].load(Relaxed))).sum()
        };
        let total: u64 = (0..BUCKETS).map(count).sum();
        if total < MIN_SAMPLES.into() {
            return self.read.iter().for_each(|read| read.store(0, Relaxed));
        }
        let (mut bucket, mut up_to) = (0, count(0));
        for (read, percentile) in self.read.iter().zip(LOWEST..) {
            // The sample of this rank, from 1, is the percentile (nearest rank).
            let rank = (total * u64::from(percentile)).div_ceil(100);
            // Samples that are counted meanwhile can only make it end earlier.
            while up_to < rank && bucket + 1 < BUCKETS {
                bucket += 1;
                up_to += count(bucket);
            }
            read.store(end_of(bucket), Relaxed);
        }
    }
}

fn turn(now: Instant) -> u64 {
    now.0 / Instant::from(HALF).0 + 1
}

fn bucket_of(sample: Duration) -> usize {
    let micros = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX);
    if micros < SUB as u64 {
        return micros as usize;
    }
    let power = micros.ilog2();
    if power > TOP {
        return BUCKETS - 1;
    }
    let part = (micros >> (power - SUB_BITS)) as usize & (SUB - 1);
    (power - SUB_BITS + 1) as usize * SUB + part
}

/// What all samples of a bucket are below, in microseconds; those of the last one may be more.
fn end_of(bucket: usize) -> u32 {
    let (row, part) = (bucket / SUB, bucket % SUB);
    match row {
        0 => part as u32 + 1,
        row => ((SUB + part + 1) as u32) << (row - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(3600);

    fn at(after: Duration) -> Instant {
        Instant::from(START + after)
    }

    /// The nearest-rank percentile.
    fn exact(samples: &mut [Duration], percentile: u8) -> Duration {
        samples.sort_unstable();
        samples[(samples.len() * usize::from(percentile)).div_ceil(100) - 1]
    }

    fn is_close(read: Duration, truth: Duration) -> bool {
        read > truth && read <= truth + truth / 16 + Duration::from_micros(1)
    }

    #[test]
    fn buckets_meet_each_other() {
        for micros in (0..100_000_u64).chain([1 << 20, (1 << 26) + 1, (1 << 27) - 1]) {
            let bucket = bucket_of(Duration::from_micros(micros));
            assert!(u64::from(end_of(bucket)) > micros, "{micros}");
            assert!(bucket == 0 || u64::from(end_of(bucket - 1)) <= micros, "{micros}");
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn with_few_samples_nothing_is_said() {
        let latencies = Latencies::default();
        assert_eq!(latencies.percentile(95, at(Duration::ZERO)), None);
        for _ in 1..MIN_SAMPLES {
            latencies.observe(at(Duration::ZERO), Duration::from_millis(1));
        }
        assert_eq!(latencies.percentile(95, at(Duration::ZERO)), None);
        latencies.observe(at(Duration::ZERO), Duration::from_millis(1));
        assert_eq!(latencies.percentile(95, at(REFRESH / 2)), None, "it was read just now");
        let read = latencies.percentile(95, at(REFRESH)).expect("enough of them");
        assert!(is_close(read, Duration::from_millis(1)), "{read:?}");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let latencies = Latencies::default();
        for _ in 0..1000 {
            latencies.observe(at(Duration::ZERO), Duration::from_secs(1));
        }
        assert!(latencies.percentile(95, at(HALF)).is_some());
        assert_eq!(latencies.percentile(95, at(2 * HALF)), None);
        for _ in 0..MIN_SAMPLES {
            latencies.observe(at(2 * HALF), Duration::from_millis(1));
        }
        let read = latencies.percentile(95, at(2 * HALF + REFRESH)).expect("of the new ones");
        assert!(is_close(read, Duration::from_millis(1)), "{read:?}");
    }

    #[test]
    fn a_worker_that_is_late_forgets_nothing() {
        let latencies = Latencies::default();
        for _ in 0..MIN_SAMPLES {
            latencies.observe(at(2 * HALF), Duration::from_millis(1));
        }
        latencies.observe(at(Duration::ZERO), Duration::from_secs(9));
        assert!(latencies.percentile(99, at(2 * HALF)).is_some());
    }

    #[test]
    fn workers_lose_no_sample_within_a_half() {
        let latencies = Latencies::default();
        latencies.observe(at(Duration::ZERO), Duration::from_millis(1));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        latencies.observe(at(Duration::ZERO), Duration::from_millis(1));
                    }
                });
            }
        });
        let windows = latencies.0.get().expect("samples");
        let counted = windows.halves.iter().flat_map(|half| &half.buckets);
        assert_eq!(counted.map(|bucket| bucket.load(Relaxed)).sum::<u32>(), 4001);
    }

    proptest! {
        /// Whatever came, what is read is the percentile of the last one or two halves, never less than the
        /// truth and at most a sixteenth more.
        #[test]
        fn the_error_is_bounded(
            samples in prop::collection::vec((0_u64..200, 1_u64..60_000_000), 1..1500),
            percentile in LOWEST..=HIGHEST,
        ) {
            let latencies = Latencies::default();
            let (mut now, mut all) = (Duration::ZERO, Vec::new());
            for (pause, micros) in samples {
                now += Duration::from_millis(pause);
                let sample = Duration::from_micros(micros);
                latencies.observe(at(now), sample);
                all.push((turn(at(now)), sample));
            }
            let current = turn(at(now));
            let recent = all.iter().filter(|(turn, _)| turn + 1 >= current);
            let mut recent: Vec<_> = recent.map(|(_, sample)| *sample).collect();
            match latencies.percentile(percentile, at(now)) {
                None => prop_assert!(recent.len() < MIN_SAMPLES as usize),
                Some(read) => {
                    prop_assert!(recent.len() >= MIN_SAMPLES as usize);
                    let truth = exact(&mut recent, percentile);
                    prop_assert!(is_close(read, truth), "{read:?} of {truth:?}");
                }
            }
        }
    }
}
