//! One connection of a client, from its first byte to its last: find out what it speaks, serve it,
//! follow the drain, and carry on as a tunnel where a request asked for one.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::error::Failure;
use super::opening::Tunnel;
use super::report::TcpReport;
use super::target::LastTarget;
use super::tunnel::{self, End, TunnelEnd};
use super::{attempt, forwarded, handle};
use crate::clock;
use crate::config::snapshot::{Destination, Detect, Listener, ListenerKind, Snapshot};
use crate::drain::{CLOSE_IDLE_AFTER, Drain, Phase};
use crate::listen::detect::{self, Detected, Prefixed};
use crate::listen::guard::{GuardedIo, HeadLimits, Shared};
use crate::names::Names;
use crate::policy::Policy;
use crate::stream::Stream;
use crate::telemetry::Direction;
use crate::upstream::pool::buffer;
use crate::worker::{ConnectionGuard, LocalExec, View, Worker};

/// What the requests of one connection share.
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub listener: Listener,
    pub direction: Direction,
    pub last_target: LastTarget,
    peer_text: OnceCell<HeaderValue>,
    /// What watches the framing of an HTTP/1 connection.
    pub guard: Option<Arc<Shared>>,
    /// Set by the request that turns this HTTP/1 connection into a tunnel.
    pub tunnel: RefCell<Option<Tunnel>>,
    /// The proxy is going away: each answer on HTTP/1 is the last one.
    pub closing: Cell<bool>,
    /// Requests that were begun on it.
    begun: Cell<u64>,
    /// Requests that have not ended.
    active: Cell<u32>,
}

impl Connection {
    fn new(
        listener: Listener,
        peer: SocketAddr,
        local: SocketAddr,
        guard: Option<Arc<Shared>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            peer,
            local,
            listener,
            direction: listener.direction(),
            last_target: LastTarget::default(),
            peer_text: OnceCell::new(),
            guard,
            tunnel: RefCell::default(),
            closing: Cell::new(false),
            begun: Cell::new(0),
            active: Cell::new(0),
        })
    }

    /// What `x-forwarded-for` says of this client.
    pub fn peer_text(&self) -> &HeaderValue {
        self.peer_text.get_or_init(|| forwarded::element(self.peer.ip()))
    }

    /// How the client wrote the fields of the request at hand; nothing on HTTP/2, or when asked again.
    pub fn names_of_request(&self) -> Names {
        self.guard.as_ref().map_or_else(Names::default, |guard| guard.take_names())
    }

    /// Has the fields of the answer written like this, where the client's HTTP leaves that open.
    pub fn name_answer(&self, names: Names) {
        if let Some(guard) = &self.guard {
            guard.answer_names(names);
        }
    }

    pub fn request_begins(&self) {
        self.begun.set(self.begun.get() + 1);
        self.active.set(self.active.get() + 1);
    }

    /// To be called once for each [`Connection::request_begins`], when the answer has ended.
    pub fn request_ends(&self, now: clock::Instant) {
        self.active.set(self.active.get() - 1);
        if let Some(guard) = &self.guard {
            guard.response_done(now);
        }
    }

    /// The request at hand makes a tunnel of this connection.
    pub fn decide_upgrade(&self) {
        if let Some(guard) = &self.guard {
            guard.decide_upgrade(true);
        }
    }
}

/// Serves a connection in a task of its own.
pub fn spawn(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: Stream,
    peer: SocketAddr,
    counted: ConnectionGuard,
) {
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let _counted = (counted, worker.recorder.connection_opened(listener.direction()));
        serve(&worker, listener, stream, peer).await;
    });
}

