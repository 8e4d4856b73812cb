//! Names on their way from one side of a connection to the other.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::{Names, Record};

/// Holds the names that one side has left for the other. Without a lock: the two sides run on one thread,
/// and only hyper's bounds want it to be shareable.
#[derive(Debug, Default)]
pub struct Slot(AtomicPtr<Record>);

impl Slot {
    /// Leaves `names` in place of what is there.
    pub fn put(&self, names: Names) {
        drop(self.swap(names));
    }

    /// What was left, and nothing the second time.
    pub fn take(&self) -> Names {
        if self.0.load(Ordering::Relaxed).is_null() {
            return Names::default();
        }
        self.swap(Names::default())
    }

    fn swap(&self, names: Names) -> Names {
        let new = names.0.map_or(ptr::null_mut(), Box::into_raw);
        let old = self.0.swap(new, Ordering::AcqRel);
        // SAFETY: what is not null came from `Box::into_raw` above, and this swap is the only one that
        // gets it back. A record may change threads: it is made of plain bytes.
        Names((!old.is_null()).then(|| unsafe { Box::from_raw(old) }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.put(Names::default());
    }
}
