//! A worker: one thread with one single-threaded runtime, and what it owns. A connection lives and
//! dies on its worker, so that nothing here needs a lock; `Rc` makes the compiler see to it.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::HeaderValue;
use tokio::sync::{mpsc, watch};

use crate::alarm::Alarms;
use crate::balance::{Cursor, NonePicked, Panic, Pick, Picked};
use crate::clock::Instant;
use crate::config::live::{Live, Reader};
use crate::config::snapshot::{Destination, Listener, Snapshot};
use crate::drain::{Drain, Phase};
use crate::endpoint::{Address, Endpoint};
use crate::lag::LagProbe;
use crate::listen;
use crate::memory::Tidying;
use crate::policy::RateLimit;
use crate::policy::rate_limit::shared;
use crate::policy::shed::Pressure;
use crate::policy::slots::Slots;
use crate::proxy::connection;
use crate::proxy::upload::RequestBody;
use crate::redis::Link;
use crate::registry::demand::Demands;
use crate::telemetry::Direction;
use crate::telemetry::access_log::{Format, Record};
use crate::telemetry::log_writer::LogSink;
use crate::telemetry::metrics::{Handle, Recorder, WorkerShard};
use crate::telemetry::picks::Picks;
use crate::telemetry::worker_log::WorkerLog;
use crate::upstream::Pool;

/// What control tells a worker.
pub enum Command {
    Listen(Listener, std::net::TcpListener),
    Unlisten(Listener),
    /// A connection that another worker has accepted, because this one has fewer.
    Adopt(Listener, std::net::TcpStream, ConnectionGuard),
    /// The access log goes to another place from now on.
    Log(Option<(LogSink, Format)>),
    /// Another worker waits for a connection that one of these slots is for.
    MakeRoom(Arc<Slots>),
    /// Look at the published snapshot even if no request comes, and let go of what is no more in it.
    Refresh,
    /// Stop, whatever is in progress.
    End,
}

/// How busy each worker is, so that connections can be spread by load.
#[derive(Clone)]
pub struct Loads(Arc<[Load]>);

#[derive(Default)]
struct Load {
    /// By direction. A connection that is handed over counts for its new worker at once.
    connections: [AtomicUsize; 2],
    requests: AtomicUsize,
    /// Written by the worker alone. The padding keeps two workers' numbers off one cache line.
    _padding: [u64; 13],
}

impl Loads {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Load::default()).collect())
    }

    /// Open connections of one side, or of both.
    pub fn connections(&self, side: Option<Direction>) -> usize {
        let of = |load: &Load| match side {
            Some(side) => load.connections[side.index()].load(Relaxed),
            None => load.connections(),
        };
        self.0.iter().map(of).sum()
    }

    pub fn requests(&self) -> usize {
        self.0.iter().map(|load| load.requests.load(Relaxed)).sum()
    }
}

impl Load {
    fn connections(&self) -> usize {
        self.connections.iter().map(|count| count.load(Relaxed)).sum()
    }
}

pub struct Worker {
    id: usize,
    reader: RefCell<Reader>,
    view: RefCell<Rc<View>>,
    pub pool: Rc<Pool<RequestBody>>,
    pub random: RefCell<fastrand::Rng>,
    /// What this process writes in `Via` (RFC 9110 7.6.3).
    pub via: HeaderValue,
    pub recorder: Rc<Recorder>,
    pub log: Rc<WorkerLog>,
    pub drain: Rc<Drain>,
    pub tidying: Rc<Tidying>,
    pub lag: Rc<LagProbe>,
    pub alarms: Alarms,
    /// What control measures of the process.
    pub pressure: Arc<Pressure>,
    /// Where services are asked for that nobody follows yet.
    pub demands: Demands,
    loads: Loads,
    peers: Vec<mpsc::UnboundedSender<Command>>,
    passthrough: RefCell<HashMap<Address, Arc<Endpoint>>>,
}

