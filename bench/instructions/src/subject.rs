//! What is measured: a worker as the proxy has it, on a runtime of this thread, with its client and its
//! upstreams on the other ends of Unix sockets.
//!
//! Whatever could make two runs differ is taken out: everything but the log's writer happens on one
//! thread in lockstep, the clock is tokio's and goes on by [`TICK`] a turn, and chance has a fixed seed.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use pilotfish::config::live::Live;
use pilotfish::config::load::Origin;
use pilotfish::config::snapshot::ListenerKind;
use pilotfish::drain::Phase;
use pilotfish::proxy::connection;
use pilotfish::registry::demand::Demands;
use pilotfish::stream::Stream;
use pilotfish::telemetry::log_writer::LogWriter;
use pilotfish::telemetry::metrics::Metrics;
use pilotfish::worker::{Loads, Start, Worker};
use tokio::runtime::{Builder, LocalRuntime};
use tokio::sync::{mpsc, watch};

use crate::peers::{Client, Upstream};
use crate::scenario::Scenario;

/// Requests before those that count: connections and buffers are there then.
pub const WARM_UP: usize = 96;
/// How much time passes between two turns of the peers.
const TICK: Duration = Duration::from_micros(50);
/// Turns without an answer after which none will come.
const PATIENCE: usize = 100_000;
const LOG_PATIENCE: Duration = Duration::from_secs(10);

struct Peers {
    client: Client,
    upstreams: [Upstream; 4],
    log: Option<LogWriter>,
    at_once: usize,
    /// Requests that are still to be sent.
    left: usize,
    /// Answers that are still to come.
    open: usize,
    turns: usize,
}

type Turn = fn(&mut Peers, &mut Context<'_>) -> Poll<()>;

/// Sends `requests` through the proxy of `scenario`, after some that do not count.
pub fn run(scenario: &Scenario, requests: usize) {
    // The log has the addresses of Unix sockets: a path of another length would be another figure.
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let text = scenario.config.yaml(directory.path().to_str().expect("a path in UTF-8"));
    let loaded = Origin::Text(text).load(&Default::default(), None, 1, false);
    let snapshot = Arc::new(loaded.unwrap_or_else(|refused| panic!("{}", refused.pretty)).snapshot);
    let log = snapshot.access_log.as_ref().map(|log| {
        let spawned = LogWriter::spawn(log.target.clone(), Arc::default());
        let (writer, sink) = spawned.expect("a log");
        (writer, (sink, log.format))
    });
    let (writer, log) = log.unzip();
    let (_phase, phase) = watch::channel(Phase::Running);
    let (commands, _commands) = mpsc::unbounded_channel();
    let start = Start {
        id: 0,
        live: Live::new(snapshot),
        shard: Metrics::new("0").worker(),
        log,
        phase,
        via: HeaderValue::from_static("1.1 pilotfish-0123456789abcdef"),
        loads: Loads::new(1),
        pressure: Arc::default(),
        demands: Demands::new().0,
        peers: vec![commands],
        random: fastrand::Rng::with_seed(1),
    };
    lockstep(scenario, requests, start, writer, directory.path());
}

fn lockstep(
    scenario: &Scenario,
    requests: usize,
    start: Start,
    log: Option<LogWriter>,
    directory: &Path,
) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(Default::default())
        .expect("a runtime");
    let upstream = |name| Upstream::new(&directory.join(name), scenario.upstream, scenario.answer);
    let (client, server) = UnixStream::pair().expect("two sockets");
    server.set_nonblocking(true).expect("a socket that does not block");
    let mut peers = Peers {
        client: Client::new(client, scenario.client, scenario.request),
        upstreams: ["app", "users-0", "users-1", "users-2"].map(upstream),
        log,
        at_once: scenario.at_once,
        left: 0,
        open: 0,
        turns: 0,
    };
    runtime.block_on(async {
        serve(&Worker::new(start), server, scenario.inbound);
    });
    drive(&runtime, &mut peers, WARM_UP, Peers::turn);
    counted(&runtime, &mut peers, requests);

    let answered: usize = peers.upstreams.iter().map(|upstream| upstream.answered).sum();
    let expected = if scenario.forwarded { WARM_UP + requests } else { 0 };
    assert_eq!(answered, expected, "requests at the upstreams");
}

fn serve(worker: &Rc<Worker>, server: UnixStream, inbound: bool) {
    let kind = if inbound { ListenerKind::Inbound } else { ListenerKind::Outbound };
    let snapshot = worker.view().snapshot.clone();
    let listener = snapshot.listeners.iter().find(|listener| listener.kind == kind);
    let listener = *listener.expect("a listener of this kind");
    let stream = tokio::net::UnixStream::from_std(server).expect("a socket");
    let peer = "127.0.0.1:50000".parse().expect("an address");
    let (counted, _) = worker.place(listener.direction());
    connection::spawn(worker, listener, Stream::Unix(stream), peer, counted);
}

/// Callgrind counts while this runs (by its name), but for [`uncounted`].
#[unsafe(no_mangle)]
#[inline(never)]
fn counted(runtime: &LocalRuntime, peers: &mut Peers, requests: usize) {
    drive(runtime, peers, requests, uncounted);
}

/// The peers' share of a turn of the runtime. Its name tells Callgrind to leave it out; it would tell it
/// to count what is outside of [`counted`].
#[unsafe(no_mangle)]
#[inline(never)]
fn uncounted(peers: &mut Peers, cx: &mut Context<'_>) -> Poll<()> {
    peers.turn(cx)
}

fn drive(runtime: &LocalRuntime, peers: &mut Peers, requests: usize, turn: Turn) {
    peers.left = requests;
    peers.turns = 0;
    runtime.block_on(std::future::poll_fn(|cx| turn(peers, cx)));
}

impl Peers {
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.upstreams.iter_mut().for_each(Upstream::turn);
        if let Some(log) = &self.log {
            // Else it would be chance when the worker gets a buffer back.
            assert!(log.flush(LOG_PATIENCE), "the log is written");
        }
        let answers = self.client.answers();
        if answers > 0 {
            self.open -= answers;
            self.turns = 0;
        }
        if self.open == 0 && self.left == 0 {
            return Poll::Ready(());
        }
        if self.open == 0 {
            self.open = self.at_once.min(self.left);
            self.left -= self.open;
            self.client.send(self.open);
        }
        self.turns += 1;
        assert!(self.turns < PATIENCE, "no answer comes");
        // It wakes this task for the next turn, once the others have had theirs.
        let ticked = pin!(tokio::time::advance(TICK)).poll(cx);
        assert!(ticked.is_pending(), "the others have their turn first");
        Poll::Pending
    }
}
