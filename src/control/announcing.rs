//! Our own app in the registries: announced when it is well, told when it is not, taken back before we go.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::Control;
use crate::clock;
use crate::config::snapshot::{ListenerKind, Snapshot};
use crate::drain::Phase;
use crate::endpoint::Address;
use crate::registry::register::{Wanted, Wish, announce};
use crate::registry::settings::{Advertise, Kind, Settings};
use crate::registry::{Announcement, Health};
use crate::upstream::connect::connect;

/// How often an app is tried that nobody has connected to yet.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// How often one is asked for that was there.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How often one is tried again that was there and is not.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// After so many failures it is not there.
const FAILURES: u32 = 3;
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);
/// How long we wait for registries that are to forget us.
const LEAVE: Duration = Duration::from_secs(3);

/// What is announced where, and how the app is.
#[derive(Default)]
pub struct Announcing {
    /// Those that are being taken back too.
    running: RefCell<Vec<Running>>,
    app: RefCell<App>,
    /// All is taken back, and nothing is announced any more.
    leaves: Cell<bool>,
    /// There is an app to be followed, or another one.
    changed: Notify,
}

impl Announcing {
    pub fn leaves(&self) -> bool {
        self.leaves.get()
    }
}

/// Our app, as it was found.
#[derive(Debug, Default)]
struct App {
    /// None: there is none that could be tried.
    address: Option<Address>,
    /// For want of a health check a connection is tried.
    is_tried: bool,
    /// None: it has not been well yet.
    health: Option<Health>,
    /// In a row.
    failures: u32,
}

impl App {
    /// It is at `address` now. True: it is to be asked at once.
    fn is(&mut self, address: Option<Address>, is_tried: bool) -> bool {
        let is_another = self.address != address;
        let begins = is_tried && !self.is_tried;
        if is_another {
            // What is known is of the one before.
            self.health = None;
        } else if begins && self.health == Some(Health::Critical) {
            // A check that is removed makes everybody well.
            self.health = Some(Health::Passing);
        }
        if is_another || begins {
            self.failures = 0;
        }
        (self.address, self.is_tried) = (address, is_tried);
        is_another || begins
    }

    fn forget(&mut self) {
        (self.health, self.failures) = (None, 0);
    }

    /// It was asked. What is to be told of it; none where that is not sure yet.
    fn found(&mut self, is_well: bool) -> Option<Health> {
        self.failures = if is_well { 0 } else { self.failures + 1 };
        let health = match is_well {
            true => Health::Passing,
            // Only of one that was well another try could say otherwise. A health check has counted by itself.
            false if self.is_tried && self.health.is_some() && self.failures < FAILURES => {
                return None;
            }
            false => Health::Critical,
        };
        if is_well || self.health.is_some() {
            self.health = Some(health);
        }
        Some(health)
    }

    /// When it is asked again.
    fn wait(&self) -> Duration {
        match (self.is_tried, self.health) {
            (true, None) => TRY_EVERY,
            (true, Some(_)) if self.failures > 0 => CHECK_AGAIN,
            _ => CHECK_EVERY,
        }
    }
}

/// What is announced in one place, by one task.
struct Running {
    kind: Kind,
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl Running {
    fn begin(kind: Kind, wanted: Wanted) -> Self {
        let (wanted, follows) = watch::channel(wanted);
        Self { kind, wanted, task: spawn_local(announce(follows)) }
    }

    /// It is woken only where it has something to do.
    fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let changes = !before.is_same(&wanted);
            *before = wanted;
            changes
        });
    }

    fn wish(&self) -> Wish {
        self.wanted.borrow().wish
    }

    fn set_wish(&self, wish: Wish) {
        let before = self.wanted.borrow().clone();
        self.want(Wanted { wish, ..before });
    }

    fn is_going(&self) -> bool {
        self.wish() == Wish::Gone
    }

    /// Whether what is wanted elsewhere would be the same entry here.
    fn has(&self, kind: &Kind, wanted: &Wanted) -> bool {
        is_one_entry((&self.kind, &self.wanted.borrow()), (kind, wanted))
    }
}

