//! A real Consul agent, on ports of its own, with nothing on disk.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::counterpart::{Tool, consul, free_address, freeze, have, thaw};
use super::{client, eventually};

pub struct Consul {
    child: Child,
    dir: TempDir,
    pub address: SocketAddr,
    /// Where other agents join it.
    pub gossip: SocketAddr,
    acl: bool,
}

/// What may do everything, where there are ACLs.
pub const MASTER: &str = "5b1e4a6c-95b4-4f52-8a4d-1f3d5f0b7c11";

impl Consul {
    /// A server that is its own agent. None where there is no consul, which has been said then.
    pub async fn start() -> Option<Self> {
        Self::started(false, None).await
    }

    /// One that refuses who has no token.
    pub async fn with_acl() -> Option<Self> {
        Self::started(true, None).await
    }

    /// An agent beside the app that is no server, of the cluster of `server`.
    pub async fn agent_of(server: &Consul) -> Self {
        Self::started(false, Some(server.gossip)).await.expect("it is there")
    }

    async fn started(acl: bool, join: Option<SocketAddr>) -> Option<Self> {
        if !have(&[Tool::Consul]).await {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let [http, serf, server] = std::array::from_fn(|_| free_address().port());
        let mut config = json!({
            "node_name": format!("node-{http}"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "disable_host_node_id": true,
            "disable_update_check": true,
            "leave_on_terminate": false,
            "data_dir": dir.path().join("data"),
            "ports": { "http": http, "serf_lan": serf, "server": server, "serf_wan": -1, "dns": -1, "grpc": -1 },
        });
        match join {
            None => {
                config["server"] = true.into();
                config["bootstrap_expect"] = 1.into();
            }
            Some(server) => config["retry_join"] = json!([server.to_string()]),
        }
        if acl {
            config["acl"] = json!({
                "enabled": true,
                "default_policy": "deny",
                "tokens": { "master": MASTER },
            });
        }
        std::fs::write(dir.path().join("agent.json"), config.to_string())
            .expect("its configuration");
        let child = spawn(dir.path());
        let address = ([127, 0, 0, 1], http).into();
        let consul = Self { child, dir, address, gossip: ([127, 0, 0, 1], serf).into(), acl };
        consul.is_ready().await;
        Some(consul)
    }

    /// Waits until it answers with a leader.
    async fn is_ready(&self) {
        eventually(|| async {
            let answer = self.try_ask("GET", "/v1/status/leader", &Value::Null).await?;
            (answer.0 == 200 && answer.1.as_str().is_some_and(|leader| !leader.is_empty()))
                .then_some(())
        })
        .await;
        // Its own node is in the catalogue only when the leader has been at work.
        eventually(|| async {
            let (status, nodes) = self.try_ask("GET", "/v1/catalog/nodes", &Value::Null).await?;
            (status == 200 && nodes.as_array().is_some_and(|nodes| !nodes.is_empty())).then_some(())
        })
        .await;
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    /// Starts it again on its ports, empty.
    pub async fn start_again(&mut self) {
        let _ = std::fs::remove_dir_all(self.dir.path().join("data"));
        self.child = spawn(self.dir.path());
        self.is_ready().await;
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn hang(&self) {
        freeze(&self.child);
    }

    pub fn go_on(&self) {
        thaw(&self.child);
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null).await
    }

    /// The answer, which is a good one.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_ask(method, path, body).await.expect("an answer");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn try_ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder().method(method).uri(path).header("host", "consul");
        if self.acl {
            request = request.header("x-consul-token", MASTER);
        }
        let request = request.body(Full::from(body)).expect("a request");
        let answer = client::ask(self.address, request).await?;
        let text = answer.text().to_owned();
        Some((answer.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The addresses of a service whose checks all pass.
    pub async fn passing(&self, service: &str) -> Vec<String> {
        let entries = self.get(&format!("/v1/health/service/{service}?passing")).await;
        let mut addresses: Vec<_> =
            entries.as_array().expect("a list").iter().map(address).collect();
        addresses.sort();
        addresses
    }

    /// Registers an instance without a check.
    pub async fn register(&self, service: &str, at: SocketAddr) {
        let body = json!({
            "Name": service, "ID": format!("{service}-{}", at.port()), "Address": at.ip().to_string(), "Port": at.port(),
        });
        self.ask("PUT", "/v1/agent/service/register", &body).await;
    }

    pub async fn deregister(&self, id: &str) {
        self.ask("PUT", &format!("/v1/agent/service/deregister/{id}"), &Value::Null).await;
    }
}

fn address(entry: &Value) -> String {
    let of = |part: &str| entry[part]["Address"].as_str().unwrap_or_default().to_owned();
    let host = Some(of("Service")).filter(|it| !it.is_empty()).unwrap_or_else(|| of("Node"));
    format!("{host}:{}", entry["Service"]["Port"])
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("a file");
    let mut command = Command::new(consul());
    command.arg("agent").arg("-config-file").arg(dir.join("agent.json"));
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
