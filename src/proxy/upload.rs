//! The body of a request on its way up. It streams frame by frame, so that back-pressure reaches the
//! client; at most [`REPLAY_LIMIT`] of it is kept, for sending it again.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::body::BoxError;
use super::gate::Gate;
use super::headers::retain_trailers;
use super::incoming::Incoming;
use super::mirror::Copying;
use crate::clock::{self, Instant};
use crate::http2::Patient;

/// Bytes of a request body that are kept for sending it again; as Linkerd's.
pub const REPLAY_LIMIT: usize = 64 * 1024;
/// Smaller pieces are copied, all but the first few.
const SMALL_PIECE: usize = 4 * 1024;
const SHARED_PIECES: usize = 4;

/// Why the body of a request did not reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFault {
    TooLarge,
    Broken,
}

#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the request body is longer than its limit")]
    TooLarge,
    #[error("the request body broke off")]
    Broken,
    #[error("a later attempt has taken the body over, or nobody wants it any more")]
    Superseded,
}

/// What the client sends, shared by the attempts that send it on.
pub struct Upload {
    incoming: RefCell<Incoming>,
    replay: RefCell<Replay>,
    /// Attempts so far.
    attempts: Cell<u32>,
    /// Number of the first attempt that may read; earlier ones get an error.
    first: Cell<u32>,
    limit: Option<u64>,
    received: Cell<u64>,
    last_progress: Cell<Instant>,
    finished: Cell<Option<Instant>>,
    /// Whether a byte of it was ever asked for; until then a client may be waiting for `100 Continue`.
    asked_for: Cell<bool>,
    /// The upstream would take more, and the client sends nothing.
    starved: Cell<bool>,
    fault: Cell<Option<UploadFault>>,
    gate: Option<Rc<Gate>>,
    /// The connection that waits for more of it.
    waker: RefCell<Option<Waker>>,
    /// The answer that waits for its end. A stream tells only the one who asked last.
    end_waker: RefCell<Option<Waker>>,
    /// Who gets a copy of what goes by.
    copying: RefCell<Option<Copying>>,
}

#[derive(Default)]
struct Replay {
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    /// More was sent than is kept.
    overflowed: bool,
    /// Nothing new need be kept.
    last: bool,
}

impl Upload {
    pub fn new(
        incoming: Incoming,
        limit: Option<u64>,
        gate: Option<Rc<Gate>>,
        now: Instant,
    ) -> Rc<Self> {
        let finished = arrived(&incoming).then_some(now);
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            replay: RefCell::default(),
            attempts: Cell::new(0),
            first: Cell::new(0),
            limit,
            received: Cell::new(0),
            last_progress: Cell::new(now),
            finished: Cell::new(finished),
            asked_for: Cell::new(false),
            starved: Cell::new(false),
            fault: Cell::new(None),
            gate,
            waker: RefCell::default(),
            end_waker: RefCell::default(),
            copying: RefCell::default(),
        })
    }

    /// Has `copying` get what goes by of the body from now on.
    pub fn copy_to(&self, copying: Copying) {
        // Of a request that is sent to two services the first one's copy is the one that counts.
        if self.asked_for.get() {
            return;
        }
        match self.finished.get() {
            Some(_) => copying.complete(),
            None => *self.copying.borrow_mut() = Some(copying),
        }
    }

    /// How long the body will be, where that is known.
    pub fn announced(&self) -> Option<u64> {
        self.incoming.borrow().size_hint().exact()
    }

    fn finish(&self, now: Instant) {
        // A later attempt comes to the end once more.
        if self.finished.get().is_none() {
            self.finished.set(Some(now));
        }
        if let Some(copying) = self.copying.take() {
            copying.complete();
        }
    }

    fn copy(&self, data: &Bytes) {
        let mut copying = self.copying.borrow_mut();
        if copying.as_mut().is_some_and(|copying| !copying.push(data)) {
            *copying = None;
        }
    }

    /// Bytes of the body so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    pub fn last_progress(&self) -> Instant {
        self.last_progress.get()
    }

    /// When its last byte was passed on.
    pub fn finished(&self) -> Option<Instant> {
        self.finished.get()
    }

    pub fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// Whether it is the client that everybody waits for.
    pub fn is_starved(&self) -> bool {
        self.starved.get()
    }

    pub fn asked_for(&self) -> bool {
        self.asked_for.get()
    }

    /// Whether another attempt can send the body from its beginning.
    pub fn can_replay(&self) -> bool {
        !self.replay.borrow().overflowed && self.fault.get().is_none()
    }

    /// The answer has begun: the body is not sent again, so nothing of it need be kept.
    pub fn forget_replay(&self) {
        let mut replay = self.replay.borrow_mut();
        // A later attempt may still be passing on what the first one left.
        if self.attempts.get() == 1 {
            replay.give_up();
        } else {
            replay.last = true;
        }
    }

    /// The answer has ended before the body: what is left of it is for nobody. A moment is given to
    /// what is on its way; then the upstream connection ends, and the client's after it.
    pub fn end_early(self: Rc<Self>) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let refused = self.gate.as_ref().is_some_and(|gate| !gate.is_open());
        tokio::task::spawn_local(async move {
            if !refused {
                clock::sleep_until(clock::now() + PATIENCE).await;
            }
            if self.finished.get().is_none() {
                self.first.set(u32::MAX);
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
            }
        });
    }

    fn note_waker(&self, cx: &Context<'_>) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
        }
    }

    fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.asked_for.set(true);
        let polled = self.incoming.borrow_mut().poll_frame(cx);
        self.starved.set(polled.is_pending());
        if polled.is_pending() {
            self.note_waker(cx);
        }
        let polled = ready!(polled);
        if let Some(waker) = self.end_waker.take() {
            waker.wake();
        }
        let now = clock::now();
        self.last_progress.set(now);
        let Some(frame) = polled else {
            self.finish(now);
            return Poll::Ready(None);
        };
        let Ok(mut frame) = frame else {
            return self.fail(UploadFault::Broken);
        };
        if let Some(data) = frame.data_ref() {
            self.received.set(self.received.get() + data.len() as u64);
            if self.limit.is_some_and(|limit| self.received.get() > limit) {
                return self.fail(UploadFault::TooLarge);
            }
            self.replay.borrow_mut().keep(data);
            self.copy(data);
        } else if let Some(trailers) = frame.trailers_mut() {
            retain_trailers(trailers);
            self.replay.borrow_mut().trailers = Some(trailers.clone());
        }
        if arrived(&self.incoming.borrow()) {
            self.finish(now);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether all of the body is here but the end of its stream.
    pub fn owes_end(&self) -> bool {
        let incoming = self.incoming.borrow();
        arrived(&incoming) && !incoming.is_end_stream()
    }

    /// Waits for an end that is owed. Were the response to end before it, h2 would reset the stream,
    /// and there are clients that lose the response then, instead of just not sending the rest.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.owes_end() {
            let polled = self.incoming.borrow_mut().poll_frame(cx);
            if polled.is_pending() {
                *self.end_waker.borrow_mut() = Some(cx.waker().clone());
            }
            let frame = ready!(polled);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
            if !matches!(frame, Some(Ok(_))) {
                break;
            }
        }
        Poll::Ready(())
    }

    fn fail(&self, fault: UploadFault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.fault.set(Some(fault));
        Poll::Ready(Some(Err(match fault {
            UploadFault::TooLarge => BodyError::TooLarge,
            UploadFault::Broken => BodyError::Broken,
        })))
    }
}

