//! A real Redis, on a port of its own, with nothing on disk but in its own directory.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::counterpart::{Tool, have};
use super::eventually;

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
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        drop(socket);
        let dir = tempfile::tempdir().expect("a directory");
        let child = spawn(&dir, address, options);
        let redis = Self { child, dir, address, options };
        redis.answers().await;
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
        self.answers().await;
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// The answer to a command that is a line.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        let mut answer = vec![0; 64 * 1024];
        let length = stream.read(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    async fn answers(&self) {
        // `-NOAUTH` is an answer too; `-LOADING` is none.
        let ready = |answer: &String| answer.starts_with('+') || answer.starts_with("-NOAUTH");
        eventually(|| async { self.ask("PING").await.filter(ready) }).await;
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
