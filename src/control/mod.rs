//! The control thread: it owns the configuration, the listeners, the log and the workers' threads, and
//! runs the admin server. Nothing here is on the path of a request.

mod announcing;
mod bulkheads;
mod discovery;
mod health;
mod outliers;
mod pressure;
mod reload;
mod signals;
mod sockets;
mod surface;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::admin::{self, Surface};
use crate::app::{Ask, LogLevel, Options, StartError};
use crate::clock;
use crate::config::live::Live;
use crate::config::load::{Loaded, Origin};
use crate::config::schema::Config;
use crate::config::snapshot::{AccessLog, Listener, ListenerKind};
use crate::config::watch::Watch;
use crate::drain::Phase;
use crate::policy::shed::Pressure;
use crate::registry::demand::Demands;
use crate::telemetry::Direction;
use crate::telemetry::log_writer::{LogSink, LogStats, LogWriter};
use crate::telemetry::metrics::{Metrics, Recorder};
use crate::worker::{self, Command, Loads, Start};
use announcing::Announcing;
use discovery::Discovery;
use health::Checks;
use signals::Signals;
use sockets::{bind_all, bind_one, cannot_bind, without_ipv6};

/// Where the listeners are in truth.
pub struct Bound {
    pub addresses: HashMap<Listener, SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

pub struct Control {
    origin: Origin,
    live: Live,
    generation: Cell<u64>,
    metrics: Metrics,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    loads: Loads,
    listeners: RefCell<HashMap<Listener, SocketAddr>>,
    phase: watch::Sender<Phase>,
    log: RefCell<Log>,
    /// Why the last configuration was refused, if it was.
    refused: RefCell<Option<String>>,
    read: RefCell<String>,
    asks: mpsc::UnboundedSender<Ask>,
    asked: RefCell<Option<mpsc::UnboundedReceiver<Ask>>>,
    level: Option<LogLevel>,
    signals: bool,
    checks: Checks,
    /// As it was read last; compiled again when services are called that it does not name.
    config: RefCell<Config>,
    discovery: Discovery,
    announcing: Announcing,
    /// Where metrics are in truth.
    metrics_address: Cell<Option<SocketAddr>>,
}

/// The access log's thread, and what it was told to be.
struct Log {
    settings: Option<AccessLog>,
    writer: Option<LogWriter>,
    stats: Arc<LogStats>,
}

/// How long the log may take for what is left when we end.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// Binds, starts the workers and the admin server.
    ///
    /// # Errors
    /// What could not be bound or started.
    pub fn start(options: Options, loaded: Loaded) -> Result<(Rc<Self>, Bound), StartError> {
        let snapshot = Arc::new(loaded.snapshot);
        let count = loaded.config.runtime.as_ref().and_then(|runtime| runtime.workers);
        let count = count.map_or_else(worker::default_count, |count| count as usize);
        let live = Live::new(snapshot.clone());
        let (phase, _) = watch::channel(Phase::Running);
        let (asks, asked) = mpsc::unbounded_channel();
        let (demands, demanded) = Demands::new();
        let (discovery, hears) = Discovery::new(demanded);
        let mut channels: Vec<_> = (0..count).map(|_| mpsc::unbounded_channel()).collect();
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let recorder = Recorder::new(metrics.worker());
        let control = Rc::new(Self {
            checks: Checks::new(recorder.clone(), snapshot.limits.pool),
            origin: options.origin,
            live,
            generation: Cell::new(snapshot.generation),
            metrics,
            workers: channels.iter().map(|(sender, _)| sender.clone()).collect(),
            threads: RefCell::default(),
            loads: Loads::new(count),
            listeners: RefCell::default(),
            phase,
            log: RefCell::new(Log { settings: None, writer: None, stats: Arc::default() }),
            refused: RefCell::default(),
            read: RefCell::new(loaded.text),
            asks,
            asked: RefCell::new(Some(asked)),
            level: options.log_level,
            signals: options.signals,
            config: RefCell::new(loaded.config),
            discovery,
            announcing: Announcing::default(),
            metrics_address: Cell::new(None),
        });
        control.watch_metrics();
        snapshot.apply(clock::now());
        let pressure = Arc::<Pressure>::default();
        tokio::task::spawn_local(pressure::measure(control.live.clone(), pressure.clone()));
        tokio::task::spawn_local(outliers::look(control.live.clone(), recorder));
        let admin = bind_one(snapshot.admin, "admin.listen")?;
        let metrics = bind_one(snapshot.metrics, "admin.metrics")?;
        let sockets = control.bind(&snapshot.listeners)?;
        let sink = control.open_log(snapshot.access_log.as_ref())?;
        let via = format!("1.1 pilotfish-{:016x}", fastrand::u64(..));
        let via = HeaderValue::try_from(via).map_err(std::io::Error::other)?;
        for (id, (_, commands)) in channels.drain(..).enumerate() {
            let start = Start {
                id,
                live: control.live.clone(),
                shard: control.metrics.worker(),
                log: sink.clone(),
                phase: control.phase.subscribe(),
                via: via.clone(),
                loads: control.loads.clone(),
                pressure: pressure.clone(),
                demands: demands.clone(),
                peers: control.workers.clone(),
                random: fastrand::Rng::new(),
            };
            control.threads.borrow_mut().push(worker::spawn(start, commands)?);
        }
        control.listen(sockets);
        control.metrics_address.set(metrics.as_ref().map(|(_, address)| *address));
        // The first one counts as well: what shows the last reload would otherwise call it failed.
        control.metrics.config_read(true, clock::wall());
        control.published(&snapshot);
        tokio::task::spawn_local(control.clone().discover(hears));
        tokio::task::spawn_local(control.clone().follow_app());
        let bound = Bound {
            addresses: control.listeners.borrow().clone(),
            admin: admin.as_ref().map(|(_, address)| *address),
            metrics: metrics.as_ref().map(|(_, address)| *address),
        };
        control.serve_admin(admin, Surface::Admin)?;
        control.serve_admin(metrics, Surface::Metrics)?;
        control.tell_addresses(&bound);
        Ok((control, bound))
    }

