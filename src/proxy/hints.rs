//! Interim answers (1xx) on their way from an upstream connection to a client's.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};

use super::fields::Fields;
use super::headers::strip_hop_by_hop;

/// More of them for one request than this are dropped.
const MAX: u32 = 20;

/// What waits to be written. hyper asks for what can be shared between threads; in truth one thread
/// alone ever sees it.
#[derive(Default)]
pub struct Hints(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Vec<u8>,
    taken: u32,
    waker: Option<Waker>,
}

impl Hints {
    /// Forgets what a request before has left.
    pub fn clear(&self) {
        let mut queue = self.lock();
        queue.waiting.clear();
        queue.taken = 0;
    }

    /// Takes one more, in the form of HTTP/1.1.
    pub fn push(&self, status: StatusCode, mut headers: HeaderMap) {
        let mut queue = self.lock();
        queue.taken += 1;
        if queue.taken > MAX {
            return;
        }
        let fields = Fields::of(&headers);
        strip_hop_by_hop(&mut headers, fields);
        queue.waiting.extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
        for (name, value) in &headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                queue.waiting.extend_from_slice(part);
            }
        }
        queue.waiting.extend_from_slice(b"\r\n");
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Waits for something to write.
    pub async fn next(&self) -> Vec<u8> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Vec<u8>> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut queue.waiting))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