/// A snapshot, and what this worker keeps for as long as it is the current one.
pub struct View {
    pub snapshot: Arc<Snapshot>,
    /// By the slot of the group.
    turns: RefCell<Vec<Turn>>,
    /// By the slot of the rate limit.
    limit_counts: Box<[LimitCounts]>,
    /// Where a rate limit is counted in Redis.
    pub redis: Option<Rc<Link>>,
    /// What is counted of the picks of each group.
    picks: Vec<Option<Picks>>,
    /// Requests that a split sent to each group.
    splits: Vec<OnceCell<Handle>>,
}

/// What a worker remembers of the picks of one group.
struct Turn {
    cursor: Cursor,
    panic: Panic,
}

/// What one rate limit decided, counted.
pub struct LimitCounts {
    pub allowed: Handle,
    pub limited: Handle,
    /// In shadow mode.
    pub would_limit: Handle,
}

/// What a worker is started with.
pub struct Start {
    pub id: usize,
    pub live: Live,
    pub shard: WorkerShard,
    pub log: Option<(LogSink, Format)>,
    pub phase: watch::Receiver<Phase>,
    pub via: HeaderValue,
    pub loads: Loads,
    pub pressure: Arc<Pressure>,
    pub demands: Demands,
    /// All workers by their ids, this one among them.
    pub peers: Vec<mpsc::UnboundedSender<Command>>,
    pub random: fastrand::Rng,
}

impl View {
    /// What `before` has of the same Redis is taken over.
    fn new(
        snapshot: Arc<Snapshot>,
        before: Option<&Self>,
        random: &mut fastrand::Rng,
        recorder: &Recorder,
    ) -> Rc<Self> {
        let turn = |_| Turn { cursor: Cursor::starting_at(random), panic: Panic::default() };
        let turns = (0..snapshot.group_slots).map(turn).collect();
        let counts = |limit: &Arc<RateLimit>| {
            let of = |decision| recorder.rate_limits.handle([&limit.name, decision]);
            LimitCounts {
                allowed: of("allowed"),
                limited: of("limited"),
                would_limit: of("would_limit"),
            }
        };
        let limit_counts = snapshot.rate_limits.iter().map(counts).collect();
        let mut picks: Vec<_> = (0..snapshot.group_slots).map(|_| None).collect();
        for cluster in &snapshot.clusters {
            for group in cluster.groups.iter() {
                picks[group.slot as usize] = Picks::of(recorder, &cluster.name, &group.balancer);
            }
        }
        let redis = snapshot.redis.as_ref().filter(|_| snapshot.uses_redis()).map(|redis| {
            let link = before.and_then(|before| before.redis.as_ref());
            let link = link.filter(|link| Arc::ptr_eq(link.redis(), redis)).cloned();
            link.unwrap_or_else(|| shared::link(redis))
        });
        let splits = (0..snapshot.group_slots).map(|_| OnceCell::new()).collect();
        Rc::new(Self { snapshot, turns: RefCell::new(turns), limit_counts, redis, picks, splits })
    }

    pub fn limit_counts(&self, limit: &RateLimit) -> &LimitCounts {
        &self.limit_counts[limit.slot as usize]
    }

    /// Counts a request that a split has sent there.
    pub fn count_split(&self, recorder: &Recorder, to: Destination) {
        let group = self.snapshot.group(to);
        let handle = || {
            let subset = group.selector.to_string();
            recorder.splits.handle([&self.snapshot.cluster(to).name, &subset])
        };
        self.splits[group.slot as usize].get_or_init(handle).inc();
    }

