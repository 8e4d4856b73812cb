//! Active health checks, of the endpoints of services and of our own app: a task each, that survives the
//! reloads which do not concern it.

mod probe;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock;
use crate::config::snapshot::{Cluster, Protocol, Snapshot};
use crate::endpoint::{Address, Endpoint, State};
use crate::policy::health::{CheckKind, Finding, Health, HealthCheck};
use crate::telemetry::metrics::Recorder;
use crate::upstream::{PoolLimits, Wire};
use probe::{Dialling, Failed, probe};

/// Checks of one service that are under way at a time: one whose endpoints all hang must not keep the others
/// waiting.
const OF_A_SERVICE: usize = 128;
/// Of all services together. The app waits for nobody.
const OF_ALL: usize = 512;

pub struct Checks {
    running: RefCell<HashMap<Key, Running>>,
    /// By service.
    turns: RefCell<HashMap<Arc<str>, Rc<Semaphore>>>,
    common: Rc<Common>,
    pub app: Arc<AppHealth>,
}

/// Of which service, whether that is the app, and which endpoint.
type Key = (Arc<str>, bool, Box<str>);

/// What checks share.
struct Common {
    turns: Semaphore,
    dialling: Dialling,
}

struct Running {
    check: Arc<HealthCheck>,
    wire: Wire,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the app is well. Without a check nobody knows, and it counts as well.
#[derive(Debug, Default)]
pub struct AppHealth {
    is_checked: AtomicBool,
    is_healthy: AtomicBool,
    /// What the last check that failed said.
    said: Mutex<String>,
    changed: Notify,
}

impl AppHealth {
    /// None where it is not checked.
    pub fn is_healthy(&self) -> Option<bool> {
        self.is_checked.load(Relaxed).then(|| self.is_healthy.load(Relaxed))
    }

    /// # Errors
    /// Why the app is not ready.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_healthy() != Some(false) {
            return Ok(());
        }
        Err(self.said.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits until it may be another than before.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, is_healthy: bool) {
        if self.is_healthy.swap(is_healthy, Relaxed) != is_healthy {
            self.changed.notify_one();
        }
    }

    fn say(&self, text: String) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn begin(&self) {
        self.say("the app has not passed its health check yet".to_owned());
        self.set(false);
        self.is_checked.store(true, Relaxed);
    }
}

/// One endpoint that is checked, and what is known of it.
struct Checked {
    service: Arc<str>,
    /// Where checks go, which may be another port than that of the traffic.
    endpoint: Endpoint,
    /// What workers see of it.
    state: Arc<State>,
    check: Arc<HealthCheck>,
    wire: Wire,
    of: Whose,
}

/// Whom a check is of.
enum Whose {
    App(Arc<AppHealth>),
    Service { turns: Rc<Semaphore> },
}

impl Checks {
    pub fn new(recorder: Rc<Recorder>, limits: PoolLimits) -> Self {
        let dialling = Dialling { limits, recorder };
        Self {
            running: RefCell::default(),
            turns: RefCell::default(),
            common: Rc::new(Common { turns: Semaphore::new(OF_ALL), dialling }),
            app: Arc::default(),
        }
    }

    /// Begins and ends checks so that they are those of `snapshot`.
    pub fn follow(&self, snapshot: &Snapshot) {
        let app = snapshot.inbound.app.map(|app| app.cluster);
        let mut before = self.running.take();
        let mut now = HashMap::with_capacity(before.len());
        let mut checks_app = false;
        for (index, cluster) in (0..).zip(&snapshot.clusters) {
            let Some(check) = &cluster.health else { continue };
            let is_app = Some(index) == app;
            checks_app |= is_app;
            let mut new = Vec::new();
            for endpoint in cluster.endpoints() {
                let key = (cluster.name.clone(), is_app, endpoint.label.clone());
                match before.remove(&key) {
                    Some(running) if running.does(cluster, check, endpoint) => {
                        now.insert(key, running);
                    }
                    // What another check has found out counts until this one has found out otherwise.
                    Some(_) => new.push((key, endpoint)),
                    None => {
                        if is_app {
                            self.app.begin();
                        }
                        new.push((key, endpoint));
                    }
                }
            }
            let count = new.len();
            for (key, endpoint) in new {
                let first = check.first(count, fastrand::f64());
                now.insert(key, self.begin(cluster, endpoint, check, is_app, first));
            }
        }
        self.app.is_checked.store(checks_app, Relaxed);
        self.turns.borrow_mut().retain(|_, turns| Rc::strong_count(turns) > 1);
        *self.running.borrow_mut() = now;
    }

    fn begin(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        check: &Arc<HealthCheck>,
        is_app: bool,
        first: Duration,
    ) -> Running {
        let wire = wire(cluster.protocol);
        let address = on_port(&endpoint.address, check.port);
        let of = if is_app {
            Whose::App(self.app.clone())
        } else {
            let mut turns = self.turns.borrow_mut();
            let turns = turns.entry(cluster.name.clone());
            let turns = turns.or_insert_with(|| Rc::new(Semaphore::new(OF_A_SERVICE)));
            Whose::Service { turns: turns.clone() }
        };
        let checked = Checked {
            service: cluster.name.clone(),
            endpoint: Endpoint::new(address, Arc::default()),
            state: endpoint.state.clone(),
            check: check.clone(),
            wire,
            of,
        };
        let common = self.common.clone();
        let task = tokio::task::spawn_local(async move {
            sleep(first).await;
            checked.watch(&common).await;
        });
        Running { check: check.clone(), wire, state: endpoint.state.clone(), task }
    }
}

