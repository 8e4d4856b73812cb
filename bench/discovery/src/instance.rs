//! Instances that answer, and notice who calls them after they have left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::{Result, now};

/// How long one answers after it has left the registry: longer than anybody may still call it.
const STAYS: Duration = Duration::from_millis(2500);

pub struct Instance {
    pub address: SocketAddr,
    left: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What all of them noticed.
#[derive(Default)]
pub struct Noticed {
    pub requests: AtomicU64,
    /// The latest request after its instance had left, in ms.
    pub latest: AtomicU64,
    /// Requests more than two seconds after that.
    pub too_late: AtomicU64,
}

impl Instance {
    pub async fn start(began: Instant, noticed: Arc<Noticed>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let left = Arc::new(AtomicU64::new(0));
        let told = left.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, began, told.clone(), noticed.clone()));
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, left, task })
    }

    /// It has left the registry: it answers for a while, and is gone.
    pub fn leaves(self, began: Instant) {
        self.left.store((now() - began).as_millis() as u64, Relaxed);
        tokio::spawn(async move {
            sleep(STAYS).await;
            self.task.abort();
        });
    }
}

async fn serve(mut stream: TcpStream, began: Instant, left: Arc<AtomicU64>, noticed: Arc<Noticed>) {
    let mut bytes = Vec::with_capacity(1024);
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        if !bytes.ends_with(b"\r\n\r\n") {
            continue;
        }
        bytes.clear();
        noticed.requests.fetch_add(1, Relaxed);
        let left = left.load(Relaxed);
        if left > 0 {
            let late = ((now() - began).as_millis() as u64).saturating_sub(left);
            noticed.latest.fetch_max(late, Relaxed);
            noticed.too_late.fetch_add(u64::from(late > 2000), Relaxed);
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