fn is_one_entry(one: (&Kind, &Wanted), other: (&Kind, &Wanted)) -> bool {
    one.0.is_same_place(other.0) && other.1.registry.is_one(&one.1.ours, &other.1.ours)
}

/// Which of those that run goes on as which of `wanted`. What stands somewhere is replaced by who put it there:
/// nobody else knows what is under way.
fn heirs(before: &[Running], wanted: &[(Kind, Wanted)]) -> Vec<Option<usize>> {
    let mut heirs = vec![None; wanted.len()];
    let mut settle = |fits: &dyn Fn(&Running, &Kind, &Wanted) -> bool| {
        for (at, (kind, now)) in wanted.iter().enumerate() {
            if heirs[at].is_none() {
                let is_free = |it: usize| !heirs.contains(&Some(it));
                heirs[at] =
                    (0..before.len()).find(|it| is_free(*it) && fits(&before[*it], kind, now));
            }
        }
    };
    // For all first, and whatever else is asked of the registry: the others would take back what these announce.
    settle(&|it, kind, now| it.has(kind, now));
    settle(&|it, kind, _| it.kind == *kind);
    let stays = |other: &Kind| wanted.iter().any(|(kind, _)| kind == other);
    settle(&|it, kind, _| it.kind.is_same_place(kind) && !stays(&it.kind));
    heirs
}

/// What is wished of an entry of which `before` was wished, when the app is like this. What was never well is not
/// announced as ill; and what stands there stays as it is until it is known how another app in its place is.
fn wish(before: Wish, health: Option<Health>) -> Wish {
    match (before, health) {
        (_, Some(Health::Passing)) => Wish::Here(Health::Passing),
        (Wish::Here(_), Some(Health::Critical)) => Wish::Here(Health::Critical),
        (Wish::Here(before), None) => Wish::Here(before),
        (Wish::NotYet | Wish::Gone, Some(Health::Critical) | None) => Wish::NotYet,
    }
}

impl Control {
    /// Announces our app as `snapshot` has it, and takes back what it has no more.
    pub(super) fn announce(&self, snapshot: &Snapshot) {
        let is_tried = snapshot.service.is_tried;
        let mut changes = self.announcing.app.borrow_mut().is(address(snapshot), is_tried);
        let mut before = self.announcing.running.take();
        before.retain(|it| !it.task.is_finished());
        let wanted = self.wanted(snapshot);
        let heirs = heirs(&before, &wanted);
        let mut before: Vec<_> = before.into_iter().map(Some).collect();
        let health = self.announcing.app.borrow().health;
        let mut running = Vec::with_capacity(wanted.len());
        for ((kind, mut now), heir) in wanted.into_iter().zip(heirs) {
            let heir = heir.and_then(|at| before[at].take());
            // Another entry begins anew: nothing stands there.
            let stands = heir.as_ref().filter(|it| it.has(&kind, &now)).map(Running::wish);
            now.wish = wish(stands.unwrap_or(Wish::NotYet), health);
            changes |= now.wish == Wish::NotYet;
            running.push(match heir {
                Some(heir) => {
                    heir.want(now);
                    Running { kind, ..heir }
                }
                None => Running::begin(kind, now),
            });
        }
        let gone = before.into_iter().flatten();
        running.extend(gone.inspect(|gone| gone.set_wish(Wish::Gone)));
        *self.announcing.running.borrow_mut() = running;
        if !self.is_followed(snapshot) {
            // Nobody asks it any more.
            self.announcing.app.borrow_mut().forget();
        } else if changes {
            self.announcing.changed.notify_one();
        }
    }

