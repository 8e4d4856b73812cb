//! Writes the heads of hyper's answers with the letters that they came with from the upstream.
//!
//! hyper writes a head from a buffer that cannot be changed, in one piece, with body behind it or not.
//! While such a head goes out, a copy stands in for it that differs in the case of letters alone, so that
//! hyper's count of what is written holds.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use crate::names::Names;

/// A larger buffer is not kept for the next head.
const MAX_KEPT: usize = 4096;
/// Buffers of one write; what is behind them is in the next.
const MAX_SLICES: usize = 16;

/// Counts the bytes that hyper writes, from the first one of the connection on.
#[derive(Debug, Default)]
pub struct Answers {
    written: u64,
    /// `written`, and what hyper has offered beyond that.
    offered: u64,
    /// How the names of heads to come are written, and from where on each may come. Usually one: hyper
    /// takes on the next answer when all of this one was at least offered.
    coming: SmallVec<[(u64, Names); 1]>,
    /// The head that is on its way, restored, and how much of it is out.
    head: Vec<u8>,
    sent: usize,
}

impl Answers {
    /// Takes note of what hyper wants to write, before anything else is done for it, so that the place of
    /// an answer is known: its head comes after what was offered before it had names.
    pub fn offer(&mut self, names: Option<Names>, len: usize) {
        if let Some(names) = names {
            self.coming.push((self.offered, names));
        }
        self.offered = self.written + len as u64;
    }

    /// Whether there is a head to restore in what is offered.
    pub fn has_head(&self) -> bool {
        !self.head.is_empty() || self.has_next()
    }

    fn has_next(&self) -> bool {
        self.coming.first().is_some_and(|(from, _)| *from < self.offered)
    }

    pub fn add_written(&mut self, len: usize) {
        self.written += len as u64;
    }

    /// Writes what is offered with its head restored; [`has_head`](Self::has_head) holds.
    pub fn poll_write<T: AsyncWrite>(
        &mut self,
        io: Pin<&mut T>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = if self.head.is_empty() { self.begin(bufs) } else { 0 };
        let written = if before > 0 {
            let first = first_of(bufs);
            ready!(io.poll_write(cx, &first[..first.len().min(before)]))?
        } else {
            let written = ready!(self.poll_write_head(io, cx, bufs))?;
            self.sent += written;
            if self.sent >= self.head.len() {
                self.end();
            }
            written
        };
        self.add_written(written);
        Poll::Ready(Ok(written))
    }

    /// Restores the head if it is the next to be written, or says how many bytes are before it.
    fn begin(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        let first = first_of(bufs);
        let Some((from, names)) = self.coming.first_mut() else {
            return first.len();
        };
        if *from == self.written
            && let Some(len) = interim_len(first)
        {
            *from += len as u64;
        }
        if *from > self.written {
            return usize::try_from(*from - self.written).unwrap_or(usize::MAX);
        }
        self.head.extend_from_slice(first);
        // Without an end all of it is head, and hyper would write the rest of it as it is.
        if let Some(end) = names.restore(&mut self.head) {
            self.head.truncate(end);
        }
        self.coming.remove(0);
        0
    }

    fn poll_write_head<T: AsyncWrite>(
        &self,
        io: Pin<&mut T>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let head = &self.head[self.sent..];
        // What is behind it must not go along if there is another head in it.
        if !io.is_write_vectored() || self.has_next() {
            return io.poll_write(cx, head);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(head);
        let mut len = 1;
        let mut covered = head.len();
        for buf in bufs {
            let rest = &buf[covered.min(buf.len())..];
            covered = covered.saturating_sub(buf.len());
            if !rest.is_empty() && len < MAX_SLICES {
                slices[len] = IoSlice::new(rest);
                len += 1;
            }
        }
        io.poll_write_vectored(cx, &slices[..len])
    }

    fn end(&mut self) {
        self.sent = 0;
        self.head.clear();
        if self.head.capacity() > MAX_KEPT {
            self.head = Vec::new();
        }
    }
}

fn first_of<'a>(bufs: &'a [IoSlice<'_>]) -> &'a [u8] {
    bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| &**buf)
}

/// Length of the `100 Continue` that hyper writes of its own accord: it is not the answer.
fn interim_len(bytes: &[u8]) -> Option<usize> {
    let status = bytes.get(b"HTTP/1.1 ".len()..)?;
    if !status.starts_with(b"100 ") {
        return None;
    }
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}
