//! The client's side of HTTP/2. A task of each connection reads and writes its frames; a request is polled by
//! whoever waits for its response, which costs it neither a task nor a channel.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::pool::BoxError;
use crate::clock::{self, Instant};
use crate::endpoint::Held;
use crate::http2::{
    Incoming, KeepAlive, MAX_ERROR_RESETS, MAX_FRAME, Outgoing, Patient, Seen, Stopped, Wire,
};
use crate::stream::Stream;

/// Interim answers to one request, as in [`super::http1`].
const MAX_INTERIM: u32 = 100;

/// What of a request's body is handed to the connection before the peer has opened a window for it: a small
/// body goes out with the head in one write.
const AHEAD: usize = 16 << 10;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of the request was written.
    #[error("the connection was closed before the request was written")]
    Unwritten,
    #[error("{0}")]
    Stream(h2::Error),
    #[error("{0}")]
    Malformed(&'static str),
    /// The request's own body failed, or is superseded.
    #[error("the request body failed")]
    RequestBody,
}

impl Error {
    /// Whether the peer has said that it did nothing with the request: refused the stream, or gone away with a
    /// last stream before it (RFC 9113 6.8, 8.7). Of streams that it did take, `h2` does not tell its GOAWAY.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Stream(error) if error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)))
    }
}

/// A connection, for as many requests at a time as there are [`Place`]s.
pub struct Connection {
    requests: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
    /// Its place in bulkheads.
    pub held: Held,
}

/// What the connection's task shares with those who use it.
struct State {
    seen: Rc<Seen>,
    /// The task has ended.
    over: Cell<bool>,
    active: Cell<u32>,
    idle_since: Cell<Instant>,
}

impl Connection {
    /// Sends the preface and settings; those of the peer are not waited for. `max_head` bounds the head of a
    /// response, in bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn open(io: Stream, max_head: usize, held: Held) -> Result<Rc<Self>, h2::Error> {
        let (wire, seen) = Wire::new(io);
        wire.gather();
        let mut builder = Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .max_send_buffer_size(1 << 20)
            .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
            // Until the peer tells its limit, which should not be less (RFC 9113 6.5.2).
            .initial_max_send_streams(100)
            .enable_push(false);
        let (requests, mut connection) = builder.handshake(wire.clone()).await?;
        let state = Rc::new(State {
            seen: seen.clone(),
            over: Cell::new(false),
            active: Cell::new(0),
            idle_since: Cell::new(clock::now()),
        });
        let shared = state.clone();
        let mut keep_alive = connection.ping_pong().map(|ping| KeepAlive::new(ping, seen));
        // It ends when the peer ends it, is gone, or nobody has the connection any more.
        tokio::task::spawn_local(async move {
            poll_fn(|cx| {
                let busy = shared.active.get() > 0;
                let gone = keep_alive.as_mut().is_some_and(|it| it.poll(cx, busy).is_ready());
                if gone || Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                match wire.poll_out(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(()),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            })
            .await;
            shared.over.set(true);
        });
        Ok(Rc::new(Self { requests: RefCell::new(requests), state, held }))
    }

    /// Whether new requests may be sent: neither has it ended, nor is the peer going away.
    pub fn is_open(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let mut requests = self.requests.borrow_mut();
        !self.state.over.get() && !matches!(requests.poll_ready(&mut nobody), Poll::Ready(Err(_)))
    }

    /// Whether it has room for one more request, of at most `limit` and what the peer takes, which may change
    /// its mind (RFC 9113 5.1.2).
    pub fn has_room(&self, limit: u32) -> bool {
        let active = self.state.active.get();
        active < limit && (active as usize) < self.max_streams()
    }

    /// Whether it is of no use: nothing is in progress, and the peer takes nothing.
    pub fn is_spent(&self) -> bool {
        self.active() == 0 && self.max_streams() == 0
    }

    /// Requests that the peer takes at a time.
    fn max_streams(&self) -> usize {
        self.requests.borrow().current_max_send_streams()
    }

    /// Requests in progress.
    pub fn active(&self) -> u32 {
        self.state.active.get()
    }

