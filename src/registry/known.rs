//! What is known of one service, from all that registries have told of it: a value that changes by what is told,
//! what failed and what time it is.
//!
//! The first registry that has an instance to be called tells which there are. One that fails keeps what it told
//! last. Where many instances go at once, those that still answer are held for a while: a registry that has lost
//! its memory says the same as one whose services are gone. One that is told to be ill has not gone; it is held only
//! where nobody else is left.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::Error;
use super::settings::Discovery;
use crate::clock::Instant;
use crate::endpoint::{Address, Instance};

/// How long those that are told to be ill and were held, as nobody else was left, still stay when somebody is: after
/// an outage of the registry all are told to be well again one by one, and the first is not to carry the load of all.
const GRACE: Duration = Duration::from_secs(15);

/// How far what is known can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No registry has spoken yet.
    Pending,
    /// As the registry tells it.
    Fresh,
    /// The registry does not answer; this is what it told last.
    Stale,
    /// So long that those which do not answer are left out.
    Expired,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Fresh, Self::Stale, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Expired => "expired",
        }
    }
}

/// What was known before.
#[derive(Debug, Clone)]
pub struct Restored {
    pub instances: Vec<Instance>,
    /// By the disk, when the proxy ran last; otherwise until a moment ago, by other registries.
    pub is_old: bool,
    /// How long ago a registry told it.
    pub age: Duration,
}

#[derive(Debug)]
pub struct Known {
    sources: Vec<Source>,
    /// Until a registry has an instance, or all have told that they have none.
    restored: Option<Restored>,
    /// When what there is counts as the first answer.
    settles: Instant,
    /// When it began, or, where something was known before, when that was told.
    since: Instant,
    /// Gone from what is told, and held until then.
    held: BTreeMap<Address, (Instance, Instant)>,
    /// That did not answer when what is known had expired.
    silent: HashSet<Address>,
    is_expired: bool,
    /// What is told to be called, without those that are held.
    wanted: Vec<Instance>,
    instances: Vec<Instance>,
}

/// One registry.
#[derive(Debug, Default)]
struct Source {
    /// Those that may be called.
    told: Option<Vec<Instance>>,
    /// Those that are there and may not.
    out: HashSet<Address>,
    told_at: Instant,
    failure: Option<Error>,
}

impl Source {
    fn has_spoken(&self) -> bool {
        self.told.is_some() || self.failure.is_some()
    }

    fn has_any(&self) -> bool {
        self.told.as_ref().is_some_and(|told| !told.is_empty())
    }
}

impl Known {
    /// Nothing yet, by so many registries.
    pub fn new(
        registries: usize,
        restored: Option<Restored>,
        discovery: &Discovery,
        now: Instant,
    ) -> Self {
        Self {
            sources: (0..registries).map(|_| Source::default()).collect(),
            wanted: restored.as_ref().map(|it| it.instances.clone()).unwrap_or_default(),
            since: now - restored.as_ref().map(|it| it.age).unwrap_or_default(),
            restored,
            settles: now + discovery.first_answer,
            held: BTreeMap::new(),
            silent: HashSet::new(),
            is_expired: false,
            instances: Vec::new(),
        }
    }

    /// What was known before, where that comes late. It changes nothing once anybody has told.
    pub fn restore(&mut self, restored: Restored, now: Instant) {
        if self.restored.is_none() && self.sources.iter().all(|source| source.told.is_none()) {
            self.wanted = restored.instances.clone();
            self.since = now - restored.age;
            self.restored = Some(restored);
        }
    }

    /// A registry tells all instances that there are.
    pub fn told(
        &mut self,
        registry: usize,
        instances: Vec<Instance>,
        discovery: &Discovery,
        now: Instant,
    ) {
        let Some(source) = self.sources.get_mut(registry) else { return };
        let (called, out): (Vec<_>, Vec<_>) =
            instances.into_iter().partition(Instance::is_callable);
        let out = out.into_iter().map(|instance| instance.address).collect();
        *source = Source { told: Some(distinct(called)), out, told_at: now, failure: None };
        if self.chosen() == Some(registry) {
            self.is_expired = false;
            self.silent.clear();
        }
        self.conclude(discovery, now);
    }

    /// A registry does not tell.
    pub fn failed(&mut self, registry: usize, error: Error, discovery: &Discovery, now: Instant) {
        let Some(source) = self.sources.get_mut(registry) else { return };
        source.failure = Some(error);
        self.conclude(discovery, now);
    }

    /// An instance of [`Known::suspects`] was asked, and answers or not.
    pub fn probed(
        &mut self,
        address: &Address,
        answers: bool,
        discovery: &Discovery,
        now: Instant,
    ) {
        if !answers {
            self.held.remove(address);
        }
        match self.is_expired && !answers {
            true => self.silent.insert(address.clone()),
            false => self.silent.remove(address),
        };
        self.conclude(discovery, now);
    }

    /// Looks what follows of time alone.
    pub fn look(&mut self, discovery: &Discovery, now: Instant) {
        let expires = (self.state(discovery, now) == State::Expired) != self.is_expired;
        let settles = self.instances.is_empty() && !self.wanted.is_empty() && self.is_settled(now);
        if expires || settles || self.held.values().any(|(_, until)| now >= *until) {
            self.conclude(discovery, now);
        }
    }

    /// What follows of all that is known.
    fn conclude(&mut self, discovery: &Discovery, now: Instant) {
        self.is_expired = self.state(discovery, now) == State::Expired;
        let chosen = self.chosen();
        let told = chosen.and_then(|at| self.sources[at].told.clone());
        let has_told = told.is_some();
        let restored = || self.restored.as_ref().map(|it| it.instances.clone()).unwrap_or_default();
        let wanted = told.unwrap_or_else(restored);
        self.hold(&wanted, chosen, discovery, now);
        if has_told {
            self.restored = None;
        }
        self.wanted = wanted;
        self.instances = if has_told || self.is_settled(now) { self.called() } else { Vec::new() };
    }

