//! A worker's side of the access log: formats records into a buffer, and hands it to the log's
//! thread in batches.

use super::access_log::{self, Format, Record, Stamp};
use super::log_writer::LogSink;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The buffer is handed over when it holds this many bytes…
const BATCH_BYTES: usize = 64 * 1024;
/// …or this long after its first line.
const BATCH_AGE: Duration = Duration::from_millis(100);

/// A worker's log: formats lines into a buffer of its own. What is buffered when it is dropped is
/// handed over.
///
/// An idle worker has no timer: [`WorkerLog::log`] says when one is needed.
#[derive(Debug)]
pub struct WorkerLog {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    output: Option<(LogSink, Format)>,
    buffer: Vec<u8>,
    stamp: Stamp,
    /// A [`WorkerLog::flush_soon`] is on its way.
    flush_due: bool,
}

impl WorkerLog {
    /// With no output nothing is logged.
    pub fn new(output: Option<(LogSink, Format)>) -> Rc<WorkerLog> {
        let inner = Inner { output, buffer: Vec::new(), stamp: Stamp::default(), flush_due: false };
        Rc::new(WorkerLog { inner: RefCell::new(inner) })
    }

    /// Whether it is worth to make a record at all.
    pub fn enabled(&self) -> bool {
        self.inner.borrow().output.is_some()
    }

    /// Adds a line. If this returns true, the caller has to spawn [`WorkerLog::flush_soon`].
    #[must_use]
    pub fn log(&self, record: &Record<'_>) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let Some((_, format)) = &inner.output else {
            return false;
        };
        access_log::write(record, *format, &mut inner.stamp, &mut inner.buffer);
        if inner.buffer.len() >= BATCH_BYTES {
            inner.hand_over();
        }
        !inner.buffer.is_empty() && !std::mem::replace(&mut inner.flush_due, true)
    }

    /// Hands over, 100 ms later, what is buffered by then.
    pub async fn flush_soon(self: Rc<Self>) {
        tokio::time::sleep(BATCH_AGE).await;
        let mut inner = self.inner.borrow_mut();
        inner.flush_due = false;
        inner.hand_over();
    }

    /// Hands over what is buffered.
    pub fn flush(&self) {
        self.inner.borrow_mut().hand_over();
    }

    /// Goes on with another output, after a reload. What is buffered goes to the old one.
    pub fn switch(&self, output: Option<(LogSink, Format)>) {
        let mut inner = self.inner.borrow_mut();
        inner.hand_over();
        inner.output = output;
    }
}

impl Inner {
    fn hand_over(&mut self) {
        if let Some((sink, _)) = &self.output
            && !self.buffer.is_empty()
        {
            self.buffer = sink.try_send(std::mem::take(&mut self.buffer));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::super::log_writer::{LogWriter, Target};
    use super::*;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    const LONG: Duration = Duration::from_secs(20);

    fn spawn(path: &Path) -> (LogWriter, LogSink) {
        LogWriter::spawn(Target::File(path.to_owned()), Arc::default()).unwrap()
    }

    fn record(path: &str) -> Record<'_> {
        Record {
            start: UNIX_EPOCH,
            direction: Direction::Inbound,
            method: "GET",
            path,
            protocol: "HTTP/1.1",
            status: 200,
            flag: None,
            details: "via_upstream",
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_time: None,
            x_forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: None,
            upstream_cluster: None,
            route_name: None,
            trace_id: None,
            span_id: None,
            attempts: 1,
            grpc_status: None,
            exhausted: false,
            notes: "",
            shadow: &[],
            hedge: None,
            fallback: None,
        }
    }

    #[tokio::test]
    async fn a_worker_flushes_after_a_while_with_one_timer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (writer, sink) = spawn(&path);
        let log = WorkerLog::new(Some((sink, Format::Text)));
        assert!(log.log(&record("/1")));
        assert!(!log.log(&record("/2")));
        assert!(writer.flush(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        log.clone().flush_soon().await;
        assert!(writer.flush(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert!(log.log(&record("/3")));
        drop(log);
        assert!(writer.close(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_worker_hands_over_a_full_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (writer, sink) = spawn(&path);
        let log = WorkerLog::new(Some((sink, Format::Json)));
        assert!(!log.log(&record(&"x".repeat(BATCH_BYTES))), "nothing is left to flush");
        assert!(writer.flush(LONG));
        assert!(std::fs::metadata(&path).unwrap().len() > BATCH_BYTES as u64);
    }

    #[test]
    fn a_switch_parts_old_lines_from_new_ones() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old.log"), directory.path().join("new.log"));
        let (old_writer, old_sink) = spawn(&old);
        let (new_writer, new_sink) = spawn(&new);
        let log = WorkerLog::new(Some((old_sink, Format::Text)));
        assert!(log.log(&record("/old")));
        log.switch(Some((new_sink, Format::Text)));
        let _ = log.log(&record("/new"));
        log.switch(None);
        assert!(!log.enabled());
        assert!(!log.log(&record("/nowhere")));
        assert!(old_writer.close(LONG) && new_writer.close(LONG));
        assert!(std::fs::read_to_string(&old).unwrap().contains("/old"));
        let new = std::fs::read_to_string(&new).unwrap();
        assert!(new.contains("/new") && new.lines().count() == 1, "{new}");
    }
}
