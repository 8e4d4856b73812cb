//! Over real sockets.

use super::*;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

/// What the handles of a test were asked.
#[derive(Default)]
struct Asked {
    drains: Cell<u32>,
    quits: Cell<u32>,
    level: RefCell<String>,
}

struct Server {
    address: SocketAddr,
    asked: Rc<Asked>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn handles(asked: &Rc<Asked>) -> Handles {
    let (drains, quits) = (asked.clone(), asked.clone());
    let (read, set) = (asked.clone(), asked.clone());
    Handles {
        metrics: Box::new(|| "# HELP a b\n# TYPE a gauge\na 1\n".to_owned()),
        config_dump: Box::new(|| json!({"service": {"name": "order-service"}})),
        clusters: Box::new(
            || json!({"user-service": {"endpoints": [{"address": "10.0.0.1:3001", "state": "healthy"}]}}),
        ),
        ready: Box::new(|| Err("no endpoint of the app yet".to_owned())),
        reload: Box::new(|| Box::pin(async { Err("line 3: unknown field".to_owned()) })),
        drain: Box::new(move || drains.drains.set(drains.drains.get() + 1)),
        quit: Box::new(move || quits.quits.set(quits.quits.get() + 1)),
        log_level: Box::new(move || read.level.borrow().clone()),
        set_log_level: Box::new(move |level| match level {
            "nonsense" => Err("there is no level nonsense".to_owned()),
            level => {
                *set.level.borrow_mut() = level.to_owned();
                Ok(())
            }
        }),
        version: "0.1.0".to_owned(),
    }
}

async fn start(surface: Surface) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Rc::new(Asked::default());
    let handles = Rc::new(handles(&asked));
    let (stop, stopped) = oneshot::channel();
    let task = spawn_local(serve(listener, surface, handles, async {
        let _ = stopped.await;
    }));
    Server { address, asked, stop, task }
}

impl Server {
    /// The whole answer to a request on a connection of its own.
    async fn ask(&self, method: &str, target: &str, host: &str) -> String {
        let head =
            format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, target: &str) -> (String, String) {
        split(&self.ask("GET", target, "127.0.0.1").await)
    }

    async fn post(&self, target: &str) -> (String, String) {
        split(&self.ask("POST", target, "127.0.0.1").await)
    }
}

/// Status and body.
fn split(answer: &str) -> (String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head["HTTP/1.1 ".len()..][..3].to_owned(), body.to_owned())
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn answer(status: &str, body: &str) -> (String, String) {
    (status.to_owned(), body.to_owned())
}

#[test]
fn reads() {
    local(async {
        let server = start(Surface::Admin).await;
        assert_eq!(server.get("/live").await, answer("200", "live\n"));
        let not_ready = answer("503", "no endpoint of the app yet\n");
        assert_eq!(server.get("/ready").await, not_ready);
        assert_eq!(server.get("/healthz/ready").await, not_ready);
        assert_eq!(server.get("/version").await, answer("200", "pilotfish 0.1.0\n"));
        assert_eq!(
            server.get("/clusters").await,
            answer(
                "200",
                "user-service::endpoints::10.0.0.1:3001::address 10.0.0.1:3001\n\
                 user-service::endpoints::10.0.0.1:3001::state healthy\n"
            )
        );
        for path in ["/clusters?format=json", "/config_dump"] {
            let (status, body) = server.get(path).await;
            assert_eq!(status, "200");
            assert!(serde_json::from_str::<serde_json::Value>(&body).unwrap().is_object());
        }
        let whole = server.ask("GET", "/metrics", "localhost:15000").await;
        assert!(whole.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(whole.ends_with("\r\n\r\n# HELP a b\n# TYPE a gauge\na 1\n"));
        let (status, list) = server.get("/nothing").await;
        assert_eq!(status, "404");
        assert!(list.contains("/quitquitquit") && list.contains("/nothing"), "{list}");
        assert_eq!(server.ask("GET", "/live", "evil.example").await[9..12], *"403");
    });
}

#[test]
fn head_is_a_get_without_its_body() {
    local(async {
        let server = start(Surface::Metrics).await;
        let get = server.ask("GET", "/metrics", "any.example").await;
        let head = server.ask("HEAD", "/metrics", "any.example").await;
        let without_date = |answer: &str| -> Vec<String> {
            let (head, _) = answer.split_once("\r\n\r\n").unwrap();
            let lines = head.lines().filter(|line| !line.starts_with("date"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(without_date(&head), without_date(&get));
        assert!(head.ends_with("\r\n\r\n") && get.ends_with("a 1\n"));
        assert_eq!(server.get("/config_dump").await.0, "404");
    });
}

#[test]
fn changes() {
    local(async {
        let server = start(Surface::Admin).await;
        let refused = server.ask("GET", "/drain", "127.0.0.1").await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        assert!(refused.contains("allow: POST\r\n"), "{refused}");
        assert!(refused.contains("curl -X POST http://127.0.0.1:15000/drain\n"), "{refused}");
        assert_eq!(server.asked.drains.get(), 0);
        assert_eq!(server.post("/drain").await.0, "200");
        assert_eq!(server.post("/quitquitquit").await.0, "200");
        assert_eq!((server.asked.drains.get(), server.asked.quits.get()), (1, 1));
        assert_eq!(server.post("/reload").await, answer("422", "line 3: unknown field\n"));
        assert_eq!(server.post("/logging?level=debug").await, answer("200", "debug\n"));
        assert_eq!(server.get("/logging").await, answer("200", "debug\n"));
        assert_eq!(server.post("/logging?level=nonsense").await.0, "400");
        assert_eq!(server.post("/logging").await.0, "400");
        assert_eq!(server.get("/logging").await, answer("200", "debug\n"));
    });
}

#[test]
fn a_shutdown_ends_idle_connections_and_the_listener() {
    local(async {
        let server = start(Surface::Admin).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        // Answered once, so that the connection is known to be accepted and kept alive.
        idle.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"live\n") {
            assert_ne!(idle.read_buf(&mut seen).await.unwrap(), 0);
        }
        server.stop.send(()).unwrap();
        server.task.await.unwrap();
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
        let refused = TcpStream::connect(server.address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}
