//! Bytes in both directions between two connections, for what is not HTTP or no longer is: opaque TCP,
//! `CONNECT`, WebSockets and other upgrades. Each direction ends on its own (half-close).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};

use crate::clock::{self, Instant};
use crate::http2::TunnelStream;
use crate::stream::Stream;

const BUFFER: usize = 16 * 1024;
/// From here on a flow is worth the two descriptors and the system calls of a pipe.
const SPLICE_AFTER: u64 = 256 * 1024;
/// What one `splice(2)` may move: the capacity that a pipe is given, and the one that it has where the kernel
/// grants no more (`pipe(7)`, `pipe-user-pages-soft`).
const PIPE: usize = 256 * 1024;
const SMALL_PIPE: usize = 64 * 1024;

/// One end of a tunnel, and what was read from it before the tunnel began.
pub struct End {
    pub io: EndIo,
    pub early: Bytes,
}

pub enum EndIo {
    /// A socket of its own: large flows are spliced.
    Socket(Stream),
    /// A stream of an HTTP/2 connection.
    Multiplexed(TunnelStream),
}

impl End {
    pub fn socket(stream: Stream, early: Bytes) -> Self {
        Self { io: EndIo::Socket(stream), early }
    }

    pub fn multiplexed(stream: TunnelStream) -> Self {
        Self { io: EndIo::Multiplexed(stream), early: Bytes::new() }
    }
}

/// What a tunnel has carried, in bytes; may be read while it runs.
#[derive(Debug, Default)]
pub struct Tally {
    pub from_client: Cell<u64>,
    pub from_server: Cell<u64>,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides said that they are done.
    Closed,
    /// The connection with one of them broke.
    Broken,
    /// Nothing moved for the idle limit.
    Idle,
    /// The proxy ended before it did.
    Cut,
}

/// Carries bytes until both directions have ended, one breaks, or nothing moves for `idle`.
pub async fn run(client: End, server: End, idle: Option<Duration>, tally: &Tally) -> TunnelEnd {
    let progress = Cell::new(clock::now());
    let carried = async {
        match (client.io, server.io) {
            (EndIo::Socket(a), EndIo::Socket(b)) => tokio::try_join!(
                pump(&a, &b, &client.early, &tally.from_client, &progress),
                pump(&b, &a, &server.early, &tally.from_server, &progress),
            )
            .map(drop),
            (a, b) => {
                let ((ar, aw), (br, bw)) = (a.split(), b.split());
                tokio::try_join!(
                    copy(ar, bw, &client.early, &tally.from_client, &progress),
                    copy(br, aw, &server.early, &tally.from_server, &progress),
                )
                .map(drop)
            }
        }
    };
    tokio::select! {
        result = carried => if result.is_ok() { TunnelEnd::Closed } else { TunnelEnd::Broken },
        () = silence(idle, &progress) => TunnelEnd::Idle,
    }
}

/// Ends when nothing has moved for `limit`.
async fn silence(limit: Option<Duration>, progress: &Cell<Instant>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    loop {
        let deadline = progress.get() + limit;
        if deadline <= clock::now() {
            return;
        }
        clock::sleep_until(deadline).await;
    }
}

type BoxRead = Box<dyn AsyncRead + Unpin>;
type BoxWrite = Box<dyn AsyncWrite + Unpin>;

impl EndIo {
    fn split(self) -> (BoxRead, BoxWrite) {
        fn halves<T: AsyncRead + AsyncWrite + Unpin + 'static>(io: T) -> (BoxRead, BoxWrite) {
            let (read, write) = tokio::io::split(io);
            (Box::new(read), Box::new(write))
        }
        match self {
            Self::Socket(stream) => halves(stream),
            Self::Multiplexed(stream) => halves(stream),
        }
    }
}

async fn copy(
    mut from: BoxRead,
    mut to: BoxWrite,
    early: &[u8],
    count: &Cell<u64>,
    progress: &Cell<Instant>,
) -> io::Result<()> {
    to.write_all(early).await?;
    to.flush().await?;
    count.set(count.get() + early.len() as u64);
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        progress.set(clock::now());
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        count.set(count.get() + n as u64);
        progress.set(clock::now());
    }
}

/// Socket to socket: through a buffer at first, spliced once the flow has shown to be large.
async fn pump(
    from: &Stream,
    to: &Stream,
    early: &[u8],
    count: &Cell<u64>,
    progress: &Cell<Instant>,
) -> io::Result<()> {
    write_all(to, early).await?;
    count.set(count.get() + early.len() as u64);
    let began = count.get();
    let mut buffer = vec![0; BUFFER];
    while count.get() - began < SPLICE_AFTER {
        let n = from.read_some(&mut buffer).await?;
        progress.set(clock::now());
        if n == 0 {
            return to.close_write();
        }
        write_all(to, &buffer[..n]).await?;
        count.set(count.get() + n as u64);
        progress.set(clock::now());
    }
    match pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
        Ok((output, input)) => {
            drop(buffer);
            splice_rest(from, to, (&output, &input), count, progress).await
        }
        // Out of descriptors: the buffer does it as well.
        Err(_) => loop {
            let n = from.read_some(&mut buffer).await?;
            progress.set(clock::now());
            if n == 0 {
                return to.close_write();
            }
            write_all(to, &buffer[..n]).await?;
            count.set(count.get() + n as u64);
        },
    }
}

async fn splice_rest(
    from: &Stream,
    to: &Stream,
    (output, input): (&OwnedFd, &OwnedFd),
    count: &Cell<u64>,
    progress: &Cell<Instant>,
) -> io::Result<()> {
    let room = fcntl_setpipe_size(input, PIPE).unwrap_or(SMALL_PIPE);
    loop {
        // The pipe is empty here, so that `WouldBlock` can only mean the socket.
        let mut held = from.ready_io(Interest::READABLE, |fd| move_bytes(fd, input, room)).await?;
        progress.set(clock::now());
        if held == 0 {
            return to.close_write();
        }
        while held > 0 {
            let n = to.ready_io(Interest::WRITABLE, |fd| move_bytes(output, fd, held)).await?;
            held -= n;
            count.set(count.get() + n as u64);
            progress.set(clock::now());
        }
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, limit: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(splice(from, None, to, None, limit, flags)?)
}

async fn write_all(to: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = to.ready_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

impl Stream {
    /// Runs `operation` on the descriptor whenever the socket is ready, until it does not block.
    async fn ready_io<R>(
        &self,
        interest: Interest,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.async_io(interest, || operation(stream.as_fd())).await,
            Self::Unix(stream) => stream.async_io(interest, || operation(stream.as_fd())).await,
        }
    }

    async fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ready_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await
    }

    fn close_write(&self) -> io::Result<()> {
        let result = match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
        };
        // The other side may have closed the whole of it already: nothing is left to be said.
        match result {
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            other => Ok(other?),
        }
    }
}
