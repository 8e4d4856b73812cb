//! What is in force is kept on disk, as long as a registry says so, and read again after a restart.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::following::Followed;
use crate::clock::{self, Instant};
use crate::registry::Restored;
use crate::registry::settings::Discovery;
use crate::registry::store::{Opening, Store};

/// How long a start waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);
/// What changes all the time is not written down all the time.
const REST: Duration = Duration::from_secs(1);
/// How often it is told that there is no store.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// What is there is written again after this part of the time in which it grows old.
const REFRESH: u32 = 10;

#[derive(Default)]
pub struct Keeping {
    state_dir: RefCell<Option<PathBuf>>,
    store: RefCell<Option<Store>>,
    opening: RefCell<Option<Opening>>,
    warn_at: Cell<Instant>,
    /// Before this nothing is kept.
    keep_at: Cell<Instant>,
}

impl Keeping {
    /// Keeps what is known in `state_dir`, or else where systemd has a place for it. A start waits a little for the
    /// disk; for a reload what it has comes when it comes.
    pub fn set(&self, state_dir: Option<PathBuf>, is_start: bool) {
        let systemd = || of_systemd(&std::env::var_os("STATE_DIRECTORY")?);
        let given = state_dir.or_else(systemd);
        if *self.state_dir.borrow() == given {
            return;
        }
        self.state_dir.replace(given);
        self.store.take();
        self.opening.take();
        if is_start {
            self.open(PATIENCE);
        }
    }

    /// Opens the store where it is not open yet. True: it has just been opened.
    pub fn open(&self, patience: Duration) -> bool {
        let state_dir = self.state_dir.borrow();
        let Some(path) = state_dir.as_ref().filter(|_| self.store.borrow().is_none()) else {
            return false;
        };
        let mut opening = self.opening.borrow_mut();
        let waited =
            opening.get_or_insert_with(|| Opening::begin(path, clock::wall())).wait(patience);
        match waited {
            // The disk takes its time.
            None => false,
            Some(Ok(store)) => {
                *opening = None;
                self.store.replace(Some(store));
                true
            }
            Some(Err(error)) => {
                *opening = None;
                let now = clock::now();
                if now >= self.warn_at.get() {
                    self.warn_at.set(now + WARN_EVERY);
                    tracing::warn!(path = %path.display(), %error, "runtime.state_dir cannot be used: what registries \
                        tell will not survive a restart; check the path and its permissions");
                }
                false
            }
        }
    }

    /// What was kept of a service when we ran last, or followed it last.
    pub fn restored(&self, service: &str, now: SystemTime) -> Option<Restored> {
        let (instances, told_at) = self.store.borrow().as_ref()?.read(service)?;
        // A clock that was set back makes it look as if it came from the future.
        let age = now.duration_since(told_at).unwrap_or_default();
        Some(Restored { instances, is_old: true, age })
    }

    /// What is in force of a service has changed.
    pub fn changed(&self, service: &str) {
        if let Some(store) = &*self.store.borrow() {
            store.changed(service);
        }
    }

    /// Keeps what is in force and not on disk, where it is what a registry says.
    pub fn keep(
        &self,
        services: &HashMap<Arc<str>, Followed>,
        settings: &Discovery,
        wall: SystemTime,
        now: Instant,
    ) {
        let store = self.store.borrow();
        let Some(store) = &*store else { return };
        if now < self.keep_at.get() {
            return;
        }
        let refresh = settings.expire_after / REFRESH;
        for (service, followed) in services {
            if let Some(instances) = followed.published()
                && store.is_due(service, refresh, now)
                && followed.is_worth_keeping(settings, now)
            {
                store.keep(service, instances, wall, now);
                self.keep_at.set(now + REST);
            }
        }
    }
}

/// The first of a list: there may be several.
fn of_systemd(list: &OsStr) -> Option<PathBuf> {
    let first = list.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| OsStr::from_bytes(first).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_may_name_several_directories() {
        for (list, first) in [
            ("/var/lib/one", Some("/var/lib/one")),
            ("/var/lib/one:/var/lib/two", Some("/var/lib/one")),
            ("", None),
        ] {
            assert_eq!(of_systemd(OsStr::new(list)), first.map(PathBuf::from), "{list}");
        }
    }
}
