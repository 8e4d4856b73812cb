//! A connection for one request: sending on it, reading from it, and giving it back to the pool.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::pool::{BoxError, Pool, Wire};
use super::{http1, http2};
use crate::clock::{self, Instant};
use crate::endpoint::{Held, State};
use crate::http2::{Incoming, Outgoing, Patient, TunnelStream};
use crate::names::Names;
use crate::stream::Stream;

/// Where the connection of a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Earlier requests went over it, and it was there.
    AtHand,
    /// It was waited for while another request opened it.
    Joined,
    Opened,
}

/// A connection that carries one request. Dropped without [`Lease::release`], an HTTP/1 connection
/// is closed: its state is unknown.
pub struct Lease<B> {
    pub(super) pool: Rc<Pool<B>>,
    pub(super) state: Arc<State>,
    pub(super) sender: Sender<B>,
    pub(super) rest: Rest,
    pub origin: Origin,
    pub(super) keep_alive: Option<Duration>,
}

/// What is left to be sent while the response is read.
pub(super) enum Rest {
    Nothing,
    /// The request's body.
    Body(AbortOnDrop),
    /// What a tunnel carries, on HTTP/2.
    Tunnel(SendStream<Bytes>),
}

/// A task that is of use only as long as this lives.
pub(super) struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(task))
    }
}

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
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Http1(http1::Error),
    #[error(transparent)]
    Http2(http2::Error),
}

pub(super) enum Sender<B> {
    Http1(http1::Connection<B>),
    Http2(http2::Place),
}

impl<B> Lease<B>
where
    B: Patient<Error = BoxError> + Unpin + 'static,
{
    /// Whether not a byte of an answer has come, on HTTP/1.
    pub fn is_unanswered(&self) -> bool {
        match &self.sender {
            Sender::Http1(connection) => connection.is_unanswered(),
            Sender::Http2(_) => false,
        }
    }

    /// Sends one request and waits for the head of its response. `interim` gets its 1xx responses.
    /// `names` say how the fields of either head are written, on HTTP/1.
    ///
    /// # Errors
    /// With it, whether anything of the request was written: if not, any method may be sent again.
    pub async fn send(
        &mut self,
        head: &Parts,
        names: &Names,
        body: Option<B>,
        interim: impl FnMut(StatusCode, HeaderMap),
    ) -> Result<(Response<ResponseBody<B>>, Names), SendError> {
        match &mut self.sender {
            Sender::Http1(connection) => {
                let sent = connection.send(head, names, body, interim).await;
                let (response, names) = sent.map_err(SendError::Http1)?;
                if !connection.is_sent() {
                    self.rest = Rest::Body(AbortOnDrop::spawn(connection.clone().finish_sending()));
                }
                Ok((response.map(|()| ResponseBody::Http1(connection.clone())), names))
            }
            Sender::Http2(place) => {
                // A refused request may be sent again after it was written, so its head stays here.
                let sent = place.send(head.clone(), body, interim).await;
                let (response, rest) = sent.map_err(SendError::Http2)?;
                self.rest = match rest {
                    http2::Rest::Nothing => Rest::Nothing,
                    http2::Rest::Sending(body) => Rest::Body(AbortOnDrop::spawn(finish(body))),
                    http2::Rest::Open(stream) => Rest::Tunnel(stream),
                };
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
    pub fn into_stream(self) -> Option<(Stream, Bytes, Held)> {
        match self.sender {
            Sender::Http1(connection) => connection.into_stream(),
            Sender::Http2(_) => None,
        }
    }

    /// The stream of a `CONNECT` that was granted with `body`, on HTTP/2. The lease has to live as long.
    pub fn take_tunnel(&mut self, body: ResponseBody<B>) -> Option<TunnelStream> {
        match (std::mem::replace(&mut self.rest, Rest::Nothing), body) {
            (Rest::Tunnel(send), ResponseBody::Http2(incoming)) => {
                Some(TunnelStream::new(send, incoming.into_stream()))
            }
            _ => None,
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
        let Self { pool, state, sender, rest, keep_alive, .. } = self;
        let connection = match (sender, rest) {
            (Sender::Http1(connection), _) => connection,
            (Sender::Http2(place), Rest::Body(mut sending)) if !sending.0.is_finished() => {
                // The answer came before the request was sent to its end; give the rest a moment.
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(PATIENCE, &mut sending.0).await;
                    drop(place);
                });
                return;
            }
            (Sender::Http2(_), _) => return,
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
        // As above.
        tokio::task::spawn_local(async move {
            let rest = connection.clone().finish_sending();
            let ended = tokio::time::timeout(PATIENCE, rest).await.is_ok();
            if ended && connection.is_reusable() {
                pool.put_idle(&state, connection, idle, clock::now());
            }
        });
    }
}

/// How long a request may go on that was answered before its end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends a body to its end. Whoever reads the response is told by the stream if it fails.
async fn finish<B: Patient<Error = BoxError> + Unpin>(mut body: Outgoing<B>) {
    let _ = poll_fn(|cx| body.poll_send(cx)).await;
}

impl<B> ResponseBody<B>
where
    B: Patient<Error = BoxError> + Unpin,
{
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(connection) => connection.poll_frame(cx).map_err(Into::into),
            Self::Http2(incoming) => incoming.poll_frame(cx).map_err(Into::into),
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
