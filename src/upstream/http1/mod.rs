//! The client's side of an HTTP/1.1 connection. It has no task and no channel: whoever has the
//! connection polls it, so that a request costs neither a wake-up nor a hand-over between the two.
//!
//! | file | its part |
//! |---|---|
//! | `head` | a request's head as bytes, a response's head out of bytes, and how its body is framed |
//! | `body` | the bytes of a response's body |
//!
//! What is not written yet of a request is in [`Outgoing`], which the server's side shares.
//!
//! Why not hyper's: its connection is a task of its own, woken three times for a request, behind two channels,
//! and it tells of interim answers and of the case of names by boxes in the extensions of each message.

mod body;
mod head;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use crate::http1::{self, Coding, Outgoing, SendError};
use crate::names::Names;
use crate::stream::Stream;
use body::Decoder;
use head::Framing;

/// What is read at once where the length of a body is not known.
const READ: usize = 8 * 1024;
/// And at most, of a body that is known to be longer.
const READ_LARGE: usize = 64 * 1024;

/// Interim answers to one request. Whoever sends more would keep us from ever looking at the clock.
const MAX_INTERIM: u32 = 100;

/// Why there is no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of the request was written.
    #[error("the connection was closed before the request was written")]
    Unwritten,
    #[error("connection closed before message completed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(Box<str>),
    /// The request's own body failed, or is superseded.
    #[error("the request body failed")]
    RequestBody,
}

impl Error {
    fn malformed(text: impl Into<Box<str>>) -> Self {
        Self::Malformed(text.into())
    }
}

/// A connection, shared by those who send on it and read from it; all of them on one worker.
pub struct Connection<B>(Rc<RefCell<Inner<B>>>);

