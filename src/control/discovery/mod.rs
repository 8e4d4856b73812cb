//! Follows services in the registries and puts in force what is known of them.
//!
//! One task hears all: what registries tell, which services workers ask for, what answered a probe, and time. What
//! follows of it is decided by [`Known`]; changes that come together are published together.

mod following;
mod keeping;
mod listed;
pub mod metrics;
mod standing;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Control;
use crate::clock::{self, Instant};
use crate::config::discovered::{Discovered, FirstAnswer};
use crate::config::snapshot::Snapshot;
use crate::config::units::Name;
use crate::endpoint::Address;
use crate::registry::demand::Demand;
use crate::registry::{Error, News, settings};
use following::{Asked, Followed};
use keeping::Keeping;
use listed::Listed;
pub use standing::Standings;

/// How often a failure that goes on is told.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked what follows of time alone.
const LOOK: Duration = Duration::from_secs(1);

pub struct Discovery {
    registries: RefCell<Vec<Listed>>,
    /// How often that list was another one. What was said under one before counts no more.
    generation: Cell<u64>,
    services: RefCell<HashMap<Arc<str>, Followed>>,
    /// Called, and not named by the configuration.
    demanded: RefCell<BTreeSet<Name>>,
    /// When a failure was told last, by the place of the registry and the reason.
    warned: RefCell<HashMap<(usize, &'static str), Option<Instant>>>,
    /// When it was told last that there is no room for more services.
    full_at: Cell<Option<Instant>>,
    keeping: Keeping,
    news: mpsc::UnboundedSender<News>,
    probed: mpsc::UnboundedSender<Probed>,
    /// When what has changed is to be published.
    due: Cell<Option<Instant>>,
    pub standings: Arc<Standings>,
}

/// A suspect of a service was asked.
pub struct Probed {
    /// By which list of registries it is a suspect.
    generation: u64,
    service: Arc<str>,
    /// None: all have been.
    answered: Option<(Address, bool)>,
}

/// What the task hears.
pub struct Hears {
    news: mpsc::UnboundedReceiver<News>,
    probed: mpsc::UnboundedReceiver<Probed>,
    demands: mpsc::UnboundedReceiver<Demand>,
}

impl Discovery {
    pub fn new(demands: mpsc::UnboundedReceiver<Demand>) -> (Self, Hears) {
        let (news, told) = mpsc::unbounded_channel();
        let (probed, found) = mpsc::unbounded_channel();
        let discovery = Self {
            registries: RefCell::default(),
            generation: Cell::new(0),
            services: RefCell::default(),
            demanded: RefCell::default(),
            warned: RefCell::default(),
            full_at: Cell::default(),
            keeping: Keeping::default(),
            news,
            probed,
            due: Cell::new(None),
            standings: Arc::default(),
        };
        (discovery, Hears { news: told, probed: found, demands })
    }

    pub fn demanded(&self) -> BTreeSet<Name> {
        self.demanded.borrow().clone()
    }

    /// The registries, where our own app is announced.
    pub fn registries(&self) -> Vec<Listed> {
        self.registries.borrow().clone()
    }

