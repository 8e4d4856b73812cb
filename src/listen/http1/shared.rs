//! What the task that serves a connection shares with the request at hand, and with whoever reads its body.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunked::Chunked;
use super::head::{Framing, Head};
use super::rejection::Rejection;
use super::{READ, READ_LARGE, READ_LITTLE};
use crate::clock::Instant;
use crate::http1::write_field;
use crate::names::Names;
use crate::stream::Stream;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The socket and what was read from it; what is to be said before the answer.
pub struct Shared<T = Stream> {
    pub(super) inner: RefCell<Inner<T>>,
    /// Something stands in `interim`.
    pub(super) has_interim: Cell<bool>,
    /// When the last answer ended.
    pub(super) idle_since: Cell<Instant>,
}

pub(super) struct Inner<T> {
    /// None once the connection is closed, parked or a tunnel.
    pub io: Option<T>,
    pub read: BytesMut,
    pub reading: Reading,
    /// How the client wrote the names of the request at hand.
    pub names: Names,
    /// How those of the answer are to be written.
    pub answer_names: Names,
    /// Interim answers that are not on their way yet.
    pub interim: Vec<u8>,
    /// The answer has begun.
    pub answered: bool,
    /// The client waits for `100 Continue` before it sends the body.
    expects: bool,
    /// Nobody reads the body any more.
    abandoned: bool,
    /// Why the body broke off, if it broke its framing.
    rejection: Option<Rejection>,
    max_fields: usize,
    /// The task of the connection, while it waits for the end of a body.
    task: Option<Waker>,
    /// Who reads the body, while there is nothing to read.
    reader: Option<Waker>,
}

/// What the next byte belongs to.
#[derive(Debug)]
pub(super) enum Reading {
    /// The next head, or another protocol.
    Head,
    /// So many bytes of the body are to come.
    Length(u64),
    Chunked(Box<Chunked>),
    /// Nothing that comes is looked at any more.
    Closed,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request body breaks HTTP: {}", .0.message)]
    Malformed(Rejection),
    #[error("the client closed before the end of the request body")]
    Closed,
}

/// For requests.
impl<T> Shared<T> {
    /// How the client wrote the field names of the request at hand. Empty if all are in lower case, and the
    /// second time.
    pub fn take_names(&self) -> Names {
        std::mem::take(&mut self.inner.borrow_mut().names)
    }

    /// Has the field names of the answer written like this. Interim answers are not of it.
    pub fn name_answer(&self, names: Names) {
        self.inner.borrow_mut().answer_names = names;
    }

    /// Puts an interim answer (1xx) before the answer. To be called while the request is being handled, for
    /// clients of HTTP/1.1 alone.
    pub fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        let out = &mut self.inner.borrow_mut().interim;
        out.extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
        for (name, value) in headers {
            write_field(name.as_str().as_bytes(), value, out);
        }
        out.extend_from_slice(b"\r\n");
        self.has_interim.set(true);
    }

    /// Why the body of the request broke off, if the client broke its framing.
    pub fn body_rejection(&self) -> Option<Rejection> {
        self.inner.borrow().rejection
    }

    /// The body of the answer has ended; the idle time counts from `now`.
    pub fn answer_ends(&self, now: Instant) {
        self.idle_since.set(now);
    }
}

/// For the connection.
impl<T> Shared<T> {
    pub(super) fn new(io: T, early: Bytes, max_fields: usize, now: Instant) -> Rc<Self> {
        let inner = RefCell::new(Inner {
            io: Some(io),
            read: early.into(),
            reading: Reading::Head,
            names: Names::default(),
            answer_names: Names::default(),
            interim: Vec::new(),
            answered: false,
            expects: false,
            abandoned: false,
            rejection: None,
            max_fields,
            task: None,
            reader: None,
        });
        Rc::new(Self { inner, has_interim: Cell::new(false), idle_since: Cell::new(now) })
    }

