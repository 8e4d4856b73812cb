//! A directory of small files, one for each instance: the registry that needs nothing to be installed. For the
//! sidecars of one host.
//!
//! A file is called `<service>@<id>.json`. It is replaced by a rename, so that nobody reads half of one, and whoever
//! wrote it touches it while it lives: one that was not touched for its `ttl` counts no more, and is removed by who
//! sees it. The content does not change by that, and is what Prometheus' `file_sd_configs` reads: labels that begin
//! with `__` are there for us, and do not become part of a series.

mod file;
mod files;
mod watch;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch::Sender;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::disk::Disk;
use super::{Announcement, Error, Health, Reason, Registry, Renewal, Task, Tell, settings};
use crate::backoff::Backoff;
use crate::clock::{self, Instant};
use crate::endpoint::Instance;
use files::{Files, Found};
use watch::Changes;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often it is told that a file makes no sense.
const WARN_EVERY: Duration = Duration::from_secs(60);

pub struct Directory {
    files: Arc<Files>,
    ttl: Duration,
    disk: Disk,
    /// What was read last; none before the first time.
    read: Sender<Option<Rc<Read>>>,
    /// It was there: where it is no more, it has not become empty.
    was_there: Cell<bool>,
    following: Cell<usize>,
    /// Runs while something is followed.
    look: RefCell<Option<AbortHandle>>,
}

/// What one look found.
struct Read {
    /// Goes on when it was time to look, and not only something to see: all are told then, as a sign of life.
    turn: u64,
    found: Result<Found, Error>,
}

impl Read {
    fn of(&self, service: &str) -> Result<Vec<Instance>, Error> {
        self.found.as_ref().map_err(Clone::clone)?.of(service)
    }
}

impl Directory {
    pub fn new(settings: &settings::Directory) -> Self {
        let ttl = settings.ttl;
        let files = settings.path.clone().map(|path| Files::at(path, ttl));
        Self::of(files.unwrap_or_else(|| shared(ttl)), ttl)
    }

    fn of(files: Files, ttl: Duration) -> Self {
        Self {
            files: Arc::new(files),
            ttl,
            disk: Disk::default(),
            read: Sender::new(None),
            was_there: Cell::default(),
            following: Cell::default(),
            look: RefCell::default(),
        }
    }

    /// Reads all that stands there whenever it changes, for all who follow a service, until it is dropped.
    async fn look(self: Rc<Self>) {
        let changes = Changes::new();
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut random = fastrand::Rng::new();
        let (mut turn, mut due, mut warn_at) = (0, clock::now(), clock::now());
        loop {
            let (is_watched, found) = self.scan(&changes, clock::wall()).await;
            let now = clock::now();
            let failed = found.is_err();
            if failed || now >= due {
                turn += 1;
                due = now + self.ttl / 3;
            }
            if let Ok(found) = &found {
                warn(found, &mut warn_at, now);
            }
            self.read.send_replace(Some(Rc::new(Read { turn, found })));
            if failed {
                sleep(backoff.next(&mut random)).await;
            } else {
                backoff.reset();
                changes.next(is_watched, due - now).await;
            }
        }
    }

    /// What stands there, and whether it is told when that changes.
    async fn scan(&self, changes: &Changes, now: SystemTime) -> (bool, Result<Found, Error>) {
        let (files, watch) = (self.files.clone(), changes.watcher());
        // Watched first: what changes while it is read is read again.
        let scanned = self.disk.run(move || Ok((watch(files.path()), files.scan(now)))).await;
        let (is_watched, scanned) = match scanned {
            Ok((is_watched, scanned)) => (is_watched, scanned),
            Err(error) => (false, Err(error)),
        };
        let found = match scanned {
            Ok(found) => {
                self.was_there.set(true);
                Ok(found)
            }
            // Nobody has registered yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.was_there.get() => {
                Ok(Found::default())
            }
            Err(error) => Err(self.why("cannot be read", &error)),
        };
        (is_watched, found)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        failure: &str,
        what: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let files = self.files.clone();
        let done = self.disk.run(move || what(&files)).await;
        done.map_err(|error| self.why(failure, &error))
    }

    fn why(&self, what: &str, error: &io::Error) -> Error {
        let mut detail = format!("{}: {what}: {error}", self.files.path().display());
        // What we say ourselves says what to do.
        if error.raw_os_error().is_some() {
            detail += "; check the path and its permissions";
        }
        Error::new(Reason::Failed, detail)
    }
}

fn warn(found: &Found, warn_at: &mut Instant, now: Instant) {
    if let Some(file) = found.senseless.first()
        && now >= *warn_at
    {
        *warn_at = now + WARN_EVERY;
        let more = found.senseless.len() - 1;
        tracing::warn!(file, more, "no instance: the file makes no sense");
    }
}

/// One that follows a service. The first begins to look, and with the last that ends.
struct Following {
    directory: Rc<Directory>,
}

impl Following {
    fn begin(directory: &Rc<Directory>) -> Self {
        let count = directory.following.get();
        directory.following.set(count + 1);
        if count == 0 {
            let look = tokio::task::spawn_local(directory.clone().look());
            directory.look.replace(Some(look.abort_handle()));
        }
        Self { directory: directory.clone() }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let count = self.directory.following.get() - 1;
        self.directory.following.set(count);
        if count == 0 {
            if let Some(look) = self.directory.look.take() {
                look.abort();
            }
            self.directory.read.send_replace(None);
        }
    }
}

impl Registry for Directory {
    fn name(&self) -> &str {
        "directory"
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let following = Following::begin(&self);
            let mut read = self.read.subscribe();
            let mut last = None;
            loop {
                let now = read.borrow_and_update().clone();
                let now = now.map(|read| (read.turn, read.of(&service)));
                if now != last {
                    last = now.clone();
                    if let Some((_, told)) = now {
                        tell.heard(told, &mut read).await;
                    }
                }
                // The sender is ours: it stays.
                if read.changed().await.is_err() {
                    break;
                }
            }
            drop(following);
        })
    }

    fn renewal(&self) -> Option<Duration> {
        Some(self.ttl / 3)
    }

    fn register<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<(), Error>> {
        let ours = ours.clone();
        Box::pin(self.on_disk("cannot be written", move |files| files.write(&ours, health)))
    }

    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        let (ours, now) = (ours.clone(), clock::wall());
        // Otherwise nobody here sees who was killed.
        let sweeps = self.following.get() == 0;
        let renewed = self.on_disk("cannot be written", move |files| {
            let is_ours = files.touch(&ours, health, now)?;
            if sweeps {
                let _ = files.scan(now);
            }
            Ok(is_ours)
        });
        Box::pin(async move {
            match renewed.await? {
                true => Ok(Renewal::Kept),
                false => Ok(Renewal::Forgotten),
            }
        })
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        let ours = ours.clone();
        Box::pin(self.on_disk("cannot be removed from", move |files| files.remove(&ours)))
    }
}

/// Where the files are if nobody says so.
pub fn shared_path() -> PathBuf {
    shared(Duration::ZERO).path().to_owned()
}

/// A place that all sidecars of one user share.
fn shared(ttl: Duration) -> Files {
    let uid = rustix::process::getuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty());
    Files::shared(uid, runtime.map(Into::into), &std::env::temp_dir(), ttl)
}
