//! Counters with labels, for what happens less often than a request or through a held handle.

use super::cell::Counter;
use super::{Live, OVERFLOW};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Series of a family in one shard; further label values count as `_overflow`.
const MAX_SERIES: usize = 1_000;

/// Counters told apart by `N` labels. Values must come from the configuration or from our code,
/// never from a client.
///
/// The lock is for the control thread, which reads the list of series; the owner finds it free.
#[derive(Debug)]
pub struct Family<const N: usize> {
    names: [&'static str; N],
    table: Mutex<Table<N>>,
}

#[derive(Debug, Default)]
struct Table<const N: usize> {
    hasher: foldhash::fast::RandomState,
    /// By the hash of the label values, so that a look-up allocates nothing.
    series: HashMap<u64, Vec<Series<N>>, foldhash::fast::RandomState>,
    len: usize,
}

#[derive(Debug)]
struct Series<const N: usize> {
    values: [Box<str>; N],
    counter: Arc<Counter>,
}

/// One series, to be held where its event is frequent. While it is held the series is not removed.
/// It stays on its worker's thread.
#[derive(Clone, Debug)]
pub struct Handle {
    counter: Arc<Counter>,
    _single_writer: PhantomData<Rc<()>>,
}

impl Deref for Handle {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counter
    }
}

impl<const N: usize> Family<N> {
    pub(super) fn new(names: [&'static str; N]) -> Family<N> {
        Family { names, table: Mutex::default() }
    }

    /// Counts one event; the values are in the order of the names.
    pub fn inc(&self, values: [&str; N]) {
        self.add(values, 1);
    }

    pub fn add(&self, values: [&str; N], count: u64) {
        self.lock().find_or_create(values).add(count);
    }

    /// The series itself, at zero if it is new.
    pub fn handle(&self, values: [&str; N]) -> Handle {
        let counter = self.lock().find_or_create(values).clone();
        Handle { counter, _single_writer: PhantomData }
    }

    pub(super) const fn names(&self) -> &[&'static str; N] {
        &self.names
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(&[Box<str>; N], u64)) {
        for series in self.lock().series.values().flatten() {
            visit(&series.values, series.counter.get());
        }
    }

    /// Removes the series whose service or route is gone, except those with a [`Handle`]: the
    /// holder would go on counting where nobody reads.
    pub(super) fn retain(&self, live: &Live) {
        let table = &mut *self.lock();
        for bucket in table.series.values_mut() {
            bucket.retain(|series| {
                let mut labels = self.names.iter().zip(&series.values);
                Arc::strong_count(&series.counter) > 1
                    || labels.all(|(name, value)| live.keeps(name, value))
            });
        }
        table.series.retain(|_, bucket| !bucket.is_empty());
        table.len = table.series.values().map(Vec::len).sum();
    }

    fn lock(&self) -> MutexGuard<'_, Table<N>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> Table<N> {
    fn find_or_create(&mut self, values: [&str; N]) -> &Arc<Counter> {
        let hash = self.hasher.hash_one(values);
        let position = self.series.get(&hash).and_then(|bucket| {
            bucket.iter().position(|series| series.values.iter().map(|value| &**value).eq(values))
        });
        if let Some(position) = position {
            return &self.series[&hash][position].counter;
        }
        let overflow = [OVERFLOW; N];
        if self.len >= MAX_SERIES && values != overflow {
            return self.find_or_create(overflow);
        }
        self.len += 1;
        let bucket = self.series.entry(hash).or_default();
        let position = bucket.len();
        bucket.push(Series { values: values.map(Box::from), counter: Arc::default() });
        &bucket[position].counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts<const N: usize>(family: &Family<N>) -> Vec<(Vec<String>, u64)> {
        let mut all = Vec::new();
        family.for_each(|values, count| {
            all.push((values.iter().map(|value| value.to_string()).collect(), count));
        });
        all.sort();
        all
    }

    fn expected(series: &[(&[&str], u64)]) -> Vec<(Vec<String>, u64)> {
        let owned = |(values, count): &(&[&str], u64)| {
            (values.iter().map(|value| value.to_string()).collect(), *count)
        };
        series.iter().map(owned).collect()
    }

    #[test]
    fn values_are_told_apart() {
        let family = Family::new(["service", "reason"]);
        family.inc(["a", "x"]);
        family.inc(["a", "y"]);
        family.add(["a", "x"], 2);
        family.handle(["b", "x"]).inc();
        let series: [(&[&str], u64); 3] = [(&["a", "x"], 3), (&["a", "y"], 1), (&["b", "x"], 1)];
        assert_eq!(counts(&family), expected(&series));
    }

    #[test]
    fn the_number_of_series_has_an_end() {
        let family = Family::new(["reason"]);
        for value in 0..2 * MAX_SERIES {
            family.inc([&value.to_string()]);
        }
        let all = counts(&family);
        assert_eq!(all.len(), MAX_SERIES + 1);
        assert!(all.contains(&(vec![OVERFLOW.to_owned()], MAX_SERIES as u64)));
    }

    #[test]
    fn what_is_gone_is_removed_unless_it_is_held() {
        let family = Family::new(["service", "reason"]);
        for service in ["kept", "gone", "held"] {
            family.inc([service, "any"]);
        }
        let handle = family.handle(["held", "any"]);
        let live = Live { services: ["kept".into()].into(), ..Live::default() };
        family.retain(&live);
        handle.inc();
        let series: [(&[&str], u64); 2] = [(&["held", "any"], 2), (&["kept", "any"], 1)];
        assert_eq!(counts(&family), expected(&series));
        drop(handle);
        family.retain(&live);
        assert_eq!(counts(&family).len(), 1);
    }
}
