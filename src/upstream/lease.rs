//! A connection for one request: sending on it, reading from it, and giving it back to the pool.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};

use super::http1;
use super::pool::{BoxError, Pool, Wire};
use crate::clock::{self, Instant};
use crate::endpoint::State;
use crate::names::Names;
use crate::stream::Stream;

/// A connection that carries one request. Dropped without [`Lease::release`], an HTTP/1 connection
/// is closed: its state is unknown.
pub struct Lease<B> {
    pub(super) pool: Rc<Pool<B>>,
    pub(super) state: Arc<State>,
    pub(super) sender: Sender<B>,
    /// Sends what is left of the request's body while the response is read.
    pub(super) sending: Option<AbortOnDrop>,
    /// Whether earlier requests went over this connection.
    pub reused: bool,
    pub(super) keep_alive: Option<Duration>,
}

/// A task that is of use only as long as this lives.
pub(super) struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of a response.
pub enum ResponseBody<B> {
    Http1(http1::Connection<B>),
    Http2(Incoming),
}

/// Why a request got no response.
#[derive(Debug)]
pub enum SendError {
    Http1(http1::Error),
    /// Whether none of it was written, and why.
    Http2 {
        unwritten: bool,
        error: hyper::Error,
    },
}

pub(super) enum Sender<B> {
    Http1(http1::Connection<B>),
    Http2(http2::SendRequest<B>, #[expect(dead_code, reason = "counts by its drop")] StreamCount),
}

pub(super) struct StreamCount {
    pub(super) active: Rc<Cell<u32>>,
    pub(super) idle_since: Rc<Cell<Instant>>,
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        self.idle_since.set(clock::now());
    }
}

impl<B> Lease<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends one request and waits for the head of its response. `interim` gets the 1xx responses of
    /// HTTP/1, where alone `names` say anything: how the fields of either head are written.
    ///
    /// # Errors
    /// With it, whether anything of the request was written: if not, any method may be sent again.
    pub async fn send(
        &mut self,
        head: &Parts,
        names: &Names,
        body: Option<B>,
        none: impl FnOnce() -> B,
        interim: impl FnMut(StatusCode, HeaderMap),
    ) -> Result<(Response<ResponseBody<B>>, Names), SendError> {
        match &mut self.sender {
            Sender::Http1(connection) => {
                let sent = connection.send(head, names, body, interim).await;
                let (response, names) = sent.map_err(SendError::Http1)?;
                if !connection.is_sent() {
                    let rest = connection.clone().finish_sending();
                    self.sending = Some(AbortOnDrop(tokio::task::spawn_local(rest)));
                }
                Ok((response.map(|()| ResponseBody::Http1(connection.clone())), names))
            }
            Sender::Http2(sender, _) => {
                // A refused request may be sent again after it was written, so its head stays here.
                let request = Request::from_parts(head.clone(), body.unwrap_or_else(none));
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|mut error: TrySendError<_>| SendError::Http2 {
                    unwritten: error.take_message().is_some(),
                    error: error.into_error(),
                })?;
                Ok((response.map(ResponseBody::Http2), Names::default()))
            }
        }
    }

    pub fn wire(&self) -> Wire {
        match self.sender {
            Sender::Http1(_) => Wire::Http1,
            Sender::Http2(..) => Wire::Http2,
        }
    }

    /// The connection itself, after it was switched to another protocol by an answer of HTTP/1, and
    /// what came behind that answer.
    pub fn into_stream(self) -> Option<(Stream, bytes::Bytes)> {
        match self.sender {
            Sender::Http1(connection) => connection.into_stream(),
            Sender::Http2(..) => None,
        }
    }

    /// Remembers what the peer said of its patience (`Keep-Alive: timeout=5`), less a margin so that
    /// we are the one who closes.
    pub fn note_keep_alive(&mut self, headers: &HeaderMap) {
        const MARGIN: Duration = Duration::from_millis(500);
        let told = headers
            .get(HeaderName::from_static("keep-alive"))
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")))
            .and_then(|seconds| seconds.trim().parse().ok());
        self.keep_alive = told.map(|seconds| Duration::from_secs(seconds).saturating_sub(MARGIN));
    }

    /// The response was read to its end: the connection may carry the next request.
    pub fn release(self, now: Instant) {
        let Self { pool, state, sender, sending, keep_alive, .. } = self;
        let Sender::Http1(connection) = sender else {
            return;
        };
        let idle = keep_alive.unwrap_or(Duration::MAX);
        if idle.is_zero() {
            return;
        }
        if connection.is_reusable() {
            return pool.put_idle(&state, connection, idle, now);
        }
        if connection.is_sent() {
            return;
        }
        // The answer came before the request was sent to its end; give the rest a moment.
        tokio::task::spawn_local(async move {
            const PATIENCE: Duration = Duration::from_secs(1);
            drop(sending);
            let rest = connection.clone().finish_sending();
            let ended = tokio::time::timeout(PATIENCE, rest).await.is_ok();
            if ended && connection.is_reusable() {
                pool.put_idle(&state, connection, idle, clock::now());
            }
        });
    }
}

impl<B> ResponseBody<B>
where
    B: Body<Data = bytes::Bytes> + Unpin,
{
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        match self {
            Self::Http1(connection) => connection.poll_frame(cx).map_err(Into::into),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}
