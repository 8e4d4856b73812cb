//! The guard itself: what hyper's server reads from instead of the socket.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::answers::Answers;
use super::framing::{Messages, Stop};
use super::head::{HeadLimits, request_line};
use super::rejection::Rejection;
use super::shared::{RequestLine, Shared};
use super::timer::{Due, Phase, Timer};

/// What hyper gets in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";
/// Bytes of a hoped-for protocol that are read ahead of the decision about it.
const MAX_HELD: usize = 64 * 1024;
/// What is read and thrown away of a client that still sends while or after we answer and close:
/// closing a socket with unread bytes resets it, and the answer would be lost.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// An I/O object for hyper's HTTP/1 server that passes on only what [`Messages`] has judged.
///
/// In the usual case a read goes straight into hyper's buffer and is judged there. Only the bytes
/// of an incomplete head, or those that wait for the decision about an upgrade, are kept here.
///
/// hyper is to be set up with `header_read_timeout(None)` (the guard has its own), without
/// `pipeline_flush`, with `max_headers` of at least [`HeadLimits::max_fields`].
#[derive(Debug)]
pub struct GuardedIo<T> {
    io: T,
    limits: Arc<HeadLimits>,
    shared: Arc<Shared>,
    messages: Messages,
    mode: Mode,
    /// Bytes from the client that hyper has not got yet. The first `ready` of them may go on; the
    /// others are an incomplete head, or on hold, or (`unjudged`) not looked at.
    held: BytesMut,
    ready: usize,
    unjudged: bool,
    timer: Timer,
    /// The task that was made known to `shared`.
    waker: Option<std::task::Waker>,
    /// Set once our side is shut down and the client's last bytes are thrown away.
    linger: Option<Pin<Box<Sleep>>>,
    /// Bytes that may still be thrown away.
    discardable: usize,
    answers: Answers,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Follow,
    /// hyper gets the stand-in, from this offset on.
    StandIn(usize),
    /// After the stand-in. Never an end of file: hyper would drop the answer.
    Discard,
    /// The body broke its framing: each read fails.
    BrokenBody(Rejection),
    /// As if the client had closed.
    Ended,
}

enum Fill {
    End,
    /// Bytes are in hyper's buffer.
    Passed,
    /// What was read is kept, or is refused.
    Kept,
}

impl<T> GuardedIo<T> {
    /// Guards `io`, from which `prefix` was read already.
    pub fn new(io: T, prefix: Bytes, limits: Arc<HeadLimits>, shared: Arc<Shared>) -> Self {
        shared.add_read(prefix.len());
        let timer = Timer::new(shared.opened(), &limits);
        Self {
            io,
            limits,
            shared,
            messages: Messages::default(),
            mode: Mode::Follow,
            unjudged: !prefix.is_empty(),
            held: prefix.into(),
            ready: 0,
            timer,
            waker: None,
            linger: None,
            discardable: LINGER_BYTES,
            answers: Answers::default(),
        }
    }

