//! Bodies in both directions. They stream frame by frame, so that back-pressure reaches the sender;
//! what is kept is at most [`REPLAY_LIMIT`] of a request, for sending it again.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use super::gate::Gate;
use super::headers::retain_trailers;
use super::report::{Ending, Report};
use crate::clock::{self, Instant};
use crate::endpoint::InFlight;
use crate::upstream::Lease;

/// Bytes of a request body that are kept for sending it again; as Linkerd's.
pub const REPLAY_LIMIT: usize = 64 * 1024;

pub type BoxError = Box<dyn StdError + Send + Sync>;

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
    #[error("the response body stood still for too long")]
    Idle,
}

/// What the client sends, shared by the attempts that send it on.
pub struct Upload {
    incoming: RefCell<Incoming>,
    replay: RefCell<Replay>,
    /// Number of the attempt that may read; earlier ones get an error.
    attempt: Cell<u32>,
    limit: Option<u64>,
    received: Cell<u64>,
    last_progress: Cell<Instant>,
    finished: Cell<Option<Instant>>,
    /// Whether a byte of it was ever asked for; until then a client may be waiting for `100 Continue`.
    asked_for: Cell<bool>,
    fault: Cell<Option<UploadFault>>,
    gate: Option<Arc<Gate>>,
    /// The connection that waits for more of it.
    waker: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Replay {
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    /// More was sent than is kept.
    overflowed: bool,
}

impl Upload {
    pub fn new(
        incoming: Incoming,
        limit: Option<u64>,
        gate: Option<Arc<Gate>>,
        now: Instant,
    ) -> Rc<Self> {
        let finished = arrived(&incoming).then_some(now);
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            replay: RefCell::default(),
            attempt: Cell::new(0),
            limit,
            received: Cell::new(0),
            last_progress: Cell::new(now),
            finished: Cell::new(finished),
            asked_for: Cell::new(false),
            fault: Cell::new(None),
            gate,
            waker: RefCell::default(),
        })
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

    pub fn asked_for(&self) -> bool {
        self.asked_for.get()
    }

    /// Whether another attempt can send the body from its beginning.
    pub fn can_replay(&self) -> bool {
        !self.replay.borrow().overflowed && self.fault.get().is_none()
    }

    /// The answer has ended before the body: what is left of it is for nobody. A moment is given to
    /// what is on its way; then the upstream connection ends, and the client's after it.
    fn end_early(self: Rc<Self>) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let refused = self.gate.as_ref().is_some_and(|gate| !gate.is_open());
        tokio::task::spawn_local(async move {
            if !refused {
                sleep_until(clock::now() + PATIENCE).await;
            }
            if self.finished.get().is_none() {
                self.attempt.set(u32::MAX);
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
        let polled = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        if polled.is_pending() {
            self.note_waker(cx);
        }
        let polled = ready!(polled);
        let now = clock::now();
        self.last_progress.set(now);
        let Some(frame) = polled else {
            self.finished.set(Some(now));
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
        } else if let Some(trailers) = frame.trailers_mut() {
            retain_trailers(trailers);
            self.replay.borrow_mut().trailers = Some(trailers.clone());
        }
        if arrived(&self.incoming.borrow()) {
            self.finished.set(Some(now));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether all of the body is here but the end of its stream.
    fn owes_end(&self) -> bool {
        let incoming = self.incoming.borrow();
        arrived(&incoming) && !incoming.is_end_stream()
    }

    /// Waits for an end that is owed. Were the response to end before it, h2 would reset the stream,
    /// and there are clients that lose the response then, instead of just not sending the rest.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.owes_end() {
            let frame = ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx));
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
        if self.size > REPLAY_LIMIT {
            self.overflowed = true;
            self.chunks = Vec::new();
        } else {
            self.chunks.push(data.clone());
        }
    }
}

/// The body of one attempt.
pub struct RequestBody {
    upload: Option<Rc<Upload>>,
    attempt: u32,
    replayed: usize,
    trailers_sent: bool,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self { upload: None, attempt: 0, replayed: 0, trailers_sent: false }
    }