impl Running {
    /// Whether it is `check` of `endpoint`.
    fn does(&self, cluster: &Cluster, check: &HealthCheck, endpoint: &Endpoint) -> bool {
        *self.check == *check
            && self.wire == wire(cluster.protocol)
            && Arc::ptr_eq(&self.state, &endpoint.state)
    }
}

impl Checked {
    async fn watch(self, common: &Common) {
        let mut health = Health::new(match &self.of {
            Whose::App(app) => app.is_healthy.load(Relaxed),
            Whose::Service { .. } => !self.state.is_unhealthy(),
        });
        loop {
            // Neither is ever closed. That of the service first: who waits for it takes no other's turn.
            let turn = match &self.of {
                Whose::App(_) => None,
                Whose::Service { turns } => {
                    Some((turns.acquire().await, common.turns.acquire().await))
                }
            };
            let dialling = &common.dialling;
            // Boxed: most of the time nothing is asked, and there may be thousands of us.
            let probe = probe(&self.check, &self.endpoint, self.wire, &self.service, dialling);
            let result = Box::pin(probe).await;
            drop(turn);
            let label = result.as_ref().err().map_or("success", Failed::as_str);
            dialling.recorder.health_checks.inc([&self.service, label]);
            let finding = result.as_ref().err().map_or(Finding::Passed, Failed::finding);
            let changed = health.record(finding, &self.check);
            self.tell(health, changed, &result);
            sleep(self.check.next(fastrand::f64())).await;
        }
    }

    fn tell(&self, health: Health, changed: bool, result: &Result<(), Failed>) {
        let (service, endpoint) = (&*self.service, &*self.endpoint.label);
        let mut worth_a_line = changed;
        match &self.of {
            Whose::App(app) => {
                if !health.is_healthy() {
                    app.say(not_ready(&self.check, endpoint, health, result));
                }
                app.set(health.is_healthy());
                // One that never comes up does not become unhealthy, and is to be told of all the same.
                worth_a_line |= health.failures() == self.check.unhealthy_after;
            }
            Whose::Service { .. } if changed => {
                self.state.set_healthy(health.is_healthy(), clock::now());
            }
            Whose::Service { .. } => {}
        }
        match result {
            Ok(()) if changed => tracing::info!(service, endpoint, "healthy"),
            Err(failed) if worth_a_line => tracing::warn!(service, endpoint, %failed, "unhealthy"),
            Err(failed) => tracing::debug!(service, endpoint, %failed, "health check failed"),
            Ok(()) => {}
        }
    }
}

/// Why the app is not ready, after a check.
fn not_ready(
    check: &HealthCheck,
    endpoint: &str,
    health: Health,
    result: &Result<(), Failed>,
) -> String {
    let what = format!("the health check of the app ({} at {endpoint})", what(check));
    match (result, health.failures()) {
        (Err(failed), _) if failed.finding() == Finding::Nothing => format!("{what}: {failed}"),
        (Err(failed), ..=1) => format!("{what} has failed: {failed}"),
        (Err(failed), times) => format!("{what} has failed {times} times in a row: {failed}"),
        (Ok(()), _) => {
            let (passes, needed) = (health.passes(), check.healthy_after);
            format!("{what} has passed {passes} of {needed} times in a row")
        }
    }
}

fn what(check: &HealthCheck) -> String {
    match &check.kind {
        CheckKind::Http { path, .. } => format!("GET {path}"),
        CheckKind::Tcp => "TCP".into(),
        CheckKind::Grpc { service, .. } if service.is_empty() => "gRPC".into(),
        CheckKind::Grpc { service, .. } => format!("gRPC of {service}"),
    }
}

fn wire(protocol: Protocol) -> Wire {
    match protocol {
        Protocol::Http2 => Wire::Http2,
        Protocol::Auto | Protocol::Http1 | Protocol::Tcp => Wire::Http1,
    }
}

fn on_port(address: &Address, port: Option<u16>) -> Address {
    match (address, port) {
        (Address::Socket(socket), Some(port)) => Address::Socket((socket.ip(), port).into()),
        (Address::Name { host, .. }, Some(port)) => Address::Name { host: host.clone(), port },
        (address, _) => address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_the_app_is_not_ready() {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            jitter: 0.1,
            unhealthy_after: 3,
            healthy_after: 3,
        };
        let mut health = Health::new(false);
        let mut said = |result: Result<(), Failed>| {
            let finding = result.as_ref().err().map_or(Finding::Passed, Failed::finding);
            health.record(finding, &check);
            let text = not_ready(&check, "127.0.0.1:80", health, &result);
            text.strip_prefix("the health check of the app (TCP at 127.0.0.1:80)")
                .map(str::to_owned)
        };
        let exhausted = || Err(Failed::Exhausted("too many open files".into()));
        for (result, says) in [
            (exhausted(), ": it could not be asked: too many open files"),
            (Err(Failed::Status(500)), " has failed: status 500"),
            (Err(Failed::Status(503)), " has failed 2 times in a row: status 503"),
            (exhausted(), ": it could not be asked: too many open files"),
            (Ok(()), " has passed 1 of 3 times in a row"),
            (Ok(()), " has passed 2 of 3 times in a row"),
            (
                Err(Failed::Broken("no answer".into())),
                " has failed: the connection broke: no answer",
            ),
        ] {
            assert_eq!(said(result).as_deref(), Some(says));
        }
    }
}
