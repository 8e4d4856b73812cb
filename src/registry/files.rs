//! Files that registries need: tokens, passwords, certificates. They may be on a disk that hangs, or be no files at
//! all.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::{Error, Reason};

/// A secret has no more than this.
const LARGEST: u64 = 64 << 10;
/// How long it may take to read one.
const WITHIN: Duration = Duration::from_secs(3);

/// What is in a regular file, which has at most `largest` bytes. A pipe that nobody writes to does not hold us up.
///
/// # Errors
/// It cannot be read, is no regular file, or has more.
pub fn read(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let file = std::fs::File::options().read(true).custom_flags(nonblocking).open(path)?;
    let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !file.metadata()?.is_file() {
        return invalid("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return invalid(format!("it has more than {largest} bytes"));
    }
    Ok(bytes)
}

/// A file with a secret, which may be replaced at any time.
pub struct Secret {
    /// As it is called where it cannot be read.
    what: &'static str,
    path: PathBuf,
    /// Read by one thread at a time: where the disk hangs, threads that wait for it are not to add up.
    reading: Mutex<Option<JoinHandle<io::Result<Vec<u8>>>>>,
}

impl Secret {
    pub fn new(what: &'static str, path: &Path) -> Self {
        Self { what, path: path.to_owned(), reading: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has now, but for the end of its line.
    ///
    /// # Errors
    /// It cannot be read, not in time, or is no text.
    pub async fn read(&self) -> Result<String, Error> {
        let read = timeout(WITHIN, self.bytes()).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let text = read.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))
        });
        let text = text.map_err(|error| {
            let (what, path) = (self.what, self.path.display());
            let detail = format!("the {what} cannot be read from {path}: {error}");
            Error::new(Reason::Refused, detail)
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut reading = self.reading.lock().await;
        let read = match &mut *reading {
            // Somebody has given up waiting for it. What comes of it may be old.
            Some(before) => {
                let _ = before.await;
                reading.insert(self.begin()).await
            }
            None => reading.insert(self.begin()).await,
        };
        *reading = None;
        read.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn begin(&self) -> JoinHandle<io::Result<Vec<u8>>> {
        let path = self.path.clone();
        spawn_blocking(move || read(&path, LARGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_secret_is_a_small_regular_file_with_text() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        let secret = Secret::new("token", &path);
        let now = || run(secret.read()).map_err(|error| error.detail);
        let refused = |says: &str| {
            let said = now().expect_err("it is refused");
            assert!(
                said.contains(says) && said.contains("the token cannot be read from /"),
                "{said}"
            );
        };
        refused("No such file");
        for (text, is) in [("hush\n", "hush"), (" hush \r\n", " hush "), ("", "")] {
            std::fs::write(&path, text).expect("a file");
            assert_eq!(now().as_deref(), Ok(is));
        }
        std::fs::write(&path, vec![b'x'; LARGEST as usize]).expect("a file");
        assert_eq!(now().map(|text| text.len() as u64), Ok(LARGEST));
        std::fs::write(&path, vec![b'x'; LARGEST as usize + 1]).expect("a file");
        refused("more than 65536 bytes");
        std::fs::write(&path, [0xff, 0xfe]).expect("a file");
        refused("it is no text");
        std::fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        refused("no regular file");
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).expect("a pipe");
        let error = run(Secret::new("token", &path).read()).expect_err("it is none");
        assert!(error.detail.contains("no regular file"), "{error}");
    }
}