    fn tell_addresses(&self, bound: &Bound) {
        for (listener, address) in &bound.addresses {
            tracing::info!(%address, kind = ?listener.kind, "listening");
        }
        tracing::info!(admin = ?bound.admin, metrics = ?bound.metrics, workers = self.workers.len(), "ready");
    }

    fn watch_metrics(&self) {
        let [endpoints, breakers] = outliers::watch(&self.metrics, &self.live);
        let app = self.checks.app.clone();
        let app_healthy = self.metrics.gauges(
            "pilotfish_app_healthy",
            "1 if the app passes its health check.",
            &[],
            move |emit| app.is_healthy().into_iter().for_each(|well| emit(&[], well.into())),
        );
        let log = self.metrics.watch_access_log(self.log.borrow().stats.clone());
        let bulkheads = bulkheads::watch(&self.metrics, &self.live);
        let live = self.live.clone();
        let keys = self.metrics.gauges(
            "pilotfish_rate_limit_keys",
            "Keys that a rate limit counts by at present.",
            &["limit"],
            move |emit| {
                for limit in live.current().rate_limits.iter() {
                    let keys = limit.state.keys().map(|(keys, _)| keys as f64);
                    keys.into_iter().for_each(|keys| emit(&[&limit.name], keys));
                }
            },
        );
        let live = self.live.clone();
        let evicted = self.metrics.counters(
            "pilotfish_rate_limit_evicted_total",
            "Keys that a rate limit forgot before their time, for want of room.",
            &["limit"],
            move |emit| {
                for limit in live.current().rate_limits.iter() {
                    let evicted = limit.state.keys().map(|(_, evicted)| evicted as f64);
                    evicted.into_iter().for_each(|evicted| emit(&[&limit.name], evicted));
                }
            },
        );
        let live = self.live.clone();
        let redis = self.metrics.gauges(
            "pilotfish_rate_limit_redis_up",
            "1 if the Redis of the rate limits answers every worker.",
            &["redis"],
            move |emit| {
                let snapshot = live.current();
                if let Some(redis) = snapshot.redis.as_ref().filter(|_| snapshot.uses_redis()) {
                    emit(&[&redis.settings.address.to_string()], redis.is_up().into());
                }
            },
        );
        for result in [endpoints, breakers, app_healthy, log, keys, evicted, redis]
            .into_iter()
            .chain(bulkheads)
            .chain(discovery::metrics::watch(&self.metrics, &self.discovery.standings))
        {
            // Only a name that is there twice is refused, and these are registered once.
            if let Err(error) = result {
                tracing::error!(%error, "a metric is missing");
            }
        }
    }

