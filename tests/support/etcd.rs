//! A real etcd, alone and on a port of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::client;
use super::counterpart::{Tool, free_address, freeze, have, thaw};
use super::within;

pub struct Etcd {
    child: Child,
    dir: TempDir,
    pub address: SocketAddr,
    peers: SocketAddr,
}

impl Etcd {
    /// None where there is no etcd, which has been said then.
    pub async fn start() -> Option<Self> {
        if !have(&[Tool::Etcd]).await {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (address, peers) = (free_address(), free_address());
        let child = spawn(&dir, address, peers);
        let mut etcd = Self { child, dir, address, peers };
        // Another process may have taken a port meanwhile.
        while !etcd.answers().await {
            (etcd.address, etcd.peers) = (free_address(), free_address());
            etcd.empty();
            etcd.child = spawn(&etcd.dir, etcd.address, etcd.peers);
        }
        Some(etcd)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    /// What it kept is gone.
    pub fn empty(&mut self) {
        let _ = std::fs::remove_dir_all(self.dir.path().join("data"));
    }

    /// Starts it again on its port.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.dir, self.address, self.peers);
        assert!(self.answers().await, "its port is taken");
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn hang(&self) {
        freeze(&self.child);
    }

    pub fn go_on(&self) {
        thaw(&self.child);
    }

    /// What it answers to `body`, by whomever's `token`.
    pub async fn ask(&self, path: &str, body: Value, token: Option<&str>) -> Value {
        let mut request = Request::post(format!("/v3/{path}")).header("host", "etcd");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        let answer = client::send(self.address, request.body(body).expect("a request")).await;
        serde_json::from_str(answer.text()).expect("JSON")
    }

    pub async fn put(&self, key: &str, value: &str) {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        let answer = self.ask("kv/put", body, None).await;
        assert!(answer["header"].is_object(), "{answer}");
    }

    pub async fn delete(&self, key: &str) {
        let answer = self.ask("kv/deleterange", json!({ "key": BASE64.encode(key) }), None).await;
        assert_eq!(answer["deleted"], "1", "{answer}");
    }

    pub async fn get(&self, key: &str) -> Option<Value> {
        let mut answer = self.ask("kv/range", json!({ "key": BASE64.encode(key) }), None).await;
        let value = BASE64.decode(answer["kvs"][0]["value"].take().as_str()?).expect("base64");
        Some(serde_json::from_slice(&value).expect("JSON"))
    }

    /// From now on who asks has to be `user`, who may do everything below `prefix`.
    pub async fn protect(&self, user: &str, password: &str, prefix: &str) {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let permission = json!({ "permType": "READWRITE", "key": BASE64.encode(prefix), "range_end": BASE64.encode(end) });
        for (path, body) in [
            ("auth/user/add", json!({ "name": "root", "password": "root" })),
            ("auth/role/add", json!({ "name": "root" })),
            ("auth/user/grant", json!({ "user": "root", "role": "root" })),
            ("auth/user/add", json!({ "name": user, "password": password })),
            ("auth/role/add", json!({ "name": "role" })),
            ("auth/role/grant", json!({ "name": "role", "perm": permission })),
            ("auth/user/grant", json!({ "user": user, "role": "role" })),
            ("auth/enable", json!({})),
        ] {
            let answer = self.ask(path, body, None).await;
            assert!(answer["header"].is_object(), "{path}: {answer}");
        }
    }

    /// Waits until it answers; false if it has ended instead.
    async fn answers(&mut self) -> bool {
        within(async {
            loop {
                if self.child.try_wait().expect("its status").is_some() {
                    return false;
                }
                if TcpStream::connect(self.address).await.is_ok() {
                    let answer = self.ask("kv/range", json!({ "key": "AA==" }), None).await;
                    // One that wants to know who asks has begun too.
                    if answer["header"].is_object() || answer["code"] == 3 {
                        return true;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

fn spawn(dir: &TempDir, address: SocketAddr, peers: SocketAddr) -> Child {
    let (url, peers) = (format!("http://{address}"), format!("http://{peers}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
