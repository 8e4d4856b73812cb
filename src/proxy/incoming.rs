//! The body of a request as it comes from a client, on either version of HTTP.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::BoxError;
use super::http2::ClientStream;
use crate::http2;
use crate::listen::http1;

/// Ends with an error where the client breaks off, or breaks the framing.
pub enum Incoming {
    Http1(http1::Incoming),
    /// A `CONNECT` has none: what comes is the tunnel's.
    Http2(Option<http2::Incoming>, Rc<ClientStream>),
    /// All of it, of a copy.
    Whole(Option<Bytes>),
}

impl Incoming {
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx).map_err(Into::into),
            Self::Http2(Some(body), _) => body.poll_frame(cx).map_err(Into::into),
            Self::Http2(None, _) => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    /// Whether nothing more comes: no byte, no trailers, no end.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body, _) => body.as_ref().is_none_or(|body| body.is_end_stream()),
            Self::Whole(bytes) => bytes.is_none(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(Some(body), _) => body.size_hint(),
            Self::Http2(None, _) => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
        }
    }

    /// The stream that it comes on, on HTTP/2.
    pub fn stream(&self) -> Option<Rc<ClientStream>> {
        match self {
            Self::Http1(_) | Self::Whole(_) => None,
            Self::Http2(_, stream) => Some(stream.clone()),
        }
    }
}
