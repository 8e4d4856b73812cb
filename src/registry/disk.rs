//! Files that are read and written beside the thread of control, which must not wait for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a disk may take.
const WITHIN: Duration = Duration::from_secs(5);

/// One place on a disk. What is done there is done in the order in which it was asked for.
#[derive(Debug)]
pub struct Disk {
    turns: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(1)) }
    }
}

impl Disk {
    /// Does what waits for the disk. Who waits gives up after a while; what has begun keeps its turn, so that no
    /// more than one thread hangs with a disk that does.
    ///
    /// # Errors
    /// Those of `what`, and that the disk does not answer.
    pub async fn run<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = async {
            let turn = self.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
            let blocking = spawn_blocking(move || {
                let _turn = turn;
                what()
            });
            blocking.await.map_err(io::Error::other)?
        };
        timeout(WITHIN, done).await.unwrap_or_else(|_| {
            let detail = format!("the disk does not answer within {WITHIN:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, detail))
        })
    }
}

/// All that a file has, and the file. It waits for nothing but the disk: a pipe would have us wait for its writer.
///
/// # Errors
/// It cannot be read; of the kind `InvalidData` where it is no file, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<(File, Vec<u8>)> {
    let senseless = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A socket.
        Some(code) if code == Errno::NXIO.raw_os_error() => senseless(error.to_string()),
        _ => error,
    })?;
    if !file.metadata()?.is_file() {
        return Err(senseless("it is no regular file".to_owned()));
    }
    let mut text = Vec::new();
    (&file).take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(senseless(format!("it has more than {most} bytes")));
    }
    Ok((file, text))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn what_is_asked_later_is_done_later_even_if_nobody_waits_any_more() {
        let disk = Disk::default();
        let (said, heard) = channel();
        let (go_on, waits) = channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let first = said.clone();
        let slow = disk.run(move || {
            let _ = begun.send(());
            let _ = waits.recv();
            first.send("first").map_err(io::Error::other)
        });
        tokio::select! {
            _ = slow => panic!("it hangs"),
            _ = begins => {}
        }
        let later = disk.run(move || said.send("second").map_err(io::Error::other));
        go_on.send(()).unwrap();
        later.await.unwrap();
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_disk_that_hangs_gives_up() {
        let disk = Disk::default();
        let turn = disk.turns.clone().acquire_owned().await.unwrap();
        assert_eq!(disk.run(|| Ok(())).await.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(turn);
        disk.run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn only_files_are_read_and_only_so_much() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "1234").unwrap();
        assert_eq!(read(&path("good"), 4).unwrap().1, b"1234");
        assert_eq!(read(&path("good"), 3).unwrap_err().kind(), ErrorKind::InvalidData);
        // Whose writer never comes.
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        for name in ["pipe", "endless", "socket", "directory"] {
            let kind = read(&path(name), 4).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::InvalidData, "{name}");
        }
        assert_eq!(read(&path("nothing"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
