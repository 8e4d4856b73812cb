//! Where the lines of the access log go. One thread owns the file, so that a blocked pipe or a
//! full disk stalls neither a worker nor control. Workers hand over batches of whole lines through
//! a bounded queue; what does not fit is dropped and counted.
//!
//! A batch costs a worker one short lock; `worker_log` makes the batches.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait for the file, of all workers.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Written buffers kept for workers to use again, and the largest that is kept.
const SPARE_BUFFERS: usize = 4;
const SPARE_BYTES: usize = 128 * 1024;
/// How often a file that would block (a pipe set to non-blocking by someone else) is tried.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// What the log is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    /// Created if it is missing (mode 0640), and appended to.
    File(PathBuf),
}

/// Counts that outlive a writer: the same is given to the writer that follows on a reload.
#[derive(Debug, Default)]
pub struct LogStats {
    dropped_lines: AtomicU64,
    write_errors: AtomicU64,
}

impl LogStats {
    /// Lines that never reached the file, for want of room in the queue or on the disk.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Relaxed)
    }

    /// Batches whose write failed, wholly or in part.
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Relaxed)
    }

    fn drop_lines(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.dropped_lines.fetch_add(count as u64, Relaxed);
    }
}

/// The owner's handle, on control. When it is dropped, the thread ends by itself as soon as the
/// last [`LogSink`] is gone and the queue is written: on a reload the workers may go on with the
/// old sink until they see the new one.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

/// A worker's end of the queue.
#[derive(Debug)]
pub struct LogSink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when there is something to do for the thread.
    work: Condvar,
    /// Signalled when the queue is written, and when the thread ends.
    idle: Condvar,
    stats: Arc<LogStats>,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Vec<u8>>,
    /// Sum of the lengths of `batches`.
    queued: usize,
    /// The thread is writing a batch that is in the queue no more.
    writing: bool,
    spare: Vec<Vec<u8>>,
    reopen: bool,
    /// Nothing more is taken; the thread ends when the queue is written.
    closing: bool,
    ended: bool,
    /// Sinks that exist, and one for the handle.
    holders: usize,
}

enum Work {
    Write(Vec<u8>),
    Reopen,
    End,
}

impl LogWriter {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The target cannot be opened, or no thread can be started.
    pub fn spawn(target: Target, stats: Arc<LogStats>) -> io::Result<(LogWriter, LogSink)> {
        let output = match target {
            Target::Stdout => Output::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::File(path) => Output { path: Some(path.clone()), ..Output::new(open(&path)?) },
        };
        start(output, stats)
    }

