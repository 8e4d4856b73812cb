//! A connection, of whichever kind.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::RecvFlags;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection to an endpoint or from a client: TCP, or a Unix socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Sets what keeps a client's connection from being slow or from staying for ever: small writes go
    /// out at once, and a peer that reads nothing for `stalled` is gone. The kernel has both for TCP alone.
    pub fn prepare(&self, stalled: Duration) {
        if let Self::Tcp(stream) = self {
            // Both fail only on a connection that is gone, which the first read will tell.
            let _ = stream.set_nodelay(true);
            let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(stalled));
        }
    }

    /// Reads what is there, without waiting. The kernel is not asked where the runtime knows that there
    /// is nothing.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there; or the connection is broken.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Waits for bytes and looks at the first, which stays to be read. 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn peek(&self) -> io::Result<usize> {
        fn look(socket: impl AsFd) -> io::Result<usize> {
            let mut byte = [0];
            Ok(rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK)?.0)
        }
        match self {
            Self::Tcp(stream) => stream.async_io(Interest::READABLE, || look(stream)).await,
            Self::Unix(stream) => stream.async_io(Interest::READABLE, || look(stream)).await,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The kernel takes one buffer for less than a vector, which a head and a small body would be.
        const JOINED: usize = 2048;
        let mut rest = bufs.iter().filter(|buf| !buf.is_empty());
        if let (Some(only), None) = (rest.next(), rest.next()) {
            return self.poll_write(cx, only);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() <= JOINED {
            let mut joined = SmallVec::<[u8; JOINED]>::new();
            bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
            return self.poll_write(cx, &joined);
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