    /// What is to be announced in which registries: each entry once, by the first in the list.
    fn wanted(&self, snapshot: &Snapshot) -> Vec<(Kind, Wanted)> {
        let mut all: Vec<(Kind, Wanted)> = Vec::new();
        for (listed, settings) in self.discovery.registries().into_iter().zip(&*snapshot.registries)
        {
            let Some(ours) = self.ours(snapshot, settings) else { continue };
            let (kind, registry, standing) = (listed.kind, listed.registry, listed.standing);
            let told = Rc::new(move |is_there| standing.registered(is_there));
            let wanted = Wanted { registry, ours, wish: Wish::NotYet, told };
            // The second would take back what is the first one's too.
            if all.iter().any(|(other, first)| is_one_entry((other, first), (&kind, &wanted))) {
                (wanted.told)(None);
            } else {
                all.push((kind, wanted));
            }
        }
        all
    }

    /// Our app as it is to be seen in a registry; none where it is not to be seen.
    fn ours(&self, snapshot: &Snapshot, settings: &Settings) -> Option<Announcement> {
        let Advertise { address, port, id, weight, tags } = settings.advertise.clone()?;
        let own = &snapshot.service;
        let listeners = self.listeners.borrow();
        let inbound = snapshot.listeners.iter().find(|it| it.kind == ListenerKind::Inbound);
        let bound = listeners.get(inbound.filter(|_| own.is_announced)?).copied()?;
        let port = port.unwrap_or_else(|| bound.port());
        let on_this_host = matches!(settings.kind, Kind::Directory(_));
        let specific = |ip: IpAddr| (!ip.is_unspecified()).then(|| ip.to_string().into());
        let metrics = self.metrics_address.get();
        let metrics = metrics.filter(|it: &SocketAddr| on_this_host || !it.ip().is_loopback());
        Some(Announcement {
            service: own.name.clone(),
            id: id.unwrap_or_else(|| format!("{}-{}-{port}", own.name, host_name())),
            address: address.or_else(|| specific(bound.ip())),
            port,
            metrics_port: metrics.map(|it| it.port()),
            version: own.version.clone(),
            zone: own.zone.clone(),
            weight: weight.unwrap_or(1),
            tags,
            metadata: own.metadata.clone(),
        })
    }

    /// Follows how the app is, for as long as we do not leave.
    pub(super) async fn follow_app(self: Rc<Self>) {
        let announcing = &self.announcing;
        while *self.phase.borrow() == Phase::Running && !announcing.leaves() {
            let snapshot = self.live.current();
            if !self.is_followed(&snapshot) {
                // Nobody is bothered where nobody is told.
                announcing.changed.notified().await;
                continue;
            }
            let is_well = match self.checks.app.is_healthy() {
                Some(is_healthy) => is_healthy,
                None => tokio::select! {
                    connects = self.app_connects(&snapshot) => connects,
                    // It may be another one.
                    () = announcing.changed.notified() => continue,
                },
            };
            let found = announcing.app.borrow_mut().found(is_well);
            if let Some(health) = found {
                self.tell(health);
            }
            let wait = announcing.app.borrow().wait();
            tokio::select! {
                () = sleep(wait) => {}
                () = self.checks.app.changed() => {}
                () = announcing.changed.notified() => {}
            }
        }
    }

    /// Tells all registries how the app is.
    fn tell(&self, health: Health) {
        if self.announcing.leaves() {
            // How it is meanwhile is its own affair.
            return;
        }
        let running = self.announcing.running.borrow();
        let told = running.iter().filter(|it| !it.is_going());
        told.for_each(|it| it.set_wish(wish(it.wish(), Some(health))));
    }

    fn is_announced(&self) -> bool {
        self.announcing.running.borrow().iter().any(|it| !it.is_going())
    }

    /// Whether somebody is told how the app is.
    fn is_followed(&self, snapshot: &Snapshot) -> bool {
        self.is_announced() || waits_for_app(snapshot)
    }

