//! The last good instances of each service on disk, so that a proxy that starts while its registry is away knows
//! where services ran.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::compile::instance;
use crate::config::schema;
use crate::config::units;
use crate::endpoint::{Address, Instance};

/// A directory with a file for each service.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// What a file has. The endpoints are written as the configuration has them.
#[derive(Serialize, Deserialize)]
struct Kept {
    service: String,
    endpoints: Vec<schema::Endpoint>,
}

impl Store {
    /// Makes the directory where it is not there.
    ///
    /// # Errors
    /// It cannot be made, or is none.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("services");
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Replaces what is kept of a service; what was there stays whole until then.
    ///
    /// # Errors
    /// The disk is full or not to be written to; what was there is there still.
    pub fn write(&self, service: &str, instances: &[Instance]) -> io::Result<()> {
        let endpoints = instances.iter().map(typed).collect();
        let kept = Kept { service: service.to_owned(), endpoints };
        let path = self.path(service);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(&kept).map_err(io::Error::other)?;
        std::fs::write(&new, text).inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        std::fs::rename(&new, &path)
    }

    /// What was kept of a service.
    ///
    /// # Errors
    /// There is something that cannot be read.
    pub fn read(&self, service: &str) -> io::Result<Option<Vec<Instance>>> {
        let text = match std::fs::read(self.path(service)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(io::Error::other)?;
        Ok(Some(kept.endpoints.iter().map(instance).filter(|it| it.weight > 0).collect()))
    }

    /// Names of services have no `/`, and none begins with a dot.
    fn path(&self, service: &str) -> PathBuf {
        self.directory.join(format!("{service}.json"))
    }
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
    use super::*;

    fn instances() -> Vec<Instance> {
        let mut rich = Instance::from(Address::Socket(([10, 0, 0, 1], 80).into()));
        rich.weight = 7;
        rich.zone = Some("a".into());
        rich.version = Some("v1".into());
        rich.labels = [("tier".into(), "gold".into())].into();
        let name = Address::Name { host: "users.local".into(), port: 80 };
        vec![rich, name.into(), Address::Unix("/run/app.sock".into()).into()]
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.read("users").unwrap(), None);
        store.write("users", &instances()).unwrap();
        store.write("orders", &[]).unwrap();
        assert_eq!(store.read("users").unwrap(), Some(instances()));
        assert_eq!(store.read("orders").unwrap(), Some(vec![]));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write("users", &instances()).unwrap();
        let path = dir.path().join("services/users.json");
        for text in ["", "{", "[]", r#"{"service":"users","endpoints":["x"]}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(store.read("users").is_err(), "{text}");
        }
    }
}
