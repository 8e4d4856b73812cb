//! One service that is followed.

use std::cell::Ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::Probed;
use super::listed::Listed;
use crate::clock::Instant;
use crate::config::discovered::{Discovered, FirstAnswer};
use crate::endpoint::Instance;
use crate::registry::settings::Discovery;
use crate::registry::{Known, News, Restored, State, Tell, probe};

/// How long after its last call a name is followed that no registry knows.
const NOBODY: Duration = Duration::from_secs(60);
/// How often suspects are asked.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Who is asked of a service.
pub struct Asked<'a> {
    pub registries: Ref<'a, Vec<Listed>>,
    pub generation: u64,
    pub news: &'a mpsc::UnboundedSender<News>,
}

pub struct Followed {
    service: Arc<str>,
    /// By which list of registries it is followed.
    generation: u64,
    /// What was known before any of them spoke, when that began.
    restored: Option<Restored>,
    began: Instant,
    pub known: Known,
    pub first_answer: Arc<FirstAnswer>,
    /// See [`Discovered::on_demand`].
    on_demand: Option<Arc<AtomicBool>>,
    /// See [`Discovered::exists`].
    pub exists: bool,
    called_at: Instant,
    watches: Vec<Aborting>,
    /// What is in force.
    published: Option<Vec<Instance>>,
    probing: Option<Aborting>,
    probe_at: Instant,
}

/// A task that ends with this.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Followed {
    pub fn begin(
        service: &Arc<str>,
        asked: Asked<'_>,
        restored: Option<Restored>,
        first_answer: Arc<FirstAnswer>,
        settings: &Discovery,
        now: Instant,
    ) -> Self {
        Self {
            service: service.clone(),
            generation: asked.generation,
            restored: restored.clone(),
            began: now,
            known: Known::new(asked.registries.len(), restored, settings, now),
            first_answer,
            on_demand: None,
            exists: false,
            called_at: now,
            watches: watches(service, &asked),
            published: None,
            probing: None,
            probe_at: now,
        }
    }

    /// Follows it in other registries.
    pub fn begin_anew(&mut self, asked: Asked<'_>, settings: &Discovery, now: Instant) {
        // Where none has told yet, what was known before them is what is known still.
        if self.known.source().is_some() {
            let instances = self.known.instances().to_vec();
            let age = match self.known.state(settings, now) {
                State::Fresh => Duration::ZERO,
                _ => now.saturating_duration_since(self.known.told_at()),
            };
            self.restored = Some(Restored { instances, is_old: false, age });
        } else if let Some(restored) = &mut self.restored {
            restored.age += now.saturating_duration_since(self.began);
        }
        self.began = now;
        self.generation = asked.generation;
        self.watches = watches(&self.service, &asked);
        self.known = Known::new(asked.registries.len(), self.restored.clone(), settings, now);
        self.probing = None;
        self.probe_at = now;
    }

    /// What the disk had comes late.
    pub fn restore(&mut self, restored: Restored, now: Instant) {
        if self.restored.is_none() {
            self.restored = Some(restored.clone());
            self.began = now;
        }
        self.known.restore(restored, now);
    }

    /// Its cluster is this one. Another cluster than before has nothing yet.
    pub fn is_of(&mut self, discovered: &Discovered) {
        self.on_demand = discovered.on_demand.clone();
        self.exists = discovered.exists;
        if !Arc::ptr_eq(&self.first_answer, &discovered.first_answer) {
            self.first_answer = discovered.first_answer.clone();
            self.published = None;
        }
    }

    /// Whether what is known is not what is in force.
    pub fn is_changed(&self, now: Instant) -> bool {
        let is_first = !self.first_answer.has_come();
        match &self.published {
            _ if is_first => self.known.is_settled(now),
            // New registries have not spoken yet.
            Some(_) if !self.known.is_settled(now) => false,
            published => published.as_deref() != Some(self.known.instances()),
        }
    }

    pub fn take_changes(&mut self) -> Vec<Instance> {
        let instances = self.known.instances().to_vec();
        self.published = Some(instances.clone());
        self.exists |= !instances.is_empty();
        instances
    }

    /// What is in force; none where nothing was put in force yet.
    pub fn published(&self) -> Option<&[Instance]> {
        self.published.as_deref()
    }

    /// Whether it is what a registry says, and not what was left when it fell silent.
    pub fn is_worth_keeping(&self, settings: &Discovery, now: Instant) -> bool {
        self.known.state(settings, now) == State::Fresh
    }

    /// When its first requests have waited long enough; none where they wait no more.
    pub fn settles(&self, now: Instant) -> Option<Instant> {
        let waits = !self.first_answer.has_come() || !self.known.is_settled(now);
        waits.then(|| self.known.settles())
    }

    /// Tells requests why nobody knows it, where that is so.
    pub fn note_failure(&self) {
        let why = || match self.known.failure() {
            Some(failure) => failure.to_string(),
            None => "no answer yet".to_owned(),
        };
        self.first_answer.note_failure(self.known.source().is_none().then(why));
    }

    /// Asks the suspects whether they answer, where it is time.
    pub fn probe(&mut self, service: &Arc<str>, to: &mpsc::UnboundedSender<Probed>, now: Instant) {
        let suspects = self.known.suspects();
        if suspects.is_empty() {
            self.probing = None;
            self.probe_at = now;
            return;
        }
        if self.probing.is_some() || now < self.probe_at {
            return;
        }
        let (generation, service, to) = (self.generation, service.clone(), to.clone());
        self.probing = Some(Aborting(spawn_local(async move {
            let tell = {
                let (service, to) = (service.clone(), to.clone());
                // Nobody listens any more when the proxy ends.
                move |answered| {
                    drop(to.send(Probed { generation, service: service.clone(), answered }))
                }
            };
            let each = tell.clone();
            probe::each(suspects, move |address, answers| each(Some((address, answers)))).await;
            tell(None);
        })));
    }

    /// The suspects were asked.
    pub fn were_probed(&mut self, now: Instant) {
        self.probing = None;
        self.probe_at = now + PROBE_EVERY;
    }

    /// Whether it is followed only because it was called, and that was longer ago than `idle`; a name that nobody has
    /// sooner.
    pub fn is_idle(&mut self, idle: Duration, now: Instant) -> bool {
        let idle = if self.exists { idle } else { idle.min(NOBODY) };
        let Some(called) = &self.on_demand else { return false };
        if called.swap(false, Relaxed) {
            self.called_at = now;
        }
        now >= self.called_at + idle
    }
}

fn watches(service: &Arc<str>, asked: &Asked<'_>) -> Vec<Aborting> {
    let watch = |(at, listed): (usize, &Listed)| {
        let tell = Tell::new(asked.generation, at, service.clone(), asked.news.clone());
        Aborting(spawn_local(listed.registry.clone().watch(service.clone(), tell)))
    };
    asked.registries.iter().enumerate().map(watch).collect()
}
