//! The bytes of a message that are not written yet. A small body goes out with the head in one write, a
//! large one is not copied.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::TRAILER;
use http::{HeaderMap, HeaderName};
use http_body::Body;
use tokio::io::AsyncWrite;

/// Data up to this length is copied behind what is to be written anyway.
const SMALL: usize = 4 * 1024;
/// No more is asked of the body while so much waits.
const ENOUGH: usize = 16 * 1024;

pub struct Outgoing<B> {
    /// Written first, from `at` on. Kept for the next message.
    buffer: Vec<u8>,
    at: usize,
    /// Written after it: data that is too long to copy, and what ends its chunk.
    large: Bytes,
    tail: &'static [u8],
    body: Option<B>,
    coding: Coding,
    /// Trailers that the head has announced.
    announced: Vec<HeaderName>,
    /// A byte of this message was written.
    touched: bool,
    state: State,
}

/// How the peer will know where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// Why not all of a message was written.
#[derive(Debug)]
pub enum SendError {
    /// Not a byte was taken.
    Unwritten,
    /// The peer takes no more; [`Outgoing::take_error`] has the reason.
    Refused,
    /// The message's own body failed, or is of another length than its head says.
    Body,
}

#[derive(Debug)]
enum State {
    Sending,
    Done,
    /// The peer takes no more; why, until it was told. An answer may be there nevertheless.
    Refused(Option<io::Error>),
    /// The message's own body is at fault.
    Failed,
}

impl<B> Default for Outgoing<B> {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            large: Bytes::new(),
            tail: b"",
            body: None,
            coding: Coding::Length(0),
            announced: Vec::new(),
            touched: false,
            state: State::Done,
        }
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Begins a message when the one before is done, or as good as written. Its head is to be appended to
    /// what is returned.
    pub fn begin(&mut self) -> &mut Vec<u8> {
        self.touched = false;
        self.state = State::Sending;
        &mut self.buffer
    }

    /// Gives the message a body. Of its trailers, those go out that `announces` does in `Trailer`.
    pub fn set_body(&mut self, body: B, coding: Coding, announces: Option<&HeaderMap>) {
        self.body = Some(body);
        self.coding = coding;
        self.announced.clear();
        if let Some(headers) = announces {
            let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
            let names = values.flat_map(|value| value.split(','));
            self.announced.extend(names.filter_map(|name| name.trim().parse::<HeaderName>().ok()));
        }
    }

    /// For a connection that waits: only a small buffer is kept.
    pub fn shrink(&mut self) {
        if self.buffer.capacity() > SMALL {
            self.buffer = Vec::new();
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the message's own body has failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    /// Why the peer takes no more, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        match &mut self.state {
            State::Refused(error) => error.take(),
            State::Sending | State::Done | State::Failed => None,
        }
    }

    /// Writes until all of the message is written. Pending: the socket or the body has to go on.
    ///
    /// # Errors
    /// See [`SendError`]. It stays so.
    pub fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        match &self.state {
            State::Sending => {}
            State::Done => return Poll::Ready(Ok(())),
            State::Refused(_) => return Poll::Ready(Err(SendError::Refused)),
            State::Failed => return Poll::Ready(Err(SendError::Body)),
        }
        loop {
            let filled = self.poll_fill(cx);
            if let Poll::Ready(Err(error)) = filled {
                self.state = State::Failed;
                self.body = None;
                return Poll::Ready(Err(error));
            }
            match ready!(self.poll_write(io, cx)) {
                Ok(()) => {}
                Err(_) if !self.touched => {
                    self.state = State::Refused(None);
                    return Poll::Ready(Err(SendError::Unwritten));
                }
                Err(error) => {
                    self.state = State::Refused(Some(error));
                    return Poll::Ready(Err(SendError::Refused));
                }
            }
            ready!(filled)?;
            if self.body.is_none() {
                self.state = State::Done;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what the body has, up to a limit. Pending: it has nothing now.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.at >= ENOUGH {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        // What ends a chunk has to be out before anything that follows it.
        while self.large.is_empty() && self.tail.is_empty() && self.buffer.len() - self.at < ENOUGH
        {
            let Some(body) = &mut self.body else { break };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data(data)?,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.end(Some(&trailers))?;
                        }
                        break;
                    }
                },
                Some(Err(_)) => return Poll::Ready(Err(SendError::Body)),
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn data(&mut self, data: Bytes) -> Result<(), SendError> {
        match &mut self.coding {
            Coding::Length(left) => {
                // More than was announced would be taken for the next message.
                *left = left.checked_sub(data.len() as u64).ok_or(SendError::Body)?;
            }
            // An empty chunk would be the last one.
            Coding::Chunked if data.is_empty() => return Ok(()),
            Coding::Chunked => {
                // Writing to a vector never fails.
                let _ = write!(self.buffer, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
            Coding::Close => {}
        }
        if data.len() <= SMALL {
            self.buffer.extend_from_slice(&data);
            self.buffer.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            self.large = data;
        }
        // Whoever knows the length need not be asked for the end.
        if self.coding == Coding::Length(0)
            && self.body.as_ref().is_some_and(|body| body.is_end_stream())
        {
            self.body = None;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), SendError> {
        self.body = None;
        match self.coding {
            Coding::Length(0) | Coding::Close => {}
            Coding::Length(_) => return Err(SendError::Body),
            Coding::Chunked => {
                self.buffer.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if self.announced.contains(name) {
                        super::write_field(name.as_str().as_bytes(), value, &mut self.buffer);
                    }
                }
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Writes what there is, without asking the body for more; also after it has failed.
    ///
    /// # Errors
    /// The peer takes no more.
    pub fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let head = &self.buffer[self.at..];
            let written = if self.large.is_empty() && self.tail.is_empty() {
                if head.is_empty() {
                    self.buffer.clear();
                    self.at = 0;
                    return Poll::Ready(Ok(()));
                }
                ready!(Pin::new(&mut *io).poll_write(cx, head))?
            } else {
                let all = [head, &self.large, self.tail].map(IoSlice::new);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &all))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.touched = true;
            let of_head = written.min(head.len());
            let of_large = (written - of_head).min(self.large.len());
            self.at += of_head;
            self.large.advance(of_large);
            self.tail = &self.tail[written - of_head - of_large..];
        }
    }
}
