//! What the tests over real sockets share: a proxy in this process, upstreams that do as they are told,
//! and clients that write what they want.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod client;
pub mod consul;
pub mod counterpart;
pub mod dns;
pub mod etcd;
pub mod eureka;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod load;
pub mod process;
pub mod raw;
pub mod redis;
pub mod town;
pub mod upstream;
pub mod watched;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pilotfish::app::{self, Options, Running};
use pilotfish::config::load::Origin;
use pilotfish::config::snapshot::ListenerKind;
use tempfile::TempDir;

/// What no step of a test may take longer than. It fails the test, it never makes one pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in this process, on ports of its own, that ends with the test.
pub struct Proxy {
    running: Option<Running>,
    dir: TempDir,
}

/// Ports of 0, an access log in a file, and no lingering: what every test wants unless it says so.
const COMMON: &str = "
admin: { listen: 127.0.0.1:0, metrics: 127.0.0.1:0 }
drain: { linger: 0s, timeout: 10s }
registry: off
runtime: { workers: 2 }
";

impl Proxy {
    /// Starts with `yaml`, to which is added what is not in it of: ports of 0 for `inbound`, `outbound`
    /// and `admin`; `drain`; two workers; a JSON access log that [`Proxy::log`] reads.
    pub async fn start(yaml: &str) -> Self {
        Self::try_start(yaml).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_start(yaml: &str) -> Result<Self, app::StartError> {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mut proxy = Self { running: None, dir };
        std::fs::write(proxy.config_path(), proxy.complete(yaml)).expect("its configuration");
        let origin = Origin::File(proxy.config_path());
        let options = Options { origin, signals: false, log_level: None };
        // It waits for its threads.
        let running =
            tokio::task::spawn_blocking(move || app::start(options)).await.expect("start");
        proxy.running = Some(running?);
        Ok(proxy)
    }

    /// `yaml` with what it leaves to the test's defaults.
    pub fn complete(&self, yaml: &str) -> String {
        let mut yaml = yaml.to_owned();
        let has = |yaml: &str, key: &str| yaml.lines().any(|line| line.starts_with(key));
        for line in COMMON.lines().filter(|line| !line.is_empty()) {
            let key = line.split_once(':').expect("a key").0;
            if !has(&yaml, &format!("{key}:")) {
                yaml.push_str(&format!("\n{line}"));
            }
        }
        for (key, listen) in [("inbound", "127.0.0.1:0"), ("outbound", "127.0.0.1:0")] {
            if !has(&yaml, &format!("{key}:")) && (key != "inbound" || has(&yaml, "service:")) {
                yaml.push_str(&format!("\n{key}: {{ listen: \"{listen}\" }}"));
            } else if !yaml.contains("listen:") || !section_listens(&yaml, key) {
                yaml = yaml.replace(
                    &format!("\n{key}:\n"),
                    &format!("\n{key}:\n  listen: \"{listen}\"\n"),
                );
            }
        }
        if !has(&yaml, "telemetry:") {
            let path = self.log_path();
            yaml.push_str(&format!(
                "\ntelemetry: {{ access_log: {{ format: json, path: {} }} }}",
                path.display()
            ));
        }
        yaml.push('\n');
        yaml
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("pilotfish.yaml")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    /// Puts another configuration in place, by a rename as editors do it. It is read when
    /// [`Proxy::reload`] or the watch reads it.
    pub fn write(&self, yaml: &str) {
        let new = self.dir.path().join(".new");
        std::fs::write(&new, self.complete(yaml)).expect("its configuration");
        std::fs::rename(new, self.config_path()).expect("its configuration");
    }

    pub async fn reload(&self) -> Result<String, String> {
        self.running().reload().await
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("not shut down yet")
    }

    pub fn inbound(&self) -> SocketAddr {
        self.running().address(ListenerKind::Inbound).expect("inbound is on")
    }

    pub fn outbound(&self) -> SocketAddr {
        self.running().address(ListenerKind::Outbound).expect("outbound is on")
    }

    /// Of `outbound.ports`, by what the configuration says.
    pub fn port(&self) -> SocketAddr {
        self.running().address(ListenerKind::Port).expect("a port is configured")
    }

    pub fn admin(&self) -> SocketAddr {
        self.running().admin.expect("admin is on")
    }

    pub fn metrics(&self) -> SocketAddr {
        self.running().metrics.expect("metrics is on")
    }

    /// Begins to drain, as SIGTERM does.
    pub fn shutdown(&self) {
        self.running().shutdown();
    }

    /// Waits until it has ended.
    pub async fn ended(mut self) {
        let running = self.running.take().expect("not waited for yet");
        within(tokio::task::spawn_blocking(move || running.wait()))
            .await
            .expect("its end")
            .expect("no panic on control");
    }

    /// The lines of the access log once there are at least `count`.
    pub async fn log(&self, count: usize) -> Vec<serde_json::Value> {
        eventually(|| async {
            let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<_> =
                text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    /// The value of a metric: the line that begins with `series`, 0 if there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let response = client::get(self.metrics(), "/metrics").await;
        let line = response.text().lines().find_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (name == series).then(|| value.parse().expect("a number"))
        });
        line.unwrap_or(0.0)
    }
}

fn section_listens(yaml: &str, key: &str) -> bool {
    let Some(start) = yaml.find(&format!("\n{key}:")) else {
        return true;
    };
    let section = &yaml[start + 1..];
    let first = section.lines().next().unwrap_or_default();
    let rest =
        section.lines().skip(1).take_while(|line| line.starts_with([' ', '#']) || line.is_empty());
    first.contains("listen:")
        || first.contains("off")
        || rest.into_iter().any(|line| line.trim_start().starts_with("listen:"))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Twice: at once.
            running.shutdown();
            running.shutdown();
            let _ = running.wait();
        }
    }
}

/// Fails the test where `future` takes longer than [`PATIENCE`].
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Asks again until there is an answer, for what becomes true without telling.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
