//! What the guard of a connection and the service of that connection tell each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::rejection::Rejection;
use crate::names::{Names, Slot};

/// Method and target of a refused request, for the log. Printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine {
    pub method: String,
    pub target: String,
}

/// Shared by the guard and the service of one connection.
///
/// hyper wants an I/O object to be `Send` for upgrades, hence no `Rc` here. All of it lives on one
/// thread: the atomics are plain loads and stores, each written from one side, and the lock guards
/// only what is rare.
#[derive(Debug)]
pub struct Shared {
    opened: Instant,
    /// Heads that hyper was given, the stand-in for a refused one included.
    heads: AtomicU64,
    /// Calls of the service.
    started: AtomicU64,
    /// Responses that ended.
    done: AtomicU64,
    /// When the last one ended, in nanoseconds after `opened`.
    last_done: AtomicU64,
    /// Number of the refused head, counted from 1; 0 for none.
    refused: AtomicU64,
    /// Number of the head that asks for another protocol and is not decided; 0 for none.
    upgrade: AtomicU64,
    decision: AtomicU8,
    /// A head has begun and is not complete, or a body is not.
    mid_message: AtomicBool,
    /// The connection speaks another protocol.
    opaque: AtomicBool,
    read: AtomicU64,
    written: AtomicU64,
    /// `written` when the service was called last.
    written_before: AtomicU64,
    /// All that hyper has given us was written and flushed.
    flushed: AtomicBool,
    has_injected: AtomicBool,
    /// How the names of a head are written, and the number of that head; 0 for none.
    names: Slot,
    named: AtomicU64,
    /// `Rare` has those of heads behind it.
    has_more_names: AtomicBool,
    /// How the names of the next answer are to be written.
    answer_names: Slot,
    /// The connection was idle for long when the guard looked last.
    parking: AtomicBool,
    rare: Mutex<Rare>,
}

#[derive(Debug, Default)]
struct Rare {
    rejection: Option<Rejection>,
    line: Option<RequestLine>,
    body_rejection: Option<Rejection>,
    parked_until: Option<Instant>,
    injected: BytesMut,
    /// How the names of pipelined heads are written. Packed: the heads may be small and many.
    more_names: VecDeque<(u64, Box<[u8]>)>,
    waker: Option<Waker>,
}

const UNDECIDED: u8 = 0;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

