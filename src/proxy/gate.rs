//! What a body waits behind that was announced with `Expect: 100-continue`.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Sleep;

use crate::clock;

/// Holds a body back until the upstream says `100 Continue`, or for [`GATE_PATIENCE`] at most, as
/// clients do of upstreams that never say it (RFC 9110 10.1.1).
#[derive(Default)]
pub struct Gate(RefCell<GateState>);

#[derive(Default)]
struct GateState {
    open: bool,
    /// The final answer came first: it never opens.
    shut: bool,
    waker: Option<Waker>,
    patience: Option<Pin<Box<Sleep>>>,
}

const GATE_PATIENCE: Duration = Duration::from_secs(1);

impl Gate {
    pub fn is_open(&self) -> bool {
        self.0.borrow().open
    }

    /// The final answer is there: if the body was not asked for until now, it never is.
    pub fn shut(&self) {
        self.0.borrow_mut().shut = true;
    }

    pub fn open(&self) {
        let mut state = self.0.borrow_mut();
        state.open = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        if state.open {
            return Poll::Ready(());
        }
        if state.shut {
            return Poll::Pending;
        }
        let patience = state
            .patience
            .get_or_insert_with(|| Box::pin(clock::sleep_until(clock::now() + GATE_PATIENCE)));
        if patience.as_mut().poll(cx).is_ready() {
            state.open = true;
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
