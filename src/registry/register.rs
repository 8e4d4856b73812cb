//! Announces our own app in one registry for as long as it is wished, whatever happens to the registry.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Announcement, Error, Health, Reason, Registry, Renewal};
use crate::backoff::Backoff;
use crate::clock::{self, Instant};

/// What is wished of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The app has not been well yet.
    NotYet,
    Here(Health),
    /// It is taken back, and the task ends.
    Gone,
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After this it is announced anew even if the registry seems to know it: what somebody has changed there, or
/// what is half lost, is as it was again.
const ANEW: Duration = Duration::from_secs(300);
/// No step takes longer.
const WITHIN: Duration = Duration::from_secs(10);
/// How often a failure that goes on is told.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Does what is wished until that is [`Wish::Gone`] and done. `told` hears whether it is announced.
pub async fn announce(
    registry: Rc<dyn Registry>,
    ours: Announcement,
    mut wish: watch::Receiver<Wish>,
    told: impl Fn(bool),
) {
    let Some(every) = registry.renewal() else { return };
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut random = fastrand::Rng::new();
    let mut standing =
        Standing { registry, ours, since: None, tried: false, warn_at: clock::now() };
    told(false);
    loop {
        let wished = *wish.borrow_and_update();
        let done = match wished {
            Wish::NotYet => {
                if wish.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Wish::Gone => {
                standing.leave().await;
                return told(false);
            }
            Wish::Here(health) => standing.keep(health).await,
        };
        let wait = match &done {
            Ok(()) => {
                backoff.reset();
                every.mul_f64(0.9 + 0.1 * random.f64())
            }
            Err(error) => {
                standing.warn(error);
                backoff.next(&mut random)
            }
        };
        told(standing.since.is_some());
        tokio::select! {
            () = sleep(wait) => {}
            changed = wish.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

struct Standing {
    registry: Rc<dyn Registry>,
    ours: Announcement,
    /// When it was announced last; none where it is not.
    since: Option<Instant>,
    /// It may be there, also if nobody said so.
    tried: bool,
    warn_at: Instant,
}

impl Standing {
    async fn keep(&mut self, health: Health) -> Result<(), Error> {
        let is_fresh = |since: &Instant| clock::now() < *since + ANEW;
        if self.since.as_ref().is_some_and(is_fresh) {
            match within(self.registry.renew(&self.ours, health)).await {
                Ok(Renewal::Kept) => return Ok(()),
                Ok(Renewal::Forgotten) => {
                    let (registry, id) = (self.registry.name(), &self.ours.id);
                    tracing::info!(
                        registry,
                        id,
                        "the registry does not know us any more; registering again"
                    );
                    self.since = None;
                }
                Err(error) => return Err(error),
            }
        }
        self.tried = true;
        within(self.registry.register(&self.ours, health)).await?;
        if self.since.replace(clock::now()).is_none() {
            let (registry, id) = (self.registry.name(), &self.ours.id);
            tracing::info!(registry, service = &*self.ours.service, id, "registered");
        }
        Ok(())
    }

    async fn leave(&mut self) {
        if !self.tried {
            return;
        }
        match within(self.registry.deregister(&self.ours)).await {
            Ok(()) => {
                tracing::info!(registry = self.registry.name(), id = self.ours.id, "deregistered")
            }
            Err(error) => {
                let registry = self.registry.name();
                tracing::warn!(
                    registry,
                    "cannot deregister: {error}; the registry has to find out itself"
                );
            }
        }
    }

    fn warn(&mut self, error: &Error) {
        let now = clock::now();
        if now >= self.warn_at {
            self.warn_at = now + WARN_EVERY;
            let registry = self.registry.name();
            tracing::warn!(registry, reason = error.reason.as_str(), "cannot register: {error}");
        }
    }
}

async fn within<T>(done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::new(Reason::Timeout, format!("no answer within {WITHIN:?}"));
    timeout(WITHIN, done).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

#[cfg(test)]
mod tests;