    /// An endpoint for one attempt, another one than those `tried` where there is one. `wish` is what
    /// the balancer of the group wants to know of the request, see [`Balancer::wish`].
    ///
    /// # Errors
    /// There is nobody to ask.
    ///
    /// [`Balancer::wish`]: crate::balance::Balancer::wish
    pub fn pick(
        &self,
        to: Destination,
        tried: &[u32],
        wish: Option<u64>,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Result<Picked, NonePicked> {
        let slot = self.snapshot.group(to).slot as usize;
        let pick = self.picking(to, tried, wish, now);
        let Turn { cursor, panic } = &mut self.turns.borrow_mut()[slot];
        let mut picked = pick.choose(cursor, panic, random)?;
        if let Some(picks) = &self.picks[slot] {
            picked.note = picks.count(pick.balancer, picked.index, wish);
        }
        Ok(picked)
    }

    /// Whether [`View::pick`] would find another one than those `tried`, which is well.
    pub fn has_other(&self, to: Destination, tried: &[u32], now: Instant) -> bool {
        self.picking(to, tried, None, now).has_other()
    }

    fn picking<'a>(
        &'a self,
        to: Destination,
        tried: &'a [u32],
        wish: Option<u64>,
        now: Instant,
    ) -> Pick<'a> {
        let cluster = self.snapshot.cluster(to);
        let group = self.snapshot.group(to);
        Pick { balancer: &group.balancer, availability: &cluster.availability, tried, wish, now }
    }
}

impl Worker {
    /// What serves connections on the runtime of this thread, a local one.
    pub fn new(start: Start) -> Rc<Self> {
        let mut random = start.random;
        let mut reader = start.live.reader();
        let recorder = Recorder::new(start.shard);
        let view = View::new(reader.read().clone(), None, &mut random, &recorder);
        let drain = Rc::<Drain>::default();
        let follower = drain.clone();
        tokio::task::spawn_local(async move { follower.follow(start.phase).await });
        Rc::new(Self {
            id: start.id,
            pool: Pool::new(view.snapshot.limits.pool, recorder.clone()),
            reader: RefCell::new(reader),
            view: RefCell::new(view),
            random: RefCell::new(random),
            recorder,
            via: start.via,
            log: WorkerLog::new(start.log),
            drain,
            tidying: Rc::default(),
            lag: Rc::default(),
            alarms: Alarms::default(),
            pressure: start.pressure,
            demands: start.demands,
            loads: start.loads,
            peers: start.peers,
            passthrough: RefCell::default(),
        })
    }

    /// The current snapshot. Read once for a request.
    pub fn view(&self) -> Rc<View> {
        let mut reader = self.reader.borrow_mut();
        let current = reader.read();
        if !Arc::ptr_eq(current, &self.view.borrow().snapshot) {
            let before = self.view.borrow().clone();
            let random = &mut self.random.borrow_mut();
            let view = View::new(current.clone(), Some(&before), random, &self.recorder);
            self.pool.set_limits(view.snapshot.limits.pool);
            *self.view.borrow_mut() = view;
        }
        self.view.borrow().clone()
    }

