//! The last good instances of each service on disk, so that a proxy that starts while its registry is away knows
//! where services ran.
//!
//! All that stands there is read when the store is opened. What changes is written in the background, the last
//! word of each service; what cannot be written is tried again until it can.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tokio::time::sleep;

use super::disk::{self, Disk};
use crate::clock::{self, Instant};
use crate::config::compile::instance;
use crate::config::schema;
use crate::config::units;
use crate::endpoint::{Address, Instance};

/// What was told longer ago is of no use to anybody, and removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Changes that come within this are written together.
const TOGETHER: Duration = Duration::from_secs(1);
/// How often it is told that the disk does not take what is to be kept.
const WARN_EVERY: Duration = Duration::from_secs(60);
const LARGEST: u64 = 64 << 20;

/// A directory with a file for each service. To be used on the thread that has opened it.
pub struct Store {
    shelf: Rc<Shelf>,
    writer: AbortHandle,
}

/// What stands on disk, or is to stand there.
struct Shelf {
    directory: PathBuf,
    disk: Disk,
    files: RefCell<HashMap<Box<str>, File>>,
    /// Whose files are not as they are to be.
    due: RefCell<BTreeSet<Box<str>>>,
    wakes: Notify,
}

#[derive(Debug, Clone)]
struct File {
    text: Arc<[u8]>,
    /// When it was handed over; none where it is of an earlier life or known not to be what is in force.
    kept_at: Option<Instant>,
}

/// What a file has. The endpoints are written as the configuration has them.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    service: String,
    /// When a registry told it, in seconds since 1970.
    told_at: u64,
    endpoints: Vec<schema::Endpoint>,
}

/// A store that is being opened: the disk may take its time.
pub struct Opening(Receiver<io::Result<Opened>>);

struct Opened {
    directory: PathBuf,
    files: HashMap<Box<str>, File>,
}

impl Opening {
    /// Makes the directory where it is not there, and reads what it has. Files that are too old `now` are removed.
    pub fn begin(state_dir: &Path, now: SystemTime) -> Self {
        let directory = state_dir.join("services");
        let (done, opened) = sync_channel(1);
        spawn_blocking(move || done.send(open(directory, now)));
        Self(opened)
    }

    /// The store; none where it is not open after `patience`.
    ///
    /// # Errors
    /// The directory cannot be made, or is none.
    pub fn wait(&self, patience: Duration) -> Option<io::Result<Store>> {
        match self.0.recv_timeout(patience) {
            Ok(opened) => Some(opened.map(Store::of)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(io::Error::other("the disk was not asked")))
            }
        }
    }
}

impl Store {
    fn of(opened: Opened) -> Self {
        let shelf = Rc::new(Shelf {
            directory: opened.directory,
            disk: Disk::default(),
            files: RefCell::new(opened.files),
            due: RefCell::default(),
            wakes: Notify::new(),
        });
        let writer = spawn_local(shelf.clone().write()).abort_handle();
        Self { shelf, writer }
    }

    /// Whether a service is to be kept (again), so that what is there is not older than `refresh`.
    pub fn is_due(&self, service: &str, refresh: Duration, now: Instant) -> bool {
        let files = self.shelf.files.borrow();
        let kept_at = files.get(service).and_then(|file| file.kept_at);
        kept_at.is_none_or(|kept_at| now >= kept_at + refresh)
    }

    /// What is there of a service is no more what is in force.
    pub fn changed(&self, service: &str) {
        if let Some(file) = self.shelf.files.borrow_mut().get_mut(service) {
            file.kept_at = None;
        }
    }

    /// Replaces what is kept of a service by what a registry says `now`; nothing is kept of one without instances.
    pub fn keep(&self, service: &str, instances: &[Instance], told_at: SystemTime, now: Instant) {
        let mut files = self.shelf.files.borrow_mut();
        if instances.is_empty() {
            if files.remove(service).is_none() {
                return;
            }
        } else {
            let endpoints = instances.iter().map(typed).collect();
            let kept = Kept { service: service.to_owned(), told_at: seconds(told_at), endpoints };
            // Of text and numbers alone, so it can be written.
            let text = serde_json::to_vec(&kept).unwrap_or_default().into();
            files.insert(service.into(), File { text, kept_at: Some(now) });
        }
        self.shelf.due.borrow_mut().insert(service.into());
        self.shelf.wakes.notify_one();
    }