    /// The I/O object and the bytes that were read from it but not passed on; for a tunnel.
    pub fn into_inner(self) -> (T, Bytes) {
        (self.io, self.held.freeze())
    }

    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Judges bytes in hyper's buffer; says how many of them may stay there.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if !self.held.is_empty() || self.messages.is_held() {
            self.held.extend_from_slice(bytes);
            self.unjudged = true;
            return 0;
        }
        let scan = self.messages.scan(bytes, &self.limits);
        let rest = &bytes[scan.pass..];
        match scan.stop {
            Stop::More | Stop::Hold => self.held.extend_from_slice(rest),
            Stop::BadHead(rejection) => self.refuse_head(rejection, line_of(rest)),
            Stop::BadBody(rejection) => self.refuse_body(rejection),
        }
        self.note_progress();
        scan.pass
    }

    /// Judges the bytes that were kept.
    fn judge_held(&mut self) {
        self.unjudged = false;
        let scan = self.messages.scan(&self.held, &self.limits);
        self.ready = scan.pass;
        match scan.stop {
            Stop::More | Stop::Hold => {}
            Stop::BadHead(rejection) => {
                let line = line_of(&self.held[scan.pass..]);
                self.refuse_head(rejection, line);
            }
            Stop::BadBody(rejection) => self.refuse_body(rejection),
        }
        self.note_progress();
    }

    fn refuse_head(&mut self, rejection: Rejection, line: Option<RequestLine>) {
        self.held.truncate(self.ready);
        self.shared.refuse_head(self.messages.heads(), rejection, line);
        self.mode = Mode::StandIn(0);
    }

    fn refuse_body(&mut self, rejection: Rejection) {
        self.held.truncate(self.ready);
        self.shared.refuse_body(rejection);
        self.mode = Mode::BrokenBody(rejection);
    }

    fn note_progress(&mut self) {
        for (head, names) in self.messages.take_names() {
            self.shared.name_head(head, names);
        }
        let messages = &self.messages;
        let in_head = messages.in_head(self.held.len() - self.ready);
        let mid_message = in_head || messages.in_body() || messages.is_held();
        self.shared.note_progress(messages.heads(), mid_message, messages.is_opaque());
        if messages.wants_upgrade() {
            self.shared.await_upgrade(messages.heads());
        }
    }

    /// Gives hyper what is ready of the kept bytes, and frees their buffer with the last of them.
    fn hand_on(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let len = self.ready.min(cursor.remaining());
        cursor.put_slice(&self.held[..len]);
        self.held.advance(len);
        self.ready -= len;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    fn hand_on_stand_in(&mut self, offset: usize, cursor: &mut ReadBufCursor<'_>) {
        let len = (STAND_IN.len() - offset).min(cursor.remaining());
        cursor.put_slice(&STAND_IN[offset..offset + len]);
        let offset = offset + len;
        self.mode = if offset == STAND_IN.len() { Mode::Discard } else { Mode::StandIn(offset) };
    }

    fn apply_decision(&mut self) {
        if self.messages.is_held()
            && let Some(accepted) = self.shared.take_decision()
        {
            self.messages.decide(accepted);
            self.unjudged = !self.held.is_empty();
            self.note_progress();
        }
    }

    /// What is due when no byte comes; the timeout of a head is dealt with here.
    fn wait(&mut self, cx: &mut Context<'_>) -> Due {
        let phase = if self.messages.in_head(self.held.len()) {
            Phase::Head
        } else if self.shared.is_busy() || self.messages.in_body() || self.messages.is_held() {
            Phase::Busy(self.shared.idle_since())
        } else if self.messages.heads() == 0 {
            Phase::New
        } else {
            Phase::Idle(self.shared.idle_since())
        };
        let due = self.timer.poll(cx, phase, &self.limits);
        match due {
            Due::Nothing => {}
            Due::HeaderTimeout => {
                let line = line_of(&self.held);
                self.messages.refuse_head(Rejection::HEADER_TIMEOUT);
                self.refuse_head(Rejection::HEADER_TIMEOUT, line);
                self.note_progress();
            }
            Due::Park(until) => self.shared.propose_parking(until),
            Due::Close => self.mode = Mode::Ended,
        }
        due
    }

    fn note_waker(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.shared.set_waker(cx);
        }
    }

    /// Whether the client may still be sending what nobody will read.
    fn must_linger(&self) -> bool {
        matches!(self.mode, Mode::StandIn(_) | Mode::Discard | Mode::BrokenBody(_))
            || self.messages.in_body()
            || !self.held.is_empty()
    }
}

fn line_of(head: &[u8]) -> Option<RequestLine> {
    let (method, target) = request_line(head)?;
    Some(RequestLine { method: method.to_owned(), target: target.to_owned() })
}

