//! Numbers with one writer and any number of readers.
//!
//! Only the worker that owns a shard writes to it, so an increment is a relaxed load and a relaxed
//! store: no locked instruction, no contended cache line. Two writers would lose counts; that there
//! is one is seen to by [`super::Recorder`], which cannot leave its thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn dec(&self) {
        self.add(-1);
    }

    pub fn add(&self, count: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets, in seconds: OpenTelemetry's, and three below for fast calls.
pub(super) const BOUNDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

/// The bounds in nanoseconds, so that an observation is compared without a conversion.
const BOUNDS_NANOS: [u64; 17] = {
    let mut nanos = [0; 17];
    let mut index = 0;
    while index < nanos.len() {
        // Through microseconds, which every bound is a whole number of.
        nanos[index] = (BOUNDS[index] * 1e6 + 0.5) as u64 * 1_000;
        index += 1;
    }
    nanos
};

/// Durations in buckets. The last bucket has no bound; the count is the sum of the buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Wraps after 584 years of observed time, which Prometheus takes for a restart.
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = &self.buckets[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_nanos.store(self.sum_nanos.load(Relaxed).wrapping_add(nanos), Relaxed);
    }

    pub(super) fn read(&self) -> Observed {
        Observed {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Relaxed)),
            sum_seconds: self.sum_nanos.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// What histograms held at one moment; several can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Observed {
    /// Not cumulative.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) sum_seconds: f64,
}

impl Observed {
    pub(super) fn add(&mut self, other: &Observed) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum_seconds += other.sum_seconds;
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_in_nanoseconds_are_exact() {
        for (nanos, seconds) in BOUNDS_NANOS.iter().zip(BOUNDS) {
            assert_eq!(Duration::from_nanos(*nanos).as_secs_f64(), seconds);
        }
    }

    proptest! {
        #[test]
        fn an_observation_is_in_the_first_bucket_that_holds_it(
            nanos in prop_oneof![0u64..20_000_000_000, prop::sample::select(&BOUNDS_NANOS[..])],
        ) {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(nanos));
            let observed = histogram.read();
            let bucket = observed.buckets.iter().position(|count| *count == 1).unwrap();
            let seconds = Duration::from_nanos(nanos).as_secs_f64();
            prop_assert_eq!(observed.count(), 1);
            prop_assert!(BOUNDS.get(bucket).is_none_or(|bound| seconds <= *bound));
            prop_assert!(bucket == 0 || BOUNDS[bucket - 1] < seconds);
            prop_assert!((observed.sum_seconds - seconds).abs() < 1e-9);
        }
    }
}
