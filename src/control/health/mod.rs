//! Active health checks, of the endpoints of services and of our own app: a task each, that survives the
//! reloads which do not concern it.

mod probe;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock;
use crate::config::snapshot::{Cluster, Protocol, Snapshot};
use crate::endpoint::{Address, Endpoint, State};
use crate::policy::health::{CheckKind, Health, HealthCheck};
use crate::telemetry::metrics::Recorder;
use crate::upstream::{Pool, PoolLimits, Wire};
use probe::{Connections, Failed, probe};

/// Checks that are under way at a time, of all services together.
const AT_ONCE: usize = 128;

pub struct Checks {
    running: RefCell<HashMap<Key, Running>>,
    common: Rc<Common>,
    pub app: Arc<AppHealth>,
}

/// Of which service, whether that is the app, and which endpoint.
type Key = (Arc<str>, bool, Box<str>);

/// What checks share.
struct Common {
    permits: Semaphore,
    connections: Connections,
    recorder: Rc<Recorder>,
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

    fn say(&self, text: String) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn begin(&self) {
        self.say("the app has not passed its health check yet".into());
        self.is_healthy.store(false, Relaxed);
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
    app: Option<Arc<AppHealth>>,
}

impl Checks {
    pub fn new(recorder: Rc<Recorder>, limits: PoolLimits) -> Self {
        let connections = Pool::new(limits, recorder.clone());
        let permits = Semaphore::new(AT_ONCE);
        Self {
            running: RefCell::default(),
            common: Rc::new(Common { permits, connections, recorder }),
            app: Arc::default(),
        }
    }

    /// Begins and ends checks so that they are those of `snapshot`.
    pub fn follow(&self, snapshot: &Snapshot) {
        let app = snapshot.inbound.app.map(|app| app.cluster);
        let mut before = self.running.take();
        let mut now = HashMap::with_capacity(before.len());
        for (index, cluster) in (0..).zip(&snapshot.clusters) {
            let Some(check) = &cluster.health else { continue };
            let is_app = Some(index) == app;
            for endpoint in cluster.endpoints() {
                let key = (cluster.name.clone(), is_app, endpoint.label.clone());
                let wire = wire(cluster.protocol);
                let same = |running: &Running| {
                    running.check == *check
                        && running.wire == wire
                        && Arc::ptr_eq(&running.state, &endpoint.state)
                };
                let running = match before.remove(&key).filter(same) {
                    Some(running) => running,
                    None => self.begin(cluster, endpoint, check, is_app),
                };
                now.insert(key, running);
            }
        }
        let checks_app = now.keys().any(|(_, is_app, _)| *is_app);
        self.app.is_checked.store(checks_app, Relaxed);
        *self.running.borrow_mut() = now;
    }

    fn begin(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        check: &Arc<HealthCheck>,
        is_app: bool,
    ) -> Running {
        let wire = wire(cluster.protocol);
        let address = on_port(&endpoint.address, check.port);
        let checked = Checked {
            service: cluster.name.clone(),
            endpoint: Endpoint::new(address, Arc::default()),
            state: endpoint.state.clone(),
            check: check.clone(),
            wire,
            app: is_app.then(|| self.app.clone()),
        };
        if is_app {
            self.app.begin();
        }
        let first = check.first(cluster.endpoints().len(), fastrand::f64());
        let common = self.common.clone();
        let task = tokio::task::spawn_local(async move {
            sleep(first).await;
            checked.watch(&common).await;
        });
        Running { check: check.clone(), wire, state: endpoint.state.clone(), task }
    }
}

impl Checked {
    async fn watch(self, common: &Common) {
        let mut health = match &self.app {
            Some(_) => Health::new(false),
            None => Health::new(!self.state.is_unhealthy()),
        };
        loop {
            // It is never closed.
            let permit = common.permits.acquire().await;
            // Boxed: most of the time nothing is asked, and there may be thousands of us.
            let probe =
                probe(&self.check, &self.endpoint, self.wire, &self.service, &common.connections);
            let result = Box::pin(probe).await;
            drop(permit);
            let label = result.as_ref().err().map_or("success", Failed::as_str);
            common.recorder.health_checks.inc([&self.service, label]);
            let changed = health.record(result.is_ok(), &self.check);
            self.tell(health, changed, &result);
            sleep(self.check.next(fastrand::f64())).await;
        }
    }

    fn tell(&self, health: Health, changed: bool, result: &Result<(), Failed>) {
        let (service, endpoint) = (&*self.service, &*self.endpoint.label);
        match &self.app {
            Some(app) => {
                if let Err(failed) = result {
                    let what = what(&self.check);
                    app.say(format!(
                        "the health check of the app ({what} at {endpoint}) fails: {failed}"
                    ));
                }
                app.is_healthy.store(health.is_healthy(), Relaxed);
            }
            None if changed => {
                self.state.set_healthy(health.is_healthy(), clock::nanos(clock::now()));
            }
            None => {}
        }
        match result {
            Ok(()) if changed => tracing::info!(service, endpoint, "healthy"),
            Err(failed) if changed => tracing::warn!(service, endpoint, %failed, "unhealthy"),
            Err(failed) => tracing::debug!(service, endpoint, %failed, "health check failed"),
            Ok(()) => {}
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
