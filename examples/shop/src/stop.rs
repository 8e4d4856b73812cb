//! What ends a run before its time: signals, and the end of who has started us.

use std::time::Duration;

use rustix::process::{Pid, Signal, getppid};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Why we are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Signal(Signal),
    /// Who has started us is gone.
    Orphaned,
}

impl Reason {
    /// The exit code that shells know for it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Signal(signal) => 128 + u8::try_from(signal.as_raw()).unwrap_or_default(),
            // As if its terminal had gone.
            Self::Orphaned => 128 + 1,
        }
    }
}

pub struct Stop {
    interrupt: Stream,
    terminate: Stream,
    /// None where we were started to outlive our terminal, as by `nohup`: then we outlive our parent too.
    hangup: Option<Stream>,
    parent: Option<Pid>,
}

impl Stop {
    pub fn watch() -> Result<Self, String> {
        let parent = getppid();
        let on = |kind| signal(kind).map_err(|error| error.to_string());
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = match ignores_hangup(&status) {
            true => None,
            false => Some(on(SignalKind::hangup())?),
        };
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup,
            parent,
        })
    }

    /// Waits until we are to end.
    pub async fn asked(&mut self) -> Reason {
        let watched = self.hangup.is_some();
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Reason::Signal(Signal::INT),
            _ = self.terminate.recv() => Reason::Signal(Signal::TERM),
            _ = hangup => Reason::Signal(Signal::HUP),
            () = orphaned(self.parent), if watched => Reason::Orphaned,
        }
    }
}

/// Nobody tells us, but then another one is our parent.
async fn orphaned(parent: Option<Pid>) {
    while getppid() == parent {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// From `/proc/PID/status`, where the bits of `SigIgn` are the signals from 1 on.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        assert!(ignores_hangup("Name:\tshop\nSigBlk:\t00\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(Reason::Signal(Signal::INT).exit_code(), 130);
        assert_eq!(Reason::Signal(Signal::TERM).exit_code(), 143);
    }
}
