//! A body that goes out on a stream, as fast as the peer takes it.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// A body that may tire of a peer who takes nothing of it.
pub trait Patient: Body<Data = Bytes> {
    /// Ready when the peer has taken nothing for too long. To be polled only while a frame of it waits.
    fn poll_tired(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Error> {
        Poll::Pending
    }
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub enum Stopped<E> {
    /// It failed by itself; the stream was reset.
    Body(E),
    /// The peer has reset the stream, or the connection is gone.
    Peer,
}

pub struct Outgoing<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Data that waits for the peer's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    /// What may be handed to the connection although there may be no window for it.
    ahead: usize,
}

impl<B> Outgoing<B>
where
    B: Patient + Unpin,
    B::Error: AsRef<dyn StdError + Send + Sync>,
{
    /// Up to `ahead` bytes wait for no window: they lie with the connection until there is one.
    pub fn new(stream: SendStream<Bytes>, body: B, ahead: usize) -> Self {
        Self { stream, body, waiting: None, ahead }
    }

    /// Sends until the body ends. Pending: the body has nothing, or the peer takes nothing.
    ///
    /// # Errors
    /// What stopped it; it must not be polled again.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        loop {
            if self.waiting.is_some() {
                ready!(self.poll_window(cx))?;
            }
            if let Some((data, last)) = self.waiting.take() {
                self.stream.send_data(data, last).map_err(|_| Stopped::Peer)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return self.poll_reset(cx),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let last = self.body.is_end_stream();
                        if data.len() <= self.ahead {
                            self.ahead -= data.len();
                            self.stream.send_data(data, last).map_err(|_| Stopped::Peer)?;
                            if last {
                                return Poll::Ready(Ok(()));
                            }
                        } else {
                            // Of the connection's window no more is claimed than shows that there is one:
                            // who has a lot to send would keep it from all others.
                            self.stream.reserve_capacity(1);
                            self.waiting = Some((data, last));
                        }
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        let sent = self.stream.send_trailers(trailers);
                        return Poll::Ready(sent.map_err(|_| Stopped::Peer));
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.fail(error))),
                Poll::Ready(None) => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| Stopped::Peer));
                }
            }
        }
    }

    /// Waits until there is a window for the data that waits.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        if self.stream.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        match self.stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(())),
            Poll::Ready(_) => Poll::Ready(Err(Stopped::Peer)),
            Poll::Pending => {
                let error = ready!(Pin::new(&mut self.body).poll_tired(cx));
                Poll::Ready(Err(self.fail(error)))
            }
        }
    }

    /// Nobody else tells of a peer that wants no more while the body has nothing.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        let _ = ready!(self.stream.poll_reset(cx));
        Poll::Ready(Err(Stopped::Peer))
    }

    fn fail(&mut self, error: B::Error) -> Stopped<B::Error> {
        self.stream.send_reset(reason(error.as_ref()));
        Stopped::Body(error)
    }
}

/// A body that another stream of HTTP/2 has cancelled ends as that one did. Other reasons say something of that
/// connection, or that nothing was done, which is not true of this one.
fn reason(error: &(dyn StdError + Send + Sync + 'static)) -> Reason {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return match reason {
                Reason::CANCEL => reason,
                _ => Reason::INTERNAL_ERROR,
            };
        }
        next = error.source();
    }
    Reason::INTERNAL_ERROR
}