    /// Those that are wanted and those that are held, by address.
    fn called(&self) -> Vec<Instance> {
        let held = self.held.values().map(|(instance, _)| instance);
        let mut called: Vec<_> = self.wanted.iter().chain(held).cloned().collect();
        // Where none answers it may be us: all are as good as each other then.
        let answers = |instance: &Instance| !self.silent.contains(&instance.address);
        if self.is_expired && called.iter().any(answers) {
            called.retain(answers);
        }
        called.sort_by(|one, other| one.address.cmp(&other.address));
        called
    }

    /// Holds those that are no more wanted by what the registry at `chosen` tells, where they are many at once.
    fn hold(
        &mut self,
        wanted: &[Instance],
        chosen: Option<usize>,
        discovery: &Discovery,
        now: Instant,
    ) {
        let addresses: HashSet<&Address> = wanted.iter().map(|it| &it.address).collect();
        let is_back = |instance: &Instance| addresses.contains(&instance.address);
        self.held.retain(|_, (instance, until)| now < *until && !is_back(instance));
        let Some(removal) = &discovery.removal else { return self.held.clear() };
        // An old address may be that of another service by now. Only where there is no other it is tried.
        let is_old = self.restored.as_ref().is_some_and(|it| it.is_old);
        if is_old && !wanted.is_empty() {
            return;
        }
        let gone = self.wanted.iter().filter(|it| !is_back(it));
        // Another registry tells of them still, which comes after this one: they are its own, and not lost.
        let others = self.sources.iter().enumerate().filter(|(at, _)| Some(*at) != chosen);
        let theirs = others.flat_map(|(_, it)| it.told.iter().flatten()).map(|it| &it.address);
        let theirs: HashSet<&Address> = match gone.clone().next() {
            Some(_) => theirs.collect(),
            None => HashSet::new(),
        };
        let gone: Vec<_> = gone.filter(|it| !theirs.contains(&it.address)).collect();
        let is_out = |address: &Address| self.sources.iter().any(|it| it.out.contains(address));
        let lost = gone.iter().filter(|it| !is_out(&it.address)).count();
        let is_many = lost as f64 > removal.above * self.wanted.len() as f64;
        let until = now + removal.hold;
        for instance in gone {
            let held = if is_out(&instance.address) { wanted.is_empty() } else { is_many };
            if held {
                self.held.insert(instance.address.clone(), (instance.clone(), until));
            }
        }
        if !wanted.is_empty() {
            for (_, (_, until)) in self.held.iter_mut().filter(|(address, _)| is_out(address)) {
                *until = (*until).min(now + GRACE);
            }
        }
    }

    /// The registry that tells which instances there are.
    fn chosen(&self) -> Option<usize> {
        let any = self.sources.iter().position(Source::has_any);
        // What was there before may be of one that cannot tell now.
        let waits = self.restored.is_some() && self.sources.iter().any(|it| it.told.is_none());
        let first = || self.sources.iter().position(|source| source.told.is_some());
        any.or_else(|| if waits { None } else { first() })
    }

    /// Whether there is an answer for those who wait for the first.
    pub fn is_settled(&self, now: Instant) -> bool {
        let with_any = self.sources.iter().position(Source::has_any);
        let before = &self.sources[..with_any.unwrap_or(self.sources.len())];
        before.iter().all(Source::has_spoken) || now >= self.settles
    }

    pub fn state(&self, discovery: &Discovery, now: Instant) -> State {
        let Some(source) = self.chosen().map(|at| &self.sources[at]) else {
            let spoke = self.sources.iter().any(Source::has_spoken) || self.restored.is_some();
            return match spoke {
                false => State::Pending,
                true if now >= self.since + discovery.expire_after => State::Expired,
                true => State::Stale,
            };
        };
        match &source.failure {
            None => State::Fresh,
            Some(_) if now >= source.told_at + discovery.expire_after => State::Expired,
            Some(_) => State::Stale,
        }
    }

    /// Since when nothing was heard of the registry that tells; where none has told, since the beginning, or since what was
    /// known before was told.
    pub fn told_at(&self) -> Instant {
        self.chosen().map_or(self.since, |at| self.sources[at].told_at)
    }

    /// The place of the registry that tells.
    pub fn source(&self) -> Option<usize> {
        self.chosen()
    }

    /// Why the registry that should tell does not.
    pub fn failure(&self) -> Option<&Error> {
        match self.chosen() {
            Some(at) => self.sources[at].failure.as_ref(),
            None => self.sources.iter().find_map(|source| source.failure.as_ref()),
        }
    }

    /// Those that may be called, by address, each once.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Those that are only held.
    pub fn held(&self) -> impl ExactSizeIterator<Item = &Address> {
        self.held.keys()
    }

    /// When what there is counts as the first answer.
    pub fn settles(&self) -> Instant {
        self.settles
    }

    /// Those that are to be asked whether they still answer.
    pub fn suspects(&self) -> Vec<Address> {
        let wanted = self.wanted.iter().filter(|_| self.is_expired);
        let wanted = wanted.map(|instance| instance.address.clone());
        wanted.chain(self.held.keys().cloned()).collect()
    }
}

/// The first of each address.
fn distinct(instances: Vec<Instance>) -> Vec<Instance> {
    let mut seen = HashSet::new();
    let mut instances = instances;
    instances.retain(|instance| seen.insert(instance.address.clone()));
    instances
}

#[cfg(test)]
mod tests;