    /// # Errors
    /// Why the app is not ready.
    pub(super) fn app_is_ready(&self) -> Result<(), String> {
        self.checks.app.ready()?;
        let snapshot = self.live.current();
        if self.checks.app.is_healthy().is_some() || !snapshot.service.is_tried {
            return Ok(());
        }
        match self.announcing.app.borrow().health {
            None if waits_for_app(&snapshot) => Err("the app takes no connections yet".to_owned()),
            // A registry that asks us for ourselves is to hear it too.
            Some(Health::Critical) => Err("the app takes no connections any more".to_owned()),
            None | Some(Health::Passing) => Ok(()),
        }
    }

    /// Whether an app takes connections that has no health check, if that matters.
    async fn app_connects(&self, snapshot: &Snapshot) -> bool {
        match address(snapshot).filter(|_| snapshot.service.is_tried) {
            Some(address) => connect(&address, TRY).await.is_ok(),
            None => true,
        }
    }

    /// Takes all announcements back, as far as registries answer in time. Those that do not are asked again for as
    /// long as we live.
    pub(super) async fn leave_registries(&self) {
        self.announcing.leaves.set(true);
        let running = self.announcing.running.take();
        running.iter().for_each(|it| it.set_wish(Wish::Gone));
        let began = clock::now();
        for running in running {
            let left = LEAVE.saturating_sub(clock::now() - began);
            let kind = running.kind.as_str();
            if timeout(left, running.task).await.is_err() {
                tracing::warn!(
                    registry = kind,
                    "the announcement may stand until it expires: the registry did not take it back in time"
                );
            }
        }
    }
}

/// Where our app is, if there is one.
fn address(snapshot: &Snapshot) -> Option<Address> {
    let endpoints = snapshot.cluster(snapshot.inbound.app?).endpoints();
    endpoints.first().map(|endpoint| endpoint.address.clone())
}

