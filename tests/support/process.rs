//! The proxy as a process of its own: for signals, descriptors and memory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{client, eventually};

pub struct Process {
    child: Child,
    dir: TempDir,
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    pub admin: SocketAddr,
}

/// How a process is started besides its configuration.
#[derive(Default)]
pub struct Start {
    /// Limit of open descriptors.
    pub descriptors: Option<u32>,
}

impl Process {
    /// Starts the binary with `yaml`, in which `{inbound}`, `{outbound}`, `{admin}` and `{metrics}` stand
    /// for free addresses and `{dir}` for its directory, and waits until it is ready.
    pub async fn start(yaml: &str, start: Start) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let [inbound, outbound, admin, metrics] = free_addresses();
        let text = yaml
            .replace("{inbound}", &inbound.to_string())
            .replace("{outbound}", &outbound.to_string())
            .replace("{admin}", &admin.to_string())
            .replace("{metrics}", &metrics.to_string())
            .replace("{dir}", &dir.path().display().to_string());
        // A test has no neighbours but those that it names.
        let off = if text.contains("registry:") { "" } else { "registry: off\n" };
        let path = dir.path().join("pilotfish.yaml");
        std::fs::write(&path, off.to_owned() + &text).expect("its configuration");
        let log = std::fs::File::create(dir.path().join("stderr")).expect("a file");
        let binary = env!("CARGO_BIN_EXE_pilotfish");
        let mut command = match start.descriptors {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(binary);
                shell
            }
        };
        command.arg("run").arg("-c").arg(&path).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the binary starts");
        let process = Self { child, dir, inbound, outbound, admin };
        eventually(|| async {
            let answered = tokio::net::TcpStream::connect(process.admin).await.is_ok();
            (answered && client::get_from(process.admin, "localhost", "/ready").await.status == 200)
                .then_some(())
        })
        .await;
        process
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("pilotfish.yaml")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Ends it at once: it has no time to say goodbye to anybody.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(|| async { child.borrow_mut().try_wait().expect("its status") }).await
    }

    /// A line of `/proc/<pid>/status` in KiB: `VmRSS`, or `VmHWM` for the most there was.
    pub fn memory(&self, key: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(key)).expect("the line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// How often one of its threads went to sleep so far.
    pub fn switches(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter_map(|status| {
                let line = status.lines().find(|line| line.starts_with("voluntary_ctxt"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum()
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<&str> =
            stat.rsplit(") ").next().expect("fields").split_whitespace().collect();
        let ticks: u64 =
            fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        // The unit of this file is 1/100 s on Linux whatever the kernel's own clock.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Addresses that are free now. Another process could take one meanwhile; none of ours does, since the
/// kernel gives ports for 0 in turn.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let sockets: [std::net::TcpListener; N] =
        std::array::from_fn(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    sockets.map(|socket| socket.local_addr().expect("its address"))
}
