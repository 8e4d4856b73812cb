//! The files of the directory, found, written, touched and removed. All of it waits for the disk.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file::File;
use crate::endpoint::Instance;
use crate::registry::{Announcement, Error, Health, Reason, disk};

/// No file has more.
const LARGEST: u64 = 64 << 10;
/// What makes no sense and was not touched for so long says nothing any more.
const ABANDONED: Duration = Duration::from_secs(3600);
/// A file is put in place as soon as it is written: this one was not.
const UNFINISHED: Duration = Duration::from_secs(60);
/// Others read what we write, whoever they are.
const MODE: u32 = 0o644;
const WRITABLE_BY_OTHERS: u32 = 0o022;

pub struct Files {
    path: PathBuf,
    /// What has to be ours alone, if anything.
    own: Option<Own>,
    ttl: Duration,
}

/// A place of ours that nobody has named, and that somebody else could have made before us.
struct Own {
    path: PathBuf,
    uid: u32,
}

/// What stands there of all services.
#[derive(Debug, Default)]
pub struct Found {
    services: HashMap<Box<str>, Members>,
    /// Files that say no instance, and why.
    pub senseless: Vec<String>,
}

#[derive(Debug, Default)]
struct Members {
    instances: Vec<Instance>,
    /// A file that may say an instance and could not be read.
    unread: Option<String>,
    senseless: Option<String>,
}

impl Found {
    /// All instances of a service.
    ///
    /// # Errors
    /// There may be another one, or there are files of which none says an instance.
    pub fn of(&self, service: &str) -> Result<Vec<Instance>, Error> {
        let Some(members) = self.services.get(service) else { return Ok(vec![]) };
        if let Some(unread) = &members.unread {
            return Err(Error::new(Reason::Failed, format!("{unread}; check its permissions")));
        }
        match &members.senseless {
            Some(senseless) if members.instances.is_empty() => {
                let detail = format!("{senseless}; remove it if it is not of a sidecar");
                Err(Error::new(Reason::Garbage, detail))
            }
            _ => Ok(members.instances.clone()),
        }
    }
}

impl Files {
    pub fn at(path: PathBuf, ttl: Duration) -> Self {
        Self { path, own: None, ttl }
    }

    /// A place that all sidecars of one user share. `runtime` is the directory for what lives as long as he is
    /// there, `temporary` one that he shares with others.
    pub fn shared(uid: u32, runtime: Option<PathBuf>, temporary: &Path, ttl: Duration) -> Self {
        let path = match runtime {
            _ if uid == 0 => PathBuf::from("/run/pilotfish"),
            Some(runtime) => runtime.join("pilotfish"),
            None => temporary.join(format!("pilotfish-{uid}")),
        };
        Self::own(path, uid, ttl)
    }

