//! How the last calls ended: those of a time, or a number of them.

use std::time::Duration;

use super::Seen;
use crate::clock::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// The calls of the last so long, in slices of a tenth.
    Time(Duration),
    /// The last so many calls.
    Calls(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub calls: u32,
    pub failed: u32,
    pub slow: u32,
}

impl Counts {
    fn add(&mut self, seen: Seen) {
        self.calls = self.calls.saturating_add(1);
        self.failed = self.failed.saturating_add(u32::from(seen.failed));
        self.slow = self.slow.saturating_add(u32::from(seen.slow));
    }

    fn remove(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failed = self.failed.saturating_sub(other.failed);
        self.slow = self.slow.saturating_sub(other.slow);
    }
}

#[derive(Debug)]
pub struct Window {
    total: Counts,
    kept: Kept,
}

const SLICES: u64 = 10;

#[derive(Debug)]
enum Kept {
    Time { slice: u64, slices: [Counts; SLICES as usize], newest: u64 },
    Calls { size: usize, calls: Vec<Seen>, next: usize },
}

impl Window {
    pub fn new(kind: WindowKind) -> Self {
        let kept = match kind {
            WindowKind::Time(length) => {
                let slice = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX) / SLICES;
                Kept::Time { slice: slice.max(1), slices: Default::default(), newest: 0 }
            }
            WindowKind::Calls(size) => {
                Kept::Calls { size: size.max(1) as usize, calls: Vec::new(), next: 0 }
            }
        };
        Self { total: Counts::default(), kept }
    }

    /// What is in it. Of a window of time, as of the last call that was added.
    pub fn counts(&self) -> Counts {
        self.total
    }

    pub fn add(&mut self, now: Instant, seen: Seen) {
        match &mut self.kept {
            Kept::Time { slice, slices, newest } => {
                let current = now.0 / *slice;
                // Another worker may have been a little ahead: it counts for its slice then.
                let from = (*newest + 1).max(current.saturating_sub(SLICES - 1));
                for gone in from..=current {
                    let old = std::mem::take(&mut slices[(gone % SLICES) as usize]);
                    self.total.remove(old);
                }
                // Everything in between is gone as well.
                if current >= newest.saturating_add(SLICES) {
                    *slices = Default::default();
                    self.total = Counts::default();
                }
                *newest = current.max(*newest);
                slices[(*newest % SLICES) as usize].add(seen);
            }
            Kept::Calls { size, calls, next } => {
                if calls.len() < *size {
                    calls.push(seen);
                } else {
                    let old = std::mem::replace(&mut calls[*next], seen);
                    let mut one = Counts::default();
                    one.add(old);
                    self.total.remove(one);
                }
                *next = (*next + 1) % *size;
            }
        }
        self.total.add(seen);
    }

    pub fn clear(&mut self) {
        self.total = Counts::default();
        match &mut self.kept {
            Kept::Time { slices, .. } => *slices = Default::default(),
            Kept::Calls { calls, next, .. } => {
                calls.clear();
                *next = 0;
            }
        }
    }
}
