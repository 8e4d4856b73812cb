//! One connection of a client that speaks HTTP/1: one request after another. Between requests it is parked: the
//! socket and the time it has left are kept, and the buffers are not.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::body::Body;
use super::connection::{Connection, Ends, Parked, closing};
use super::incoming::Incoming;
use super::tunnel::End;
use super::{handle, refuse};
use crate::clock;
use crate::drain::{CLOSE_IDLE_AFTER, Phase, Reached};
use crate::listen::http1::{self, After, HeadLimits, Next};
use crate::stream::Stream;
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
    let limits = HeadLimits {
        max_head: limits.max_head,
        max_fields: limits.max_headers,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        park_after: PARK_AFTER,
        ..HeadLimits::default()
    };
    let mut http = http1::Connection::<Body>::new(stream, early, limits, clock::now());
    let connection = Connection::new(ends, Some(http.shared().clone()));
    let closing = closing(connection.direction);
    let mut idle_in_drain = pin!(async {
        worker.drain.reached(closing).await;
        sleep(CLOSE_IDLE_AFTER).await;
    });
    let mut over = false;
    let mut cut = worker.drain.reached(Phase::Cut);
    loop {
        let next = tokio::select! {
            biased;
            next = poll_fn(|cx| http.poll_next(cx)) => next,
            // A head that has begun has the time of a head, and its answer is the last one.
            () = &mut idle_in_drain, if !over => {
                over = true;
                if http.in_head() {
                    continue;
                }
                break;
            }
            () = &mut cut => return None,
        };
        let response = match next {
            Next::Request(request) => {
                let request = request.map(Incoming::Http1);
                let mut story = pin!(handle(worker.clone(), connection.clone(), request));
                tokio::select! {
                    biased;
                    response = &mut story => response,
                    () = poll_fn(|cx| http.poll_gone(cx)) => return None,
                    () = &mut cut => return None,
                }
            }
            Next::Refused(refused) => refuse(worker, &connection, refused),
            // In the drain it has its own time.
            Next::Park(_) if worker.drain.is_at(closing) => continue,
            Next::Park(until) => {
                // What came behind the last request are empty lines, which mean nothing (RFC 9112 2.2).
                let (stream, _) = http.into_stream()?;
                return Some(Parked { stream, until });
            }
            Next::End => return None,
        };
        http.answer(response, worker.drain.is_at(closing));
        // It has the connection, which must not have it when this ends.
        let tunnel = connection.tunnel.take();
        let after = cut_off(&mut cut, poll_fn(|cx| http.poll_answer(cx))).await?;
        if let Some(tunnel) = tunnel {
            if after != After::Broken
                && let Some((stream, early)) = http.into_stream()
            {
                tunnel.run(End::socket(stream, early), &worker.drain).await;
            }
            return None;
        }
        match after {
            After::Next => {}
            After::Close => break,
            After::Broken => return None,
        }
    }
    cut_off(&mut cut, poll_fn(|cx| http.poll_close(cx))).await;
    None
}

/// Does `work` to its end, unless the drain is at its own before.
async fn cut_off<T>(cut: &mut Reached<'_>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = cut => None,
    }
}