    /// Follows the services of a snapshot that is in force, and no others.
    pub fn follow(&self, snapshot: &Snapshot) {
        let now = clock::now();
        let is_start = self.registries.borrow().is_empty();
        self.keeping.set(snapshot.discovery.state_dir.clone(), is_start);
        if !Listed::are(&self.registries.borrow(), &snapshot.registries) {
            self.ask_others(snapshot, now);
        }
        let mut services = self.services.borrow_mut();
        let wanted = snapshot
            .clusters
            .iter()
            .filter_map(|cluster| Some((cluster.name.clone(), cluster.discovered.clone()?)));
        // Without a cluster: only to count its instances, where nobody has typed them.
        let is_typed = |own: &str| {
            let service = snapshot.outbound.hosts.get(own);
            service.is_some_and(|it| snapshot.clusters[it.cluster as usize].discovered.is_none())
        };
        let own = snapshot.counts_instances()
            && !snapshot.registries.is_empty()
            && !is_typed(&snapshot.service.name);
        let own = own.then(|| (snapshot.service.name.clone(), Discovered::default()));
        let wanted: HashMap<_, _> = own.into_iter().chain(wanted).collect();
        let mut before = std::mem::take(&mut *services);
        for (name, discovered) in wanted {
            let mut followed = before.remove(&name).unwrap_or_else(|| {
                let restored = self.keeping.restored(&name, clock::wall());
                let first = discovered.first_answer.clone();
                let settings = &snapshot.discovery;
                Followed::begin(&name, self.asked(), restored, first, settings, now)
            });
            followed.is_of(&discovered);
            services.insert(name, followed);
        }
        // What the configuration does not let be called any more, or has for something else.
        let is_called = |name: &Name| snapshot.outbound.hosts.contains_key(name.as_str());
        self.demanded.borrow_mut().retain(is_called);
        self.standings.retain(|name| services.contains_key(name));
        self.look_at_all(&mut services, &snapshot.discovery, now);
    }

    /// Asks the registries that are listed now.
    fn ask_others(&self, snapshot: &Snapshot, now: Instant) {
        let listed = Listed::all(&snapshot.registries, &self.registries.borrow());
        let standings = listed.iter().map(|it| it.standing.clone()).collect();
        self.standings.set_registries(standings);
        *self.registries.borrow_mut() = listed;
        self.generation.set(self.generation.get() + 1);
        self.warned.borrow_mut().clear();
        // What the old ones have told is what is known until the new ones tell.
        for followed in self.services.borrow_mut().values_mut() {
            followed.begin_anew(self.asked(), &snapshot.discovery, now);
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            registries: self.registries.borrow(),
            generation: self.generation.get(),
            news: &self.news,
        }
    }

    /// Whether what was said under this list of registries still counts.
    fn is_current(&self, generation: u64) -> bool {
        self.generation.get() == generation
    }

    fn hear(&self, news: News, settings: &settings::Discovery) {
        let now = clock::now();
        let mut services = self.services.borrow_mut();
        let Some(followed) = services.get_mut(&news.service) else { return };
        self.standings.heard(news.registry, news.told.as_ref().err());
        match news.told {
            Ok(instances) => followed.known.told(news.registry, instances, settings, now),
            Err(error) => {
                let kept = followed.known.instances().len();
                self.warn(news.registry, &news.service, &error, kept, now);
                followed.known.failed(news.registry, error, settings, now);
            }
        }
        self.look_at(&news.service, followed, settings, now);
    }

    /// Tells that a registry does not tell: at once, and while that goes on from time to time, whichever of its
    /// services it is asked for.
    fn warn(&self, registry: usize, service: &str, error: &Error, kept: usize, now: Instant) {
        let reason = error.reason.as_str();
        let mut warned = self.warned.borrow_mut();
        let last = warned.entry((registry, reason)).or_insert(None);
        if last.is_some_and(|last| now < last + WARN_EVERY) {
            return;
        }
        *last = Some(now);
        let registries = self.registries.borrow();
        let registry = registries.get(registry).map_or("", |it| it.name());
        tracing::warn!(registry, service, reason, kept, "registry: {error}");
    }

    /// What follows of what is known of a service: whether it is to be put in force, who is to be tried, what is shown.
    fn look_at(
        &self,
        service: &Arc<str>,
        followed: &mut Followed,
        settings: &settings::Discovery,
        now: Instant,
    ) {
        if followed.is_changed(now) {
            // Somebody may wait for the first answer; later ones can wait for each other.
            let wait =
                if followed.first_answer.has_come() { settings.debounce } else { Duration::ZERO };
            let due = self.due.get().map_or(now + wait, |due| due.min(now + wait));
            self.due.set(Some(due));
        }
        followed.note_failure();
        followed.probe(service, &self.probed, now);
        let source = followed.known.source();
        self.standings.note(service, source, followed, settings, now);
    }