async fn serve(worker: &Rc<Worker>, listener: Listener, mut stream: Stream, peer: SocketAddr) {
    let local = match &stream {
        Stream::Tcp(stream) => stream.local_addr(),
        Stream::Unix(_) => Ok(listener.address),
    };
    let Ok(local) = local else {
        return;
    };
    let view = worker.view();
    // A client that stops reading stops hyper from asking for more, and with it every timer of a body.
    stream.prepare(view.snapshot.limits.write_timeout);
    let Expected { detect, opaque, connect } = expectation(&view.snapshot, listener);
    let limits = view.snapshot.limits;
    let find_out = async {
        match detect {
            Detect::Tcp => (Detected::Opaque, Bytes::new(), None),
            Detect::Http => {
                let (detected, early) = detect::http(&mut stream, limits.detect_timeout).await;
                (detected, early, None)
            }
            Detect::Auto => {
                // A failure is told when the client has said something that has to go there.
                let dial = async { attempt::dial(worker, &view, opaque?, connect).await.ok() };
                let patience =
                    detect::Patience { silence: detect::SILENCE, total: limits.detect_timeout };
                detect::any(&mut stream, patience, dial).await
            }
        }
    };
    let drained = async {
        worker.drain.reached(closing(listener.direction())).await;
        tokio::time::sleep(CLOSE_IDLE_AFTER).await;
    };
    let (detected, early, dialled) = tokio::select! {
        biased;
        found = find_out => found,
        () = drained => return,
    };
    match detected {
        Detected::Gone => {}
        Detected::Http1 => {
            drop((dialled, view));
            serve_http1(worker, listener, stream, early, peer, local).await;
        }
        Detected::Http2 => {
            drop((dialled, view));
            serve_http2(worker, listener, Prefixed::new(early, stream), peer, local).await;
        }
        Detected::Opaque => {
            if let Some(to) = opaque {
                let dialled = match dialled {
                    Some(dialled) => Ok(dialled),
                    None => attempt::dial(worker, &view, to, connect).await,
                };
                let client = End::socket(stream, early);
                serve_tcp(worker, &view, listener.direction(), to, client, dialled).await;
            }
        }
    }
}

struct Expected {
    detect: Detect,
    /// Where what is not HTTP goes.
    opaque: Option<Destination>,
    /// How long the way there may take.
    connect: Duration,
}

/// What may be spoken on a listener.
fn expectation(snapshot: &Snapshot, listener: Listener) -> Expected {
    let (detect, opaque, route) = match listener.kind {
        ListenerKind::Inbound => {
            let inbound = &snapshot.inbound;
            (inbound.protocol, inbound.app, inbound.fallback.as_ref())
        }
        ListenerKind::Outbound => (Detect::Http, None, None),
        ListenerKind::Port => match snapshot.outbound.ports.get(&listener.address) {
            Some(port) => (port.detect, Some(port.destination), Some(&port.service.fallback)),
            None => (Detect::Http, None, None),
        },
    };
    let policy = route.map_or_else(Policy::default, |route| route.policy.clone());
    Expected { detect, opaque, connect: policy.timeouts.connect }
}

async fn serve_http1(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: Stream,
    early: Bytes,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let limits = worker.view().snapshot.limits;
    let shared = Shared::new(clock::now());
    let head_limits = HeadLimits {
        max_head: limits.max_head,
        max_fields: limits.max_headers,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        ..HeadLimits::default()
    };
    let io = GuardedIo::new(stream, early, Arc::new(head_limits), shared.clone());
    let connection = Connection::new(listener, peer, local, Some(shared.clone()));
    let service = {
        let (worker, connection) = (worker.clone(), connection.clone());
        service_fn(move |request| {
            let (worker, connection) = (worker.clone(), connection.clone());
            async move { Ok::<_, Infallible>(handle(worker, connection, request).await) }
        })
    };
    let mut builder = http1::Builder::new();
    // The guard counts fields. hyper's own limit must only be as high, and as long as its default is, it
    // has the room on its stack.
    const DEFAULT_MAX_HEADERS: usize = 100;
    if limits.max_headers > DEFAULT_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    // The case of names is the guard's, too.
    let mut serving = builder
        .auto_date_header(false)
        .max_header_size(limits.max_head.saturating_add(1024))
        .max_buf_size(buffer(limits.max_head))
        .serve_connection(io, service);
    loop {
        tokio::select! {
            biased;
            // Its error has been told to the request that was on it, by its body or its drop.
            _ = &mut serving => break,
            step = next_step(&worker.drain, &connection) => match step {
                Step::Close => {
                    connection.closing.set(true);
                    // hyper would close at once where it has seen nothing of a head that is half here.
                    if shared.is_busy() {
                        Pin::new(&mut serving).graceful_shutdown();
                    }
                }
                Step::CloseIdle => {
                    Pin::new(&mut serving).graceful_shutdown();
                    until_cut(&worker.drain, &mut serving).await;
                    break;
                }
                Step::Cut => return,
            },
        }
    }
    let tunnel = connection.tunnel.take();
    if let Some(tunnel) = tunnel {
        let parts = serving.into_parts();
        // What hyper has read comes before what the guard still holds.
        let (stream, held) = parts.io.into_inner();
        let early = [parts.read_buf, held].concat().into();
        let client = End::socket(stream, early);
        tunnel.run(client, &worker.drain).await;
    }
}