/// Whether `/ready` is what others find our app by, for want of a registry that we could tell.
fn waits_for_app(snapshot: &Snapshot) -> bool {
    let mut registries = snapshot.registries.iter();
    let is_told_by_others = registries.any(|it| !it.kind.announces());
    is_told_by_others && snapshot.service.is_tried && snapshot.inbound.app.is_some()
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    name.chars().map(good).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::make;
    use crate::registry::settings::{Consul, ConsulCheck, Directory};
    use tokio::task::LocalSet;

    fn consul(datacenter: &str) -> Kind {
        Kind::Consul(Consul {
            address: "http://127.0.0.1:8500".parse().expect("a URL"),
            token_file: None,
            ca_file: None,
            datacenter: Some(datacenter.to_owned()),
            namespace: None,
            tag: None,
            check: ConsulCheck::Ttl,
            ttl: Duration::from_secs(15),
            deregister_after: Duration::from_secs(60),
        })
    }

    fn directory(path: &str) -> Kind {
        Kind::Directory(Directory { path: Some(path.into()), ttl: Duration::from_secs(10) })
    }

    /// Something that is announced nowhere yet.
    fn wanted((kind, id): (Kind, &str)) -> (Kind, Wanted) {
        let ours = Announcement::plain("users", id);
        let registry = make(&Settings { kind: kind.clone(), advertise: None });
        (kind, Wanted { registry, ours, wish: Wish::NotYet, told: Rc::new(|_| {}) })
    }

    #[test]
    fn what_stands_there_is_replaced_by_who_put_it_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (one, two, three) = (|| consul("one"), || consul("two"), || consul("three"));
        let (a, b) = (|| directory("/a"), || directory("/b"));
        LocalSet::new().block_on(&runtime, async {
            for (before, now, expected) in [
                // Another question to the same agent, in front, behind or instead.
                (vec![(one(), "x")], vec![(two(), "x"), (one(), "y")], vec![Some(0), None]),
                (vec![(one(), "x")], vec![(two(), "x")], vec![Some(0)]),
                (vec![(one(), "x")], vec![(two(), "y")], vec![Some(0)]),
                (vec![(one(), "x")], vec![(two(), "y"), (one(), "x")], vec![None, Some(0)]),
                (vec![(one(), "x")], vec![(two(), "y"), (one(), "z")], vec![None, Some(0)]),
                // Two that exchange their entries.
                (
                    vec![(one(), "x"), (two(), "y")],
                    vec![(one(), "y"), (two(), "x")],
                    vec![Some(1), Some(0)],
                ),
                // Who has the entry is not taken for another one.
                (
                    vec![(one(), "x"), (two(), "y")],
                    vec![(one(), "z"), (three(), "x")],
                    vec![Some(1), Some(0)],
                ),
                (
                    vec![(a(), "x"), (b(), "x")],
                    vec![(b(), "x"), (a(), "x")],
                    vec![Some(1), Some(0)],
                ),
                (vec![(a(), "x")], vec![(b(), "x")], vec![None]),
            ] {
                let before: Vec<_> = before.into_iter().map(wanted).collect();
                let running: Vec<_> =
                    before.into_iter().map(|(kind, wanted)| Running::begin(kind, wanted)).collect();
                let now: Vec<_> = now.into_iter().map(wanted).collect();
                let ids: Vec<_> = now.iter().map(|(_, it)| &*it.ours.id).collect();
                assert_eq!(heirs(&running, &now), expected, "{ids:?}");
            }
        });
    }

    fn at(port: u16) -> Option<Address> {
        Some(Address::Socket(([127, 0, 0, 1], port).into()))
    }

    #[test]
    fn what_is_known_of_an_app_is_of_no_other() {
        let mut app = App::default();
        assert!(app.is(at(1), true), "it is asked at once");
        assert_eq!((app.found(true), app.health), (Some(Health::Passing), Some(Health::Passing)));
        assert!(!app.is(at(1), true), "a reload that leaves it alone");
        assert_eq!(app.health, Some(Health::Passing));
        assert!(app.is(at(2), true));
        assert_eq!(app.health, None);
        // What stands there of the one before is told at once.
        assert_eq!((app.found(false), app.health), (Some(Health::Critical), None));
        // Nor is it known after a while without one.
        assert_eq!(app.found(true), Some(Health::Passing));
        assert!(app.is(None, false) && app.is(at(2), true));
        assert_eq!(app.health, None);
    }

    #[test]
    fn an_app_that_was_well_is_lost_by_three_failures_in_a_row() {
        let mut app = App::default();
        app.is(at(1), true);
        let found = |app: &mut App, well: &[bool]| {
            well.iter().map(|is_well| app.found(*is_well)).collect::<Vec<_>>()
        };
        let (well, ill) = (Some(Health::Passing), Some(Health::Critical));
        assert_eq!(
            found(&mut app, &[true, false, false, true, false, false, false, false, true]),
            [well, None, None, well, None, None, ill, ill, well]
        );
        // A health check has counted already; one that is removed makes everybody well.
        assert!(!app.is(at(1), false));
        assert_eq!(found(&mut app, &[false]), [ill]);
        assert!(app.is(at(1), true));
        assert_eq!(app.health, well);
    }

    #[test]
    fn nobody_is_announced_who_was_never_well() {
        let (well, ill) = (Wish::Here(Health::Passing), Wish::Here(Health::Critical));
        for (before, health, expected) in [
            (Wish::NotYet, None, Wish::NotYet),
            (Wish::NotYet, Some(Health::Critical), Wish::NotYet),
            (Wish::Gone, None, Wish::NotYet),
            (Wish::Gone, Some(Health::Passing), well),
            (Wish::NotYet, Some(Health::Passing), well),
            (well, Some(Health::Critical), ill),
            // Another app in its place.
            (well, None, well),
            (ill, None, ill),
        ] {
            assert_eq!(wish(before, health), expected, "{before:?} {health:?}");
        }
    }
}
