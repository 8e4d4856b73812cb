//! Tells when the configuration file may have changed. The directory is watched, not the file: an
//! editor renames a new file over it, and Kubernetes swaps the link `..data` beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// A change is over when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// What the kernel does not report (network file systems) is found by looking.
const LOOK: Duration = Duration::from_secs(5);

/// A file under watch.
pub struct Watch {
    path: PathBuf,
    last: Option<Vec<u8>>,
    events: mpsc::UnboundedReceiver<()>,
    /// Reports events for as long as it lives; none where the system gives no watch.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches `path`, of which `text` was read last.
    pub fn new(path: &Path, text: &str) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = watcher(path, sender);
        if let Err(error) = &watcher {
            tracing::warn!(%error, every = ?LOOK, "no events for the configuration; looking instead");
        }
        Self {
            path: path.to_owned(),
            last: Some(text.as_bytes().to_vec()),
            events,
            _watcher: watcher.ok(),
        }
    }

    /// Someone else has read the file: whatever it has at the next look is to be told.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Waits until the file has another content than the last time. A file that is gone has not
    /// changed: it is about to be replaced.
    pub async fn changed(&mut self) {
        loop {
            match timeout(LOOK, self.events.recv()).await {
                // A directory that is never quiet must not keep the file from being read.
                Ok(Some(())) => {
                    let quiet = async {
                        while let Ok(Some(())) = timeout(QUIET, self.events.recv()).await {}
                    };
                    let _ = timeout(LONGEST, quiet).await;
                }
                // No watcher: only the look is left.
                Ok(None) => sleep(LOOK).await,
                Err(_) => {}
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

fn watcher(path: &Path, sender: mpsc::UnboundedSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and would wake us for ever.
        let is_read = |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
        if event.is_ok_and(|event| is_read(&event.kind)) {
            return;
        }
        // Nobody listens any more when the proxy ends.
        let _ = sender.send(());
    })?;
    let directory = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    watcher.watch(&directory(path), RecursiveMode::NonRecursive)?;
    // Where the file is a link, what it points to may change without its own directory.
    if let Ok(real) = path.canonicalize() {
        let real = directory(&real);
        if real != directory(path) {
            watcher.watch(&real, RecursiveMode::NonRecursive)?;
        }
    }
    Ok(watcher)
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
