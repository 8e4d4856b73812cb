//! Follows services in the registries and puts in force what is known of them.
//!
//! One task hears all: what registries tell, which services workers ask for, what answered a probe, and time. What
//! follows of it is decided by [`Known`]; changes that come together are published together.

mod following;
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
use crate::registry::store::Store;
use crate::registry::{News, Restored, settings};
use following::{Asked, Followed};
use listed::Listed;
pub use standing::Standings;

/// How often it is looked what follows of time alone.
const LOOK: Duration = Duration::from_secs(1);

pub struct Discovery {
    registries: RefCell<Vec<Listed>>,
    /// How often that list was another one. What was said under one before counts no more.
    generation: Cell<u64>,
    services: RefCell<HashMap<Arc<str>, Followed>>,
    /// Called, and not named by the configuration.
    demanded: RefCell<BTreeSet<Name>>,
    store: RefCell<Option<Store>>,
    state_dir: RefCell<Option<std::path::PathBuf>>,
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
            store: RefCell::default(),
            state_dir: RefCell::default(),
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
        self.open_store(snapshot);
        if !Listed::are(&self.registries.borrow(), &snapshot.registries) {
            self.ask_others(snapshot, now);
        }
        let mut services = self.services.borrow_mut();
        let wanted = snapshot
            .clusters
            .iter()
            .filter_map(|cluster| Some((cluster.name.clone(), cluster.discovered.clone()?)));
        // Without a cluster: only to count its instances.
        let own = snapshot.counts_instances() && !snapshot.registries.is_empty();
        let own = own.then(|| (snapshot.service.name.clone(), Discovered::default()));
        let wanted: HashMap<_, _> = own.into_iter().chain(wanted).collect();
        let mut before = std::mem::take(&mut *services);
        for (name, discovered) in wanted {
            let mut followed = before.remove(&name).unwrap_or_else(|| {
                let restored = self.restored(&name);
                let first = discovered.first_answer.clone();
                let settings = &snapshot.discovery;
                Followed::begin(&name, self.asked(), restored, first, settings, now)
            });
            followed.on_demand = discovered.on_demand;
            services.insert(name, followed);
        }
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

    fn open_store(&self, snapshot: &Snapshot) {
        let given = snapshot.discovery.state_dir.clone();
        // systemd's `StateDirectory=`.
        let given = given.or_else(|| std::env::var_os("STATE_DIRECTORY").map(Into::into));
        if *self.state_dir.borrow() == given {
            return;
        }
        *self.store.borrow_mut() = given.as_ref().and_then(|path| {
            let opened = Store::open(path);
            let opened = opened.inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "runtime.state_dir cannot be used: what registries \
                    tell will not survive a restart; check the path and its permissions");
            });
            opened.ok()
        });
        *self.state_dir.borrow_mut() = given;
    }

    fn restored(&self, service: &str) -> Option<Restored> {
        let read = self.store.borrow().as_ref()?.read(service);
        let read = read.unwrap_or_else(|error| {
            tracing::warn!(service, %error, "what was kept of a service cannot be read");
            None
        });
        read.map(|instances| Restored { instances, is_old: true })
    }

    fn hear(&self, news: News, settings: &settings::Discovery) {
        let now = clock::now();
        let mut services = self.services.borrow_mut();
        let Some(followed) = services.get_mut(&news.service) else { return };
        self.standings.heard(news.registry, news.told.as_ref().err());
        match news.told {
            Ok(instances) => followed.known.told(news.registry, instances, settings, now),
            Err(error) => {
                let name =
                    self.registries.borrow().get(news.registry).map(|it| it.name().to_owned());
                followed.warn(&name.unwrap_or_default(), &news.service, &error, now);
                followed.known.failed(news.registry, error, settings, now);
            }
        }
        self.look_at(&news.service, followed, settings, now);
    }

    /// Whether the registry of a service is heard, and what follows of it.
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
        followed.probe(service, &self.probed, now);
        let source = followed.known.source();
        self.standings.note(service, source, &followed.known, settings, now);
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
            let next =
                discovery.due.get().map_or(look, |due| due.min(look)).min(discovery.settles(look));
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
            if now >= look || now >= discovery.settles(look) {
                let settings = self.live.current().discovery.clone();
                discovery.look_at_all(&mut discovery.services.borrow_mut(), &settings, now);
            }
            if now >= look {
                look = now + LOOK;
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
        for (service, followed) in services.iter_mut().filter(|(_, it)| it.is_changed(now)) {
            let instances = followed.take_changes();
            tracing::debug!(service = &**service, instances = instances.len(), "put in force");
            if let Some(store) = &*self.discovery.store.borrow()
                && followed.is_worth_keeping(&current.discovery, now)
                && let Err(error) = store.write(service, &instances)
            {
                tracing::warn!(service = &**service, %error, "what registries tell cannot be kept on disk");
            }
            if *service == current.service.name {
                own = Some(instances.len());
            }
            first.push(followed.first_answer.clone());
            changes.extend(places.get(&**service).map(|place| (*place, instances)));
        }
        drop(services);
        self.put_in_force_endpoints(&current, changes, own, now);
        first.iter().for_each(|first: &Arc<FirstAnswer>| first.came());
    }

    /// Follows services that workers ask for.
    fn meet(&self, demands: Vec<Demand>) {
        let before = self.live.current();
        let most = before.discovery.on_demand.map_or(0, |on_demand| on_demand.max_services);
        let mut demanded = self.discovery.demanded();
        let known = |service: &str| before.outbound.hosts.contains_key(service);
        for demand in &demands {
            let name = demand.service.parse::<Name>().ok().filter(|_| !known(&demand.service));
            if let Some(name) = name
                && demanded.len() < most
            {
                demanded.insert(name);
            }
        }
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
    /// When the next service that waits for its first answer has waited long enough; at most `latest`.
    fn settles(&self, latest: Instant) -> Instant {
        let services = self.services.borrow();
        services.values().filter_map(Followed::settles).fold(latest, Instant::min)
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
