//! One connection of a client, from its first byte to its last: find out what it speaks, serve it,
//! follow the drain, and carry on as a tunnel where a request asked for one.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use ipnet::IpNet;
use tokio::time::sleep;

use super::error::Failure;
use super::opening::Tunnel;
use super::report::TcpReport;
use super::target::LastTarget;
use super::tunnel::{self, End, TunnelEnd};
use super::{attempt, discover, forwarded, http1, http2};
use crate::clock::{self, Instant};
use crate::config::snapshot::{Destination, Detect, Listener, ListenerKind, Snapshot};
use crate::drain::{CLOSE_IDLE_AFTER, Drain, Phase};
use crate::listen::detect::{self, Detected, Prefixed};
use crate::listen::http1::Shared;
use crate::names::Names;
use crate::policy::Policy;
use crate::stream::Stream;
use crate::telemetry::Direction;
use crate::worker::{ConnectionGuard, View, Worker};

/// Between whom a connection is.
#[derive(Debug)]
pub struct Ends {
    pub listener: Listener,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// What the requests of one connection share.
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub listener: Listener,
    pub direction: Direction,
    pub last_target: LastTarget,
    peer_text: OnceCell<HeaderValue>,
    /// What there is of an HTTP/1 connection besides requests.
    pub http1: Option<Rc<Shared>>,
    /// Set by the request that turns this HTTP/1 connection into a tunnel.
    pub tunnel: RefCell<Option<Tunnel>>,
    /// Requests that were begun on it.
    begun: Cell<u64>,
    /// Requests that have not ended.
    active: Cell<u32>,
}

impl Connection {
    pub fn new(ends: &Ends, http1: Option<Rc<Shared>>) -> Rc<Self> {
        let Ends { listener, peer, local } = *ends;
        Rc::new(Self {
            peer,
            local,
            listener,
            direction: listener.direction(),
            http1,
            last_target: LastTarget::default(),
            peer_text: OnceCell::new(),
            tunnel: RefCell::default(),
            begun: Cell::new(0),
            active: Cell::new(0),
        })
    }

    /// The proxies whose word counts for who the client is. None does on the way out.
    pub fn trusted<'a>(&self, view: &'a View) -> &'a [IpNet] {
        match self.direction {
            Direction::Inbound => &view.snapshot.inbound.trusted_proxies,
            Direction::Outbound => &[],
        }
    }

    /// Whether the peer is one of them.
    pub fn is_trusted(&self, view: &View) -> bool {
        let peer = self.peer.ip().to_canonical();
        self.trusted(view).iter().any(|net| net.contains(&peer))
    }

    /// What `x-forwarded-for` says of this client.
    pub fn peer_text(&self) -> &HeaderValue {
        self.peer_text.get_or_init(|| forwarded::element(self.peer.ip()))
    }

    /// How the client wrote the fields of the request at hand; nothing on HTTP/2, or when asked again.
    pub fn names_of_request(&self) -> Names {
        self.http1.as_ref().map_or_else(Names::default, |http1| http1.take_names())
    }

    /// Has the fields of the answer written like this, where the client's HTTP leaves that open.
    pub fn name_answer(&self, names: Names) {
        if let Some(http1) = &self.http1 {
            http1.name_answer(names);
        }
    }

    pub fn request_begins(&self) {
        self.begun.set(self.begun.get() + 1);
        self.active.set(self.active.get() + 1);
    }

    /// To be called once for each [`Connection::request_begins`], when the answer has ended.
    pub fn request_ends(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        if let Some(http1) = &self.http1 {
            http1.answer_ends(now);
        }
    }

    /// Waits until there was no request for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let before = self.begun.get();
            sleep(limit).await;
            if self.begun.get() == before && self.active.get() == 0 {
                return;
            }
        }
    }
}

/// A connection between two requests, or before its first.
pub struct Parked {
    pub stream: Stream,
    /// When it has been silent for too long.
    pub until: Instant,
}