    /// Below a directory at `path` that has to be `uid`'s alone.
    pub fn own(path: PathBuf, uid: u32, ttl: Duration) -> Self {
        Self { path: path.join("services"), own: Some(Own { path, uid }), ttl }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands there `now`. Files of who lives no more are removed, of whatever service they are: Prometheus
    /// would ask them for ever.
    ///
    /// # Errors
    /// It cannot be read; `NotFound` where there is no such directory.
    pub fn scan(&self, now: SystemTime) -> io::Result<Found> {
        self.check()?;
        let mut found = Found::default();
        for name in self.names()? {
            let path = self.path.join(&name);
            let Some((service, id)) = name.to_str().and_then(|name| name.split_once('@')) else {
                continue;
            };
            if id.ends_with(".new") {
                if age(&path, now).is_some_and(|age| age > UNFINISHED) {
                    let _ = fs::remove_file(&path);
                }
            } else if id.ends_with(".json") {
                self.find(service, &path, now, &mut found);
            }
        }
        Ok(found)
    }

    /// In an order of their own, so that what has not changed is found to be the same.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// What one file says.
    fn find(&self, service: &str, path: &Path, now: SystemTime, found: &mut Found) {
        let error = match self.read(path, now) {
            Ok(None) => return,
            Ok(Some(instance)) => {
                return found.services.entry(service.into()).or_default().instances.push(instance);
            }
            Err(error) => error,
        };
        let is_abandoned = age(path, now).is_none_or(|age| age > ABANDONED.max(self.ttl));
        // Or it went away meanwhile.
        if is_abandoned || error.kind() == io::ErrorKind::NotFound {
            return;
        }
        let members = found.services.entry(service.into()).or_default();
        let why = format!("{}: {error}", path.display());
        if error.kind() == io::ErrorKind::InvalidData {
            found.senseless.push(why.clone());
            members.senseless = Some(why);
        } else {
            members.unread = Some(why);
        }
    }

    /// None where it is not alive.
    fn read(&self, path: &Path, now: SystemTime) -> io::Result<Option<Instance>> {
        let (file, text) = disk::read(path, LARGEST)?;
        let touched = file.metadata()?.modified()?;
        let senseless = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let file = File::parse(&text).map_err(senseless)?;
        // A clock that was set back makes it look as if it came from the future: it is alive then.
        if now.duration_since(touched).unwrap_or_default() > file.ttl {
            // Who wrote it writes it again, should it live after all.
            let _ = fs::remove_file(path);
            return Ok(None);
        }
        Ok(Some(match file.health {
            Health::Passing => file.instance,
            Health::Critical => Instance::out(file.instance.address),
        }))
    }

    fn file(&self, ours: &Announcement) -> PathBuf {
        self.path.join(format!("{}@{}.json", ours.service, ours.id))
    }

    /// Writes ours, whatever was there.
    ///
    /// # Errors
    /// It cannot be written; what was there is there still.
    pub fn write(&self, ours: &Announcement, health: Health) -> io::Result<()> {
        self.make()?;
        // All who reach us by this directory are on this host.
        let address = match &ours.address {
            Some(address) => address.clone(),
            None => IpAddr::from([127, 0, 0, 1]).to_string().into(),
        };
        let text = File::text(ours, &address, health, self.ttl);
        if text.len() as u64 > LARGEST {
            return Err(io::Error::other(format!(
                "metadata and tags make a file of more than {LARGEST} bytes, which nobody reads"
            )));
        }
        let path = self.file(ours);
        let new = path.with_extension("new");
        let written = create(&new, &text).and_then(|()| fs::rename(&new, &path));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Says `now` that we live. False: what is there is not ours.
    ///
    /// # Errors
    /// It cannot be touched, or not be written where it says another health.
    pub fn touch(&self, ours: &Announcement, health: Health, now: SystemTime) -> io::Result<bool> {
        let Ok((file, text)) = self.check().and_then(|()| disk::read(&self.file(ours), LARGEST))
        else {
            return Ok(false);
        };
        match File::parse(&text) {
            // Of a file that was not opened for writing nobody is told when it is closed: all who watch would
            // read all files for nothing.
            Ok(told) if told.health == health => file.set_modified(now)?,
            Ok(_) => self.write(ours, health)?,
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Removes ours, if it is there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, ours: &Announcement) -> io::Result<()> {
        match fs::remove_file(self.file(ours)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make(&self) -> io::Result<()> {
        if let Some(own) = self.own.as_ref().filter(|own| own.is_exposed()) {
            match DirBuilder::new().mode(0o700).create(&own.path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.check()?;
        fs::create_dir_all(&self.path)
    }

    fn check(&self) -> io::Result<()> {
        match &self.own {
            Some(own) if own.is_exposed() => own.check(),
            _ => Ok(()),
        }
    }
}

impl Own {
    /// Whether somebody else may make something where it is.
    fn is_exposed(&self) -> bool {
        let above = self.path.parent().and_then(|above| fs::metadata(above).ok());
        above.is_some_and(|above| {
            above.mode() & WRITABLE_BY_OTHERS != 0 || ![0, self.uid].contains(&above.uid())
        })
    }

    /// Who may write there says whom our app calls.
    fn check(&self) -> io::Result<()> {
        let what = fs::symlink_metadata(&self.path)?;
        let wrong = if !what.is_dir() {
            "is no directory".to_owned()
        } else if what.uid() != self.uid {
            format!("belongs to another user ({})", what.uid())
        } else if what.mode() & WRITABLE_BY_OTHERS != 0 {
            "may be written to by others".to_owned()
        } else {
            return Ok(());
        };
        let detail = format!(
            "{} {wrong}, and whoever writes there says whom we call; remove it, or give a directory with \
             `registry: {{ directory: {{ path: … }} }}`",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, detail))
    }
}

/// How long ago it was touched; none where it is not there.
fn age(path: &Path, now: SystemTime) -> Option<Duration> {
    let touched = fs::symlink_metadata(path).and_then(|it| it.modified()).ok()?;
    Some(now.duration_since(touched).unwrap_or_default())
}

/// A new file at `path`, never one that somebody has put there.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // Whatever our umask says.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())
}
