//! Wiring: from a configuration to a running proxy, and what its owner can do with it.

use std::collections::{BTreeSet, HashMap};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::load::{Loaded, Origin, Refused};
use crate::config::snapshot::{Listener, ListenerKind};
use crate::control::{self, Control};

/// How long what is being written to a disk may take when the proxy has ended.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// What a proxy is started with.
pub struct Options {
    pub origin: Origin,
    /// Follow SIGTERM, SIGINT, SIGHUP and SIGUSR1 of this process.
    pub signals: bool,
    /// Sets the level of our own log; a text of directives as `info,pilotfish=debug`.
    pub log_level: Option<LogLevel>,
}

/// The level of our own log, to read and to set while it runs.
pub struct LogLevel {
    pub get: Box<dyn Fn() -> String + Send>,
    pub set: SetLevel,
}

/// Takes directives, or says what is wrong with them.
pub type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// A proxy that takes connections. Dropped, it goes on; [`Running::shutdown`] ends it.
pub struct Running {
    /// Where each listener is in truth: a port of 0 in the configuration is a real one here.
    pub addresses: HashMap<Listener, SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    asks: mpsc::UnboundedSender<Ask>,
    thread: JoinHandle<()>,
}

/// What the owner asks of control.
pub enum Ask {
    Reload(oneshot::Sender<Result<String, String>>),
    /// Drain, then end. Asked twice, end at once.
    Shutdown,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.pretty)]
    Config(Refused),
    #[error("{0}")]
    Bind(String),
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Starts a proxy: binds everything, starts its threads, and returns when it takes connections.
///
/// # Errors
/// The configuration is wrong, an address cannot be bound, or the system gives no thread.
pub fn start(options: Options) -> Result<Running, StartError> {
    let color = std::io::stderr().is_terminal();
    let loaded =
        options.origin.load(&BTreeSet::new(), None, 1, color).map_err(StartError::Config)?;
    run(options, loaded)
}

fn run(options: Options, loaded: Loaded) -> Result<Running, StartError> {
    let (asks, asked) = mpsc::unbounded_channel();
    let (started, starting) = oneshot::channel();
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(StartError::System(error)))),
        };
        runtime.block_on(async move {
            match Control::start(options, loaded) {
                Ok((control, bound)) => {
                    // Whoever started us is waiting for this.
                    let _ = started.send(Ok(bound));
                    control::run(control, asked).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        // A disk or a resolver that hangs does not keep us.
        runtime.shutdown_timeout(LAST_WRITES);
    })?;
    let ended = || std::io::Error::other("the control thread ended while it started");
    let bound = starting.blocking_recv().map_err(|_| ended())??;
    Ok(Running {
        addresses: bound.addresses,
        admin: bound.admin,
        metrics: bound.metrics,
        asks,
        thread,
    })
}

impl Running {
    /// The address of the first listener of a kind.
    pub fn address(&self, kind: ListenerKind) -> Option<SocketAddr> {
        let mut found: Vec<_> =
            self.addresses.iter().filter(|(listener, _)| listener.kind == kind).collect();
        found.sort_by_key(|(listener, _)| listener.address);
        found.first().map(|(_, address)| **address)
    }

    /// Reads the configuration again, as SIGHUP does.
    ///
    /// # Errors
    /// Why the old configuration stays.
    pub async fn reload(&self) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let ended = |_| "the proxy has ended".to_owned();
        self.asks.send(Ask::Reload(answer)).map_err(|_| "the proxy has ended".to_owned())?;
        answered.await.map_err(ended)?
    }

    /// Begins to drain, as SIGTERM does.
    pub fn shutdown(&self) {
        // An error means that it has ended already.
        let _ = self.asks.send(Ask::Shutdown);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// The control thread panicked, which its thread has reported.
    pub fn wait(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}
