//! The bytes of a connection on their way in and out.
//!
//! `h2` writes after each frame of data that is longer than 256 bytes. A poll of a connection with many streams
//! makes many of them, so they are gathered, and go out together when the poll is over.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Instant};

/// What is written at once and longer than this is not copied, but goes out behind what was gathered.
const LARGE: usize = 4 << 10;
/// No more than this is gathered.
const ENOUGH: usize = 32 << 10;
/// Room that stays with a connection which has nothing to write.
const KEPT: usize = 2 << 10;

/// What was seen of a connection.
pub struct Seen {
    read_at: Cell<Instant>,
    written: Cell<u64>,
}

impl Seen {
    /// When something was read.
    pub fn read_at(&self) -> Instant {
        self.read_at.get()
    }

    /// Bytes that the socket has taken.
    pub fn written(&self) -> u64 {
        self.written.get()
    }
}

/// A connection, shared by `h2` and by who polls it.
pub struct Wire<T>(Rc<RefCell<Io<T>>>);

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Io<T> {
    io: T,
    seen: Rc<Seen>,
    gathers: bool,
    /// What was gathered, of which so many bytes are out.
    gathered: Vec<u8>,
    out: usize,
}

impl<T> Wire<T> {
    pub fn new(io: T) -> (Self, Rc<Seen>) {
        let seen = Rc::new(Seen { read_at: Cell::new(clock::now()), written: Cell::new(0) });
        let io = Io { io, seen: seen.clone(), gathers: false, gathered: Vec::new(), out: 0 };
        (Self(Rc::new(RefCell::new(io))), seen)
    }

    /// From now on [`Wire::poll_out`] is called after whatever writes.
    pub fn gather(&self) {
        self.0.borrow_mut().gathers = true;
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    /// Writes what was gathered.
    pub fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }
}

impl<T: AsyncWrite + Unpin> Io<T> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out < self.gathered.len() {
            let rest = &self.gathered[self.out..];
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            self.wrote(n)?;
            self.out += n;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn clear(&mut self) {
        self.out = 0;
        self.gathered.clear();
        if self.gathered.capacity() > KEPT {
            self.gathered = Vec::new();
        }
    }

    fn wrote(&self, n: usize) -> io::Result<()> {
        self.seen.written.set(self.seen.written.get() + n as u64);
        if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.gathers && length <= LARGE && self.gathered.len() + length <= ENOUGH {
            bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
            return Poll::Ready(Ok(length));
        }
        while self.out < self.gathered.len() {
            let rest = &self.gathered[self.out..];
            let mut all = SmallVec::<[IoSlice<'_>; 8]>::new();
            all.push(IoSlice::new(rest));
            all.extend(bufs.iter().map(|buf| IoSlice::new(buf)));
            let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all))?;
            drop(all);
            let of_rest = n.min(rest.len());
            self.wrote(n)?;
            self.out += of_rest;
            if n > of_rest {
                self.clear();
                return Poll::Ready(Ok(n - of_rest));
            }
        }
        self.clear();
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.wrote(n)?;
        Poll::Ready(Ok(n))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        let result = ready!(Pin::new(&mut this.io).poll_read(cx, buf));
        this.seen.read_at.set(clock::now());
        Poll::Ready(result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        if this.gathers { Poll::Ready(Ok(())) } else { this.poll_out(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes at a time, and is full before every other.
    struct Socket {
        most: usize,
        full: bool,
        writes: Rc<RefCell<Vec<Vec<u8>>>>,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.full = !self.full && self.most < usize::MAX;
            if self.full {
                return Poll::Pending;
            }
            let mut all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
            all.truncate(self.most);
            let n = all.len();
            self.writes.borrow_mut().push(all);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes pieces of these lengths; returns what was to be written, and what was with each write.
    fn write(most: usize, lengths: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let writes = Rc::<RefCell<Vec<_>>>::default();
        let (wire, seen) = Wire::new(Socket { most, full: false, writes: writes.clone() });
        wire.gather();
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let piece = vec![number as u8; *length];
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let (a, b) = rest.split_at(rest.len() / 2);
                let bufs = [IoSlice::new(a), IoSlice::new(b)];
                if let Poll::Ready(n) =
                    Pin::new(&mut wire.clone()).poll_write_vectored(&mut cx, &bufs)
                {
                    rest = &rest[n.unwrap()..];
                }
            }
            all.extend(piece);
        }
        while wire.poll_out(&mut cx).map(Result::unwrap).is_pending() {}
        assert_eq!(seen.written(), all.len() as u64);
        let writes = writes.take();
        (all, writes)
    }

    #[test]
    fn small_pieces_go_out_together_and_a_large_one_behind_them() {
        let sizes = |lengths: &[usize]| -> Vec<usize> {
            write(usize::MAX, lengths).1.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[9, 1000, 9, 1000]), [2018]);
        assert_eq!(sizes(&[9, 1000, 16_000, 9]), [17_009, 9]);
        assert_eq!(sizes(&[4000; 9]), [36_000]);
        assert_eq!(sizes(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_moved(
            most in 1_usize..9000,
            lengths in prop::collection::vec(1_usize..9000, 0..20),
        ) {
            let (all, writes) = write(most, &lengths);
            prop_assert_eq!(all, writes.concat());
        }
    }
}
