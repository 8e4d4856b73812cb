//! The instances of one service, as the keys below its name say it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::wire::{Event, Int, KeyValue, Range, decoded};
use crate::endpoint::Instance;
use crate::registry::{Announcement, Health, place};

/// The value of a key.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Said {
    pub address: Box<str>,
    pub port: u16,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<Box<str>, Box<str>>,
    #[serde(default)]
    pub health: Told,
}

/// How it is. What is not known is not called.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    #[default]
    Passing,
    #[serde(other)]
    Critical,
}

fn one() -> u32 {
    1
}

impl Said {
    pub fn of(ours: &Announcement, address: Box<str>, health: Health) -> Self {
        let boxed = |text: &String| text.as_str().into();
        Self {
            address,
            port: ours.port,
            weight: ours.weight,
            version: ours.version.as_ref().map(boxed),
            zone: ours.zone.as_ref().map(boxed),
            tags: ours.tags.iter().map(boxed).collect(),
            metadata: ours.metadata.iter().map(|(key, value)| (boxed(key), boxed(value))).collect(),
            health: match health {
                Health::Passing => Told::Passing,
                Health::Critical => Told::Critical,
            },
        }
    }

    /// None where there is no way to call it.
    fn instance(self) -> Option<Instance> {
        let mut labels = self.metadata;
        // Where somebody else writes them there, as in other registries.
        let version = self.version.or_else(|| labels.remove("version"));
        let zone = self.zone.or_else(|| labels.remove("zone"));
        for tag in self.tags {
            labels.insert(format!("tag.{tag}").into(), "true".into());
        }
        let address = place::address(&self.address, self.port)?;
        let weight = if self.health == Told::Passing { self.weight } else { 0 };
        Some(Instance { address, weight, zone, version, labels })
    }
}

/// What stands below the name of a service.
#[derive(Debug)]
pub struct Members {
    /// Of which state of the store this is.
    pub revision: Int,
    by_key: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    changed: Int,
    what: What,
}

#[derive(Debug)]
enum What {
    Instance(Instance),
    /// Not written by any of us.
    Senseless,
}

impl Members {
    pub fn read(range: Range) -> Self {
        let by_key = range.kvs.into_iter().map(read).collect();
        Self { revision: range.header.revision, by_key }
    }

    /// Events that are known already change nothing. What the header of a watch says of the revision is not
    /// asked: it may be that of events which are still to come.
    pub fn apply(&mut self, events: Vec<Event>) {
        let known = self.revision;
        for Event { kind, kv } in events {
            if kv.mod_revision <= known {
                continue;
            }
            self.revision = self.revision.max(kv.mod_revision);
            if kind == "DELETE" {
                self.by_key.remove(&kv.key);
            } else {
                let (key, member) = read(kv);
                self.by_key.insert(key, member);
            }
        }
    }

    /// Whether a key came, went or was written again between `earlier` and this.
    pub fn has_changed_since(&self, earlier: &Self) -> bool {
        let [now, before] =
            [self, earlier].map(|it| it.by_key.iter().map(|(key, member)| (key, member.changed)));
        !now.eq(before)
    }

    /// All that there are, each address once: as the newest says it.
    ///
    /// # Errors
    /// A key that is there, of many of which none says an instance.
    pub fn instances(&self) -> Result<Vec<Instance>, String> {
        let is_senseless = |member: &Member| matches!(member.what, What::Senseless);
        if self.by_key.values().all(is_senseless)
            && let Some(key) = self.by_key.keys().next()
        {
            let key = decoded(key).unwrap_or_default();
            return Err(String::from_utf8_lossy(&key).into_owned());
        }
        let mut newest: Vec<_> = self.by_key.values().collect();
        newest.sort_by_key(|member| Reverse(member.changed));
        let mut seen = HashSet::new();
        let all = newest.into_iter().filter_map(|member| match &member.what {
            What::Instance(instance) => Some(instance),
            What::Senseless => None,
        });
        Ok(all.filter(|instance| seen.insert(&instance.address)).cloned().collect())
    }
}

fn read(kv: KeyValue) -> (String, Member) {
    let said = decoded(&kv.value).and_then(|value| serde_json::from_slice::<Said>(&value).ok());
    let what = match said {
        None => What::Senseless,
        Some(said) => said.instance().map_or(What::Senseless, What::Instance),
    };
    (kv.key, Member { changed: kv.mod_revision, what })
}
