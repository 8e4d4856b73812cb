//! Virtual time: what happens next, and when. Nothing here knows the time of day.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use pilotfish::clock::Instant;
use pilotfish::policy::End;
use pilotfish::policy::health::Finding;

/// One attempt of one call. A call's next attempt has another `serial`, and so does the next call in the
/// same place: what comes too late for an attempt finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub call: u32,
    pub serial: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A client calls.
    Arrival { caller: u16 },
    /// A server of an endpoint has worked on an attempt to its end.
    Served { endpoint: u16, attempt: Attempt },
    /// The caller learns how an attempt has ended.
    Ended { attempt: Attempt, end: End },
    /// The attempt, or the whole call, takes too long.
    Overdue { attempt: Attempt },
    /// The pause before another attempt is over.
    Again { attempt: Attempt },
    /// It has waited for the bulkhead for as long as it may.
    Impatient { attempt: Attempt },
    /// A caller's control looks at the interval that has ended.
    Look { caller: u16 },
    /// It has waited for long enough to be hedged.
    Slow { attempt: Attempt },
    /// A caller's active check of an endpoint begins.
    Check { caller: u16, endpoint: u16 },
    /// It ends so.
    Checked { caller: u16, endpoint: u16, finding: Finding },
    /// The health of an endpoint changes: the index of a change of the scenario.
    Change { index: u16 },
}

/// What is still to come, in the order of time; at the same instant, in the order in which it was said.
#[derive(Debug, Default)]
pub struct Clock {
    now: Instant,
    said: u64,
    ahead: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    order: u64,
    event: Event,
}

impl Clock {
    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn at(&mut self, at: Instant, event: Event) {
        self.said += 1;
        self.ahead.push(Entry { at: at.max(self.now), order: self.said, event });
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// The next event, unless it is later than `end`. It is now then.
    pub fn next(&mut self, end: Instant) -> Option<Event> {
        let entry = self.ahead.pop().filter(|entry| entry.at <= end)?;
        self.now = entry.at;
        Some(entry.event)
    }
}

// The heap has its greatest on top: the earliest is the greatest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