    /// Sockets for `listeners`, one for each worker. All or none.
    fn bind(
        &self,
        listeners: &[Listener],
    ) -> Result<Vec<(Listener, Vec<TcpListener>)>, StartError> {
        let ours: HashSet<SocketAddr> = self.listeners.borrow().values().copied().collect();
        let mut bound = Vec::new();
        for listener in listeners {
            match bind_all(listener.address, self.workers.len(), &ours) {
                Ok(sockets) => bound.push((*listener, sockets)),
                Err(error) if without_ipv6(&error, listener.address) => {
                    tracing::warn!(address = %listener.address, %error, "no IPv6 here; going without");
                }
                Err(error) => {
                    return Err(StartError::Bind(cannot_bind(
                        listener.address,
                        &error,
                        match listener.kind {
                            ListenerKind::Inbound => "inbound.listen",
                            ListenerKind::Outbound => "outbound.listen",
                            ListenerKind::Port => "outbound.ports",
                        },
                    )));
                }
            }
        }
        Ok(bound)
    }

    fn listen(&self, bound: Vec<(Listener, Vec<TcpListener>)>) {
        for (listener, sockets) in bound {
            let address = sockets.first().and_then(|socket| socket.local_addr().ok());
            self.listeners.borrow_mut().insert(listener, address.unwrap_or(listener.address));
            for (worker, socket) in self.workers.iter().zip(sockets) {
                // A worker that is gone has reported why.
                let _ = worker.send(Command::Listen(listener, socket));
            }
        }
    }

    fn unlisten(&self, gone: impl Fn(&Listener) -> bool) {
        self.listeners.borrow_mut().retain(|listener, _| {
            if gone(listener) {
                for worker in &self.workers {
                    let _ = worker.send(Command::Unlisten(*listener));
                }
            }
            !gone(listener)
        });
    }

    /// The log as `settings` want it; the sink for the workers.
    fn open_log(
        &self,
        settings: Option<&AccessLog>,
    ) -> Result<Option<(LogSink, crate::telemetry::access_log::Format)>, StartError> {
        let mut log = self.log.borrow_mut();
        let opened = match settings {
            None => None,
            Some(settings) => {
                let opened = LogWriter::spawn(settings.target.clone(), log.stats.clone());
                let (writer, sink) = opened.map_err(|error| {
                    StartError::Bind(format!(
                        "telemetry.access_log: cannot write to {:?}: {error}; check the path and its permissions",
                        settings.target
                    ))
                })?;
                Some((writer, (sink, settings.format)))
            }
        };
        log.settings = settings.cloned();
        let (writer, sink) = opened.unzip();
        // The old thread ends by itself when the last worker has let go of its sink.
        log.writer = writer;
        Ok(sink)
    }

    fn serve_admin(
        self: &Rc<Self>,
        bound: Option<(TcpListener, SocketAddr)>,
        surface: Surface,
    ) -> Result<(), StartError> {
        let Some((listener, _)) = bound else {
            return Ok(());
        };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let handles = Rc::new(self.clone().handles());
        tokio::task::spawn_local(admin::serve(listener, surface, handles, std::future::pending()));
        Ok(())
    }

