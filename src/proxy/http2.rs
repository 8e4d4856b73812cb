//! One connection of a client that speaks HTTP/2.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connection::{Connection, Ends, closing, until_cut};
use super::handle;
use super::incoming::Incoming;
use crate::listen::detect::Prefixed;
use crate::stream::Stream;
use crate::worker::{LocalExec, Worker};

/// Serves requests until the connection ends.
pub async fn serve(worker: &Rc<Worker>, ends: &Ends, stream: Prefixed<Stream>) {
    let limits = worker.view().snapshot.limits;
    let connection = Connection::new(ends, None);
    let service = {
        let (worker, connection) = (worker.clone(), connection.clone());
        service_fn(move |request: Request<_>| {
            let (worker, connection) = (worker.clone(), connection.clone());
            let request = request.map(Incoming::Http2);
            // Each stream becomes a task, which hyper moves several times on its way there: a pointer moves
            // for less than the whole story.
            Box::pin(async move { Ok::<_, Infallible>(handle(worker, connection, request).await) })
        })
    };
    let mut serving = http2::Builder::new(LocalExec)
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_concurrent_streams(100)
        .max_header_list_size(limits.max_head as u32)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut serving => return,
        () = worker.drain.reached(closing(connection.direction)) => {}
        () = connection.idle(limits.idle_timeout) => {}
    }
    // GOAWAY tells the client which streams still count, so nothing is lost between the two.
    Pin::new(&mut serving).graceful_shutdown();
    tokio::select! {
        () = until_cut(&worker.drain, &mut serving) => {}
        // A client that does not answer the ping behind the GOAWAY would stay for ever.
        () = connection.idle(limits.header_timeout) => {}
    }
}
