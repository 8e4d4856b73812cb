//! A real Consul server, whose catalogue is written to as many agents would.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::http::Connection;
use crate::{Result, free_port};

pub struct Consul {
    child: Child,
    config: String,
    pub address: SocketAddr,
}

/// Nodes over which instances are spread.
const NODES: usize = 200;

impl Consul {
    pub async fn start() -> Result<Self> {
        let http = free_port();
        let config = json!({ "ports": {
            "http": http, "serf_lan": free_port(), "server": free_port(), "serf_wan": -1, "dns": -1, "grpc": -1,
        }});
        let config = config.to_string();
        let child = spawn(&config)?;
        let consul = Self { child, config, address: ([127, 0, 0, 1], http).into() };
        consul.is_ready().await?;
        Ok(consul)
    }

    /// Ends it at once. It has nothing on disk.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at its address, empty.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.config)?;
        self.is_ready().await
    }

    /// How many instances of a service may be called.
    pub async fn passing(&self, service: &str) -> Result<usize> {
        let mut api = Connection::to(self.address);
        let answer = api.get("consul", &format!("/v1/health/service/{service}?passing")).await?;
        let list: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(list.as_array().map_or(0, Vec::len))
    }

    async fn is_ready(&self) -> Result<()> {
        for _ in 0..200 {
            let mut api = Connection::to(self.address);
            if let Ok(answer) = api.get("consul", "/v1/status/leader").await
                && answer.body.len() > 4
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err("consul has no leader".into())
    }
}

fn spawn(config: &str) -> Result<Child> {
    let binary = std::env::var_os("CONSUL_BIN").unwrap_or_else(|| "consul".into());
    let mut command = Command::new(binary);
    command.args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"]);
    command.args(["-disable-host-node-id", "-log-level", "err", "-hcl", config]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    Ok(child.map_err(|error| format!("consul does not start: {error}; name it by CONSUL_BIN"))?)
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes to the catalogue.
pub struct Catalog(Connection);

impl Catalog {
    pub fn of(consul: SocketAddr) -> Self {
        Self(Connection::to(consul))
    }

    pub async fn register(&mut self, service: &str, at: SocketAddr) -> Result<()> {
        let (id, node) = (id(service, at), node(at));
        let body = json!({
            "Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": true,
            "Service": { "ID": id, "Service": service, "Address": at.ip().to_string(), "Port": at.port() },
        });
        self.put("/v1/catalog/register", &body).await
    }

    pub async fn deregister(&mut self, service: &str, at: SocketAddr) -> Result<()> {
        let body = json!({ "Node": node(at), "ServiceID": id(service, at) });
        self.put("/v1/catalog/deregister", &body).await
    }

    async fn put(&mut self, path: &str, body: &serde_json::Value) -> Result<()> {
        let answer = self.0.ask("PUT", "consul", path, &body.to_string()).await?;
        match answer.status {
            200 => Ok(()),
            status => {
                Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&answer.body)).into())
            }
        }
    }
}

fn id(service: &str, at: SocketAddr) -> String {
    format!("{service}-{at}")
}

fn node(at: SocketAddr) -> String {
    format!("node-{}", usize::from(at.port()) % NODES)
}
