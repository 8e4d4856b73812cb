//! Programs that are not ours: clients and servers of `tests/interop/`, and where their tools are.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::within;

/// What a test may need beside this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Curl,
    /// Any Python 3.
    Python,
    Httpx,
    Grpcio,
    GrpcHealth,
    Node,
    Ws,
    Redis,
    Consul,
    Dnsmasq,
    Etcd,
    /// What `tests/support/eureka/build` makes.
    Eureka,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl with HTTP/2",
            Self::Python => "python3",
            Self::Httpx => "the Python modules httpx and h2",
            Self::Grpcio => "the Python module grpcio",
            Self::GrpcHealth => "the Python module grpcio-health-checking",
            Self::Node => "node",
            Self::Ws => "the Node module ws",
            Self::Redis => "redis-server",
            Self::Consul => "consul, on the PATH or as $CONSUL_BIN",
            Self::Dnsmasq => "dnsmasq",
            Self::Etcd => "etcd",
            Self::Eureka => "what tests/support/eureka/build makes, and java",
        }
    }

    /// A command that succeeds, and prints `sign`, where the tool is there.
    fn probe(self) -> (Command, &'static str) {
        let (mut command, arguments, sign): (_, &[&str], _) = match self {
            Self::Curl => (curl(), &["--version"], "HTTP2"),
            Self::Python => (python(), &["-c", "print(1)"], "1"),
            Self::Httpx => (python(), &["-c", "import httpx, h2; print(1)"], "1"),
            Self::Grpcio => (python(), &["-c", "import grpc; print(1)"], "1"),
            Self::GrpcHealth => (python(), &["-c", "import grpc_health; print(1)"], "1"),
            Self::Node => (node(), &["-p", "1"], "1"),
            Self::Ws => (node(), &["-p", "require('ws') && 1"], "1"),
            Self::Redis => (command("redis-server"), &["--version"], "v="),
            Self::Consul => (command(consul()), &["version"], "Consul v"),
            Self::Dnsmasq => (command("dnsmasq"), &["--version"], "Dnsmasq version"),
            Self::Etcd => (command("etcd"), &["--version"], "etcd Version"),
            Self::Eureka => (command("../support/eureka/start"), &["--version"], "here"),
        };
        command.args(arguments);
        (command, sign)
    }

    async fn is_there(self) -> bool {
        let (mut command, sign) = self.probe();
        let output = within(command.stderr(Stdio::null()).output()).await;
        output.is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(sign)
        })
    }
}

/// A server that is frozen keeps its connections and its port, and does nothing.
pub fn freeze(server: &std::process::Child) {
    signal(server, Signal::STOP);
}

pub fn thaw(server: &std::process::Child) {
    signal(server, Signal::CONT);
}

fn signal(server: &std::process::Child, signal: Signal) {
    let pid = Pid::from_raw(server.id() as i32).expect("a process");
    kill_process(pid, signal).expect("it runs");
}

/// Free for TCP and UDP, and below those that the kernel gives for port 0, so that it is still free when its server is
/// started again.
pub fn free_address() -> SocketAddr {
    loop {
        let address: SocketAddr = ([127, 0, 0, 1], fastrand::u16(20_000..30_000)).into();
        let tcp = std::net::TcpListener::bind(address);
        if tcp.is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Whether all of `tools` are there. If not says so, past the capture of the test harness, or fails
/// the test where `PILOTFISH_TESTS_NO_SKIP` is set.
pub async fn have(tools: &[Tool]) -> bool {
    for tool in tools {
        if !tool.is_there().await {
            let name = tool.name();
            let may_skip = std::env::var_os("PILOTFISH_TESTS_NO_SKIP").is_none();
            assert!(may_skip, "needs {name}; see CONTRIBUTING.md");
            let _ = writeln!(std::io::stderr(), "skipped: needs {name}");
            return false;
        }
    }
    true
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// In the folder of the scripts, with no proxy but the one that a test names; ends with its handle.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(scripts()).kill_on_drop(true).stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    command
}

pub fn curl() -> Command {
    let mut curl = command("curl");
    // No `.curlrc`; silent but for errors.
    curl.args(["-q", "-sS", "--max-time", "15"]);
    curl
}

pub fn python() -> Command {
    let of_tests = scripts().join(".venv/bin/python");
    match std::env::var_os("PILOTFISH_PYTHON") {
        Some(named) => command(named),
        None if of_tests.exists() => command(of_tests),
        None => command("python3"),
    }
}

/// The agent that is named, or the one on the PATH.
pub fn consul() -> std::ffi::OsString {
    std::env::var_os("CONSUL_BIN").unwrap_or_else(|| "consul".into())
}

pub fn node() -> Command {
    command("node")
}

/// Runs `command` to its good end and returns what it printed.
pub async fn output(command: &mut Command) -> String {
    let output = within(command.output()).await.expect("it starts");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{:?}: {}\n{stdout}{}",
        command.as_std(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Lines of a program that runs meanwhile.
pub struct Reader {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let lines = BufReader::new(stdout).lines();
        Self { child, lines }
    }

    /// The next line that is not empty; none at the end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            let line = within(self.lines.next_line()).await.expect("text")?;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    pub async fn succeeded(mut self) -> bool {
        within(self.child.wait()).await.expect("its status").success()
    }
}

/// A server of `tests/interop/`, which prints its port. It ends with the test: it is killed, and where
/// the test itself is, its standard input ends.
pub struct Server {
    pub address: SocketAddr,
    _running: Reader,
}

impl Server {
    async fn start(mut command: Command) -> Self {
        let mut running = Reader::start(command.stdin(Stdio::piped()));
        let port = running.line().await.expect("a server says its port");
        let port: u16 = port.parse().expect("a port");
        Self { address: ([127, 0, 0, 1], port).into(), _running: running }
    }

    pub async fn python(script: &str, arguments: &[&str]) -> Self {
        let mut command = python();
        command.arg(script).args(arguments);
        Self::start(command).await
    }

    pub async fn node(script: &str, arguments: &[&str]) -> Self {
        let mut command = node();
        command.arg(script).args(arguments);
        Self::start(command).await
    }
}