    fn look_at_all(
        &self,
        services: &mut HashMap<Arc<str>, Followed>,
        settings: &settings::Discovery,
        now: Instant,
    ) {
        for (service, followed) in services {
            followed.known.look(settings, now);
            self.look_at(service, followed, settings, now);
        }
    }
}

impl Control {
    /// The task that hears all, for as long as the process lives.
    pub(super) async fn discover(self: Rc<Self>, mut hears: Hears) {
        let discovery = &self.discovery;
        let mut look = clock::now() + LOOK;
        loop {
            let next = discovery
                .due
                .get()
                .map_or(look, |due| due.min(look))
                .min(discovery.settles(look, clock::now()));
            let wait = next.saturating_duration_since(clock::now());
            tokio::select! {
                Some(news) = hears.news.recv() => if discovery.is_current(news.generation) {
                    discovery.hear(news, &self.live.current().discovery);
                },
                Some(probed) = hears.probed.recv() => if discovery.is_current(probed.generation) {
                    discovery.probed(probed, &self.live.current().discovery);
                },
                Some(demand) = hears.demands.recv() => {
                    let mut demands = vec![demand];
                    demands.extend(std::iter::from_fn(|| hears.demands.try_recv().ok()));
                    self.meet(demands);
                }
                () = sleep(wait) => {}
            }
            let now = clock::now();
            if now >= look || now >= discovery.settles(look, now) {
                let settings = self.live.current().discovery.clone();
                discovery.look_at_all(&mut discovery.services.borrow_mut(), &settings, now);
            }
            if now >= look {
                look = now + LOOK;
                discovery.look_at_disk(&self.live.current().discovery, now);
                self.forget_idle(now);
            }
            if discovery.due.get().is_some_and(|due| now >= due) {
                discovery.due.set(None);
                self.publish_changes(now);
            }
        }
    }

    /// Puts in force what has changed.
    fn publish_changes(&self, now: Instant) {
        let current = self.live.current();
        let mut services = self.discovery.services.borrow_mut();
        let clusters = current.clusters.iter().enumerate();
        let clusters = clusters.filter(|(_, cluster)| cluster.discovered.is_some());
        let places: HashMap<_, _> = clusters.map(|(place, it)| (&*it.name, place)).collect();
        let mut changes = Vec::new();
        let mut first = Vec::new();
        let mut own = None;
        // What time has brought about is looked at first: what is put in force must follow of what is known now.
        services.values_mut().for_each(|it| it.known.look(&current.discovery, now));
        for (service, followed) in services.iter_mut().filter(|(_, it)| it.is_changed(now)) {
            let instances = followed.take_changes();
            tracing::debug!(service = &**service, instances = instances.len(), "put in force");
            self.discovery.keeping.changed(service);
            if *service == current.service.name {
                own = Some(instances.len());
            }
            first.push(followed.first_answer.clone());
            let source = followed.known.source();
            self.discovery.standings.note(service, source, followed, &current.discovery, now);
            changes.extend(places.get(&**service).map(|place| (*place, instances)));
        }
        self.discovery.keeping.keep(&services, &current.discovery, clock::wall(), now);
        drop(services);
        self.put_in_force_endpoints(&current, changes, own, now);
        first.iter().for_each(|first: &Arc<FirstAnswer>| first.came());
    }

    /// Follows services that workers ask for.
    fn meet(&self, demands: Vec<Demand>) {
        let before = self.live.current();
        let most = before.discovery.on_demand.map_or(0, |on_demand| on_demand.max_services);
        let known = |service: &str| before.outbound.hosts.contains_key(service);
        let named = |demand: &Demand| demand.service.parse::<Name>().ok();
        let wanted = demands.iter().filter_map(named).filter(|name| !known(name.as_str()));
        let demanded = self.discovery.with_room(wanted.collect(), most);
        if demanded != *self.discovery.demanded.borrow() {
            self.demand(demanded);
        }
        let now = self.live.current();
        for demand in demands {
            let follows = now.outbound.hosts.contains_key(&*demand.service);
            // A worker that no longer waits has its own limit.
            let _ = demand.followed.send(follows);
        }
    }

