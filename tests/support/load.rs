//! A steady load: connections that send one request after the other and notice every failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[derive(Debug, Default)]
pub struct Tally {
    pub answered: AtomicUsize,
    /// Connections that ended although no answer had said `connection: close`.
    pub dropped: AtomicUsize,
    /// Answers other than 200, or broken ones.
    pub failed: AtomicUsize,
    /// New connections that ended before their first answer. In a drain the kernel may have taken them for
    /// a listener that closed before it accepted; at any other time they are lost.
    pub unserved: AtomicUsize,
    /// Connections that ended as announced.
    pub closed: AtomicUsize,
}

impl Tally {
    /// Requests that did not get their answer.
    pub fn bad(&self) -> usize {
        self.dropped.load(SeqCst) + self.failed.load(SeqCst) + self.unserved.load(SeqCst)
    }
}

pub struct Load {
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// `connections` clients of HTTP/1.1, each with one connection for as long as it is let.
    pub fn start(address: SocketAddr, connections: usize) -> Self {
        Self::of(address, "user-service", connections)
    }

    /// The same for the service that is called `host`.
    pub fn of(address: SocketAddr, host: &'static str, connections: usize) -> Self {
        let tally: Arc<Tally> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(client(address, host, tally.clone(), stop.clone()));
        }
        Self { tally, stop, tasks }
    }

    /// Waits until `count` more requests were answered.
    pub async fn answered(&self, count: usize) {
        let goal = self.tally.answered.load(SeqCst) + count;
        super::eventually(|| async { (self.tally.answered.load(SeqCst) >= goal).then_some(()) })
            .await;
    }

    pub async fn stop(mut self) -> Arc<Tally> {
        self.stop.store(true, SeqCst);
        self.join().await;
        self.tally
    }

    /// Waits until every client found the door closed.
    pub async fn join(&mut self) {
        super::within(async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

async fn client(address: SocketAddr, host: &'static str, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    while !stop.load(SeqCst) {
        // Refused: the listener is gone, which is no failed request.
        let Ok(mut stream) = TcpStream::connect(address).await else {
            return;
        };
        let mut first = true;
        loop {
            if stop.load(SeqCst) {
                return;
            }
            match request(&mut stream, host).await {
                Ok(answer) => {
                    tally.answered.fetch_add(1, SeqCst);
                    if !answer.good {
                        tally.failed.fetch_add(1, SeqCst);
                    }
                    if answer.close {
                        tally.closed.fetch_add(1, SeqCst);
                        break;
                    }
                }
                Err(_) if first => {
                    tally.unserved.fetch_add(1, SeqCst);
                    return;
                }
                Err(_) => {
                    tally.dropped.fetch_add(1, SeqCst);
                    break;
                }
            }
            first = false;
        }
    }
}

struct Answer {
    good: bool,
    close: bool,
}

async fn request(stream: &mut TcpStream, host: &str) -> std::io::Result<Answer> {
    let head = format!("GET /load HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        while bytes.len() < end + 4 + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let good = head.starts_with("http/1.1 200") && bytes.len() == end + 4 + length;
        return Ok(Answer { good, close: head.contains("connection: close") });
    }
}
