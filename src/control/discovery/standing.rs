//! What metrics and the admin server show of registries and services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Followed;
use crate::clock::Instant;
use crate::registry::settings::Discovery;
use crate::registry::{Error, State};

/// Written by control, read by who asks.
#[derive(Debug, Default)]
pub struct Standings(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    registries: Vec<RegistryStanding>,
    services: BTreeMap<Arc<str>, ServiceStanding>,
}

/// How a registry stands, for all who have something to say of it: its place in the list may be another's meanwhile.
#[derive(Debug, Clone, Default)]
pub struct RegistryStanding(Arc<Mutex<RegistryIs>>);

#[derive(Debug, Clone, Default)]
pub struct RegistryIs {
    pub name: String,
    /// Whether its last word was an answer; none before it has said one.
    pub is_up: Option<bool>,
    /// By reason.
    pub errors: BTreeMap<&'static str, u64>,
    /// Whether our app is announced there; none where it is not to be.
    pub is_registered: Option<bool>,
}

impl RegistryStanding {
    fn is(&self) -> MutexGuard<'_, RegistryIs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self) -> RegistryIs {
        self.is().clone()
    }

    pub fn set_name(&self, name: &str) {
        self.is().name = name.to_owned();
    }

    /// It told something, or failed.
    pub fn heard(&self, error: Option<&Error>) {
        let mut is = self.is();
        is.is_up = Some(error.is_none());
        if let Some(error) = error {
            *is.errors.entry(error.reason.as_str()).or_default() += 1;
        }
    }

    pub fn registered(&self, is_registered: Option<bool>) {
        self.is().is_registered = is_registered;
    }
}

#[derive(Debug, Clone)]
pub struct ServiceStanding {
    /// The registry that tells.
    pub source: Option<String>,
    pub state: State,
    pub told_at: Instant,
    pub held: Vec<Box<str>>,
    pub failure: Option<String>,
    /// It had an instance once, or the configuration names it. A mere name gets no series of metrics.
    pub exists: bool,
}

impl ServiceStanding {
    /// How long ago the registry was last heard; 0 while it answers.
    pub fn age(&self, now: Instant) -> Duration {
        match self.state {
            State::Fresh => Duration::ZERO,
            _ => now.saturating_duration_since(self.told_at),
        }
    }
}

impl Standings {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_registries(&self, registries: Vec<RegistryStanding>) {
        self.all().registries = registries;
    }

    /// A registry told something, or failed.
    pub fn heard(&self, registry: usize, error: Option<&Error>) {
        if let Some(standing) = self.all().registries.get(registry) {
            standing.heard(error);
        }
    }

    pub fn note(
        &self,
        service: &Arc<str>,
        source: Option<usize>,
        followed: &Followed,
        settings: &Discovery,
        now: Instant,
    ) {
        let known = &followed.known;
        let mut all = self.all();
        let source = source.and_then(|at| Some(all.registries.get(at)?.get().name));
        let standing = ServiceStanding {
            source,
            state: known.state(settings, now),
            told_at: known.told_at(),
            held: known.held().map(|address| address.to_string().into()).collect(),
            failure: known.failure().map(ToString::to_string),
            exists: followed.exists,
        };
        all.services.insert(service.clone(), standing);
    }

    /// Forgets services that are not followed any more.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.all().services.retain(|name, _| keep(name));
    }

    pub fn service(&self, name: &str) -> Option<ServiceStanding> {
        self.all().services.get(name).cloned()
    }

    /// Those that exist.
    pub fn services(&self) -> Vec<(Arc<str>, ServiceStanding)> {
        let all = self.all();
        let there = all.services.iter().filter(|(_, standing)| standing.exists);
        there.map(|(name, standing)| (name.clone(), standing.clone())).collect()
    }

    pub fn registries(&self) -> Vec<RegistryIs> {
        self.all().registries.iter().map(RegistryStanding::get).collect()
    }
}