    /// What is kept of a service, and when it was told.
    pub fn read(&self, service: &str) -> Option<(Vec<Instance>, SystemTime)> {
        let text = self.shelf.files.borrow().get(service)?.text.clone();
        // It was read when the store was opened, or written by us.
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let instances = kept.endpoints.iter().map(instance).filter(Instance::is_callable);
        Some((instances.collect(), UNIX_EPOCH + Duration::from_secs(kept.told_at)))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// What is to become of the file of a service; none: it is to go.
type Due = (Box<str>, Option<Arc<[u8]>>);

impl Shelf {
    fn tasks(&self, due: &BTreeSet<Box<str>>) -> Vec<Due> {
        let files = self.files.borrow();
        let text = |service: &str| files.get(service).map(|file| file.text.clone());
        due.iter().map(|service| (service.clone(), text(service))).collect()
    }

    /// Writes what is due, until it is dropped.
    async fn write(self: Rc<Self>) {
        let mut warn_at = clock::now();
        loop {
            self.wakes.notified().await;
            let due = std::mem::take(&mut *self.due.borrow_mut());
            let tasks = self.tasks(&due);
            let directory = self.directory.clone();
            let written = self.disk.run(move || Ok(write_all(&directory, tasks))).await;
            let failed = written.unwrap_or_else(|error| Some((due, error)));
            if let Some((services, error)) = failed {
                let now = clock::now();
                if now >= warn_at {
                    warn_at = now + WARN_EVERY;
                    let (path, services) = (self.directory.display(), services.len());
                    tracing::warn!(%path, services, %error, "what registries tell cannot be kept on disk; it is \
                        tried again");
                }
                self.due.borrow_mut().extend(services);
                self.wakes.notify_one();
            }
            sleep(TOGETHER).await;
        }
    }
}

/// Those that could not be written, and why the last of them could not.
fn write_all(directory: &Path, tasks: Vec<Due>) -> Option<(BTreeSet<Box<str>>, io::Error)> {
    let mut failed: Option<(BTreeSet<_>, _)> = None;
    for (service, text) in tasks {
        if let Err(error) = write_one(directory, &service, text.as_deref()) {
            let mut services = failed.map(|(services, _)| services).unwrap_or_default();
            services.insert(service);
            failed = Some((services, error));
        }
    }
    failed
}

/// Replaces a file; what was there stays whole until then.
fn write_one(directory: &Path, service: &str, text: Option<&[u8]>) -> io::Result<()> {
    // Names of services have no `/`, and none begins with a dot.
    let path = directory.join(format!("{service}.json"));
    let Some(text) = text else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    fs::create_dir_all(directory)?;
    let new = directory.join(format!("{service}.new"));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

fn open(directory: PathBuf, now: SystemTime) -> io::Result<Opened> {
    fs::create_dir_all(&directory)?;
    let mut files = HashMap::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Ok((kept, _)) if seconds(now) > kept.told_at.saturating_add(KEPT.as_secs()) => {
                let _ = fs::remove_file(&path);
            }
            Ok((kept, text)) => {
                files.insert(kept.service.into(), File { text, kept_at: None });
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "what was kept of a service cannot be read");
            }
        }
    }
    Ok(Opened { directory, files })
}

