//! When files of the directory may have changed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// What is renamed into the directory, or removed. Not what is touched: that says only that somebody lives.
const CHANGES: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What the kernel tells of one directory. Where it tells nothing, it is looked from time to time.
pub struct Changes(Option<AsyncFd<OwnedFd>>);

impl Changes {
    pub fn new(directory: &Path) -> Self {
        Self(events(directory).ok())
    }

    /// Waits until something may have changed, at most for `longest`.
    pub async fn next(&mut self, directory: &Path, longest: Duration) {
        let Some(events) = &self.0 else {
            // It may not be there yet.
            sleep(longest.min(Duration::from_secs(1))).await;
            *self = Self::new(directory);
            return;
        };
        let mut told = [0; 4096];
        let read = |events: &OwnedFd| Ok(rustix::io::read(events, &mut told)?);
        let event = events.async_io(Interest::READABLE, read);
        if timeout(longest, event).await.is_err() || !directory.exists() {
            // The directory may have been replaced by another one of its name.
            *self = Self::new(directory);
        }
    }
}

fn events(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&events, directory, CHANGES)?;
    // SAFETY: the descriptor is owned by what is registered, and closed only with it.
    Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
}