    /// The endpoint of a host that the configuration does not have.
    pub fn passthrough(&self, address: Address) -> Arc<Endpoint> {
        /// Enough for the hosts that an app calls; forgetting one costs a connection.
        const KEPT: usize = 1024;
        let mut known = self.passthrough.borrow_mut();
        if let Some(endpoint) = known.get(&address) {
            return endpoint.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let endpoint = Arc::new(Endpoint::new(address.clone(), Arc::default()));
        known.insert(address, endpoint.clone());
        endpoint
    }

    /// Has an idle connection closed that has one of `slots`, here or by another worker, for who waits.
    pub fn make_room(&self, slots: &Arc<Slots>) {
        if self.pool.make_room(slots) {
            return;
        }
        let others = self.peers.iter().enumerate().filter(|(id, _)| *id != self.id);
        for (_, peer) in others {
            // One that is gone has no connections.
            let _ = peer.send(Command::MakeRoom(slots.clone()));
        }
    }

    /// Counts a request for as long as the guard lives; none where the proxy has too many.
    pub fn admit_request(self: &Rc<Self>, limit: usize) -> Option<RequestGuard> {
        let own = &self.loads.0[self.id].requests;
        let count = own.load(Relaxed);
        // The share of this worker is free; beyond it the sum decides.
        if count >= limit / self.loads.0.len() && self.loads.requests() >= limit {
            return None;
        }
        own.store(count + 1, Relaxed);
        Some(RequestGuard(self.clone()))
    }

    /// The worker for a new connection, which counts there from now on: the one with the fewest, this
    /// one where it is one of them. None is this worker.
    pub fn place(
        &self,
        side: Direction,
    ) -> (ConnectionGuard, Option<&mpsc::UnboundedSender<Command>>) {
        let count = |id: usize| self.loads.0[id].connections();
        let least = (0..self.peers.len()).min_by_key(|id| (count(*id), *id != self.id));
        let id = least.unwrap_or(self.id);
        self.loads.0[id].connections[side.index()].fetch_add(1, Relaxed);
        let guard = ConnectionGuard { loads: self.loads.clone(), id, side };
        (guard, (id != self.id).then(|| &self.peers[id]))
    }

    /// Connections of all workers.
    pub fn connections(&self) -> usize {
        self.loads.connections(None)
    }

    /// Writes a line to the access log, which is handed on soon: one timer for all lines of that time.
    pub fn write_log(&self, record: &Record<'_>) {
        if self.log.log(record) {
            tokio::task::spawn_local(self.log.clone().flush_soon());
        }
    }
}

pub struct RequestGuard(Rc<Worker>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let own = &self.0.loads.0[self.0.id].requests;
        own.store(own.load(Relaxed) - 1, Relaxed);
    }
}

/// Counts a connection for as long as it lives.
pub struct ConnectionGuard {
    loads: Loads,
    id: usize,
    side: Direction,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.loads.0[self.id].connections[self.side.index()].fetch_sub(1, Relaxed);
    }
}

/// Starts the thread of a worker. It ends with [`Command::End`].
///
/// # Errors
/// The system gave no thread or no runtime.
pub fn spawn(
    start: Start,
    commands: mpsc::UnboundedReceiver<Command>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let (ready, readiness) = std::sync::mpsc::sync_channel(1);
    let thread =
        std::thread::Builder::new().name(format!("worker-{}", start.id)).spawn(move || {
            // They only resolve names; hundreds of them behind a resolver that hangs help nobody.
            const BLOCKING_THREADS: usize = 8;
            let built = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .build_local(Default::default());
            // Whoever starts us is waiting for one of the two.
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            runtime.block_on(async move { run(Worker::new(start), commands).await });
            // Not waiting for a name that is being resolved.
            runtime.shutdown_background();
        })?;
    readiness.recv().map_err(std::io::Error::other)??;
    Ok(thread)
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut listeners = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(listener, socket) => {
                match listen::open(&worker, listener, socket, connection::spawn) {
                    Ok(open) => drop(listeners.insert(listener, open)),
                    Err(error) => {
                        tracing::error!(%error, address = %listener.address, "cannot listen")
                    }
                }
            }
            Command::Unlisten(listener) => drop(listeners.remove(&listener)),
            Command::Adopt(listener, socket, counted) => {
                listen::adopt(&worker, listener, socket, counted, connection::spawn);
            }
            Command::Log(output) => worker.log.switch(output),
            Command::MakeRoom(slots) => drop(worker.pool.make_room(&slots)),
            Command::Refresh => {
                worker.view();
                worker.pool.forget(|state| state.is_retired());
            }
            Command::End => break,
        }
    }
    worker.log.flush();
}

/// One worker for each core that we may use, a quota of the cgroup rounded up.
pub fn default_count() -> usize {
    let cores = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    let quota =
        std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|text| quota(&text));
    cores.min(quota.unwrap_or(cores)).max(1)
}

/// The cores that `cpu.max` of a cgroup (v2) grants: `max 100000`, or microseconds in a period.
fn quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up() {
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("150000 100000\n"), Some(2));
        assert_eq!(quota("100000 100000\n"), Some(1));
        assert_eq!(quota("5000 100000\n"), Some(1));
        assert_eq!(quota("nonsense"), None);
    }
}