/// For the service.
impl Shared {
    /// For a connection that was accepted at `now`.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            opened: now,
            heads: AtomicU64::new(0),
            started: AtomicU64::new(0),
            done: AtomicU64::new(0),
            last_done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            upgrade: AtomicU64::new(0),
            decision: AtomicU8::new(UNDECIDED),
            mid_message: AtomicBool::new(false),
            opaque: AtomicBool::new(false),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            written_before: AtomicU64::new(0),
            flushed: AtomicBool::new(true),
            has_injected: AtomicBool::new(false),
            names: Slot::default(),
            named: AtomicU64::new(0),
            has_more_names: AtomicBool::new(false),
            answer_names: Slot::default(),
            parking: AtomicBool::new(false),
            rare: Mutex::default(),
        })
    }

    /// To be called first and once for each request that the service gets. If the client's head
    /// was refused, the request at hand is only a stand-in: answer it with the rejection, and look
    /// at nothing else of it. hyper closes the connection after that answer.
    pub fn next_request(&self) -> Option<Rejection> {
        let number = increment(&self.started, 1);
        self.written_before.store(self.written.load(Relaxed), Relaxed);
        if self.refused.load(Relaxed) != number {
            return None;
        }
        self.rare().rejection
    }

    /// How the client wrote the field names of the request that the service was called for last. Empty
    /// if all are in lower case, and the second time.
    pub fn take_names(&self) -> Names {
        let number = self.started.load(Relaxed);
        if self.named.load(Relaxed) == number {
            self.named.store(0, Relaxed);
            return self.names.take();
        }
        if !self.has_more_names.load(Relaxed) {
            return Names::default();
        }
        let mut rare = self.rare();
        rare.more_names.retain(|(head, _)| *head >= number);
        let found = rare.more_names.pop_front_if(|(head, _)| *head == number);
        self.has_more_names.store(!rare.more_names.is_empty(), Relaxed);
        found.map_or_else(Names::default, |(_, names)| Names::unpack(&names))
    }

    /// Has the field names of the answer written like this. To be called before the response to the
    /// request at hand is returned. Interim answers are not of it.
    pub fn answer_names(&self, names: Names) {
        if !names.is_empty() {
            self.answer_names.put(names);
        }
    }

    /// To be called once for each call of [`next_request`](Self::next_request), when the body of
    /// the response has ended or was dropped. The idle time counts from `now`. Refuses an upgrade
    /// that was not decided.
    pub fn response_done(&self, now: Instant) {
        let done = increment(&self.done, 1);
        let nanos = now.saturating_duration_since(self.opened).as_nanos();
        self.last_done.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
        let upgrade = self.upgrade.load(Relaxed);
        if upgrade != 0 && upgrade <= done {
            self.decide(false);
        }
    }

    /// Method and target of the refused head, if they were readable.
    pub fn rejected_line(&self) -> Option<RequestLine> {
        self.rare().line.clone()
    }

    /// Why the body of the last request broke off, if the client broke its framing.
    pub fn body_rejection(&self) -> Option<Rejection> {
        self.rare().body_rejection
    }

    /// Decides on the request that asks for another protocol (CONNECT, or `Upgrade`): until then
    /// no byte after it passes. Accepted, all bytes pass unchecked; refused, a new head follows.
    /// Without effect while the service handles any other request. To be called before the
    /// response is returned; [`response_done`](Self::response_done) refuses what is undecided.
    pub fn decide_upgrade(&self, accepted: bool) {
        let upgrade = self.upgrade.load(Relaxed);
        if upgrade != 0 && upgrade == self.started.load(Relaxed) {
            self.decide(accepted);
        }
    }

    /// Puts raw bytes, an informational (1xx) response, in front of the final response. To be
    /// called between [`next_request`](Self::next_request) and the return of the response, for
    /// HTTP/1.1 clients only. False means that they were dropped: an earlier answer is not flushed
    /// yet, or something of this one was written.
    ///
    /// hyper flushes whenever it has polled the service, and that flush writes them; a call from
    /// another task wakes the connection. Not together with hyper's `pipeline_flush`.
    pub fn inject(&self, bytes: &[u8]) -> bool {
        let untouched = self.written.load(Relaxed) == self.written_before.load(Relaxed);
        if !self.flushed.load(Relaxed) || !untouched {
            return false;
        }
        let mut rare = self.rare();
        rare.injected.extend_from_slice(bytes);
        self.has_injected.store(true, Relaxed);
        if let Some(waker) = &rare.waker {
            waker.wake_by_ref();
        }
        true
    }

    /// Bytes that came from the client, since the connection was opened.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes that were written to the client, since the connection was opened.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Requests that the service was called for.
    pub fn requests(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// A request is in hyper or in the service, or its answer is not flushed, or there is a tunnel.
    pub fn is_busy(&self) -> bool {
        self.heads.load(Relaxed) != self.done.load(Relaxed)
            || !self.flushed.load(Relaxed)
            || self.opaque.load(Relaxed)
    }

    /// Whether nothing is in progress: no head or body on its way, no request in hyper or in the
    /// service, no tunnel. Such a connection can be closed without losing a request.
    pub fn is_idle(&self) -> bool {
        !self.is_busy() && !self.mid_message.load(Relaxed)
    }

    /// Says once, if the connection was idle for [`HeadLimits::park_after`](super::HeadLimits) and still
    /// is, until when it may stay so. All that hyper holds of it then are empty buffers, and all that
    /// the guard may hold are empty lines. To be asked after each poll of hyper.
    pub fn take_parking(&self) -> Option<Instant> {
        if !self.parking.load(Relaxed) {
            return None;
        }
        self.parking.store(false, Relaxed);
        self.rare().parked_until.filter(|_| self.is_idle())
    }
}

