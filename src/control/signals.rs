//! What the signals of the process ask for.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::app::Ask;

/// The signals of the process.
pub struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
    user1: Option<Signal>,
}

impl Signals {
    pub fn new(wanted: bool) -> Self {
        let open = |kind| {
            let opened = if wanted { signal(kind) } else { return None };
            opened.inspect_err(|error| tracing::warn!(%error, "a signal cannot be followed")).ok()
        };
        Self {
            terminate: open(SignalKind::terminate()),
            interrupt: open(SignalKind::interrupt()),
            hangup: open(SignalKind::hangup()),
            user1: open(SignalKind::user_defined1()),
        }
    }

    /// What a signal asks; nothing for SIGUSR1, which reopens the log.
    pub async fn next(&mut self) -> Option<Ask> {
        async fn of(signal: &mut Option<Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = of(&mut self.terminate) => Some(Ask::Shutdown),
            () = of(&mut self.interrupt) => Some(Ask::Shutdown),
            () = of(&mut self.hangup) => Some(Ask::Reload(oneshot::channel().0)),
            () = of(&mut self.user1) => None,
        }
    }
}