    /// Takes over from the attempt before, from the first byte on.
    pub fn of(upload: &Rc<Upload>) -> Self {
        let attempt = upload.attempt.get() + 1;
        upload.attempt.set(attempt);
        Self { upload: Some(upload.clone()), attempt, replayed: 0, trailers_sent: false }
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
        let Some(upload) = &this.upload else {
            return Poll::Ready(None);
        };
        if upload.attempt.get() != this.attempt {
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
        let Some(upload) = &self.upload else {
            return true;
        };
        let replay = upload.replay.borrow();
        let replayed = replay.overflowed || self.replayed >= replay.chunks.len();
        let trailers = replay.trailers.is_none() || self.trailers_sent;
        replayed && trailers && upload.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(upload) = &self.upload else {
            return SizeHint::with_exact(0);
        };
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

/// What the client gets.
pub struct Body {
    kind: Kind,
    report: Option<Box<Report>>,
}

enum Kind {
    Empty,
    Full(Option<Bytes>),
    Upstream(Download),
}

/// A response body with what ends when it ends.
pub struct Download {
    pub incoming: Incoming,
    pub lease: Option<Lease<RequestBody>>,
    /// Counts the request as in flight at its endpoint; also when the client goes away.
    pub in_flight: InFlight,
    pub upload: Option<Rc<Upload>>,
    pub idle: IdleTimer,
    /// No frame is left of `incoming`.
    pub ended: bool,
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if !self.ended {
            let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
            self.idle.progress();
            if frame.is_some() {
                return Poll::Ready(frame);
            }
            self.ended = true;
        }
        if let Some(upload) = &self.upload {
            ready!(upload.poll_end(cx));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        let owed = self.upload.as_ref().is_some_and(|upload| upload.owes_end());
        !owed && (self.ended || self.incoming.is_end_stream())
    }
}

impl Body {
    pub fn empty() -> Self {
        Self { kind: Kind::Empty, report: None }
    }

    pub fn full(bytes: Bytes) -> Self {
        Self { kind: Kind::Full(Some(bytes)), report: None }
    }

    pub fn upstream(download: Download) -> Self {
        Self { kind: Kind::Upstream(download), report: None }
    }

    /// `report` is finished when the body ends, however it ends.
    pub fn reported(mut self, report: Box<Report>) -> Self {
        self.report = Some(report);
        self
    }

    fn end(&mut self, ending: Ending) {
        if let Kind::Upstream(mut download) = std::mem::replace(&mut self.kind, Kind::Empty)
            && ending == Ending::Complete
        {
            if let Some(lease) = download.lease.take() {
                lease.release();
            }
            if let Some(upload) = download.upload.take()
                && upload.finished().is_none()
            {
                upload.end_early();
            }
        }
        if let Some(report) = self.report.take() {
            report.finish(ending);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty => None,
            Kind::Full(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Kind::Upstream(download) => match download.poll(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let also = download.upload.as_ref().map(|upload| upload.last_progress());
                    ready!(download.idle.poll_expired(cx, also));
                    this.end(Ending::IdleTimeout);
                    return Poll::Ready(Some(Err(BodyError::Idle.into())));
                }
            },
        };
        Poll::Ready(match frame {
            None => {
                this.end(Ending::Complete);
                None
            }
            Some(Ok(mut frame)) => {
                if let Some(report) = &mut this.report {
                    if let Some(data) = frame.data_ref() {
                        report.sent(data.len());
                    } else if let Some(trailers) = frame.trailers_mut() {
                        report.trailers(trailers);
                        retain_trailers(trailers);
                    }
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.end(Ending::UpstreamBroken);
                Some(Err(error.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Upstream(download) => download.incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body with a known end is dropped by hyper without being asked for the end, and a body of
        // ours that nobody wants (HEAD) without being asked at all.
        let complete = self.is_end_stream() || matches!(self.kind, Kind::Full(_));
        self.end(if complete { Ending::Complete } else { Ending::ClientGone });
    }
}

/// Fires when a body stands still in both directions for longer than its limit.
pub struct IdleTimer {
    limit: Option<Duration>,
    last: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, last: now, sleep: None }
    }

    fn progress(&mut self) {
        if self.limit.is_some() {
            self.last = clock::now();
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>, also: Option<Instant>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let deadline = also.map_or(self.last, |also| also.max(self.last)) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while sleep.as_mut().poll(cx).is_ready() {
            if deadline <= clock::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
