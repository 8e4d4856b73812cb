//! When files of the directory may have changed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// What is renamed into the directory, or removed. Not what is touched: that says only that somebody lives.
pub const CHANGES: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Changes come in twos and more: a file is written, then put in place.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often it is looked where the kernel tells nothing.
const LOOK: Duration = Duration::from_secs(1);

/// What the kernel tells of one directory.
pub struct Changes {
    /// None where it has no more of these to give.
    events: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Changes {
    pub fn new() -> Self {
        Self { events: events().ok() }
    }

    /// Begins to watch a directory, or the one that has its name now. It waits for the disk.
    pub fn watcher(&self) -> impl FnOnce(&Path) -> bool + Send + 'static {
        let events = self.events.as_ref().map(|events| events.get_ref().clone());
        move |directory| {
            let watched = events.map(|events| inotify::add_watch(&events, directory, CHANGES));
            watched.is_some_and(|watched| watched.is_ok())
        }
    }

    /// Waits until something may have changed, at most for `longest`.
    pub async fn next(&self, is_watched: bool, longest: Duration) {
        let Some(events) = self.events.as_ref().filter(|_| is_watched) else {
            return sleep(longest.min(LOOK)).await;
        };
        let mut told = [0; 4096];
        let mut read = |events: &Arc<OwnedFd>| Ok(rustix::io::read(events, &mut told)?);
        let changed = async {
            let _ = events.async_io(Interest::READABLE, &mut read).await;
            sleep(TOGETHER).await;
        };
        if timeout(longest, changed).await.is_ok() {
            // All that was told by now is read at once.
            while read(events.get_ref()).is_ok_and(|length| length > 0) {}
        }
    }
}

fn events() -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    let events = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
    // SAFETY: the descriptor is owned by what is registered, and closed only with it or after it.
    Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
}
