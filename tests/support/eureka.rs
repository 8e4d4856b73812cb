//! A real Eureka server, on a port of its own: Netflix's, as Spring Cloud packs it. `eureka/build` makes it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::client::{self, Answer};
use super::counterpart::{Tool, freeze, have, thaw};

/// A JVM takes its time.
const START: Duration = Duration::from_secs(90);

pub struct Eureka {
    child: Child,
    pub address: SocketAddr,
    options: Vec<String>,
}

impl Eureka {
    /// None where it was not built, which has been said then. `options` are settings of Spring.
    pub async fn start(options: &[&str]) -> Option<Self> {
        if !have(&[Tool::Eureka]).await {
            return None;
        }
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let address = free_address();
        let mut eureka = Self { child: spawn(address, &options), address, options };
        // Another process may have taken the port meanwhile.
        while !eureka.answers().await {
            eureka.address = free_address();
            eureka.child = spawn(eureka.address, &eureka.options);
        }
        Some(eureka)
    }

    /// One for all tests of this program, which it ends with.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Eureka>> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(&[])).await.as_ref()
    }

    /// Where its interface is.
    pub fn url(&self) -> String {
        format!("http://{}/eureka", self.address)
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its end");
    }

    /// Starts it again on its port, empty.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.address, &self.options);
        assert!(self.answers().await, "its port is taken");
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn hang(&self) {
        freeze(&self.child);
    }

    pub fn go_on(&self) {
        thaw(&self.child);
    }

    /// What it says to others: `path` is below `/eureka`.
    pub async fn ask(&self, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(format!("/eureka{path}"));
        let request = request.header("host", "eureka").header("accept", "application/json");
        let request = request.header("content-type", "application/json");
        let body = Full::new(Bytes::from(body.to_owned()));
        client::send(self.address, request.body(body).expect("a request")).await
    }

    /// What it has of `app`'s instance `id`.
    pub async fn instance(&self, app: &str, id: &str) -> Option<serde_json::Value> {
        let answer = self.ask(Method::GET, &format!("/apps/{app}/{id}"), "").await;
        let mut found: serde_json::Value = serde_json::from_str(answer.text()).ok()?;
        (answer.status == 200).then(|| found["instance"].take())
    }

    /// Waits until it answers; false if it has ended instead.
    async fn answers(&mut self) -> bool {
        let answers = async {
            loop {
                if self.child.try_wait().expect("its status").is_some() {
                    return false;
                }
                if TcpStream::connect(self.address).await.is_ok() {
                    let status = self.ask(Method::GET, "/apps", "").await.status;
                    // Of one that wants a password.
                    if status == 200 || status == 401 {
                        return true;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START, answers).await.expect("Eureka does not start")
    }
}

/// Below those that the kernel gives for port 0, so that it is still free when the server starts again.
fn free_address() -> SocketAddr {
    loop {
        let address: SocketAddr = ([127, 0, 0, 1], fastrand::u16(20_000..30_000)).into();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn spawn(address: SocketAddr, options: &[String]) -> Child {
    let start = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/eureka/start");
    let mut command = Command::new(start);
    command.arg(format!("--server.port={}", address.port())).args(options);
    // It ends with its standard input, so also where the test is killed.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

impl Drop for Eureka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