/// For the guard.
impl Shared {
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last_done.load(Relaxed))
    }

    pub(super) fn propose_parking(&self, until: Instant) {
        self.rare().parked_until = Some(until);
        self.parking.store(true, Relaxed);
    }

    pub(super) fn note_progress(&self, heads: u64, mid_message: bool, opaque: bool) {
        self.heads.store(heads, Relaxed);
        self.mid_message.store(mid_message, Relaxed);
        self.opaque.store(opaque, Relaxed);
    }

    /// For a head whose names are not all in lower case. Nobody may ask for those of earlier ones.
    pub(super) fn name_head(&self, head: u64, names: Names) {
        let started = self.started.load(Relaxed);
        let waiting = self.named.load(Relaxed);
        if waiting == 0 || waiting < started {
            self.names.put(names);
            self.named.store(head, Relaxed);
            return;
        }
        let mut rare = self.rare();
        rare.more_names.retain(|(head, _)| *head >= started);
        rare.more_names.push_back((head, names.pack()));
        self.has_more_names.store(true, Relaxed);
    }

    pub(super) fn take_answer_names(&self) -> Option<Names> {
        let names = self.answer_names.take();
        (!names.is_empty()).then_some(names)
    }

    pub(super) fn await_upgrade(&self, head: u64) {
        self.upgrade.store(head, Relaxed);
    }

    pub(super) fn take_decision(&self) -> Option<bool> {
        let decision = self.decision.load(Relaxed);
        if decision == UNDECIDED {
            return None;
        }
        self.decision.store(UNDECIDED, Relaxed);
        self.upgrade.store(0, Relaxed);
        Some(decision == ACCEPTED)
    }

    pub(super) fn refuse_head(&self, head: u64, rejection: Rejection, line: Option<RequestLine>) {
        let mut rare = self.rare();
        rare.rejection = Some(rejection);
        rare.line = line;
        self.refused.store(head, Relaxed);
    }

    pub(super) fn refuse_body(&self, rejection: Rejection) {
        self.rare().body_rejection = Some(rejection);
    }

    pub(super) fn set_waker(&self, cx: &Context<'_>) {
        self.rare().waker = Some(cx.waker().clone());
    }

    pub(super) fn add_read(&self, bytes: usize) {
        increment(&self.read, bytes as u64);
    }

    pub(super) fn add_written(&self, bytes: usize) {
        increment(&self.written, bytes as u64);
    }

    /// Injected bytes went out: they are not of the answer.
    pub(super) fn add_injected(&self, bytes: usize) {
        self.add_written(bytes);
        increment(&self.written_before, bytes as u64);
    }

    pub(super) fn set_flushed(&self, flushed: bool) {
        self.flushed.store(flushed, Relaxed);
    }

    pub(super) fn has_injected(&self) -> bool {
        self.has_injected.load(Relaxed)
    }

    /// Lets `write` have the injected bytes; the number it returns is taken off.
    pub(super) fn with_injected<E>(
        &self,
        write: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let mut rare = self.rare();
        let written = write(&rare.injected)?;
        rare.injected.advance(written);
        if rare.injected.is_empty() {
            rare.injected = BytesMut::new();
            self.has_injected.store(false, Relaxed);
        }
        Ok(written)
    }

    fn decide(&self, accepted: bool) {
        // The first decision holds.
        if self.decision.load(Relaxed) != UNDECIDED {
            return;
        }
        self.decision.store(if accepted { ACCEPTED } else { REFUSED }, Relaxed);
        if let Some(waker) = &self.rare().waker {
            waker.wake_by_ref();
        }
    }

    fn rare(&self) -> MutexGuard<'_, Rare> {
        self.rare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds without a locked instruction: each counter is written from one side only.
fn increment(counter: &AtomicU64, by: u64) -> u64 {
    let sum = counter.load(Relaxed) + by;
    counter.store(sum, Relaxed);
    sum
}
