//! How many questions are under way at a time. An agent takes 200 connections from one address by default
//! (`limits.http_max_conns_per_client`), and there may be other clients on our host.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Blocking queries at a time.
const BLOCKING: usize = 100;
/// First questions about a service at a time, which are answered at once.
const FIRST: usize = 20;
/// So many services have a query of their own, each for as long as it likes.
const FEW: usize = 50;
/// How long a blocking query waits for a change then; the agent adds up to a sixteenth. An agent that hangs is known
/// to when that is over, and what stands between us and it ends what is silent for a minute.
const WAIT: Duration = Duration::from_secs(30);
/// Of more services each has its turn within this.
const ROUND: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(100);

pub struct Turns {
    blocking: Semaphore,
    first: Semaphore,
    services: Cell<usize>,
}

impl Default for Turns {
    fn default() -> Self {
        let (blocking, first) = (Semaphore::new(BLOCKING), Semaphore::new(FIRST));
        Self { blocking, first, services: Cell::new(0) }
    }
}

impl Turns {
    /// A service is followed for as long as this lives.
    pub fn join(&self) -> Member<'_> {
        self.services.set(self.services.get() + 1);
        Member(self)
    }

    /// A turn for a question; none only if there are none any more.
    pub async fn take(&self, is_first: bool) -> Option<SemaphorePermit<'_>> {
        let turns = if is_first { &self.first } else { &self.blocking };
        turns.acquire().await.ok()
    }

    /// How long a blocking query may wait.
    pub fn wait(&self) -> Duration {
        wait(self.services.get())
    }
}

fn wait(services: usize) -> Duration {
    match services {
        0..=FEW => WAIT,
        many => ROUND.mul_f64(BLOCKING as f64 / many as f64).max(SHORTEST),
    }
}

pub struct Member<'a>(&'a Turns);

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.0.services.set(self.0.services.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_services_have_their_turns_within_seconds() {
        assert_eq!(wait(1), WAIT);
        assert_eq!(wait(FEW), WAIT);
        for services in [FEW + 1, 100, 500, 1000, 5000] {
            let round = wait(services).mul_f64((services as f64 / BLOCKING as f64).max(1.0));
            assert!(round <= ROUND * 2, "{services}: {round:?}");
        }
    }

    #[test]
    fn who_leaves_is_not_counted() {
        let turns = Turns::default();
        let members: Vec<_> = (0..1000).map(|_| turns.join()).collect();
        assert_eq!(turns.wait(), Duration::from_millis(500));
        drop(members);
        assert_eq!(turns.wait(), WAIT);
    }
}
