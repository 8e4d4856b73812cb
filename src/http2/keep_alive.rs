//! Pings to a peer that has been silent.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use super::Seen;
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
        let sleep = Box::pin(clock::sleep_until(seen.read_at() + INTERVAL));
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
                    self.set(self.seen.read_at() + INTERVAL);
                    self.state = State::Listening;
                }
                State::Listening => {
                    ready!(self.poll_timer(cx));
                    self.state = State::Resting;
                    if self.seen.read_at() + INTERVAL > clock::fires(&self.sleep) {
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
        clock::reset(self.sleep.as_mut(), deadline);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::http2::Wire;

    const PING: u8 = 6;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const WINDOW_UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// Keeps a connection alive, to one that `peer` is the other end of. Returns when the peer is gone.
    async fn kept(io: DuplexStream, needed: bool) {
        let (io, seen) = Wire::new(io);
        let (_requests, mut connection) =
            h2::client::Builder::new().handshake::<_, Bytes>(io).await.unwrap();
        let mut keep_alive = KeepAlive::new(connection.ping_pong().unwrap(), seen);
        poll_fn(|cx| {
            let gone = keep_alive.poll(cx, needed);
            let _ = Pin::new(&mut connection).poll(cx).map(|_| panic!("it ended"));
            gone
        })
        .await;
    }

    /// Reads up to a ping; none if there is none for `limit`.
    async fn ping(peer: &mut DuplexStream, limit: Duration) -> Option<()> {
        timeout(limit, async {
            loop {
                let mut head = [0; 9];
                peer.read_exact(&mut head).await.unwrap();
                peer.read_exact(&mut vec![0; usize::from(head[2])]).await.unwrap();
                if head[3] == PING {
                    return;
                }
            }
        })
        .await
        .ok()
    }

    /// Both ends, the peer's with the preface read and settings sent.
    async fn pair() -> (DuplexStream, DuplexStream) {
        let (ours, mut peer) = duplex(1 << 16);
        peer.write_all(&SETTINGS).await.unwrap();
        (ours, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_a_ping_is_gone() {
        let (ours, mut peer) = pair().await;
        let began = clock::now();
        let reader = async {
            peer.read_exact(&mut [0; 24]).await.unwrap();
            ping(&mut peer, Duration::MAX).await.unwrap();
            assert_eq!((clock::now() - began).as_secs(), 30);
        };
        tokio::join!(kept(ours, true), reader);
        assert_eq!((clock::now() - began).as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_stays_and_one_that_speaks_is_not_asked() {
        const LONG: Duration = Duration::from_secs(600);
        let (ours, peer) = duplex(1 << 16);
        let answering = async {
            let mut connection = h2::server::handshake(peer).await.unwrap();
            while connection.accept().await.is_some() {}
        };
        tokio::select! {
            () = kept(ours, true) => panic!("it answers"),
            () = answering => panic!("it ended"),
            () = sleep(LONG) => {}
        }
        // Not asked: who speaks, and who need not be there.
        for needed in [true, false] {
            let (ours, peer) = pair().await;
            let (mut read, mut write) = tokio::io::split(peer);
            let speaking = async {
                if !needed {
                    return std::future::pending().await;
                }
                loop {
                    sleep(Duration::from_secs(20)).await;
                    write.write_all(&WINDOW_UPDATE).await.unwrap();
                }
            };
            let reading = async {
                let mut bytes = Vec::new();
                let _ = timeout(LONG, read.read_to_end(&mut bytes)).await;
                bytes
            };
            let bytes = tokio::select! {
                () = kept(ours, needed) => panic!("it is there"),
                () = speaking => panic!("it goes on"),
                bytes = reading => bytes,
            };
            // Behind the preface and our settings: an acknowledgement, and nothing else.
            assert!(bytes.ends_with(&[0, 0, 0, 4, 1, 0, 0, 0, 0]), "{bytes:?}");
        }
    }
}