async fn serve_http2(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: Prefixed<Stream>,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let limits = worker.view().snapshot.limits;
    let connection = Connection::new(listener, peer, local, None);
    let service = {
        let (worker, connection) = (worker.clone(), connection.clone());
        service_fn(move |request| {
            let (worker, connection) = (worker.clone(), connection.clone());
            async move { Ok::<_, Infallible>(handle(worker, connection, request).await) }
        })
    };
    let mut serving = http2::Builder::new(LocalExec)
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_concurrent_streams(100)
        .max_header_list_size(limits.max_head as u32)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut serving => return,
        () = worker.drain.reached(closing(connection.direction)) => {}
        () = idle(&connection, limits.idle_timeout) => {}
    }
    // GOAWAY tells the client which streams still count, so nothing is lost between the two.
    Pin::new(&mut serving).graceful_shutdown();
    tokio::select! {
        () = until_cut(&worker.drain, &mut serving) => {}
        // A client that does not answer the ping behind the GOAWAY would stay for ever.
        () = idle(&connection, limits.header_timeout) => {}
    }
}

/// What a connection has to do next for the drain.
enum Step {
    Close,
    CloseIdle,
    Cut,
}

async fn next_step(drain: &Drain, connection: &Connection) -> Step {
    if !connection.closing.get() {
        drain.reached(closing(connection.direction)).await;
        return Step::Close;
    }
    tokio::select! {
        () = tokio::time::sleep(CLOSE_IDLE_AFTER) => Step::CloseIdle,
        () = drain.reached(Phase::Cut) => Step::Cut,
    }
}

/// From when on the connections of a side are closed.
fn closing(side: Direction) -> Phase {
    match side {
        Direction::Inbound => Phase::ClosingInbound,
        Direction::Outbound => Phase::ClosingAll,
    }
}

/// Serves on until the connection ends or is cut.
async fn until_cut<F: Future + Unpin>(drain: &Drain, serving: &mut F) {
    tokio::select! {
        _ = serving => {}
        () = drain.reached(Phase::Cut) => {}
    }
}

/// Ends when the connection had no request for `limit`.
async fn idle(connection: &Connection, limit: Duration) {
    loop {
        let before = connection.begun.get();
        tokio::time::sleep(limit).await;
        if connection.begun.get() == before && connection.active.get() == 0 {
            return;
        }
    }
}

/// Carries a connection that is no HTTP to `to`.
async fn serve_tcp(
    worker: &Rc<Worker>,
    view: &View,
    side: Direction,
    to: Destination,
    client: End,
    dialled: Result<detect::Dialled, Failure>,
) {
    let report = TcpReport::begin(worker, view, side, to);
    let (endpoint, _in_flight, server) = match dialled {
        Ok(dialled) => dialled,
        Err(failure) => return report.failed(&failure),
    };
    report.endpoint(&endpoint);
    let server = End::socket(server, Bytes::new());
    let idle = Some(view.snapshot.limits.idle_timeout);
    let ending = tokio::select! {
        ending = tunnel::run(client, server, idle, &report.tally) => ending,
        () = worker.drain.reached(Phase::Cut) => TunnelEnd::Cut,
    };
    report.finish(ending);
}