    /// The way down: each step waits for the one before.
    async fn drain(&self) {
        if self.announcing.leaves() {
            return;
        }
        let drain = self.live.current().drain;
        tracing::info!(linger = ?drain.linger, timeout = ?drain.timeout, "draining");
        // Whoever asks a registry learns it first; then who asks us; then it is waited until both have seen it.
        self.leave_registries().await;
        self.phase.send_replace(Phase::Lingering);
        sleep(drain.linger).await;
        let deadline = clock::now() + drain.timeout;
        self.phase.send_replace(Phase::ClosingInbound);
        self.unlisten(|listener| listener.kind == ListenerKind::Inbound);
        self.until_closed(Some(Direction::Inbound), deadline).await;
        // The app may call others for as long as it lives, to finish or to say goodbye. It is gone when
        // its connections are; one that stays gets the last quarter of the time for being closed gently.
        let gently = deadline - drain.timeout / 4;
        self.until_closed(Some(Direction::Outbound), gently).await;
        self.phase.send_replace(Phase::ClosingAll);
        self.unlisten(|_| true);
        self.until_closed(None, deadline).await;
        self.phase.send_replace(Phase::Cut);
        self.until_closed(None, clock::now() + Duration::from_secs(1)).await;
    }

    /// Waits until no connection of `side` is open; of both without one.
    async fn until_closed(&self, side: Option<Direction>, deadline: clock::Instant) {
        const LOOK: Duration = Duration::from_millis(10);
        // What was accepted last is counted when its worker has gone round once.
        let mut quiet = 0;
        while clock::now() < deadline && quiet < 5 {
            quiet = if self.loads.connections(side) == 0 { quiet + 1 } else { 0 };
            sleep(LOOK).await;
        }
    }

    /// Ends the workers and the log.
    fn end(&self) {
        for worker in &self.workers {
            let _ = worker.send(Command::End);
        }
        for thread in self.threads.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
        if let Some(writer) = self.log.borrow_mut().writer.take() {
            writer.close(LOG_PATIENCE);
        }
    }
}

/// Follows what the owner, the signals and the file ask, until the proxy has ended.
pub async fn run(control: Rc<Control>, mut owner: mpsc::UnboundedReceiver<Ask>) {
    let Some(mut asked) = control.asked.take() else {
        return;
    };
    let mut signals = Signals::new(control.signals);
    let file = control.origin.path().map(|path| Watch::new(path, &control.read.borrow()));
    let mut file = file;
    let mut draining: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        let ask = tokio::select! {
            Some(ask) = owner.recv() => ask,
            Some(ask) = asked.recv() => ask,
            ask = signals.next() => match ask {
                Some(ask) => ask,
                None => {
                    if let Some(log) = &control.log.borrow().writer {
                        log.reopen();
                    }
                    continue;
                }
            },
            () = changed(&mut file) => {
                control.reload_if_new();
                continue;
            }
            () = ended(&mut draining) => break,
        };
        match ask {
            Ask::Reload(answer) => {
                drop(answer.send(control.reload()));
                // What it has read may be replaced before the watch looks again.
                if let Some(watch) = &mut file {
                    watch.forget();
                }
            }
            Ask::Shutdown if draining.is_some() => {
                tracing::warn!("asked twice: ending at once");
                control.phase.send_replace(Phase::Cut);
                break;
            }
            Ask::Shutdown => {
                let control = control.clone();
                let drain = async move {
                    control.drain().await;
                    // A drain that `/drain` began goes on by itself.
                    let mut phase = control.phase.subscribe();
                    let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
                };
                draining = Some(tokio::task::spawn_local(drain));
            }
        }
    }
    control.end();
    tracing::info!("ended");
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn ended(task: &mut Option<tokio::task::JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}
