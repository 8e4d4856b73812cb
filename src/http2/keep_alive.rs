//! Pings to a peer that has been silent, and what a connection has read and written.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep_until};

use crate::clock::{self, Instant};

/// After so long a silence a peer is asked whether it is still there,
const INTERVAL: Duration = Duration::from_secs(30);
/// and has so long to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Polled by the task of its connection and no other: a timer that runs is not asked again.
pub struct KeepAlive {
    ping: PingPong,
    seen: Rc<Seen>,
    sleep: Pin<Box<Sleep>>,
    /// The timer knows whom to wake.
    armed: bool,
    state: State,
}

enum State {
    /// No timer is set.
    Resting,
    /// Until the silence is long enough.
    Listening,
    /// Until the answer to a ping is overdue.
    Asked,
}

impl KeepAlive {
    pub fn new(ping: PingPong, seen: Rc<Seen>) -> Self {
        let sleep = Box::pin(sleep_until(seen.read_at.get() + INTERVAL));
        Self { ping, seen, sleep, armed: false, state: State::Resting }
    }

    /// Ready when the peer is gone. Nothing is asked while it need not be there.
    pub fn poll(&mut self, cx: &mut Context<'_>, needed: bool) -> Poll<()> {
        loop {
            match self.state {
                State::Resting => {
                    if !needed {
                        return Poll::Pending;
                    }
                    self.set(self.seen.read_at.get() + INTERVAL);
                    self.state = State::Listening;
                }
                State::Listening => {
                    ready!(self.poll_timer(cx));
                    self.state = State::Resting;
                    if self.seen.read_at.get() + INTERVAL > self.sleep.deadline() {
                        continue;
                    }
                    // A connection that is ending takes none, and tells of its end itself.
                    if !needed || self.ping.send_ping(Ping::opaque()).is_err() {
                        return Poll::Pending;
                    }
                    self.set(clock::now() + TIMEOUT);
                    self.state = State::Asked;
                }
                State::Asked => match self.ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => self.state = State::Resting,
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => return self.poll_timer(cx),
                },
            }
        }
    }

    fn set(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.armed = false;
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed {
            return if self.sleep.is_elapsed() { Poll::Ready(()) } else { Poll::Pending };
        }
        self.armed = true;
        // Were it put off because the task has done a lot, it would not know whom to wake.
        Pin::new(&mut unconstrained(self.sleep.as_mut())).poll(cx)
    }
}

/// What was seen of a connection.
pub struct Seen {
    /// When something was read.
    read_at: Cell<Instant>,
    /// Bytes written.
    written: Cell<u64>,
}

impl Seen {
    pub fn written(&self) -> u64 {
        self.written.get()
    }
}

/// A connection that is watched.
pub struct Watched<T> {
    io: T,
    seen: Rc<Seen>,
}

impl<T> Watched<T> {
    pub fn new(io: T) -> (Self, Rc<Seen>) {
        let seen = Rc::new(Seen { read_at: Cell::new(clock::now()), written: Cell::new(0) });
        (Self { io, seen: seen.clone() }, seen)
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = written {
            self.seen.written.set(self.seen.written.get() + n as u64);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.seen.read_at.set(clock::now());
        Poll::Ready(result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
