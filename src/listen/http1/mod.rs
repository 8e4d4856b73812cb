//! The server's side of an HTTP/1 connection: one task, one request after another, each head and each byte
//! of a body judged before anything behind it is looked at.
//!
//! | file | its part |
//! |---|---|
//! | `head`, `said`, `syntax` | a request out of the bytes of its head, or why there is none |
//! | `chunked` | a chunked body out of its bytes |
//! | `shared` | what a request has of its connection: its body, and what is said before the answer |
//! | `answer` | the head of an answer, and how its body is framed |
//! | `timer` | how long a client may take for a head, or be silent |
//! | `rejection` | why a message is refused |
//!
//! Why not hyper's server: it accepts what smugglers use (a `Content-Length` beside a `Transfer-Encoding`, bare
//! LF, a missing `Host`) and answers some errors by itself, so that each head would have to be judged before it
//! reads it again; and of interim answers and the case of names it tells at a price.

mod answer;
mod chunked;
mod head;
mod rejection;
mod said;
mod shared;
mod syntax;
mod timer;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::clock::{self, Instant};
use crate::http1::{Coding, Outgoing, SendError};
use crate::stream::Stream;
use answer::Asked;
use head::{Framing, Head, HeadParser};
use shared::Reading;
use timer::{Due, Phase, Timer};

pub use head::HeadLimits;
pub use rejection::Rejection;
pub use shared::{BodyError, Incoming, Shared};

/// What is read at once where nothing is known of it.
const READ: usize = 8 * 1024;
/// With less room than this no read is begun.
const READ_LITTLE: usize = 512;
/// And at most, of a body that is known to be longer.
const READ_LARGE: usize = 64 * 1024;
/// Bytes of a hoped-for protocol that are read ahead of the decision about it.
const MAX_HELD: usize = 64 * 1024;
/// What is read and thrown away of a client that still sends while we close: closing a socket with unread
/// bytes resets it, and the answer would be lost.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The connection, for the task that serves it. `B` is the body of an answer.
///
/// It is to be polled in this order: [`poll_next`](Self::poll_next) until there is a request,
/// [`poll_gone`](Self::poll_gone) while it is being handled, [`answer`](Self::answer) and
/// [`poll_answer`](Self::poll_answer), and then again. Dropped, it closes the connection at once.
pub struct Connection<B, T = Stream> {
    shared: Rc<Shared<T>>,
    limits: HeadLimits,
    parser: HeadParser,
    /// The verdict on the next head, where it is here already.
    judged: Option<Result<Head, Rejection>>,
    timer: Timer,
    /// The request in progress, or the one before.
    asked: Asked,
    out: Outgoing<B>,
    keep_alive: bool,
    /// The answer, or the rest of the request, had to be waited for.
    waited: bool,
    /// No head was complete yet.
    new: bool,
    /// The client may still be sending what nobody will read.
    linger: bool,
    /// Set once our side is shut down and the client's last bytes are thrown away.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Bytes that may still be thrown away.
    discardable: usize,
}

/// What comes of a connection that waits for a request.
pub enum Next<T = Stream>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    Request(Request<Incoming<T>>),
    /// To be answered; nothing behind it is looked at.
    Refused(Refused),
    /// It was idle for long enough to be parked, and may stay so until then. It may as well be asked again.
    Park(Instant),
    /// The client has left, or was silent for too long.
    End,
}

/// A head that breaks HTTP or our limits.
#[derive(Debug)]
pub struct Refused {
    pub rejection: Rejection,
    /// For the log, where they were readable.
    pub method: Option<Method>,
    pub path: Option<PathAndQuery>,
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next request.
    Next,
    /// Nothing; see [`Connection::poll_close`].
    Close,
    /// The connection is broken, or the answer broke off: it is to be dropped, so that the client notices.
    Broken,
}