impl<T: AsyncRead + Unpin> GuardedIo<T> {
    /// Reads once, straight into hyper's buffer.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<Fill>> {
        // SAFETY: the slice is only handed to a `ReadBuf`, which never writes uninitialised bytes.
        let mut spare = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut spare))?;
        let bytes = spare.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Fill::End));
        }
        self.shared.add_read(bytes.len());
        let pass = self.take(bytes);
        if pass == 0 {
            return Poll::Ready(Ok(Fill::Kept));
        }
        // SAFETY: `pass` is at most the length of `bytes`, the filled and thus initialised part
        // that begins where the cursor stands.
        unsafe { cursor.advance(pass) };
        Poll::Ready(Ok(Fill::Passed))
    }

    /// Throws away what still comes. Ready when nothing more is worth reading.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [MaybeUninit::<u8>::uninit(); 4096];
        while self.discardable > 0 {
            let mut spare = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut spare)) {
                Ok(()) if !spare.filled().is_empty() => {
                    let len = spare.filled().len();
                    self.shared.add_read(len);
                    self.discardable = self.discardable.saturating_sub(len);
                }
                _ => self.discardable = 0,
            }
        }
        Poll::Ready(())
    }
}

impl<T: AsyncRead + Unpin> Read for GuardedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if cursor.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        this.note_waker(cx);
        loop {
            if this.ready > 0 {
                this.hand_on(&mut cursor);
                return Poll::Ready(Ok(()));
            }
            match this.mode {
                Mode::Follow => {}
                Mode::StandIn(offset) => {
                    this.hand_on_stand_in(offset, &mut cursor);
                    return Poll::Ready(Ok(()));
                }
                Mode::Discard => {
                    // hyper goes on by the answer, not by what it reads.
                    let _ = this.poll_discard(cx);
                    return Poll::Pending;
                }
                Mode::BrokenBody(rejection) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, rejection.reason);
                    return Poll::Ready(Err(error));
                }
                Mode::Ended => return Poll::Ready(Ok(())),
            }
            this.apply_decision();
            if this.unjudged && !this.messages.is_held() {
                this.judge_held();
                continue;
            }
            if this.messages.is_held() && this.held.len() >= MAX_HELD {
                return Poll::Pending;
            }
            match this.fill(cx, &mut cursor) {
                Poll::Ready(Ok(Fill::Kept)) => {}
                Poll::Ready(Ok(Fill::Passed | Fill::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if matches!(this.wait(cx), Due::Nothing | Due::Park(_)) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// hyper has `len` bytes to write.
    fn begin_write(&mut self, len: usize) {
        self.shared.set_flushed(false);
        self.answers.offer(self.shared.take_answer_names(), len);
    }

    fn add_written(&mut self, bytes: usize) {
        self.answers.add_written(bytes);
        self.shared.add_written(bytes);
    }

    /// Writes bytes with a head whose names have their case to get back.
    fn poll_write_answer(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.answers.poll_write(Pin::new(&mut self.io), cx, bufs))?;
        self.shared.add_written(written);
        Poll::Ready(Ok(written))
    }

    /// Writes the injected bytes, if there are any.
    fn poll_write_injected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.shared.has_injected() {
            let io = Pin::new(&mut self.io);
            let mut pending = false;
            let written = self.shared.with_injected(|bytes| match io.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                Poll::Ready(written) => written,
                Poll::Pending => {
                    pending = true;
                    Ok(0)
                }
            })?;
            self.shared.add_injected(written);
            if pending {
                self.shared.set_flushed(false);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Write for GuardedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_write(buf.len());
        ready!(this.poll_write_injected(cx))?;
        if this.answers.has_head() {
            return this.poll_write_answer(cx, &[io::IoSlice::new(buf)]);
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.add_written(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_write(bufs.iter().map(|buf| buf.len()).sum());
        ready!(this.poll_write_injected(cx))?;
        if this.answers.has_head() {
            return this.poll_write_answer(cx, bufs);
        }
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.add_written(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_injected(cx))?;
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.shared.set_flushed(true);
        Poll::Ready(Ok(()))
    }

    /// Shuts our side down. If the client may still be sending, what it sends is thrown away for a
    /// short time, so that it gets to read the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let linger = match &mut this.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                if !this.must_linger() {
                    return Poll::Ready(Ok(()));
                }
                this.held = BytesMut::new();
                this.ready = 0;
                this.linger.insert(Box::pin(sleep(LINGER_TIME)))
            }
        };
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        this.poll_discard(cx).map(Ok)
    }
}