    /// Leaves services that nobody has called for long.
    fn forget_idle(&self, now: Instant) {
        let Some(on_demand) = self.live.current().discovery.on_demand else { return };
        let mut demanded = self.discovery.demanded();
        for (service, followed) in &mut *self.discovery.services.borrow_mut() {
            if followed.is_idle(on_demand.idle, now) {
                tracing::info!(
                    service = &**service,
                    "nobody calls it any more; it is not followed"
                );
                demanded.remove(&**service);
            }
        }
        if demanded != *self.discovery.demanded.borrow() {
            self.demand(demanded);
        }
    }

    /// Compiles with other services that are followed only because they are called.
    fn demand(&self, demanded: BTreeSet<Name>) {
        let before = std::mem::replace(&mut *self.discovery.demanded.borrow_mut(), demanded);
        if let Err(error) = self.compile_again() {
            tracing::error!(error, "a service that is called cannot be followed");
            *self.discovery.demanded.borrow_mut() = before;
        }
    }
}

impl Discovery {
    /// Those that are followed because they are called, with as many of `wanted` as there is room for. Names that no
    /// registry knows make room.
    fn with_room(&self, wanted: BTreeSet<Name>, most: usize) -> BTreeSet<Name> {
        let mut demanded = self.demanded();
        if demanded.len() + wanted.len() > most {
            let services = self.services.borrow();
            // Who was asked for just now waits for the first answer.
            let stays = |it: &Followed| it.exists || !it.first_answer.has_come();
            demanded.retain(|name| services.get(name.as_str()).is_some_and(stays));
        }
        let room = most.saturating_sub(demanded.len());
        let now = clock::now();
        if wanted.len() > room && self.full_at.get().is_none_or(|at| now >= at + WARN_EVERY) {
            self.full_at.set(Some(now));
            let service = wanted.last().map(ToString::to_string);
            tracing::warn!(
                most,
                service,
                "no more services are followed because they are called; name them under \
                `services`, or raise discovery.on_demand.max_services"
            );
        }
        demanded.extend(wanted.into_iter().take(room));
        demanded
    }

    /// When the next service that waits for its first answer has waited long enough; at most `latest`.
    fn settles(&self, latest: Instant, now: Instant) -> Instant {
        let services = self.services.borrow();
        services.values().filter_map(|it| it.settles(now)).fold(latest, Instant::min)
    }

    /// Keeps on disk what is not there yet. A disk that was late may have what nobody has told yet.
    fn look_at_disk(&self, settings: &settings::Discovery, now: Instant) {
        let mut services = self.services.borrow_mut();
        if self.keeping.open(Duration::ZERO) {
            for (service, followed) in &mut *services {
                if let Some(restored) = self.keeping.restored(service, clock::wall()) {
                    followed.restore(restored, now);
                }
            }
        }
        self.keeping.keep(&services, settings, clock::wall(), now);
    }

    fn probed(&self, probed: Probed, settings: &settings::Discovery) {
        let now = clock::now();
        let mut services = self.services.borrow_mut();
        let Probed { service, answered, .. } = probed;
        let Some(followed) = services.get_mut(&service) else { return };
        match answered {
            None => followed.were_probed(now),
            Some((address, answers)) => {
                let was_there = followed.known.instances().len();
                followed.known.probed(&address, answers, settings, now);
                if followed.known.instances().len() < was_there {
                    tracing::info!(service = &*service, %address, "gone: it takes no connection");
                }
            }
        }
        self.look_at(&service, followed, settings, now);
    }
}

#[cfg(test)]
mod tests;
