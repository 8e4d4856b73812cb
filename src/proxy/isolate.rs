//! A panic ends the one request that it happens in.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs a future; a panic in it becomes a value.
pub struct Isolated<F>(pub F);

pub struct Panicked;

impl<F: Future> Future for Isolated<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the only field is pinned with the struct; it is not moved out of it, and the struct
        // has neither a `Drop` nor an `Unpin` of its own.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        // What the story shares with other requests (pools, cells) is consistent between its steps:
        // each borrow ends within an expression, and a guard is released while unwinding.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_value() {
        assert!(Isolated(async { panic!("a bug") }).await.is_err());
        assert!(matches!(Isolated(async { 7 }).await, Ok(7)));
    }
}
