//! From a socket to a connection whose protocol is known.
//!
//! Each worker has a socket of its own for every listener (`SO_REUSEPORT`), so that the kernel spreads
//! new connections without waking every worker. What it spreads by hash is then evened out by load:
//! the few long-lived connections that a sidecar usually has must not all end on one worker.

pub mod detect;
pub mod http1;
pub mod http2;
pub mod original_dst;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::config::snapshot::Listener;
use crate::stream::Stream;
use crate::upstream::connect::is_exhaustion;
use crate::worker::{Command, ConnectionGuard, Worker};

/// What is done with a new connection.
pub type Serve = fn(&Rc<Worker>, Listener, Stream, SocketAddr, ConnectionGuard);

/// A listener of this worker; it stops when this is dropped.
pub struct Open {
    _stop: oneshot::Sender<()>,
}

/// A listening socket for `address` that the workers can share.
///
/// # Errors
/// The address is taken or not ours. With `exclusive`, also where another process shares it: without
/// that, two proxies with the same port would silently share the traffic.
pub fn bind(address: SocketAddr, exclusive: bool) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    const BACKLOG: i32 = 1024;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(!exclusive)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well, unless another listener of ours has it.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Begins to accept on `socket`.
///
/// # Errors
/// The runtime does not take the socket.
pub fn open(
    worker: &Rc<Worker>,
    listener: Listener,
    socket: std::net::TcpListener,
    serve: Serve,
) -> io::Result<Open> {
    let socket = TcpListener::from_std(socket)?;
    let (stop, stopped) = oneshot::channel();
    tokio::task::spawn_local(accept(worker.clone(), listener, socket, stopped, serve));
    Ok(Open { _stop: stop })
}

/// Serves a connection that another worker accepted.
pub fn adopt(
    worker: &Rc<Worker>,
    listener: Listener,
    socket: std::net::TcpStream,
    counted: ConnectionGuard,
    serve: Serve,
) {
    if let Ok(stream) = TcpStream::from_std(socket)
        && let Ok(peer) = stream.peer_addr()
    {
        serve(worker, listener, Stream::Tcp(stream), peer, counted);
    }
}

async fn accept(
    worker: Rc<Worker>,
    listener: Listener,
    socket: TcpListener,
    mut stopped: oneshot::Receiver<()>,
    serve: Serve,
) {
    let mut backoff = Backoff::default();
    loop {
        room(&worker).await;
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = Backoff::default();
                place(&worker, listener, stream, peer, serve);
            }
            Err(error) if is_exhaustion(&error) => {
                worker.recorder.accept_errors.inc(["exhausted"]);
                worker.pool.close_idle();
                if backoff.is_fresh() {
                    tracing::warn!(%error, address = %listener.address, "cannot accept; backing off");
                }
                sleep(backoff.next()).await;
            }
            // The client went away before it was accepted.
            Err(_) => worker.recorder.accept_errors.inc(["aborted"]),
        }
    }
    // Whoever is in the queue by now was told by the kernel that the connection stands.
    while let Some(Ok((stream, peer))) = ready_now(socket.accept()).await {
        place(&worker, listener, stream, peer, serve);
    }
}

/// Gives a new connection to the worker with the fewest.
fn place(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: TcpStream,
    peer: SocketAddr,
    serve: Serve,
) {
    let (counted, elsewhere) = worker.place(listener.direction());
    let Some(other) = elsewhere else {
        return serve(worker, listener, Stream::Tcp(stream), peer, counted);
    };
    let Ok(socket) = stream.into_std() else { return };
    // A worker that is gone gives the connection back.
    if let Err(unsent) = other.send(Command::Adopt(listener, socket, counted))
        && let Command::Adopt(listener, socket, counted) = unsent.0
    {
        adopt(worker, listener, socket, counted, serve);
    }
}

/// Waits while the proxy has as many connections as it may.
async fn room(worker: &Worker) {
    const LOOK: Duration = Duration::from_millis(10);
    let mut full = false;
    while worker.connections() >= worker.view().snapshot.limits.max_connections {
        if !std::mem::replace(&mut full, true) {
            worker.recorder.accept_errors.inc(["max_connections"]);
        }
        sleep(LOOK).await;
    }
}

async fn ready_now<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// Pauses of the accept loop, from 10 ms doubled to a second.
#[derive(Debug, Default)]
struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    fn is_fresh(&self) -> bool {
        self.last.is_none()
    }

    fn next(&mut self) -> Duration {
        const FIRST: Duration = Duration::from_millis(10);
        const MOST: Duration = Duration::from_secs(1);
        let next = self.last.map_or(FIRST, |last| (last * 2).min(MOST));
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_a_second() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn a_port_in_use_is_seen_even_if_its_owner_shares_it() {
        let first = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = first.local_addr().unwrap();
        assert!(bind(address, false).is_ok());
        let error = bind(address, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