    /// Opens the file anew by its path, after a rotation by rename. Standard output stays as it is,
    /// and so does the old file where the new one cannot be opened.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Waits until all that was handed over is written; false if that takes longer. It blocks.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout, |state| state.ended || state.batches.is_empty() && !state.writing)
    }

    /// Takes nothing more, and waits until the queue is written and the thread has ended; false if
    /// that takes longer (a pipe that nobody reads: the thread is left behind). It blocks.
    pub fn close(self, timeout: Duration) -> bool {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.shared.wait(timeout, |state| state.ended)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl LogSink {
    /// Hands over whole lines, or drops and counts them if there is no room. Returns an empty
    /// buffer for what follows.
    pub fn try_send(&self, mut lines: Vec<u8>) -> Vec<u8> {
        let mut state = self.shared.lock();
        if state.closing || state.queued + lines.len() > QUEUE_BYTES {
            drop(state);
            self.shared.stats.drop_lines(&lines);
            lines.clear();
            return lines;
        }
        state.queued += lines.len();
        state.batches.push_back(lines);
        let spare = state.spare.pop().unwrap_or_default();
        drop(state);
        self.shared.work.notify_one();
        spare
    }
}

impl Clone for LogSink {
    fn clone(&self) -> LogSink {
        self.shared.lock().holders += 1;
        LogSink { shared: self.shared.clone() }
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl Shared {
    /// No code panics while it holds the lock, so a poisoned state is sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        self.lock().holders -= 1;
        self.work.notify_one();
    }

    fn wait(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let (state, _) = self
            .idle
            .wait_timeout_while(self.lock(), timeout, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    /// The thread's next step; it sleeps until there is one.
    fn next(&self) -> Work {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if std::mem::take(&mut state.reopen) {
                return Work::Reopen;
            }
            if let Some(batch) = state.batches.pop_front() {
                state.queued -= batch.len();
                state.writing = true;
                return Work::Write(batch);
            }
            self.idle.notify_all();
            if state.closing || state.holders == 0 {
                return Work::End;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() > SPARE_BYTES {
            return;
        }
        buffer.clear();
        let mut state = self.lock();
        if state.spare.len() < SPARE_BUFFERS {
            state.spare.push(buffer);
        }
    }
}

fn start(mut output: Output, stats: Arc<LogStats>) -> io::Result<(LogWriter, LogSink)> {
    let state = State { holders: 2, ..State::default() };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        work: Condvar::new(),
        idle: Condvar::new(),
        stats,
    });
    let of_thread = shared.clone();
    thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        loop {
            match of_thread.next() {
                Work::Write(batch) => {
                    output.write(&batch, &of_thread.stats);
                    of_thread.recycle(batch);
                }
                Work::Reopen => output.reopen(),
                Work::End => break,
            }
        }
        of_thread.lock().ended = true;
        of_thread.idle.notify_all();
    })?;
    Ok((LogWriter { shared: shared.clone() }, LogSink { shared }))
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe without a reader is refused instead of waited for.
    let not_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(not_waiting).open(path)
}

/// The file, and what the thread remembers about it.
struct Output {
    file: File,
    /// What to open anew; nothing for standard output.
    path: Option<PathBuf>,
    /// The file ends within a line, because a write failed there.
    torn: bool,
    /// The last write failed. Reported once, not for each batch.
    failing: bool,
}

impl Output {
    fn new(file: File) -> Output {
        Output { file, path: None, torn: false, failing: false }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => *self = Output { path: self.path.take(), ..Output::new(file) },
            Err(error) => {
                let path = path.display();
                tracing::warn!(%error, %path, "access log: cannot be opened anew, the old file is kept");
            }
        }
    }

    fn write(&mut self, lines: &[u8], stats: &LogStats) {
        match self.write_all(lines) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("access log: written again");
            }
            Ok(()) => {}
            Err((error, unwritten)) => {
                stats.write_errors.fetch_add(1, Relaxed);
                stats.drop_lines(unwritten);
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(%error, "access log: cannot be written, lines are dropped");
                }
            }
        }
    }

    /// On an error also says which bytes are lost.
    fn write_all<'a>(&mut self, lines: &'a [u8]) -> Result<(), (io::Error, &'a [u8])> {
        if self.torn {
            self.file.write_all(b"\n").map_err(|error| (error, lines))?;
            self.torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err((ErrorKind::WriteZero.into(), rest)),
                Ok(written) => {
                    self.torn = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => return Err((error, rest)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    const LONG: Duration = Duration::from_secs(20);

    fn spawn(path: &Path) -> (LogWriter, LogSink, Arc<LogStats>) {
        let stats = Arc::new(LogStats::default());
        let (writer, sink) =
            LogWriter::spawn(Target::File(path.to_owned()), stats.clone()).unwrap();
        (writer, sink, stats)
    }

    #[test]
    fn lines_arrive_in_order_and_close_waits_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let (writer, sink, stats) = spawn(&path);
        for line in 0..100 {
            sink.try_send(format!("{line}\n").into_bytes());
        }
        assert!(writer.close(LONG));
        let expected: String =
            std::iter::once("before\n".into()).chain((0..100).map(|n| format!("{n}\n"))).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(stats.dropped_lines(), 0);
        // After the end a line is dropped, and counted.
        sink.try_send(b"late\n".to_vec());
        assert_eq!(stats.dropped_lines(), 1);
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::File(directory.path().join("missing/access.log"));
        assert!(LogWriter::spawn(target, Arc::default()).is_err());
    }

    #[test]
    fn reopen_follows_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let rotated = directory.path().join("access.log.1");
        let (writer, sink, _) = spawn(&path);
        sink.try_send(b"old\n".to_vec());
        assert!(writer.flush(LONG));
        std::fs::rename(&path, &rotated).unwrap();
        writer.reopen();
        sink.try_send(b"new\n".to_vec());
        assert!(writer.flush(LONG));
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "old\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn a_full_disk_is_counted_and_recovered_from() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let (writer, sink, stats) = spawn(&path);
        sink.try_send(b"one\ntwo\n".to_vec());
        assert!(writer.flush(LONG));
        assert_eq!((stats.dropped_lines(), stats.write_errors()), (2, 1));
        std::fs::remove_file(&path).unwrap();
        writer.reopen();
        sink.try_send(b"three\n".to_vec());
        assert!(writer.flush(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!((stats.dropped_lines(), stats.write_errors()), (2, 1));
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let file = tempfile::tempfile().unwrap();
        let mut copy = file.try_clone().unwrap();
        let mut output = Output { torn: true, ..Output::new(file) };
        output.write(b"next\n", &LogStats::default());
        output.write(b"last\n", &LogStats::default());
        let mut text = String::new();
        io::Seek::rewind(&mut copy).unwrap();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nnext\nlast\n");
    }

    #[test]
    fn a_blocked_pipe_stalls_nobody_and_every_line_is_accounted_for() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let stats = Arc::new(LogStats::default());
        let output = Output::new(File::from(OwnedFd::from(pipe)));
        let (writer, sink) = start(output, stats.clone()).unwrap();
        let batch = b"0123456789abcde\n".repeat(1024);
        let mut sent = 0;
        while stats.dropped_lines() == 0 {
            sink.try_send(batch.clone());
            sent += 1024;
        }
        assert!(!writer.flush(Duration::from_millis(1)));
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text.lines().count() as u64
        });
        assert!(writer.close(LONG));
        assert_eq!(reading.join().unwrap() + stats.dropped_lines(), sent);
    }

    #[test]
    fn the_thread_ends_with_its_last_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (writer, sink, _) = spawn(&path);
        let shared = sink.shared.clone();
        drop(writer);
        let second = sink.clone();
        drop(sink);
        second.try_send(b"last\n".to_vec());
        drop(second);
        assert!(shared.wait(LONG, |state| state.ended));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "last\n");
    }

    #[test]
    fn written_buffers_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, sink, _) = spawn(&directory.path().join("access.log"));
        let first = sink.try_send(b"line\n".repeat(1000));
        assert_eq!(first.capacity(), 0);
        // The thread recycles a buffer before it looks for work, and is idle only after that.
        assert!(writer.flush(LONG));
        let second = sink.try_send(b"line\n".to_vec());
        assert!(second.is_empty() && second.capacity() >= 5000);
    }
}