impl<B, T> Connection<B, T>
where
    B: Body<Data = Bytes> + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    /// A connection that began, or came to life again, at `opened`. `early` was read from it already.
    pub fn new(io: T, early: Bytes, limits: HeadLimits, opened: Instant) -> Self {
        Self {
            shared: Shared::new(io, early, limits.max_fields, opened),
            parser: HeadParser::default(),
            judged: None,
            timer: Timer::new(opened, &limits),
            limits,
            asked: Asked::default(),
            out: Outgoing::default(),
            keep_alive: true,
            waited: false,
            new: true,
            linger: false,
            lingering: None,
            discardable: LINGER_BYTES,
        }
    }

    /// What requests have of it.
    pub fn shared(&self) -> &Rc<Shared<T>> {
        &self.shared
    }

    /// Waits for the next request.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next<T>> {
        loop {
            match self.judge() {
                Some(Ok(head)) => {
                    return Poll::Ready(match self.take(&head) {
                        Ok(request) => Next::Request(request),
                        Err(rejection) => Next::Refused(self.refuse(rejection)),
                    });
                }
                Some(Err(rejection)) => return Poll::Ready(Next::Refused(self.refuse(rejection))),
                None => {}
            }
            let polled = {
                let inner = &mut *self.shared.inner.borrow_mut();
                if inner.read.is_empty() {
                    // What the request before had of it is free again.
                    let _ = inner.read.try_reclaim(READ);
                }
                inner.poll_read(cx, READ_LITTLE)
            };
            match polled {
                Poll::Ready(Ok(1..)) => continue,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => {}
            }
            let phase = match self.new {
                _ if self.in_head() => Phase::Head,
                true => Phase::New,
                false => Phase::Idle(self.shared.idle_since.get()),
            };
            return match self.timer.poll(cx, phase, &self.limits) {
                Due::Nothing => Poll::Pending,
                Due::Park(until) => Poll::Ready(Next::Park(until)),
                Due::Close => Poll::Ready(Next::End),
                Due::HeaderTimeout => {
                    Poll::Ready(Next::Refused(self.refuse(Rejection::HEADER_TIMEOUT)))
                }
            };
        }
    }

    /// Whether a head has begun. Empty lines do not count.
    pub fn in_head(&self) -> bool {
        self.parser.has_begun(self.shared.inner.borrow().read.len())
    }

    /// The verdict on the next head, once it is there.
    fn judge(&mut self) -> Option<Result<Head, Rejection>> {
        if self.judged.is_none() {
            let read = &self.shared.inner.borrow().read;
            if !read.is_empty() {
                self.judged = self.parser.feed(read, &self.limits).transpose();
            }
        }
        self.judged
    }

    /// Takes the next request, whose head is here.
    fn take(&mut self, head: &Head) -> Result<Request<Incoming<T>>, Rejection> {
        let inner = &mut *self.shared.inner.borrow_mut();
        let (request, names) = self.parser.take(&mut inner.read, head)?;
        self.judged = None;
        self.new = false;
        self.timer.head_ends(&self.limits);
        self.asked = Asked::of(request.method(), head);
        self.waited = false;
        inner.names = names;
        inner.begin(head);
        let body = match head.framing {
            Framing::None => Incoming::empty(),
            Framing::Length(_) | Framing::Chunked => Incoming::of(&self.shared),
        };
        Ok(request.map(|()| body))
    }

    fn refuse(&mut self, rejection: Rejection) -> Refused {
        let inner = &mut *self.shared.inner.borrow_mut();
        let (method, path) = match head::request_line(&inner.read) {
            Some((method, target)) => {
                (Method::from_bytes(method.as_bytes()).ok(), target.parse().ok())
            }
            None => (None, None),
        };
        inner.refuse();
        self.asked = Asked::default();
        self.linger = true;
        Refused { rejection, method, path }
    }

    /// To be polled while a request is being handled, after the story was: writes what is to be said before
    /// the answer, and is ready when the client has left. That is not seen while there are bytes of a body to
    /// read, which the story sees, nor behind a pipelined request.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.has_interim.take() {
            let interim = std::mem::take(&mut self.shared.inner.borrow_mut().interim);
            self.out.begin().extend_from_slice(&interim);
        }
        if !self.out.is_done()
            && let Poll::Ready(Err(_)) = self.out.poll_send(&mut &*self.shared, cx)
        {
            return Poll::Ready(());
        }
        self.poll_left(cx)
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut inner = self.shared.inner.borrow_mut();
            if !matches!(inner.reading, Reading::Head) {
                inner.note_task(cx);
                return Poll::Pending;
            }
            if inner.read.is_empty() || self.asked.upgrade {
                if inner.read.len() >= MAX_HELD {
                    return Poll::Pending;
                }
            } else {
                drop(inner);
                if self.judge().is_some() {
                    return Poll::Pending;
                }
                inner = self.shared.inner.borrow_mut();
            }
            if !matches!(ready!(inner.poll_read(cx, READ_LITTLE)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
    }

    /// Begins the answer to the request at hand. It is the last one where `closing`.
    pub fn answer(&mut self, response: Response<B>, closing: bool) {
        let interim = self.shared.has_interim.take();
        let (head, body) = response.into_parts();
        let names = {
            let inner = &mut *self.shared.inner.borrow_mut();
            inner.answered = true;
            let buffer = self.out.begin();
            if interim {
                buffer.append(&mut inner.interim);
            }
            std::mem::take(&mut inner.answer_names)
        };
        let sent = self.asked.write(&head, &body, &names, closing, self.out.begin());
        self.keep_alive = sent.keep_alive;
        if let Some(coding) = sent.coding {
            let trailers = coding == Coding::Chunked && self.asked.trailers;
            self.out.set_body(body, coding, trailers.then_some(&head.headers));
        }
    }

    /// Writes the answer, and waits for what is left of the request.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<After> {
        let polled = self.poll_end(cx);
        if polled.is_pending() {
            self.waited = true;
            if self.poll_left(cx).is_ready() {
                return Poll::Ready(After::Broken);
            }
        }
        polled
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<After> {
        match ready!(self.out.poll_send(&mut &*self.shared, cx)) {
            Ok(()) => {}
            Err(SendError::Body) => {
                // The client is to have what came before: who gets nothing at all may take its request for
                // one that nobody has seen.
                let _ = ready!(self.out.poll_write(&mut &*self.shared, cx));
                return Poll::Ready(After::Broken);
            }
            Err(SendError::Unwritten | SendError::Refused) => return Poll::Ready(After::Broken),
        }
        let inner = &mut *self.shared.inner.borrow_mut();
        if !ready!(inner.poll_rest(cx)) {
            self.linger = true;
            return Poll::Ready(After::Close);
        }
        if !self.keep_alive {
            return Poll::Ready(After::Close);
        }
        inner.shrink();
        self.out.shrink();
        if self.waited {
            self.shared.idle_since.set(clock::now());
        }
        Poll::Ready(After::Next)
    }

    /// Shuts our side down. If the client may still be sending, what it sends is thrown away for a short time,
    /// so that it gets to read the answer.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.shared.inner.borrow_mut();
        let lingering = match &mut self.lingering {
            Some(lingering) => lingering,
            None => {
                let shut = ready!(inner.poll_shutdown(cx));
                if shut.is_err() || inner.read.is_empty() && !self.linger {
                    return Poll::Ready(());
                }
                inner.read = Default::default();
                self.lingering.insert(Box::pin(sleep(LINGER_TIME)))
            }
        };
        if lingering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(io) = &mut inner.io else { return Poll::Ready(()) };
        let mut scratch = [MaybeUninit::<u8>::uninit(); 4096];
        while self.discardable > 0 {
            let mut spare = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut spare)) {
                Ok(()) if !spare.filled().is_empty() => {
                    self.discardable = self.discardable.saturating_sub(spare.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// The connection itself, and what came behind the last request: for a tunnel, or to be parked. None where
    /// that request has not come to its end.
    pub fn into_stream(self) -> Option<(T, Bytes)> {
        let inner = &mut *self.shared.inner.borrow_mut();
        if !matches!(inner.reading, Reading::Head) {
            return None;
        }
        let early = std::mem::take(&mut inner.read);
        Some((inner.io.take()?, early.freeze()))
    }
}

impl<B, T> Drop for Connection<B, T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}
