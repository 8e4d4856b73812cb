//! The proxy under test, and what the system says of it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use crate::http::Connection;
use crate::{Result, free_port};

pub struct Proxy {
    child: Child,
    pub outbound: SocketAddr,
    metrics: Connection,
    _dir: TempDir,
}

impl Proxy {
    /// A sidecar of an app that only calls others, by the Consul at `consul`.
    pub async fn start(consul: SocketAddr) -> Result<Self> {
        Self::with(consul, "").await
    }

    /// One with more in its configuration.
    pub async fn with(consul: SocketAddr, more: &str) -> Result<Self> {
        let binary = std::env::var("PILOTFISH_BIN").unwrap_or("target/release-ci/pilotfish".into());
        let dir = tempfile::tempdir()?;
        let [outbound, metrics, admin]: [SocketAddr; 3] =
            std::array::from_fn(|_| ([127, 0, 0, 1], free_port()).into());
        let config = format!(
            "registry: consul://{consul}\noutbound: {{ listen: {outbound} }}\nadmin: {{ listen: {admin}, metrics: {metrics} }}\n\
             telemetry: {{ access_log: off }}\n{more}"
        );
        let config = match more.contains("runtime:") {
            true => config,
            false => config + "runtime: { workers: 1 }\n",
        };
        let path = dir.path().join("pilotfish.yaml");
        std::fs::write(&path, config)?;
        let mut command = Command::new(&binary);
        command.arg("run").arg("-c").arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = command.stderr(log).spawn().map_err(|error| {
            format!(
                "{binary} does not start: {error}; build it with `cargo build --profile release-ci`"
            )
        })?;
        let mut proxy = Self { child, outbound, metrics: Connection::to(metrics), _dir: dir };
        for _ in 0..200 {
            if proxy.metric("pilotfish_build_info").await.is_ok() {
                return Ok(proxy);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err("the proxy does not answer".into())
    }

    /// The first value of a metric whose series begins so; 0 if there is none.
    pub async fn metric(&mut self, series: &str) -> Result<f64> {
        let text = self.metrics.get("localhost", "/metrics").await?.body;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.starts_with(series));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0))
    }

    /// CPU time so far of the threads with this name.
    pub fn cpu(&self, thread: &str) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let of = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let ticks: u64 =
                fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
            // Ticks are 1/100 s on Linux whatever the kernel's own clock.
            name.starts_with(thread).then(|| Duration::from_millis(ticks * 10))
        };
        tasks.into_iter().flatten().filter_map(|task| of(task.ok()?)).sum()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
