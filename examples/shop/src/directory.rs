//! The directory of a run: configurations, logs, databases, and the registry. It goes when the run ends.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::getuid;
use tempfile::TempDir;

const PREFIX: &str = "pilotfish-shop-";
/// Locked for as long as the directory is used.
const LOCK: &str = "lock";

pub struct Directory {
    directory: TempDir,
    _lock: File,
}

impl Directory {
    /// A new one. What a run has left that was ended by SIGKILL goes first.
    pub fn make() -> Result<Self, String> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let make = || {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent)?;
            // Nobody may find it before it is locked.
            let early = directory.path().join("lock.new");
            let lock = File::create_new(&early)?;
            lock.lock()?;
            fs::rename(early, directory.path().join(LOCK))?;
            fs::create_dir(directory.path().join("services"))?;
            Ok(Self { directory, _lock: lock })
        };
        make().map_err(|error: std::io::Error| {
            format!("no directory can be made in {}: {error}", parent.display())
        })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes directories of ours that nobody has locked.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Not of a link: of the entry itself.
        let Ok(metadata) = entry.metadata() else { continue };
        if named && metadata.is_dir() && metadata.uid() == getuid().as_raw() {
            let lock = File::open(entry.path().join(LOCK));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_any_more_is_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).expect("a directory");
            path
        };
        let [used, left, other, unlocked] =
            ["pilotfish-shop-a", "pilotfish-shop-b", "else", "pilotfish-shop-c"].map(dir);
        let lock = File::create(used.join(LOCK)).expect("a file");
        lock.lock().expect("locked");
        File::create(left.join(LOCK)).expect("a file");
        File::create(other.join(LOCK)).expect("a file");
        sweep(parent.path());
        assert!(used.exists() && other.exists() && unlocked.exists());
        assert!(!left.exists());
        drop(lock);
        sweep(parent.path());
        assert!(!used.exists());
    }
}
