//! Tokens and passwords of registries.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{self, Disk};
use super::{Error, Reason};

/// A secret has no more than this.
const LARGEST: u64 = 64 << 10;

/// A file with a secret, which may be replaced at any time.
pub struct Secret {
    /// As it is called where it cannot be read.
    what: &'static str,
    path: PathBuf,
    disk: Disk,
}

impl Secret {
    pub fn new(what: &'static str, path: &Path) -> Self {
        Self { what, path: path.to_owned(), disk: Disk::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has now, but for the end of its line.
    ///
    /// # Errors
    /// It cannot be read, not in time, or is no text.
    pub async fn read(&self) -> Result<String, Error> {
        let path = self.path.clone();
        let read = self.disk.run(move || disk::read(&path, LARGEST)).await;
        let text = read.and_then(|(_, bytes)| {
            String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))
        });
        let text = text.map_err(|error| {
            let (what, path) = (self.what, self.path.display());
            let detail = format!("the {what} cannot be read from {path}: {error}");
            Error::new(Reason::Refused, detail)
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
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
