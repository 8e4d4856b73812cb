//! The server's side of an HTTP/2 connection: its settings, its pings, and the requests that come on it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http2::{KeepAlive, MAX_ERROR_RESETS, MAX_FRAME, Wire};

/// Requests in progress on one connection.
const MAX_STREAMS: u32 = 100;
/// What a client may send on a stream, and on all of them, before we have taken it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of a stream waits at most to be written.
const SEND_BUFFER: usize = 64 << 10;

pub struct Connection<T> {
    inner: h2::server::Connection<Wire<T>, Bytes>,
    wire: Wire<T>,
    keep_alive: Option<KeepAlive>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Exchanges the prefaces. `max_head` bounds the head of a request, in bytes. `h2` bounds the rest: resets
    /// of streams that nobody has looked at, continuations, small frames of data.
    ///
    /// # Errors
    /// The connection is broken, or its preface is none.
    pub async fn open(io: T, max_head: usize) -> Result<Self, h2::Error> {
        let (wire, seen) = Wire::new(io);
        let mut inner = Builder::new()
            .enable_connect_protocol()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
            .handshake(wire.clone())
            .await?;
        wire.gather();
        let keep_alive = inner.ping_pong().map(|ping| KeepAlive::new(ping, seen));
        Ok(Self { inner, wire, keep_alive })
    }

    /// Reads and writes, and hands each request that comes to `begin`. Ready when the connection has ended. By
    /// one task alone.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut begin: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    ) -> Poll<()> {
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll(cx, true).is_ready()
        {
            self.keep_alive = None;
            self.inner.abrupt_shutdown(Reason::NO_ERROR);
        }
        while let Poll::Ready(accepted) = self.inner.poll_accept(cx) {
            match accepted {
                Some(Ok((request, respond))) => begin(request, respond),
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
        match self.wire.poll_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Tells the client to open no more streams. Those that it has opened are served.
    pub fn shut_down(&mut self) {
        self.inner.graceful_shutdown();
    }
}