/// Serves a connection in a task of its own.
pub fn spawn(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: Stream,
    peer: SocketAddr,
    counted: ConnectionGuard,
) {
    let local = match &stream {
        Stream::Tcp(stream) => stream.local_addr(),
        Stream::Unix(_) => Ok(listener.address),
    };
    let Ok(local) = local else {
        return;
    };
    let ends = Ends { listener, peer, local };
    let counted = (counted, worker.recorder.connection_opened(listener.direction()));
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        serve(&worker, &ends, stream).await;
        worker.tidying.soon();
        drop(counted);
    });
}

/// The connection's life. What is large of it is boxed, and there only while it is needed: all that there
/// is of an idle connection is this future.
async fn serve(worker: &Rc<Worker>, ends: &Ends, stream: Stream) {
    let limits = worker.view().snapshot.limits;
    // A client that stops reading stops us from asking for more, and with it every timer of a body.
    stream.prepare(limits.write_timeout);
    let new = New::expect(&worker.view().snapshot, ends.listener);
    let mut parked = Parked { stream, until: new.opened + new.silence };
    let mut new = Some(new);
    loop {
        let heard = match &new {
            // Its server may be the one who speaks.
            Some(New { detect: Detect::Tcp, .. }) => Heard::Nothing,
            _ => listen(worker, ends.listener.direction(), &mut parked).await,
        };
        let early = match heard {
            Heard::Bytes(bytes) => bytes,
            Heard::Nothing if new.as_ref().is_some_and(New::may_be_silent) => Bytes::new(),
            Heard::Nothing | Heard::End => return,
        };
        let (stream, early) = match new.take() {
            None => (parked.stream, early),
            Some(new) => match Box::pin(begin(worker, ends, new, parked.stream, early)).await {
                None => return,
                Some(Http::One(stream, early)) => (stream, early),
                Some(Http::Two(stream)) => {
                    return Box::pin(http2::serve(worker, ends, stream)).await;
                }
            },
        };
        match Box::pin(http1::serve(worker, ends, stream, early)).await {
            Some(idle) => {
                worker.tidying.soon();
                parked = idle;
            }
            None => return,
        }
    }
}

/// What came of a connection on which nothing is in progress.
enum Heard {
    Bytes(Bytes),
    /// Nothing until the time was up.
    Nothing,
    /// The client has left, or the drain is at its end.
    End,
}

async fn listen(worker: &Worker, side: Direction, parked: &mut Parked) -> Heard {
    let mut silence = pin!(clock::sleep_until(parked.until));
    let mut closing = pin!(worker.drain.reached(closing(side)));
    let mut cut = pin!(worker.drain.reached(Phase::Cut));
    let mut is_closing = false;
    loop {
        // By reference: it has room for each of its futures twice.
        tokio::select! {
            biased;
            bytes = detect::first_bytes(&mut parked.stream) => {
                return bytes.map_or(Heard::End, Heard::Bytes);
            }
            () = &mut closing, if !is_closing => {
                is_closing = true;
                let close = parked.until.min(clock::now() + CLOSE_IDLE_AFTER);
                clock::reset(silence.as_mut(), close);
            }
            () = &mut cut => return Heard::End,
            () = &mut silence => return Heard::Nothing,
        }
    }
}

/// What speaks HTTP, with the bytes that told so.
enum Http {
    One(Stream, Bytes),
    Two(Prefixed<Stream>),
}

