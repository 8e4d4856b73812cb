//! A real Redis, on a port of its own, with nothing on disk but in its own directory.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::counterpart::{Tool, freeze, have, thaw};
use super::within;

pub struct Redis {
    child: Child,
    dir: TempDir,
    pub address: SocketAddr,
    options: &'static [&'static str],
}

impl Redis {
    /// None where there is no redis-server, which has been said then.
    pub async fn start(options: &'static [&'static str]) -> Option<Self> {
        if !have(&[Tool::Redis]).await {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let child = spawn(&dir, address, options);
        let mut redis = Self { child, dir, address, options };
        // Another process may have taken the port meanwhile.
        while !redis.answers().await {
            redis.address = free_address();
            redis.child = spawn(&redis.dir, redis.address, options);
        }
        Some(redis)
    }

    /// Its Unix socket, if it was started with `unixsocket`.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    /// Starts it again on its port, empty.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.dir, self.address, self.options);
        assert!(self.answers().await, "its port is taken");
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn hang(&self) {
        freeze(&self.child);
    }

    pub fn go_on(&self) {
        thaw(&self.child);
    }

    /// The answer to a command that is a line.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        let mut answer = vec![0; 64 * 1024];
        let length = stream.read(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// Waits for its first answer; false if it has ended instead.
    async fn answers(&mut self) -> bool {
        within(async {
            loop {
                if self.child.try_wait().expect("its status").is_some() {
                    return false;
                }
                // `-NOAUTH` is an answer too; `-LOADING` is none.
                match self.ask("PING").await {
                    Some(answer) if answer.starts_with('+') || answer.starts_with("-NOAUTH") => {
                        return true;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
    }
}

/// Below those that the kernel gives for port 0, so that it is still free when Redis starts again.
fn free_address() -> SocketAddr {
    loop {
        let address: SocketAddr = ([127, 0, 0, 1], fastrand::u16(20_000..30_000)).into();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn spawn(dir: &TempDir, address: SocketAddr, options: &[&str]) -> Child {
    let dir = dir.path().display().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir", &dir]);
    command.args(options).stdin(Stdio::null()).stdout(Stdio::null());
    command.current_dir(dir).spawn().expect("it starts")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