    /// The connection is over, whoever still has this.
    pub(super) fn close(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.io = None;
        inner.read = BytesMut::new();
        inner.reading = Reading::Closed;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Inner<T> {
    /// A head was taken, and its body is next.
    pub fn begin(&mut self, head: &Head) {
        self.answered = false;
        self.expects = head.expect_continue;
        self.abandoned = false;
        self.reading = match head.framing {
            Framing::None => Reading::Head,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunked(Box::default()),
        };
    }

    /// A head was refused.
    pub fn refuse(&mut self) {
        self.read = BytesMut::new();
        self.reading = Reading::Closed;
        self.answered = false;
        self.names = Names::default();
    }

    /// Reads once, with so much room where little is left; 0 is the end of the stream. What is left is used up by
    /// half at least: a client that sends byte by byte must not cost a buffer for each.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        if self.read.capacity() - self.read.len() < (room / 2).max(READ_LITTLE) {
            self.read.reserve(room.max(READ));
        }
        let mut spare = ReadBuf::uninit(self.read.spare_capacity_mut());
        ready!(Pin::new(io).poll_read(cx, &mut spare))?;
        let read = spare.filled().len();
        // SAFETY: the reader has filled, and so initialised, so many bytes of the spare capacity.
        unsafe { self.read.set_len(self.read.len() + read) };
        Poll::Ready(Ok(read))
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether the request has come to its end, once that is known. What nobody reads is taken if it is here.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.abandoned {
            let mut left = READ_LARGE;
            while let Poll::Ready(Some(Ok(frame))) = self.poll_frame(cx)
                && let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len))
            {
                left = rest;
            }
            return Poll::Ready(matches!(self.reading, Reading::Head));
        }
        match self.reading {
            Reading::Head => Poll::Ready(true),
            Reading::Closed => Poll::Ready(false),
            Reading::Length(_) | Reading::Chunked(_) => {
                self.note_task(cx);
                Poll::Pending
            }
        }
    }

    /// For a connection that waits: only a small buffer is kept.
    pub fn shrink(&mut self) {
        if self.read.is_empty() && self.read.capacity() > READ {
            self.read = BytesMut::new();
        }
    }

    /// The task of the connection is to be told when the body ends.
    pub fn note_task(&mut self, cx: &Context<'_>) {
        note(&mut self.task, cx);
    }

    /// Wakes the task of the connection, unless it is the one at work.
    fn wake_task(&mut self, cx: Option<&Context<'_>>) {
        if let Some(task) = &self.task
            && !cx.is_some_and(|cx| task.will_wake(cx.waker()))
        {
            task.wake_by_ref();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let left = match &mut self.reading {
                Reading::Head => return Poll::Ready(None),
                Reading::Closed => {
                    let error = self.rejection.map_or(BodyError::Closed, BodyError::Malformed);
                    return Poll::Ready(Some(Err(error)));
                }
                Reading::Length(left) if !self.read.is_empty() => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let data = self.read.split_to(most.min(self.read.len())).freeze();
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.end(Reading::Head, cx);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Reading::Length(left) => *left,
                Reading::Chunked(body) => match body.take(&mut self.read, self.max_fields) {
                    Ok(frame) => {
                        let left = body.left();
                        if body.is_done() {
                            self.end(Reading::Head, cx);
                        }
                        if frame.is_some() {
                            return Poll::Ready(frame.map(Ok));
                        }
                        left
                    }
                    Err(rejection) => {
                        self.rejection = Some(rejection);
                        self.end(Reading::Closed, cx);
                        continue;
                    }
                },
            };
            if matches!(self.reading, Reading::Head) {
                continue;
            }
            let left = usize::try_from(left).unwrap_or(READ_LARGE);
            match self.poll_read(cx, left.clamp(READ_LITTLE, READ_LARGE)) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => self.end(Reading::Closed, cx),
                Poll::Pending => {
                    note(&mut self.reader, cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// The body is over, one way or the other.
    fn end(&mut self, reading: Reading, cx: &Context<'_>) {
        self.reading = reading;
        self.reader = None;
        self.wake_task(Some(cx));
    }
}

fn note(known: &mut Option<Waker>, cx: &Context<'_>) {
    if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *known = Some(cx.waker().clone());
    }
}

/// The body of a request, as it comes.
pub struct Incoming<T = Stream>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    /// None: nothing more comes.
    shared: Option<Rc<Shared<T>>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Incoming<T> {
    pub fn empty() -> Self {
        Self { shared: None }
    }

    pub(super) fn of(shared: &Rc<Shared<T>>) -> Self {
        Self { shared: Some(shared.clone()) }
    }

    /// The next frame. Ends with an error where the client breaks off, or breaks the framing.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(shared) = &self.shared else {
            return Poll::Ready(None);
        };
        let mut inner = shared.inner.borrow_mut();
        if std::mem::take(&mut inner.expects) && !inner.answered {
            inner.interim.extend_from_slice(CONTINUE);
            shared.has_interim.set(true);
            inner.wake_task(Some(cx));
        }
        let frame = ready!(inner.poll_frame(cx));
        let ended = matches!(inner.reading, Reading::Head);
        drop(inner);
        if ended {
            self.shared = None;
        }
        Poll::Ready(frame)
    }

    /// Whether nothing more comes: no byte, no trailers, no end.
    pub fn is_end_stream(&self) -> bool {
        self.shared.is_none()
    }

    pub fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.shared else {
            return SizeHint::with_exact(0);
        };
        match shared.inner.borrow().reading {
            Reading::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for Incoming<T> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let inner = &mut *shared.inner.borrow_mut();
            inner.abandoned = true;
            inner.wake_task(None);
        }
    }
}

/// Writes to the client.
impl<T: AsyncWrite + Unpin> AsyncWrite for &Shared<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with_io(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with_io(|io| io.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_io(|io| io.poll_shutdown(cx))
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn with_io<R>(
        &self,
        work: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match &mut self.inner.borrow_mut().io {
            Some(io) => work(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