fn read(path: &Path) -> io::Result<(Kept, Arc<[u8]>)> {
    let (_, text) = disk::read(path, LARGEST)?;
    let kept = serde_json::from_slice(&text).map_err(io::Error::other)?;
    Ok((kept, text.into()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An instance as the configuration would have it.
fn typed(instance: &Instance) -> schema::Endpoint {
    let labels = instance.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let labels: std::collections::BTreeMap<_, _> = labels.collect();
    schema::Endpoint {
        address: match &instance.address {
            Address::Socket(address) => units::Address::Socket(*address),
            Address::Name { host, port } => {
                units::Address::Name { host: host.to_string(), port: *port }
            }
            Address::Unix(path) => units::Address::Unix(path.clone()),
        },
        weight: Some(instance.weight),
        zone: instance.zone.as_deref().map(Into::into),
        version: instance.version.as_deref().map(Into::into),
        labels: (!labels.is_empty()).then_some(labels),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const REFRESH: Duration = Duration::from_secs(360);

    fn instances() -> Vec<Instance> {
        let mut rich = Instance::from(Address::Socket(([10, 0, 0, 1], 80).into()));
        rich.weight = 7;
        rich.zone = Some("a".into());
        rich.version = Some("v1".into());
        rich.labels = [("tier".into(), "gold".into())].into();
        let name = Address::Name { host: "users.local".into(), port: 80 };
        vec![rich, name.into(), Address::Unix("/run/app.sock".into()).into()]
    }

    fn one(port: u16) -> Vec<Instance> {
        vec![Address::Socket(([10, 0, 0, 1], port).into()).into()]
    }

    fn day(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((20_000 + days) * 24 * 3600)
    }

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn open_at(dir: &TempDir, now: SystemTime) -> io::Result<Store> {
        Opening::begin(dir.path(), now).wait(PATIENCE).expect("in time")
    }

    fn path(dir: &TempDir, name: &str) -> PathBuf {
        dir.path().join("services").join(name)
    }

    /// Waits until the disk has what is to be there.
    async fn written(store: &Store) {
        let shelf = &store.shelf;
        timeout(PATIENCE, async {
            let of_disk = |name: &str| fs::read(shelf.directory.join(format!("{name}.json"))).ok();
            while !shelf.due.borrow().is_empty()
                || shelf
                    .files
                    .borrow()
                    .iter()
                    .any(|(name, file)| of_disk(name).as_deref() != Some(&*file.text))
            {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is written");
    }

    async fn on_one_thread(test: impl Future) {
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn what_is_kept_is_there_after_a_restart_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            let store = open_at(&dir, day(0)).unwrap();
            assert_eq!(store.read("users"), None);
            store.keep("users", &instances(), day(0), at(0));
            store.keep("orders", &one(1), day(0), at(0));
            store.keep("orders", &one(2), day(0), at(0));
            assert_eq!(store.read("users"), Some((instances(), day(0))), "before it is written");
            written(&store).await;
            drop(store);
            let store = open_at(&dir, day(1)).unwrap();
            assert_eq!(store.read("users"), Some((instances(), day(0))));
            assert_eq!(store.read("orders"), Some((one(2), day(0))));
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_kept_of_who_has_no_instance() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            let store = open_at(&dir, day(0)).unwrap();
            store.keep("users", &one(1), day(0), at(0));
            store.keep("nobody", &[], day(0), at(0));
            written(&store).await;
            assert!(!path(&dir, "nobody.json").exists());
            store.keep("users", &[], day(0), at(1));
            assert_eq!(store.read("users"), None);
            timeout(PATIENCE, async {
                while path(&dir, "users.json").exists() {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await
            .expect("it is removed");
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_too_old_is_removed_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            let store = open_at(&dir, day(0)).unwrap();
            store.keep("users", &one(1), day(0), at(0));
            store.keep("orders", &one(1), day(3), at(0));
            written(&store).await;
            let store = open_at(&dir, day(8)).unwrap();
            assert_eq!((store.read("users"), store.read("orders").is_some()), (None, true));
            assert!(!path(&dir, "users.json").exists() && path(&dir, "orders.json").exists());
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_in_force_is_handed_over_when_it_changes_and_from_time_to_time() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            let store = open_at(&dir, day(0)).unwrap();
            let is_due = |store: &Store, seconds| store.is_due("users", REFRESH, at(seconds));
            assert!(is_due(&store, 0), "it is not there");
            store.keep("users", &one(1), day(0), at(0));
            assert!(!is_due(&store, 359) && is_due(&store, 360));
            store.changed("users");
            assert!(is_due(&store, 1));
            written(&store).await;
            assert!(is_due(&open_at(&dir, day(0)).unwrap(), 1), "it is of an earlier life");
        })
        .await;
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            let store = open_at(&dir, day(0)).unwrap();
            // Also root cannot make a file there.
            fs::remove_dir(path(&dir, "")).unwrap();
            fs::write(dir.path().join("services"), "").unwrap();
            store.keep("users", &one(1), day(0), at(0));
            // Before it was tried, and after: it is due.
            let tried = async {
                while !store.shelf.due.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                while store.shelf.due.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, tried).await.expect("it is due again");
            fs::remove_file(dir.path().join("services")).unwrap();
            written(&store).await;
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_cannot_be_opened_says_why_and_is_opened_later() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            fs::write(dir.path().join("services"), "").unwrap();
            assert!(open_at(&dir, day(0)).is_err());
            fs::remove_file(dir.path().join("services")).unwrap();
            assert!(open_at(&dir, day(0)).is_ok());
        })
        .await;
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        on_one_thread(async {
            fs::create_dir(path(&dir, "")).unwrap();
            let texts = ["", "{", "[]", r#"{"service":"users","told_at":1,"endpoints":["x"]}"#];
            for (number, text) in texts.into_iter().enumerate() {
                fs::write(path(&dir, &format!("users{number}.json")), text).unwrap();
            }
            // Whose writer never comes.
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let pipe = path(&dir, "pipe.json");
            rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
            let store = open_at(&dir, day(0)).unwrap();
            assert!(store.shelf.files.borrow().is_empty());
        })
        .await;
    }
}