/// Finds out what a new connection speaks. What is no HTTP is served to its end.
async fn begin(
    worker: &Rc<Worker>,
    ends: &Ends,
    new: New,
    mut stream: Stream,
    early: Bytes,
) -> Option<Http> {
    let New { detect, connect, opened, .. } = new;
    let (view, opaque) = match new.opaque {
        None => (worker.view(), None),
        Some(to) => {
            let view = discover::settled_bytes(worker, worker.view(), to).await;
            // Another snapshot may have it at another place.
            let to = New::expect(&view.snapshot, ends.listener).opaque;
            (view, to)
        }
    };
    let peer = ends.peer.ip();
    let limits = view.snapshot.limits;
    let find_out = async {
        let left = |limit: Duration| (opened + limit).saturating_duration_since(clock::now());
        match detect {
            Detect::Tcp => (Detected::Opaque, early, None),
            Detect::Http => {
                let left = left(limits.detect_timeout);
                let (detected, early) = detect::http(&mut stream, early, left).await;
                (detected, early, None)
            }
            Detect::Auto => {
                // A failure is told when the client has said something that has to go there.
                let dial =
                    async { attempt::dial(worker, &view, opaque?, peer, connect).await.ok() };
                let silence = left(detect::SILENCE);
                let patience = detect::Patience { silence, total: limits.detect_timeout };
                detect::any(&mut stream, early, patience, dial).await
            }
        }
    };
    let side = ends.listener.direction();
    let drained = async {
        worker.drain.reached(closing(side)).await;
        sleep(CLOSE_IDLE_AFTER).await;
    };
    let (detected, early, dialled) = tokio::select! {
        biased;
        found = find_out => found,
        () = drained => return None,
    };
    match detected {
        Detected::Gone => {}
        Detected::Http1 => return Some(Http::One(stream, early)),
        Detected::Http2 => return Some(Http::Two(Prefixed::new(early, stream))),
        Detected::Opaque => {
            if let Some(to) = opaque {
                let dialled = match dialled {
                    Some(dialled) => Ok(dialled),
                    None => attempt::dial(worker, &view, to, peer, connect).await,
                };
                let client = End::socket(stream, early);
                serve_tcp(worker, &view, side, to, client, dialled).await;
            }
        }
    }
    None
}

/// A connection of which nothing is known.
struct New {
    opened: Instant,
    detect: Detect,
    /// How long its client may be silent.
    silence: Duration,
    /// Where what is not HTTP goes.
    opaque: Option<Destination>,
    /// How long the way there may take.
    connect: Duration,
}

impl New {
    /// By what may be spoken on its listener.
    fn expect(snapshot: &Snapshot, listener: Listener) -> Self {
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
        let silence = match detect {
            Detect::Http => snapshot.limits.detect_timeout,
            Detect::Auto => snapshot.limits.detect_timeout.min(detect::SILENCE),
            Detect::Tcp => Duration::ZERO,
        };
        let connect = match route {
            Some(route) => route.policy.timeouts.connect,
            None => Policy::default().timeouts.connect,
        };
        Self { opened: clock::now(), detect, silence, opaque, connect }
    }

    fn may_be_silent(&self) -> bool {
        !matches!(self.detect, Detect::Http)
    }
}

/// From when on the connections of a side are closed.
pub fn closing(side: Direction) -> Phase {
    match side {
        Direction::Inbound => Phase::ClosingInbound,
        Direction::Outbound => Phase::ClosingAll,
    }
}

/// Serves on until the connection ends or is cut.
pub async fn until_cut<F: Future + Unpin>(drain: &Drain, serving: &mut F) {
    tokio::select! {
        _ = serving => {}
        () = drain.reached(Phase::Cut) => {}
    }
}

/// Carries a connection that is no HTTP to `to`.
async fn serve_tcp(
    worker: &Rc<Worker>,
    view: &View,
    side: Direction,
    to: Destination,
    client: End,
    dialled: Result<attempt::Dialled, Failure>,
) {
    let mut report = TcpReport::begin(worker, view, side, to);
    let (_in_flight, server) = match dialled {
        Ok(dialled) => report.dialled(dialled),
        Err(failure) => return report.failed(&failure),
    };
    let server = End::socket(server, Bytes::new());
    let idle = Some(view.snapshot.limits.idle_timeout);
    let ending = tokio::select! {
        ending = tunnel::run(client, server, idle, &report.tally) => ending,
        () = worker.drain.reached(Phase::Cut) => TunnelEnd::Cut,
    };
    report.finish(ending);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is kept for an idle connection, besides tokio's own of a task and a socket.
    #[test]
    fn the_future_of_an_idle_connection_is_small() {
        fn size<F: Future>(
            _: impl FnOnce(&'static Rc<Worker>, &'static Ends, Stream) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        assert!(size <= 704, "{size} bytes");
    }
}
