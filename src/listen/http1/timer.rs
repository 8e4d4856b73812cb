//! The one timer of a connection. It is armed coarsely and moved only when it fires, so that a busy
//! keep-alive connection pays nothing for it; what it means is decided when it fires.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::time::{Sleep, sleep};

use super::head::HeadLimits;
use crate::clock::{self, Instant, sleep_until};

/// What a connection is waiting for when no byte comes and no request is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No head has begun on a new connection.
    New,
    /// A head has begun and is not complete.
    Head,
    /// Nothing is in progress since then.
    Idle(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    HeaderTimeout,
    /// Idle for long enough to be parked; to be closed then.
    Park(Instant),
    Close,
}

#[derive(Debug)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The task that the sleep will wake.
    waker: Option<Waker>,
    /// When the head in progress, or the first one, must be complete.
    head: Option<Instant>,
}

impl Timer {
    /// For a connection that was accepted at `opened`.
    pub fn new(opened: Instant, limits: &HeadLimits) -> Self {
        let head = Some(opened + limits.header_timeout);
        Self { sleep: None, waker: None, head }
    }

    /// A head is complete: the next one has a time of its own.
    pub fn head_ends(&mut self, limits: &HeadLimits) {
        if self.head.take().is_some() && self.sleep.is_some() {
            self.arm(sleep(limits.first_look()));
        }
    }

    /// Says what is due; otherwise the task is woken when that may have changed. To be called when
    /// nothing can be read. A timer that fires while a request is in progress waits for this call.
    pub fn poll(&mut self, cx: &mut Context<'_>, phase: Phase, limits: &HeadLimits) -> Due {
        if !matches!(phase, Phase::Idle(_)) && self.head.is_none() {
            let sleep = sleep(limits.header_timeout);
            self.head = Some(clock::fires(&sleep));
            self.arm(sleep);
        }
        if matches!(phase, Phase::Idle(_)) {
            // What had begun was an empty line.
            self.head = None;
        }
        let mut due = Due::Nothing;
        loop {
            let Some(fired) = self.fired(cx, limits) else {
                return due;
            };
            let next = match (phase, self.head) {
                (Phase::New, Some(head)) if fired >= head => return Due::Close,
                (Phase::Head, Some(head)) if fired >= head => return Due::HeaderTimeout,
                (Phase::New | Phase::Head, Some(head)) => sleep_until(head),
                (Phase::New | Phase::Head, None) => return due,
                (Phase::Idle(since), _) => {
                    let close = since + limits.idle_timeout;
                    if fired >= close {
                        return Due::Close;
                    }
                    let park = since + limits.first_look();
                    if fired < park {
                        sleep_until(park)
                    } else {
                        due = Due::Park(close);
                        // In case that it is not parked, since bytes came just then.
                        sleep_until(close.min(fired + (fired - since)))
                    }
                }
            };
            self.arm(next);
        }
    }

    /// The time for which the sleep was set, once it has passed.
    fn fired(&mut self, cx: &mut Context<'_>, limits: &HeadLimits) -> Option<Instant> {
        if self.sleep.is_none() {
            self.arm(match self.head {
                Some(head) => sleep_until(head),
                None => sleep(limits.first_look()),
            });
        }
        let sleep = self.sleep.as_mut()?;
        let registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if registered && !sleep.is_elapsed() {
            return None;
        }
        // Unconstrained: a poll that ran out of budget would not have registered the task.
        let polled = pin!(tokio::task::coop::unconstrained(sleep.as_mut())).poll(cx);
        match polled {
            Poll::Ready(()) => Some(clock::fires(sleep)),
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                None
            }
        }
    }

    fn arm(&mut self, sleep: Sleep) {
        self.waker = None;
        match &mut self.sleep {
            Some(armed) => armed.as_mut().set(sleep),
            None => self.sleep = Some(Box::pin(sleep)),
        }
    }
}