impl<B> Clone for Connection<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<B> {
    io: Stream,
    max_head: usize,
    read: BytesMut,
    reading: Reading,
    out: Outgoing<B>,
    /// The peer lets the connection live after this exchange.
    keep_alive: bool,
    /// Who waits for the response, to be told when the request's body fails.
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Reading {
    /// Of the response to a request of this method. So many bytes were seen to be no whole head.
    Head {
        method: Method,
        seen: usize,
        /// Interim answers so far.
        interim: u32,
    },
    Body(Decoder),
    /// No response is awaited, or all of it was read.
    Done,
    /// The connection speaks another protocol.
    Switched,
    Failed,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// `max_head` bounds the head of a response, in bytes.
    pub fn new(io: Stream, max_head: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            io,
            max_head,
            read: BytesMut::new(),
            reading: Reading::Done,
            out: Outgoing::default(),
            keep_alive: true,
            reader: None,
        })))
    }

    /// Sends a request and waits for the head of its response. `body` is framed as `head` says:
    /// `content-length`, or else chunked; none is no body. The target has to be in origin-form.
    /// The fields are named as in `names`; those of the response come with how they were written.
    /// `interim` gets each 1xx response but 101.
    ///
    /// # Errors
    /// [`Error::Unwritten`] where any request may be sent again.
    pub async fn send(
        &self,
        head: &Parts,
        names: &Names,
        body: Option<B>,
        mut interim: impl FnMut(StatusCode, HeaderMap),
    ) -> Result<(Response<()>, Names), Error> {
        {
            let inner = &mut *self.0.borrow_mut();
            inner.begin(head, names, body)?;
            inner.reading = Reading::Head { method: head.method.clone(), seen: 0, interim: 0 };
        }
        std::future::poll_fn(|cx| self.0.borrow_mut().poll_response(cx, &mut interim)).await
    }

    /// Goes on sending the request's body, which has not ended with the head of the response.
    pub async fn finish_sending(self) {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.0.borrow_mut();
            let sent = ready!(inner.out.poll_send(&mut inner.io, cx));
            if sent.is_err()
                && let Some(reader) = inner.reader.take()
            {
                reader.wake();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether not a byte of an answer has come.
    pub fn is_unanswered(&self) -> bool {
        self.0.borrow().read.is_empty()
    }

    /// Whether all of the request is written.
    pub fn is_sent(&self) -> bool {
        self.0.borrow().out.is_done()
    }

    /// Whether the next request may be sent: the exchange before is over, and nobody closed.
    pub fn is_reusable(&self) -> bool {
        let inner = self.0.borrow();
        matches!(inner.reading, Reading::Done)
            && inner.keep_alive
            && inner.read.is_empty()
            && inner.out.is_done()
    }

    /// Gives back what a long message needed, for a connection that waits for the next one.
    pub fn shrink(&self) {
        let inner = &mut *self.0.borrow_mut();
        if inner.read.capacity() > READ {
            inner.read = BytesMut::new();
        }
        inner.out.shrink();
    }

    /// Whether nothing came while nothing was awaited: neither the peer's close nor an answer that
    /// nobody asked for. It does not ask the kernel while the runtime knows of no such event.
    pub fn is_quiet(&self) -> bool {
        let stirred = self.0.borrow().io.try_read(&mut [0]);
        stirred.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// After a 101: the connection itself, and what came on it behind the response. None while another
    /// has it as well.
    pub fn into_stream(self) -> Option<(Stream, Bytes)> {
        let inner = Rc::into_inner(self.0)?.into_inner();
        Some((inner.io, inner.read.freeze()))
    }

    /// The next frame of the response's body.
    pub fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.borrow_mut().poll_frame(cx)
    }

    pub fn is_end_stream(&self) -> bool {
        match &self.0.borrow().reading {
            Reading::Body(decoder) => decoder.is_done(),
            Reading::Done | Reading::Switched => true,
            Reading::Head { .. } | Reading::Failed => false,
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match &self.0.borrow().reading {
            Reading::Body(decoder) => decoder.size_hint(),
            Reading::Done | Reading::Switched => SizeHint::with_exact(0),
            Reading::Head { .. } | Reading::Failed => SizeHint::default(),
        }
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Takes a request that is to be written.
    ///
    /// # Errors
    /// A `content-length` that is none.
    fn begin(&mut self, head: &Parts, names: &Names, body: Option<B>) -> Result<(), Error> {
        head::write(head, names, self.out.begin());
        if let Some(body) = body {
            let coding = match head.headers.get(CONTENT_LENGTH) {
                Some(length) => Coding::Length(
                    http1::content_length(length)
                        .ok_or_else(|| Error::malformed("the request's content-length is none"))?,
                ),
                None => Coding::Chunked,
            };
            self.out.set_body(body, coding, Some(&head.headers));
        }
        Ok(())
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        interim: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Poll<Result<(Response<()>, Names), Error>> {
        match self.out.poll_send(&mut self.io, cx) {
            // It may have been answered before; else the reason is told below.
            Poll::Ready(Err(SendError::Refused)) => {}
            Poll::Ready(Err(SendError::Unwritten)) => return Poll::Ready(Err(Error::Unwritten)),
            Poll::Ready(Err(SendError::Body)) => return Poll::Ready(Err(Error::RequestBody)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match ready!(self.poll_head(cx, interim)) {
            // Closed without an answer: why it took no more says more than that.
            Err(Error::Closed) => {
                Poll::Ready(Err(self.out.take_error().map_or(Error::Closed, Error::Io)))
            }
            response => Poll::Ready(response),
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        interim: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Poll<Result<(Response<()>, Names), Error>> {
        loop {
            if let Some((response, names)) = self.parse()? {
                if !response.status().is_informational()
                    || response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    return Poll::Ready(Ok((response, names)));
                }
                let (head, ()) = response.into_parts();
                interim(head.status, head.headers);
                continue;
            }
            if self.read.len() >= self.max_head {
                return Poll::Ready(Err(Error::malformed("the head is too long")));
            }
            if ready!(self.poll_read(cx, READ))? == 0 {
                self.reading = Reading::Failed;
                return Poll::Ready(Err(Error::Closed));
            }
        }
    }

    /// Takes a head out of what was read, if there is a whole one.
    fn parse(&mut self) -> Result<Option<(Response<()>, Names)>, Error> {
        let Reading::Head { method, seen, interim } = &mut self.reading else {
            return Err(Error::Closed);
        };
        if self.read.is_empty() || *seen > 0 && !head::may_end(&self.read, *seen) {
            *seen = self.read.len();
            return Ok(None);
        }
        let Some(parsed) = head::parse(&mut self.read, method)? else {
            *seen = self.read.len();
            return Ok(None);
        };
        let status = parsed.response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.keep_alive = false;
            self.reading = Reading::Switched;
        } else if status.is_informational() {
            *seen = 0;
            *interim += 1;
            if *interim > MAX_INTERIM {
                return Err(Error::malformed("too many interim answers"));
            }
        } else {
            self.keep_alive = parsed.keep_alive;
            self.reading = match parsed.framing {
                Framing::None => Reading::Done,
                framing => Reading::Body(Decoder::new(framing)),
            };
        }
        Ok(Some((parsed.response, parsed.names)))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Reading::Body(decoder) = &mut self.reading else {
                return Poll::Ready(match self.reading {
                    Reading::Done | Reading::Switched => None,
                    Reading::Body(_) | Reading::Head { .. } | Reading::Failed => {
                        Some(Err(Error::Closed))
                    }
                });
            };
            match decoder.take(&mut self.read) {
                Ok(Some(frame)) => {
                    if decoder.is_done() {
                        self.reading = Reading::Done;
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if decoder.is_done() => {
                    self.reading = Reading::Done;
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
            if self.out.has_failed() {
                return self.fail(Error::RequestBody);
            }
            let wanted = decoder.wanted();
            let Poll::Ready(read) = self.poll_read(cx, wanted) else {
                if !self.out.is_done() {
                    self.reader = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            match read {
                Ok(0) => {
                    let ends = matches!(&self.reading, Reading::Body(body) if body.ends_by_close());
                    if !ends {
                        return self.fail(Error::Closed);
                    }
                    self.keep_alive = false;
                    self.reading = Reading::Done;
                    return Poll::Ready(None);
                }
                Ok(_) => {}
                Err(error) => return self.fail(error.into()),
            }
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.reading = Reading::Failed;
        Poll::Ready(Some(Err(error)))
    }

    /// Reads once, with room for `wanted` bytes; 0 is the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.read.reserve(wanted);
        let mut spare = ReadBuf::uninit(self.read.spare_capacity_mut());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut spare))?;
        let read = spare.filled().len();
        // SAFETY: the reader has filled, and so initialised, so many bytes of the spare capacity.
        unsafe { self.read.set_len(self.read.len() + read) };
        Poll::Ready(Ok(read))
    }
}
