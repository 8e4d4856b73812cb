//! Our own app in the registries: announced when it is well, told when it is not, taken back before we go.

use std::cell::RefCell;
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
use crate::registry::register::{Wanted, Wish, announce};
use crate::registry::settings::{Advertise, Kind, Settings};
use crate::registry::{Announcement, Health};
use crate::upstream::connect::connect;

/// How often an app is tried that nobody has connected to yet.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// How often one is tried that was there.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How often one is tried again that was there and is not.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// After so many failures it is not there.
const FAILURES: u32 = 3;
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);
/// How long we wait for registries that are to forget us.
const LEAVE: Duration = Duration::from_secs(3);

/// What is announced where.
#[derive(Default)]
pub struct Announcing {
    /// Those that are being taken back too.
    running: RefCell<Vec<Running>>,
    begun: Notify,
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

    fn wish(&self, wish: Wish) {
        let before = self.wanted.borrow().clone();
        self.want(Wanted { wish, ..before });
    }

    fn is_going(&self) -> bool {
        self.wanted.borrow().wish == Wish::Gone
    }

    /// Whether what is wanted elsewhere would be the same entry here.
    fn has(&self, kind: &Kind, wanted: &Wanted) -> bool {
        let ours = &self.wanted.borrow().ours;
        self.kind.is_same_place(kind) && wanted.registry.is_one(ours, &wanted.ours)
    }
}

impl Control {
    /// Announces our app as `snapshot` has it, and takes back what it has no more.
    pub(super) fn announce(&self, snapshot: &Snapshot) {
        let mut before = self.announcing.running.take();
        before.retain(|it| !it.task.is_finished());
        let wanted = self.wanted(snapshot);
        let mut running: Vec<Running> = Vec::with_capacity(wanted.len());
        for (kind, now) in &wanted {
            // The second would take back what is the first one's too.
            if running.iter().any(|it| it.has(kind, now)) {
                continue;
            }
            let stays = |other: &Kind| wanted.iter().any(|(kind, _)| kind == other);
            let same = before.iter().position(|it| it.kind == *kind);
            // What stands there is replaced by who put it there: nobody else knows what is under way.
            let same = same.or_else(|| {
                before.iter().position(|it| it.kind.is_same_place(kind) && !stays(&it.kind))
            });
            running.push(match same.map(|same| before.swap_remove(same)) {
                Some(same) => {
                    same.want(now.clone());
                    Running { kind: kind.clone(), ..same }
                }
                None => Running::begin(kind.clone(), now.clone()),
            });
        }
        before.iter().for_each(|gone| gone.wish(Wish::Gone));
        running.extend(before);
        *self.announcing.running.borrow_mut() = running;
        self.announcing.begun.notify_one();
    }

    /// What is to be announced in which registries.
    fn wanted(&self, snapshot: &Snapshot) -> Vec<(Kind, Wanted)> {
        let wish = *self.wish.borrow();
        let listed = self.discovery.registries();
        let wanted = listed.into_iter().zip(snapshot.registries.iter());
        let wanted = wanted.filter_map(|(listed, settings)| {
            let ours = self.ours(snapshot, settings)?;
            let standing = listed.standing;
            let told = Rc::new(move |is_there| standing.registered(is_there));
            Some((listed.kind, Wanted { registry: listed.registry, ours, wish, told }))
        });
        wanted.collect()
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

    fn wish(&self, wish: Wish) {
        if *self.wish.borrow() == Wish::Gone {
            // We leave; how the app is meanwhile is its own affair.
            return;
        }
        self.wish.replace(wish);
        let running = self.announcing.running.borrow();
        running.iter().filter(|it| !it.is_going()).for_each(|it| it.wish(wish));
    }

    /// Follows how the app is, for as long as we do not leave.
    pub(super) async fn follow_app(self: Rc<Self>) {
        let mut failures = 0;
        while *self.phase.borrow() == Phase::Running {
            if !self.is_announced() {
                // Nobody is bothered where nobody is told.
                self.announcing.begun.notified().await;
                continue;
            }
            let snapshot = self.live.current();
            let (health, wait) = match self.checks.app.is_healthy() {
                Some(true) => (Some(Health::Passing), CHECK_EVERY),
                Some(false) => (Some(Health::Critical), CHECK_EVERY),
                None => {
                    if self.app_connects(&snapshot).await {
                        failures = 0;
                        (Some(Health::Passing), CHECK_EVERY)
                    } else {
                        failures += 1;
                        let is_down = failures >= FAILURES;
                        (is_down.then_some(Health::Critical), CHECK_AGAIN)
                    }
                }
            };
            let was_here = matches!(*self.wish.borrow(), Wish::Here(_));
            // What was never well is not announced as ill.
            match health {
                Some(Health::Critical) if !was_here => {}
                Some(health) => self.wish(Wish::Here(health)),
                None => {}
            }
            let is_here = matches!(*self.wish.borrow(), Wish::Here(_));
            tokio::select! {
                () = sleep(if is_here { wait } else { TRY_EVERY }) => {}
                () = self.checks.app.changed() => {}
            }
        }
    }

    fn is_announced(&self) -> bool {
        self.announcing.running.borrow().iter().any(|it| !it.is_going())
    }

    /// Whether an app that has no health check was announced and takes no connections any more. A registry that asks
    /// us for ourselves is to hear it too.
    pub(super) fn app_is_lost(&self) -> bool {
        let is_critical = *self.wish.borrow() == Wish::Here(Health::Critical);
        is_critical && self.is_announced() && self.checks.app.is_healthy().is_none()
    }

    /// Whether an app takes connections that has no health check, if that matters.
    async fn app_connects(&self, snapshot: &Snapshot) -> bool {
        let app = snapshot.inbound.app.filter(|_| snapshot.service.is_tried);
        let endpoint = app.and_then(|app| snapshot.cluster(app).endpoints().first().cloned());
        let Some(endpoint) = endpoint else { return true };
        connect(&endpoint.address, TRY).await.is_ok()
    }

    /// Takes all announcements back, as far as registries answer in time. Those that do not are asked again for as
    /// long as we live.
    pub(super) async fn leave_registries(&self) {
        self.wish(Wish::Gone);
        let running = self.announcing.running.take();
        let began = clock::now();
        for running in running {
            let left = LEAVE.saturating_sub(clock::now() - began);
            let _ = timeout(left, running.task).await;
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    name.chars().map(good).collect()
}
