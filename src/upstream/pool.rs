//! The connections of one worker to its endpoints. HTTP/1: the one used last is used first, so that
//! surplus ones age out. HTTP/2: the one with the fewest streams.
//!
//! Keyed by the identity of an endpoint's [`State`], which outlives reloads; an entry holds the
//! `Arc`, so that the key cannot be taken over by another endpoint.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

use super::connect::{ConnectError, ConnectErrorKind, connect};
use super::lease::{Lease, Origin, Rest, Sender};
use super::{http1, http2};
use crate::clock::{self, Instant};
use crate::endpoint::{Endpoint, Held, State};
use crate::policy::slots::Slots;
use crate::telemetry::metrics::Recorder;

/// What is spoken to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    Http1,
    Http2,
}

/// Whether an HTTP/1 connection that has been idle will do. (HTTP/2 tells by GOAWAY that it will not.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// How long an HTTP/1 connection may wait for its next request. Short, because of the race with
    /// an upstream that closes it at that moment.
    pub idle: Duration,
    pub max_idle_per_endpoint: usize,
    /// Streams on one HTTP/2 connection before another one is opened.
    pub max_streams: u32,
    pub max_head: usize,
}

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;
type Key = (usize, Wire);

fn key(state: &Arc<State>, wire: Wire) -> Key {
    (Arc::as_ptr(state) as usize, wire)
}

pub struct Pool<B> {
    hosts: RefCell<HashMap<Key, Host<B>, foldhash::fast::RandomState>>,
    limits: Cell<PoolLimits>,
    sweeping: Cell<bool>,
    recorder: Rc<Recorder>,
}

struct Host<B> {
    state: Arc<State>,
    idle: Vec<Idle<B>>,
    multiplexed: Vec<Rc<http2::Connection>>,
    dial: Rc<Dial>,
}

struct Idle<B> {
    connection: http1::Connection<B>,
    expires: Instant,
    _counted: IdleCount,
}

/// Counts an idle connection in the gauge for as long as it lives, however it is taken out.
struct IdleCount(Rc<Recorder>);

impl IdleCount {
    fn new(recorder: &Rc<Recorder>) -> Self {
        recorder.pool_idle.inc();
        Self(recorder.clone())
    }
}

impl Drop for IdleCount {
    fn drop(&mut self) {
        self.0.pool_idle.dec();
    }
}

/// One HTTP/2 dial at a time for an endpoint; the others wait for it and share its failure.
#[derive(Default)]
struct Dial {
    lock: tokio::sync::Mutex<()>,
    failed: RefCell<Option<(Instant, ConnectError)>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    pub fn new(limits: PoolLimits, recorder: Rc<Recorder>) -> Rc<Self> {
        Rc::new(Self {
            hosts: RefCell::default(),
            limits: Cell::new(limits),
            sweeping: Cell::new(false),
            recorder,
        })
    }

    pub fn set_limits(&self, limits: PoolLimits) {
        self.limits.set(limits);
    }

