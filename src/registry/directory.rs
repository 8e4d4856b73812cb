//! A directory of small files, one for each instance: the registry that needs nothing to be installed. For the
//! sidecars of one host.
//!
//! A file is called `<service>@<id>.json`. It is replaced by a rename, so that nobody reads half of one, and whoever
//! wrote it touches it while it lives: one that was not touched for its `ttl` counts no more, and is removed by who
//! sees it. The content does not change by that, and is what Prometheus' `file_sd_configs` reads: labels that begin
//! with `__` are there for us, and do not become part of a series.

mod file;
mod watch;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Announcement, Error, Health, Reason, Registry, Renewal, Task, Tell, settings};
use crate::clock;
use crate::endpoint::Instance;
use file::File;
use watch::Changes;

pub struct Directory {
    path: PathBuf,
    ttl: Duration,
}

impl Directory {
    pub fn new(settings: &settings::Directory) -> Self {
        let path = settings.path.clone().unwrap_or_else(shared);
        Self { path, ttl: settings.ttl }
    }

    fn file(&self, ours: &Announcement) -> PathBuf {
        self.path.join(format!("{}@{}.json", ours.service, ours.id))
    }

    /// All instances of a service that are alive.
    fn read(&self, service: &str, now: SystemTime) -> io::Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_its = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .is_some_and(|name| name.split_once('@').is_some_and(|(of, _)| of == service));
            if is_its {
                match self.read_one(&entry.path(), now) {
                    Ok(instance) => instances.extend(instance),
                    // It went away meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %entry.path().display(), %error, "no instance: the file cannot be read");
                    }
                }
            }
        }
        Ok(instances)
    }

    /// None where it is not alive.
    fn read_one(&self, path: &Path, now: SystemTime) -> io::Result<Option<Instance>> {
        let touched = std::fs::metadata(path)?.modified()?;
        let file = File::parse(&std::fs::read(path)?)?;
        // A clock that was set back makes it look as if it came from the future: it is alive then.
        let age = now.duration_since(touched).unwrap_or_default();
        if age > file.ttl {
            // Prometheus would ask it for ever. Who wrote it writes it again, should it live after all.
            let _ = std::fs::remove_file(path);
            return Ok(None);
        }
        Ok(Some(match file.health {
            Health::Passing => file.instance,
            Health::Critical => Instance::out(file.instance.address),
        }))
    }

    fn write(&self, ours: &Announcement, health: Health) -> io::Result<()> {
        std::fs::create_dir_all(&self.path)?;
        let path = self.file(ours);
        let new = path.with_extension("new");
        // All who reach us by this directory are on this host.
        let address = match &ours.address {
            Some(address) => address.clone(),
            None => IpAddr::from([127, 0, 0, 1]).to_string().into(),
        };
        let text = File::text(ours, &address, health, self.ttl);
        std::fs::write(&new, text).inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        std::fs::rename(&new, &path)
    }

    fn why(&self, what: &str, error: &io::Error) -> Error {
        let detail =
            format!("{}: {what}: {error}; check the path and its permissions", self.path.display());
        Error::new(Reason::Failed, detail)
    }
}

impl Registry for Directory {
    fn name(&self) -> &str {
        "directory"
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let mut changes = Changes::new(&self.path);
            loop {
                match self.read(&service, clock::wall()) {
                    Ok(instances) => tell.instances(instances),
                    // Nobody has registered yet.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => tell.instances(vec![]),
                    Err(error) => {
                        tell.failed(self.why("cannot be read", &error)).await;
                        continue;
                    }
                }
                changes.next(&self.path, self.ttl / 3).await;
            }
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
        let written = self.write(ours, health);
        Box::pin(async move { written.map_err(|error| self.why("cannot be written", &error)) })
    }

    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move {
            let path = self.file(ours);
            let told = std::fs::read(&path).and_then(|text| File::parse(&text));
            match told {
                // The same file is there: to touch it is enough.
                Ok(file) if file.health == health => {
                    let file = std::fs::File::options().append(true).open(&path);
                    let touched = file.and_then(|file| file.set_modified(clock::wall()));
                    touched.map_err(|error| self.why("cannot be touched", &error))?;
                    Ok(Renewal::Kept)
                }
                Ok(_) => {
                    self.write(ours, health)
                        .map_err(|error| self.why("cannot be written", &error))?;
                    Ok(Renewal::Kept)
                }
                Err(_) => Ok(Renewal::Forgotten),
            }
        })
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move {
            match std::fs::remove_file(self.file(ours)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(self.why("cannot be removed", &error))
                }
                _ => Ok(()),
            }
        })
    }
}

/// A place that all sidecars of one user share.
fn shared() -> PathBuf {
    let uid = rustix::process::getuid();
    let base = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => PathBuf::from("/run/pilotfish"),
        Some(runtime) => PathBuf::from(runtime).join("pilotfish"),
        None => std::env::temp_dir().join(format!("pilotfish-{}", uid.as_raw())),
    };
    base.join("services")
}