    /// Whether it has carried nothing for `limit`.
    pub fn is_idle_for(&self, limit: Duration, now: Instant) -> bool {
        self.active() == 0 && now.saturating_duration_since(self.state.idle_since.get()) >= limit
    }

    /// A place for one request.
    pub fn place(self: &Rc<Self>) -> Place {
        self.state.active.set(self.active() + 1);
        Place(self.clone())
    }
}

/// A request's place on a connection, which counts for as long as this lives.
pub struct Place(Rc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        let state = &self.0.state;
        state.active.set(state.active.get() - 1);
        state.idle_since.set(clock::now());
    }
}

/// What is left to do on a stream when the head of its response is here.
pub enum Rest<B> {
    Nothing,
    /// The request's body.
    Sending(Outgoing<B>),
    /// After a `CONNECT`: all that the tunnel carries.
    Open(SendStream<Bytes>),
}

impl Place {
    /// Sends a request and waits for the head of its response. A body of `CONNECT` is none.
    /// `interim` gets each 1xx response.
    ///
    /// # Errors
    /// [`Error::Unwritten`] where any request may be sent again.
    pub async fn send<B>(
        &self,
        mut head: Parts,
        body: Option<B>,
        mut interim: impl FnMut(StatusCode, HeaderMap),
    ) -> Result<(Response<Incoming>, Rest<B>), Error>
    where
        B: Patient<Error = BoxError> + Unpin,
    {
        let tunnel = head.method == Method::CONNECT;
        if body.is_none() && defines_content(&head.method) {
            head.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
        }
        let seen = &self.0.state.seen;
        let before = seen.written();
        let ends = body.is_none() && !tunnel;
        // A handle of its own: one that waits for room may not send another request.
        let mut requests = self.0.requests.borrow().clone();
        let (response, stream) = requests
            .send_request(Request::from_parts(head, ()), ends)
            .map_err(|error| match error.is_io() || error.is_go_away() {
                true => Error::Unwritten,
                false => Error::Stream(error),
            })?;
        drop(requests);
        let mut exchange = Exchange {
            response,
            rest: match body {
                _ if tunnel => Rest::Open(stream),
                Some(body) => Rest::Sending(Outgoing::new(stream, body, AHEAD)),
                None => Rest::Nothing,
            },
            interim: 0,
        };
        let result = poll_fn(|cx| exchange.poll(cx, &mut interim)).await;
        match result {
            Ok(response) => Ok((response, exchange.rest)),
            // The peer has not said why, and has not got a byte since.
            Err(Error::Stream(error)) if !error.is_remote() && seen.written() == before => {
                Err(Error::Unwritten)
            }
            Err(error) => Err(error),
        }
    }
}

/// A request whose response has not begun.
struct Exchange<B> {
    response: ResponseFuture,
    rest: Rest<B>,
    /// Interim answers so far.
    interim: u32,
}

impl<B> Exchange<B>
where
    B: Patient<Error = BoxError> + Unpin,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        interim: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Poll<Result<Response<Incoming>, Error>> {
        if let Rest::Sending(outgoing) = &mut self.rest {
            match outgoing.poll_send(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(Stopped::Body(_))) => return Poll::Ready(Err(Error::RequestBody)),
                // Why the peer wants no more of it is told by its response.
                Poll::Ready(Ok(()) | Err(Stopped::Peer)) => self.rest = Rest::Nothing,
            }
        }
        while let Some(head) = ready!(self.response.poll_informational(cx)) {
            let (head, ()) = head.map_err(Error::Stream)?.into_parts();
            self.interim += 1;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Error::Malformed("101 in HTTP/2")));
            }
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(Error::Malformed("too many interim answers")));
            }
            interim(head.status, head.headers);
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(Error::Stream)?;
        let (head, stream) = response.into_parts();
        let incoming = Incoming::new(stream, &head.headers);
        Poll::Ready(Ok(Response::from_parts(head, incoming)))
    }
}

/// Whether a request of this method that says nothing of a length is one whose length was forgotten.
fn defines_content(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT)
}
