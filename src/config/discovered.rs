//! A service whose endpoints a registry tells, as requests meet it.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

/// Kept by service for as long as it is followed.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    pub first_answer: Arc<FirstAnswer>,
    /// The first answer, or what there is without one, is in this snapshot.
    pub is_settled: bool,
    /// Where it is followed only because it is called: whether it was since somebody looked.
    pub on_demand: Option<Arc<AtomicBool>>,
    /// It had an instance once, or the configuration names it. Another one is a mere name until then.
    pub exists: bool,
}

impl Discovered {
    /// Its requests are the reason why it is followed.
    pub fn is_called(&self) {
        // Read first: who writes takes the line from the other workers.
        if let Some(called) = &self.on_demand
            && !called.load(Relaxed)
        {
            called.store(true, Relaxed);
        }
    }
}

/// The first answer about a service, for which its first requests wait.
#[derive(Debug, Default)]
pub struct FirstAnswer {
    came: AtomicBool,
    waiting: Notify,
    failure: ArcSwapOption<String>,
}

impl FirstAnswer {
    pub fn has_come(&self) -> bool {
        self.came.load(Acquire)
    }

    /// It is in force. Who sees that it came sees the snapshot that has it.
    pub fn came(&self) {
        self.came.store(true, Release);
        self.waiting.notify_waiters();
    }

    /// Why no registry has told, as long as that is so.
    pub fn failure(&self) -> Option<Arc<String>> {
        self.failure.load_full()
    }

    pub fn note_failure(&self, failure: Option<String>) {
        if self.failure.load().as_deref() != failure.as_ref() {
            self.failure.store(failure.map(Arc::new));
        }
    }

    /// Waits until it has come.
    pub async fn wait(&self) {
        loop {
            // Asked for before it is looked, so that no word between the two is missed.
            let told = self.waiting.notified();
            if self.has_come() {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_told_and_later_ones_do_not_wait() {
        let first = Arc::new(FirstAnswer::default());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let first = first.clone();
                tokio::spawn(async move { first.wait().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waits| !waits.is_finished()));
        first.came();
        for waits in waiting {
            waits.await.expect("it ends");
        }
        first.wait().await;
    }
}
