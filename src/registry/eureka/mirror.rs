//! What Eureka has, as far as it is needed here: the instances of the applications that are followed, and of all
//! others no more than their status, by which it is seen whether a change was missed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use foldhash::fast::RandomState;
use std::hash::BuildHasher;

use super::answer::{Application, Applications, Record, Status};
use crate::endpoint::Instance;

#[derive(Default)]
pub struct Mirror {
    /// By application and id, hashed: two of the same hash would be seen as a change that was missed.
    statuses: HashMap<u64, Status, RandomState>,
    /// By name in lower case.
    followed: HashMap<Box<str>, Followed>,
    hasher: RandomState,
}

#[derive(Default)]
struct Followed {
    by: usize,
    /// Its instances, by id; None: it was not read yet.
    instances: Option<BTreeMap<Box<str>, Entry>>,
}

struct Entry {
    changed: u64,
    instance: Instance,
}

impl Mirror {
    /// `app`, in lower case, is followed by one more.
    pub fn follow(&mut self, app: &str) {
        self.followed.entry(app.into()).or_default().by += 1;
    }

    /// One that followed `app` does so no more.
    pub fn unfollow(&mut self, app: &str) {
        if let Some(followed) = self.followed.get_mut(app) {
            followed.by -= 1;
            if followed.by == 0 {
                self.followed.remove(app);
            }
        }
    }

    pub fn is_followed(&self) -> bool {
        !self.followed.is_empty()
    }

    /// Who is followed and was not read yet.
    pub fn unread(&self) -> Vec<Box<str>> {
        let unread = self.followed.iter().filter(|(_, followed)| followed.instances.is_none());
        unread.map(|(app, _)| app.clone()).collect()
    }

    /// Those of `app`, each address once; None: it was not read yet.
    pub fn instances(&self, app: &str) -> Option<Vec<Instance>> {
        let entries = self.followed.get(app)?.instances.as_ref()?;
        let mut entries: Vec<_> = entries.values().collect();
        // An instance that came back under another id may stand there twice for a while.
        entries.sort_by_key(|entry| Reverse(entry.changed));
        let mut seen = HashSet::new();
        entries.retain(|entry| seen.insert(&entry.instance.address));
        Some(entries.into_iter().map(|entry| entry.instance.clone()).collect())
    }

    /// All there is.
    pub fn replace(&mut self, all: Vec<Application>) {
        self.statuses.clear();
        for followed in self.followed.values_mut() {
            followed.instances = Some(BTreeMap::new());
        }
        for (app, record) in records(all) {
            self.put(&app, record);
        }
    }

    /// What has changed, of which some may be known. False: a change was missed, all has to be read.
    #[must_use]
    pub fn apply(&mut self, delta: Applications) -> bool {
        for (app, record) in records(delta.application.0) {
            match record.action_type.0.as_str() {
                "DELETED" => self.remove(&app, record.id()),
                _ => self.put(&app, record),
            }
        }
        delta.hash.is_some_and(|hash| hash.0 == self.hash())
    }

    /// All of one application; None if it is not there. What it says of others' status waits for the next change,
    /// so that what is hashed stays of one time.
    pub fn read(&mut self, app: &str, application: Option<Application>) {
        let Some(followed) = self.followed.get_mut(app) else { return };
        let mut instances = BTreeMap::new();
        for record in application.into_iter().flat_map(|application| application.instance.0) {
            insert(&mut instances, record);
        }
        followed.instances = Some(instances);
    }

    /// As Eureka reckons it: how many there are of each status, by its name.
    pub fn hash(&self) -> String {
        let mut counts = BTreeMap::<_, usize>::new();
        for status in self.statuses.values() {
            *counts.entry(*status).or_default() += 1;
        }
        let mut hash = String::new();
        for (status, count) in counts {
            let _ = write!(hash, "{}_{count}_", status.name());
        }
        hash
    }

    fn put(&mut self, app: &str, record: Record) {
        self.statuses.insert(self.hasher.hash_one((app, record.id())), record.status());
        let followed = self.followed.get_mut(app);
        if let Some(instances) = followed.and_then(|followed| followed.instances.as_mut()) {
            insert(instances, record);
        }
    }

    fn remove(&mut self, app: &str, id: &str) {
        self.statuses.remove(&self.hasher.hash_one((app, id)));
        let followed = self.followed.get_mut(app);
        if let Some(instances) = followed.and_then(|followed| followed.instances.as_mut()) {
            instances.remove(id);
        }
    }
}

fn insert(instances: &mut BTreeMap<Box<str>, Entry>, record: Record) {
    let (id, changed): (Box<str>, _) = (record.id().into(), record.changed());
    match record.instance() {
        Some(instance) => instances.insert(id, Entry { changed, instance }),
        None => instances.remove(&id),
    };
}

/// Each record with the name of its application in lower case.
fn records(all: Vec<Application>) -> impl Iterator<Item = (Box<str>, Record)> {
    all.into_iter().flat_map(|application| {
        let app: Box<str> = application.name.0.to_lowercase().into();
        application.instance.0.into_iter().map(move |record| (app.clone(), record))
    })
}
