//! The body of a response on its way down, frame by frame, and what ends when it ends.

use std::error::Error as StdError;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use super::headers::retain_trailers;
use super::overrun::Overrun;
use super::report::{Ending, Report};
use super::upload::{RequestBody, Upload};
use crate::clock::{self, Instant};
use crate::endpoint::InFlight;
use crate::http2::Patient;
use crate::upstream::{Lease, ResponseBody};

pub type BoxError = Box<dyn StdError + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("the response body stood still for too long")]
struct StoodStill;

/// What the client gets.
pub struct Body {
    kind: Kind,
    report: Option<Box<Report>>,
}

#[expect(clippy::large_enum_variant, reason = "nearly every body is an upstream's")]
enum Kind {
    Empty,
    Full(Option<Bytes>),
    Upstream(Download),
}

/// A response body with what ends when it ends.
pub struct Download {
    pub incoming: ResponseBody<RequestBody>,
    pub lease: Option<Lease<RequestBody>>,
    /// Counts the request as in flight at its endpoint; also when the client goes away.
    pub in_flight: InFlight,
    pub upload: Option<Rc<Upload>>,
    pub idle: IdleTimer,
    /// No frame is left of `incoming`.
    pub ended: bool,
    /// Why it broke off, to be told when what came before is on its way.
    pub broken: Option<BoxError>,
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if !self.ended {
            let frame = ready!(self.incoming.poll_frame(cx));
            self.idle.progress();
            match frame {
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                // HTTP/2 drops what is not flushed when a body fails. A client that gets nothing at all may
                // take its request for one that nobody has seen.
                Some(Err(error)) => {
                    self.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => self.ended = true,
            }
        }
        if let Some(upload) = &self.upload {
            ready!(upload.poll_end(cx));
        }
        Poll::Ready(None)
    }

    /// Ready when nothing has moved for too long.
    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let also = self.upload.as_ref().map(|upload| upload.last_progress());
        self.idle.poll_expired(cx, also)
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

    /// Whether it comes from an upstream rather than from us.
    pub fn is_upstreams(&self) -> bool {
        matches!(self.kind, Kind::Upstream(_))
    }

    /// `report` is finished when the body ends, however it ends.
    pub fn reported(mut self, report: Box<Report>) -> Self {
        self.report = Some(report);
        self
    }

    fn end(&mut self, ending: Ending) {
        if self.report.is_none() && matches!(self.kind, Kind::Empty) {
            return;
        }
        let now = clock::now();
        if let Kind::Upstream(mut download) = std::mem::replace(&mut self.kind, Kind::Empty)
            && ending == Ending::Complete
        {
            if let Some(lease) = download.lease.take() {
                lease.release(now);
            }
            if let Some(upload) = download.upload.take()
                && upload.finished().is_none()
            {
                upload.end_early();
            }
        }
        if let Some(report) = self.report.take() {
            report.finish(ending, now);
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
                    ready!(download.poll_still(cx));
                    this.end(Ending::IdleTimeout);
                    return Poll::Ready(Some(Err(StoodStill.into())));
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
                Some(Err(error))
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

impl Patient for Body {
    fn poll_tired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BoxError> {
        let this = self.get_mut();
        let Kind::Upstream(download) = &mut this.kind else {
            return Poll::Pending;
        };
        ready!(download.poll_still(cx));
        this.end(Ending::IdleTimeout);
        Poll::Ready(StoodStill.into())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body with a known end is dropped without being asked for the end, and a body of
        // ours that nobody wants (HEAD) without being asked at all.
        let complete = self.is_end_stream() || matches!(self.kind, Kind::Full(_));
        self.end(if complete { Ending::Complete } else { Ending::ClientGone });
    }
}

/// Fires when a body stands still in both directions for longer than its limit.
pub struct IdleTimer {
    limit: Option<Duration>,
    last: Instant,
    /// Something came since `last`. The clock is asked when it matters: once nothing more comes.
    moved: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    /// In shadow mode: there it is noted, once.
    overrun: Option<Rc<Overrun>>,
}

impl IdleTimer {
    pub fn new(limit: Option<Duration>, now: Instant, overrun: Option<Rc<Overrun>>) -> Self {
        Self { limit, last: now, moved: false, sleep: None, overrun }
    }

    fn progress(&mut self) {
        self.moved = true;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>, also: Option<Instant>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if std::mem::take(&mut self.moved) {
            self.last = clock::now();
        }
        let deadline = also.map_or(self.last, |also| also.max(self.last)) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(clock::sleep_until(deadline)));
        while sleep.as_mut().poll(cx).is_ready() {
            if deadline <= clock::now() {
                let Some(overrun) = &self.overrun else { return Poll::Ready(()) };
                overrun.note("stream_idle_timeout");
                self.limit = None;
                return Poll::Pending;
            }
            clock::reset(sleep.as_mut(), deadline);
        }
        Poll::Pending
    }
}
