//! Stopping without losing a request. Control moves through the phases; each connection follows.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::watch;

/// How far the proxy is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// `/ready` fails, so that the others stop sending; everything is still answered.
    Lingering,
    /// What comes in over inbound connections is answered with `Connection: close`, GOAWAY goes out.
    ClosingInbound,
    /// The same for the app's own calls, which go on for as long as it may still answer others.
    ClosingAll,
    /// Time is up: what is left is cut.
    Cut,
}

/// How long a connection may stay idle after its side began to close. A client that is using it gets
/// its next answer with `Connection: close` meanwhile, instead of a reset in the moment it writes.
pub const CLOSE_IDLE_AFTER: Duration = Duration::from_millis(500);

/// The phase as one worker knows it. Every wake-up of a connection asks for it: here that is a look at
/// a `Cell`, while the channel that control writes to has a lock which all workers share.
#[derive(Debug)]
pub struct Drain {
    phase: Cell<Phase>,
    waiting: RefCell<Slab<Waker>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: Cell::new(Phase::Running), waiting: RefCell::default() }
    }
}

impl Drain {
    /// Takes over each phase that control moves to, until control is gone.
    pub async fn follow(&self, mut control: watch::Receiver<Phase>) {
        loop {
            let phase = *control.borrow_and_update();
            self.phase.set(phase);
            self.waiting.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
            if control.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn is_at(&self, phase: Phase) -> bool {
        self.phase.get() >= phase
    }

    /// Waits until the proxy is at `phase` or beyond it. To be polled by one task alone: it makes its
    /// waker known once.
    pub fn reached(&self, phase: Phase) -> Reached<'_> {
        Reached { drain: self, phase, key: None }
    }
}

/// See [`Drain::reached`].
#[derive(Debug)]
pub struct Reached<'a> {
    drain: &'a Drain,
    phase: Phase,
    key: Option<usize>,
}

impl Future for Reached<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_at(self.phase) {
            return Poll::Ready(());
        }
        if self.key.is_none() {
            let key = self.drain.waiting.borrow_mut().insert(cx.waker().clone());
            self.key = Some(key);
        }
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.drain.waiting.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[tokio::test(flavor = "local")]
    async fn each_waits_for_its_own_phase() {
        let (control, phase) = watch::channel(Phase::Running);
        let drain = Rc::new(Drain::default());
        let (follower, waiter) = (drain.clone(), drain.clone());
        tokio::task::spawn_local(async move { follower.follow(phase).await });
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            for phase in [Phase::ClosingInbound, Phase::ClosingAll, Phase::Cut] {
                waiter.reached(phase).await;
                let _ = told.send(phase);
            }
        });
        for (phase, told) in [
            (Phase::Lingering, None),
            (Phase::ClosingInbound, Some(Phase::ClosingInbound)),
            (Phase::ClosingAll, Some(Phase::ClosingAll)),
            (Phase::Cut, Some(Phase::Cut)),
        ] {
            control.send_replace(phase);
            match told {
                Some(told) => assert_eq!(tells.recv().await, Some(told)),
                None => {
                    while drain.phase.get() != phase {
                        tokio::task::yield_now().await;
                    }
                    assert!(tells.try_recv().is_err());
                }
            }
        }
        drain.reached(Phase::Lingering).await;
        assert!(drain.waiting.borrow().is_empty());
    }

    #[tokio::test]
    async fn who_no_longer_waits_is_forgotten() {
        let drain = Drain::default();
        for _ in 0..3 {
            tokio::select! {
                biased;
                () = drain.reached(Phase::Cut) => panic!("it is running"),
                () = async { assert_eq!(drain.waiting.borrow().len(), 1) } => {}
            }
        }
        assert!(drain.waiting.borrow().is_empty());
    }
}
