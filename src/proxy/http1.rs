//! One connection of a client that speaks HTTP/1: by hyper while requests come. Between requests it is
//! parked: the socket and the time it has left are kept, and hyper's buffers, some 18 KB, are not.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::connection::{Connection, Ends, Parked, closing, until_cut};
use super::handle;
use super::incoming::Incoming;
use super::tunnel::End;
use crate::clock::{self, Instant};
use crate::drain::{CLOSE_IDLE_AFTER, Drain, Phase};
use crate::listen::guard::{GuardedIo, HeadLimits, Shared};
use crate::stream::Stream;
use crate::upstream::pool::buffer;
use crate::worker::Worker;

/// How long a connection keeps its buffers after a request. Parking costs a microsecond or two with the
/// next request, so a client that is at work should not meet it.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// Serves requests until the connection ends, or is idle and can be parked.
pub async fn serve(
    worker: &Rc<Worker>,
    ends: &Ends,
    stream: Stream,
    early: Bytes,
) -> Option<Parked> {
    let limits = worker.view().snapshot.limits;
    let shared = Shared::new(clock::now());
    let head_limits = HeadLimits {
        max_head: limits.max_head,
        max_fields: limits.max_headers,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        park_after: PARK_AFTER,
        ..HeadLimits::default()
    };
    let io = GuardedIo::new(stream, early, Arc::new(head_limits), shared.clone());
    let connection = Connection::new(ends, Some(shared.clone()));
    // Bytes that came to a parked connection in the drain are the last request.
    connection.closing.set(worker.drain.is_at(closing(connection.direction)));
    let service = {
        let (worker, connection) = (worker.clone(), connection.clone());
        service_fn(move |request: Request<_>| {
            let (worker, connection) = (worker.clone(), connection.clone());
            let request = request.map(Incoming::Http1);
            async move { Ok::<_, Infallible>(handle(worker, connection, request).await) }
        })
    };
    let mut builder = http1::Builder::new();
    // The guard counts fields. hyper's own limit must only be as high, and as long as its default is, it
    // has the room on its stack.
    const DEFAULT_MAX_HEADERS: usize = 100;
    if limits.max_headers > DEFAULT_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    let mut serving = builder
        .auto_date_header(false)
        .max_header_size(limits.max_head.saturating_add(1024))
        .max_buf_size(buffer(limits.max_head))
        .serve_connection(io, service);
    loop {
        let step = tokio::select! {
            biased;
            // Its error has been told to the request that was on it, by its body or its drop.
            _ = &mut serving => break,
            until = parking(&connection, &shared) => Step::Park(until),
            step = next_step(&worker.drain, &connection) => step,
        };
        match step {
            Step::Park(until) => {
                let parts = serving.into_parts();
                // There is nothing in it; if there were, it could not be told for the head of a request.
                if !parts.read_buf.is_empty() {
                    return None;
                }
                // The guard may hold empty lines, which mean nothing (RFC 9112 2.2).
                let (stream, _) = parts.io.into_inner();
                return Some(Parked { stream, until });
            }
            Step::Close => {
                connection.closing.set(true);
                // hyper would close at once where it has seen nothing of a head that is half here.
                if shared.is_busy() {
                    Pin::new(&mut serving).graceful_shutdown();
                }
            }
            Step::CloseIdle => {
                Pin::new(&mut serving).graceful_shutdown();
                until_cut(&worker.drain, &mut serving).await;
                break;
            }
            Step::Cut => return None,
        }
    }
    let tunnel = connection.tunnel.take();
    if let Some(tunnel) = tunnel {
        let parts = serving.into_parts();
        // What hyper has read comes before what the guard still holds.
        let (stream, held) = parts.io.into_inner();
        let early = [parts.read_buf, held].concat().into();
        let client = End::socket(stream, early);
        tunnel.run(client, &worker.drain).await;
    }
    None
}

/// Ready when the guard, in the poll of hyper just before, has found the connection idle for long. One
/// that is closing is left to the drain, which has begun to count.
async fn parking(connection: &Connection, shared: &Shared) -> Instant {
    poll_fn(|_| match shared.take_parking() {
        Some(until) if !connection.closing.get() => Poll::Ready(until),
        _ => Poll::Pending,
    })
    .await
}

/// What a connection has to do next.
enum Step {
    Park(Instant),
    Close,
    CloseIdle,
    Cut,
}

/// What the drain asks for.
async fn next_step(drain: &Drain, connection: &Connection) -> Step {
    if !connection.closing.get() {
        drain.reached(closing(connection.direction)).await;
        return Step::Close;
    }
    tokio::select! {
        () = tokio::time::sleep(CLOSE_IDLE_AFTER) => Step::CloseIdle,
        () = drain.reached(Phase::Cut) => Step::Cut,
    }
}