    /// HTTP/1 connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.hosts.borrow().values().map(|host| host.idle.len()).sum()
    }

    /// A connection to `endpoint`: a live one of ours, or a new one, which `admit` finds room for.
    ///
    /// # Errors
    /// Why no connection could be made; nothing of a request was written.
    pub async fn checkout(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        wire: Wire,
        connect_timeout: Duration,
        reuse: Reuse,
        now: Instant,
        admit: impl AsyncFnOnce() -> Result<Held, ConnectError>,
    ) -> Result<Lease<B>, ConnectError> {
        if (reuse, wire) != (Reuse::Not, Wire::Http1)
            && let Some(sender) = self.reuse(key(&endpoint.state, wire), now)
        {
            return Ok(self.lease(endpoint, sender, Origin::AtHand));
        }
        match wire {
            // Boxed: most requests need no new connection, and should not have room for the making of one.
            Wire::Http1 => {
                let (held, stream) = Box::pin(async {
                    let held = admit().await?;
                    Ok::<_, ConnectError>((
                        held,
                        connect(&endpoint.address, connect_timeout).await?,
                    ))
                })
                .await?;
                let connection = http1::Connection::new(stream, self.limits.get().max_head);
                Ok(self.lease(endpoint, Sender::Http1(connection.holding(held)), Origin::Opened))
            }
            Wire::Http2 => Box::pin(self.open_http2(endpoint, connect_timeout, now, admit)).await,
        }
    }

    /// Closes the idle connections of endpoints for which `gone` holds.
    pub fn forget(&self, gone: impl Fn(&State) -> bool) {
        self.hosts.borrow_mut().retain(|_, host| !gone(&host.state));
    }

    /// Closes an idle connection that has one of `slots`, for someone who waits for one. Whether there was
    /// one.
    pub fn make_room(&self, slots: &Arc<Slots>) -> bool {
        let mut hosts = self.hosts.borrow_mut();
        hosts.values_mut().any(|host| {
            let idle = |idle: &Idle<B>| idle.connection.with_held(|held| held.is_of(slots));
            if let Some(at) = host.idle.iter().position(idle) {
                drop(host.idle.remove(at));
                return true;
            }
            let unused = |one: &Rc<http2::Connection>| one.active() == 0 && one.held.is_of(slots);
            let at = host.multiplexed.iter().position(unused);
            at.map(|at| drop(host.multiplexed.remove(at))).is_some()
        })
    }

    /// Closes every idle connection: descriptors are scarce, or the worker ends.
    pub fn close_idle(&self) {
        for host in self.hosts.borrow_mut().values_mut() {
            host.idle.clear();
            host.multiplexed.retain(|connection| connection.active() > 0);
        }
    }

    fn lease(self: &Rc<Self>, endpoint: &Endpoint, sender: Sender<B>, origin: Origin) -> Lease<B> {
        let state = endpoint.state.clone();
        Lease { pool: self.clone(), state, sender, rest: Rest::Nothing, origin, keep_alive: None }
    }

    fn host<R>(&self, state: &Arc<State>, wire: Wire, run: impl FnOnce(&mut Host<B>) -> R) -> R {
        let mut hosts = self.hosts.borrow_mut();
        run(hosts.entry(key(state, wire)).or_insert_with(|| Host {
            state: state.clone(),
            idle: Vec::new(),
            multiplexed: Vec::new(),
            dial: Rc::default(),
        }))
    }

    fn reuse(&self, key: Key, now: Instant) -> Option<Sender<B>> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.get_mut(&key)?;
        match key.1 {
            Wire::Http1 => {
                while let Some(idle) = host.idle.pop() {
                    if idle.expires > now && idle.connection.is_quiet() {
                        return Some(Sender::Http1(idle.connection));
                    }
                }
                None
            }
            Wire::Http2 => {
                host.multiplexed.retain(|one| one.is_open() && !one.is_spent());
                let limit = self.limits.get().max_streams;
                let roomy = host.multiplexed.iter().filter(|connection| connection.has_room(limit));
                let least = roomy.min_by_key(|connection| connection.active())?;
                Some(Sender::Http2(least.place()))
            }
        }
    }

    async fn open_http2(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        limit: Duration,
        asked: Instant,
        admit: impl AsyncFnOnce() -> Result<Held, ConnectError>,
    ) -> Result<Lease<B>, ConnectError> {
        let dial = self.host(&endpoint.state, Wire::Http2, |host| host.dial.clone());
        let _turn = dial.lock.lock().await;
        if let Some(sender) = self.reuse(key(&endpoint.state, Wire::Http2), clock::now()) {
            return Ok(self.lease(endpoint, sender, Origin::Joined));
        }
        if let Some((at, error)) = &*dial.failed.borrow()
            && *at >= asked
        {
            return Err(error.clone());
        }
        let opened = match admit().await {
            Ok(held) => self.handshake_http2(endpoint, limit, held).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(connection) => {
                let sender = Sender::Http2(connection.place());
                self.host(&endpoint.state, Wire::Http2, |host| host.multiplexed.push(connection));
                self.sweep_soon();
                Ok(self.lease(endpoint, sender, Origin::Opened))
            }
            Err(error) => {
                *dial.failed.borrow_mut() = Some((clock::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn handshake_http2(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
        held: Held,
    ) -> Result<Rc<http2::Connection>, ConnectError> {
        let failed =
            |text: String| ConnectError::new(ConnectErrorKind::Handshake, &endpoint.address, text);
        let stream = connect(&endpoint.address, limit).await?;
        let handshake = http2::Connection::open(stream, self.limits.get().max_head, held);
        tokio::time::timeout(limit, handshake)
            .await
            .map_err(|_| failed(format!("no HTTP/2 handshake within {limit:?}")))?
            .map_err(|error| failed(error.to_string()))
    }

    pub(super) fn put_idle(
        self: &Rc<Self>,
        state: &Arc<State>,
        connection: http1::Connection<B>,
        idle: Duration,
        now: Instant,
    ) {
        if connection.with_held(Held::is_wanted) {
            // Its place goes to who waits for one, maybe on another worker.
            return;
        }
        let limits = self.limits.get();
        connection.shrink();
        self.host(state, Wire::Http1, |host| {
            host.idle.push(Idle {
                connection,
                expires: now + idle.min(limits.idle),
                _counted: IdleCount::new(&self.recorder),
            });
            if host.idle.len() > limits.max_idle_per_endpoint {
                host.idle.remove(0);
            }
        });
        self.sweep_soon();
    }

    /// Closes what expired, once a second for as long as anything waits: an idle worker has no timer.
    fn sweep_soon(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.sweep(clock::now()) {
                    pool.sweeping.set(false);
                    return;
                }
            }
        });
    }

    fn sweep(&self, now: Instant) -> bool {
        /// An HTTP/2 connection is cheap to keep and has pings, so it waits longer than HTTP/1.
        const HTTP2_IDLE: Duration = Duration::from_secs(300);
        let mut hosts = self.hosts.borrow_mut();
        for host in hosts.values_mut() {
            host.idle.retain(|idle| idle.expires > now && idle.connection.is_quiet());
            host.multiplexed.retain(|connection| {
                connection.is_open() && !connection.is_idle_for(HTTP2_IDLE, now)
            });
        }
        // A dial in progress holds the `Rc`, so its turn is not lost.
        hosts.retain(|_, host| {
            !host.idle.is_empty()
                || !host.multiplexed.is_empty()
                || Rc::strong_count(&host.dial) > 1
        });
        !hosts.is_empty()
    }
}
