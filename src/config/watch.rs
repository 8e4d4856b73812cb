//! Tells when the configuration file may have changed. The directory is watched, not the file: an
//! editor renames a new file over it, and Kubernetes swaps the link `..data` beside it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// What a change of a file ends with. Not each write: a log that grows in the same directory would wake us
/// with every batch of lines. What is written and never closed is found by looking.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO);
/// A change is over when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// What the kernel does not report (network file systems) is found by looking.
const LOOK: Duration = Duration::from_secs(5);

/// A file under watch.
pub struct Watch {
    path: PathBuf,
    last: Option<Vec<u8>>,
    /// None where the system gives no watch.
    events: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Watches `path`, of which `text` was read last. To be called on a runtime.
    pub fn new(path: &Path, text: &str) -> Self {
        let events = events(path);
        if let Err(error) = &events {
            tracing::warn!(%error, every = ?LOOK, "no events for the configuration; looking instead");
        }
        Self { path: path.to_owned(), last: Some(text.as_bytes().to_vec()), events: events.ok() }
    }

    /// Someone else has read the file: whatever it has at the next look is to be told.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Waits until the kernel tells of something.
    async fn event(&self) {
        let Some(events) = &self.events else {
            return std::future::pending().await;
        };
        // What it tells is of no interest, only that it does: the file is read in any case.
        let mut told = [0; 4096];
        let read = |events: &OwnedFd| Ok(rustix::io::read(events, &mut told)?);
        if events.async_io(Interest::READABLE, read).await.is_err() {
            sleep(LOOK).await;
        }
    }

    /// Waits until the file has another content than the last time. A file that is gone has not
    /// changed: it is about to be replaced.
    pub async fn changed(&mut self) {
        loop {
            // A directory that is never quiet must not keep the file from being read.
            if timeout(LOOK, self.event()).await.is_ok() {
                let quiet = async { while timeout(QUIET, self.event()).await.is_ok() {} };
                let _ = timeout(LONGEST, quiet).await;
            }
            let Ok(now) = tokio::fs::read(&self.path).await else {
                continue;
            };
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now);
                return;
            }
        }
    }
}

/// What the kernel tells of the directory of `path`, and of that of the file behind it.
fn events(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let directory = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    inotify::add_watch(&events, directory(path), CHANGES)?;
    // Where the file is a link, what it points to may change without its own directory.
    if let Ok(real) = path.canonicalize() {
        inotify::add_watch(&events, directory(&real), CHANGES)?;
    }
    // SAFETY: the descriptor is owned by what is registered, and closed only with it.
    Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn changes(watch: &mut Watch) -> String {
        timeout(Duration::from_secs(20), watch.changed()).await.expect("a change is seen");
        String::from_utf8(watch.last.clone().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pilotfish.yaml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, "one");
        let new = dir.path().join(".pilotfish.yaml.swp");
        fs::write(&new, "two").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(changes(&mut watch).await, "two");
    }

    #[tokio::test]
    async fn a_swap_of_kubernetes_data_link_is_seen() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("..v1", "one"), ("..v2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("pilotfish.yaml"), text).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/pilotfish.yaml", at("pilotfish.yaml")).unwrap();
        let mut watch = Watch::new(&at("pilotfish.yaml"), "one");
        symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(changes(&mut watch).await, "two");
    }

    #[tokio::test]
    async fn a_file_that_is_gone_for_a_moment_is_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pilotfish.yaml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, "one");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "two").unwrap();
        assert_eq!(changes(&mut watch).await, "two");
    }
}