/// Whether every byte of a body is here. HTTP/2 may send the end of a stream apart from the last byte, and
/// who knows the length stops reading before it.
fn arrived(incoming: &Incoming) -> bool {
    incoming.is_end_stream() || incoming.size_hint().exact() == Some(0)
}

impl Replay {
    fn keep(&mut self, data: &Bytes) {
        if self.overflowed {
            return;
        }
        self.size += data.len();
        if self.last || self.size > REPLAY_LIMIT {
            self.give_up();
        } else {
            // A piece keeps the buffer alive that it came in, which many small ones would multiply.
            let copied = self.chunks.len() >= SHARED_PIECES && data.len() < SMALL_PIECE;
            self.chunks.push(if copied { Bytes::copy_from_slice(data) } else { data.clone() });
        }
    }

    fn give_up(&mut self) {
        self.overflowed = true;
        self.chunks = Vec::new();
    }
}

/// The body of one attempt.
pub struct RequestBody {
    upload: Rc<Upload>,
    attempt: u32,
    replayed: usize,
    trailers_sent: bool,
}

impl RequestBody {
    /// From the first byte on. It takes over from the attempts before, unless all of the body is here: then
    /// each sends what is kept.
    pub fn of(upload: &Rc<Upload>) -> Self {
        let attempt = upload.attempts.get() + 1;
        upload.attempts.set(attempt);
        if upload.finished.get().is_none() {
            upload.first.set(attempt);
        }
        Self { upload: upload.clone(), attempt, replayed: 0, trailers_sent: false }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let upload = &this.upload;
        if this.attempt < upload.first.get() {
            return Poll::Ready(Some(Err(BodyError::Superseded.into())));
        }
        if let Some(gate) = &upload.gate
            && gate.poll_open(cx).is_pending()
        {
            upload.note_waker(cx);
            return Poll::Pending;
        }
        {
            let replay = upload.replay.borrow();
            if let Some(chunk) = replay.chunks.get(this.replayed) {
                this.replayed += 1;
                return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
            }
            if let (Some(trailers), false) = (&replay.trailers, this.trailers_sent) {
                this.trailers_sent = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
            }
        }
        let frame = ready!(upload.poll_incoming(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => this.replayed += 1,
            Some(Ok(_)) => this.trailers_sent = true,
            _ => {}
        }
        Poll::Ready(frame.map(|result| result.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        let upload = &self.upload;
        let replay = upload.replay.borrow();
        let replayed = replay.overflowed || self.replayed >= replay.chunks.len();
        let trailers = replay.trailers.is_none() || self.trailers_sent;
        replayed && trailers && upload.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let upload = &self.upload;
        let replay = upload.replay.borrow();
        let kept: usize = replay.chunks.iter().skip(self.replayed).map(Bytes::len).sum();
        let rest = upload.incoming.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept as u64);
        }
        hint
    }
}

/// Its silence is noticed by who waits for the answer.
impl Patient for RequestBody {}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_BUFFER: usize = 8 * 1024;

    /// 64 KiB that came byte by byte would otherwise keep as many buffers.
    #[test]
    fn small_pieces_do_not_keep_the_buffers_that_they_came_in() {
        let mut replay = Replay::default();
        for _ in 0..100 {
            let buffer = Bytes::from(vec![0; READ_BUFFER]);
            replay.keep(&buffer.slice(..1));
        }
        let room = |chunk: Bytes| chunk.try_into_mut().expect("the only one").capacity();
        let kept: usize = replay.chunks.drain(..).map(room).sum();
        assert_eq!(kept, SHARED_PIECES * READ_BUFFER + (100 - SHARED_PIECES));

        let large = Bytes::from(vec![0; SMALL_PIECE]);
        replay.chunks = vec![Bytes::new(); SHARED_PIECES];
        replay.keep(&large);
        let shared = replay.chunks[SHARED_PIECES].as_ptr() == large.as_ptr();
        assert!(shared, "large ones are not copied");
    }
}
