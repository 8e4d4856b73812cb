//! What an API server of Kubernetes says of EndpointSlices, over a real TLS socket: lists in pages, watches with
//! bookmarks, versions that expire, and whatever else a test wants of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::counterpart::free_address;

const TOKEN: &str = "canary-token";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/";

type Body = BoxBody<Bytes, std::io::Error>;

/// What it does with the next question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// A `Status` of this code.
    Status(u16),
    /// This, as JSON or not, and the end of the connection.
    Says(&'static str),
    Silent,
    /// This status, with this text.
    Refuses(u16, &'static str),
    /// What one has said, as it was recorded: pages of a list, and watches, one after the other.
    Replays {
        pages: &'static [&'static str],
        watches: &'static [&'static str],
    },
}

/// How it says that a version is not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    ByStatus,
    ByEvent,
}

pub struct ApiServer {
    pub address: SocketAddr,
    certificate: String,
    shared: Arc<Shared>,
    dir: TempDir,
    task: Option<JoinHandle<()>>,
    tls: TlsAcceptor,
}

struct Shared {
    store: Mutex<Store>,
    /// Counts changes; watches wait for it.
    changed: watch::Sender<u64>,
    /// Counts how often all watches were ended.
    ended: watch::Sender<u64>,
}

struct Store {
    version: u64,
    /// What happened before is not known.
    oldest: u64,
    /// By namespace and name.
    slices: BTreeMap<(String, String), Value>,
    /// What happened, with its version.
    events: Vec<(u64, Value)>,
    mood: Mood,
    expiry: Expiry,
    page: usize,
    lists: Vec<String>,
    watches: Vec<String>,
}

impl Store {
    fn happens(&mut self, kind: &str, object: Value) {
        self.events.push((self.version, json!({ "type": kind, "object": object })));
    }
}

impl ApiServer {
    pub async fn start() -> Self {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a key");
        let certificate = key.cert.pem();
        let private =
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .expect("a certificate");
        let store = Store {
            version: 1000,
            oldest: 0,
            slices: BTreeMap::new(),
            events: Vec::new(),
            mood: Mood::Well,
            expiry: Expiry::ByEvent,
            page: usize::MAX,
            lists: Vec::new(),
            watches: Vec::new(),
        };
        let shared = Shared {
            store: Mutex::new(store),
            changed: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        };
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = Self {
            address: free_address(),
            certificate,
            shared: Arc::new(shared),
            dir,
            task: None,
            tls: TlsAcceptor::from(Arc::new(tls)),
        };
        server.listen();
        server
    }

    /// Ends it at once, with all its connections.
    pub async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts it again at its address, with what it had.
    pub fn listen(&mut self) {
        let listener = listener(self.address);
        let (tls, shared) = (self.tls.clone(), self.shared.clone());
        self.task = Some(tokio::spawn(async move {
            // They end with this task.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, shared) = (tls.clone(), shared.clone());
                open.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        let shared = shared.clone();
                        async move { shared.answer(request).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        }));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().expect("no panic")
    }

    pub fn becomes(&self, mood: Mood) {
        self.store().mood = mood;
    }

    pub fn pages_of(&self, page: usize) {
        self.store().page = page;
    }

    /// Selectors of the lists so far.
    pub fn lists(&self) -> Vec<String> {
        self.store().lists.clone()
    }

    /// Selectors of the watches so far.
    pub fn watches(&self) -> Vec<String> {
        self.store().watches.clone()
    }

    /// Adds or replaces a slice, whose name and namespace stand in it.
    pub fn put(&self, slice: Value) {
        let mut store = self.store();
        store.version += 1;
        let mut slice = slice;
        slice["metadata"]["resourceVersion"] = store.version.to_string().into();
        let before = store.slices.insert(key(&slice), slice.clone());
        store.happens(if before.is_some() { "MODIFIED" } else { "ADDED" }, slice);
        drop(store);
        self.tells();
    }

    pub fn delete(&self, namespace: &str, name: &str) {
        let mut store = self.store();
        let mut slice =
            store.slices.remove(&(namespace.to_owned(), name.to_owned())).expect("it is there");
        store.version += 1;
        slice["metadata"]["resourceVersion"] = store.version.to_string().into();
        store.happens("DELETED", slice);
        drop(store);
        self.tells();
    }

    /// Says how far it is, though nothing of what is watched has happened.
    pub fn bookmark(&self) {
        let mut store = self.store();
        store.version += 1;
        let version = store.version.to_string();
        let object = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": version, "creationTimestamp": null },
            "addressType": "", "endpoints": null, "ports": null });
        store.happens("BOOKMARK", object);
        drop(store);
        self.tells();
    }

    /// Forgets what has happened, and ends all watches: they begin from what is not known any more.
    pub fn expire(&self, expiry: Expiry) {
        let mut store = self.store();
        store.version += 1;
        store.oldest = store.version;
        store.expiry = expiry;
        store.events.clear();
        drop(store);
        self.end_watches();
    }

    /// As their time is over.
    pub fn end_watches(&self) {
        self.shared.ended.send_modify(|count| *count += 1);
    }

    fn tells(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Where it is and who we are, as a file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_with(TOKEN, &self.certificate)
    }

    pub fn kubeconfig_with(&self, token: &str, authority: &str) -> PathBuf {
        self.kubeconfig_of(json!({ "token": token }), authority)
    }

    /// One that names a program to be asked who we are.
    pub fn kubeconfig_exec(&self, command: &str, argument: &str) -> PathBuf {
        let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": command,
            "args": [argument], "interactiveMode": "Never" });
        self.kubeconfig_of(json!({ "exec": exec }), &self.certificate)
    }

    fn kubeconfig_of(&self, user: Value, authority: &str) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": BASE64.encode(authority),
            }}],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "shop" } }],
        });
        let path = self.dir.path().join("kubeconfig");
        let new = self.dir.path().join("new");
        std::fs::write(&new, config.to_string()).expect("a file");
        std::fs::rename(new, &path).expect("a file");
        path
    }

    /// What a pod has of it: `token`, `ca.crt` and `namespace` in a directory.
    pub fn service_account(&self) -> &Path {
        let files = [("token", TOKEN), ("ca.crt", &*self.certificate), ("namespace", "shop")];
        for (name, text) in files {
            std::fs::write(self.dir.path().join(name), text).expect("a file");
        }
        self.dir.path()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn listener(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Connections of before may still be there.
    socket.set_reuseaddr(true).expect("a socket");
    socket.bind(address).expect("its port");
    socket.listen(128).expect("its port")
}

fn key(slice: &Value) -> (String, String) {
    let of = |key: &str| slice["metadata"][key].as_str().expect("a name").to_owned();
    (of("namespace"), of("name"))
}

fn whole(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed();
    let answer = Response::builder().status(status).header("content-type", "application/json");
    answer.body(body).expect("an answer")
}

/// As the API server refuses.
fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code })
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> std::io::Result<Response<Body>> {
        let refused = |code: u16, reason: &str, message: &str| {
            Ok(whole(code, status(code, reason, message).to_string()))
        };
        let token = request.headers().get("authorization").and_then(|it| it.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return refused(401, "Unauthorized", "Unauthorized");
        }
        let query = Query::of(request.uri().query().unwrap_or_default());
        let path = request.uri().path().to_owned();
        let namespace =
            path.strip_prefix(SLICES).and_then(|rest| rest.strip_suffix("/endpointslices"));
        let Some(namespace) = namespace.map(ToOwned::to_owned) else {
            return refused(404, "NotFound", "the server could not find the requested resource");
        };
        // As the API server takes them for labels.
        let is_good = |name: &String| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            name.len() <= 63 && ends(name.chars().next()) && ends(name.chars().last())
        };
        if !query.services.iter().all(is_good) {
            return refused(400, "BadRequest", "unable to parse requirement: values");
        }
        let mood = {
            let mut store = self.store.lock().expect("no panic");
            let asked = if query.is_watch { &mut store.watches } else { &mut store.lists };
            asked.push(query.selector.clone());
            store.mood.clone()
        };
        match mood {
            Mood::Well => {}
            Mood::Status(code) => return refused(code, "InternalError", "it is not well"),
            Mood::Says(text) => return Ok(whole(200, text)),
            Mood::Refuses(code, text) => return Ok(whole(code, text)),
            Mood::Silent => std::future::pending().await,
            Mood::Replays { pages, watches } => {
                return Ok(self.replay(pages, watches, &query).await);
            }
        }
        if !query.is_watch {
            return Ok(whole(200, self.list(&namespace, &query).to_string()));
        }
        let (is_gone, expiry) = {
            let store = self.store.lock().expect("no panic");
            (query.version < store.oldest, store.expiry)
        };
        let gone = status(410, "Expired", "too old resource version");
        if is_gone && expiry == Expiry::ByStatus {
            return Ok(whole(410, gone.to_string()));
        }
        let (mut sender, body) = Channel::new(16);
        if is_gone {
            let event = json!({ "type": "ERROR", "object": gone });
            sender.send_data(Bytes::from(format!("{event}\n"))).await.expect("it listens");
        } else {
            let ended = self.ended.subscribe();
            tokio::spawn(self.watch(namespace, query, sender, ended));
        }
        Ok(Response::new(body.boxed()))
    }

    /// The last watch stays open.
    async fn replay(
        &self,
        pages: &[&'static str],
        watches: &[&'static str],
        query: &Query,
    ) -> Response<Body> {
        if !query.is_watch {
            return whole(200, pages[usize::from(query.goes_on)]);
        }
        let at = self.store.lock().expect("no panic").watches.len() - 1;
        let (mut sender, body) = Channel::new(16);
        sender
            .send_data(Bytes::from(watches[at.min(watches.len() - 1)]))
            .await
            .expect("it listens");
        if at + 1 >= watches.len() {
            let mut ended = self.ended.subscribe();
            tokio::spawn(async move {
                let _ = ended.changed().await;
                drop(sender);
            });
        }
        Response::new(body.boxed())
    }

    fn list(&self, namespace: &str, query: &Query) -> Value {
        let store = self.store.lock().expect("no panic");
        let its = store
            .slices
            .iter()
            .filter(|((within, _), slice)| within == namespace && query.takes(slice));
        let its: Vec<&Value> = its.map(|(_, slice)| slice).collect();
        let end = query.begin.saturating_add(store.page.min(query.limit)).min(its.len());
        let more = if end < its.len() { end.to_string() } else { String::new() };
        json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": store.version.to_string(), "continue": more },
            "items": its[query.begin.min(end)..end] })
    }

    async fn watch(
        self: Arc<Self>,
        namespace: String,
        query: Query,
        mut sender: Sender<Bytes, std::io::Error>,
        mut ended: watch::Receiver<u64>,
    ) {
        let mut changed = self.changed.subscribe();
        let mut version = query.version;
        loop {
            let events: Vec<(u64, Value)> = {
                let store = self.store.lock().expect("no panic");
                let is_new = |(at, event): &&(u64, Value)| {
                    let object = &event["object"];
                    let is_its =
                        object["metadata"]["namespace"] == *namespace && query.takes(object);
                    *at > version && (event["type"] == "BOOKMARK" || is_its)
                };
                store.events.iter().filter(is_new).cloned().collect()
            };
            for (at, event) in events {
                version = at;
                if sender.send_data(Bytes::from(format!("{event}\n"))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = ended.changed() => return,
            }
        }
    }
}

/// What is asked for.
struct Query {
    selector: String,
    services: Vec<String>,
    is_watch: bool,
    version: u64,
    limit: usize,
    begin: usize,
    /// It is for another page than the first.
    goes_on: bool,
}

impl Query {
    fn of(text: &str) -> Self {
        let pairs: BTreeMap<String, String> = text
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decoded(value)))
            .collect();
        let get = |key: &str| pairs.get(key).cloned().unwrap_or_default();
        let selector = get("labelSelector");
        let services = selector.split_once(" in (").expect("a selector of services").1;
        let services = services.trim_end_matches(')').split(',').map(ToOwned::to_owned).collect();
        Self {
            services,
            selector,
            is_watch: get("watch") == "true" && get("allowWatchBookmarks") == "true",
            version: get("resourceVersion").parse().unwrap_or(0),
            limit: get("limit").parse().unwrap_or(usize::MAX),
            begin: get("continue").parse().unwrap_or(0),
            goes_on: !get("continue").is_empty(),
        }
    }

    fn takes(&self, slice: &Value) -> bool {
        let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
        self.services.iter().any(|name| service == name.as_str())
    }
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("hexadecimal"));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).expect("text")
}

/// A slice of `service` in `namespace` with these pods, all ready, which listen on port 8080 of 127.0.0.`n`.
pub fn slice(namespace: &str, service: &str, pods: &[u8]) -> Value {
    let pods: Vec<_> = pods.iter().map(|pod| (format!("127.0.0.{pod}"), 8080)).collect();
    slice_at(namespace, service, &pods)
}

/// One whose pods are at these addresses; all have the port of the first.
pub fn slice_at(namespace: &str, service: &str, pods: &[(String, u16)]) -> Value {
    let port = pods.first().map_or(80, |(_, port)| *port);
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(host, _)| {
            json!({
                "addresses": [host],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": "node-1",
                "targetRef": { "kind": "Pod", "namespace": namespace, "name": format!("{service}-{host}"), "uid": host },
                "zone": "eu-west-1a",
            })
        })
        .collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-x7k2p"), "namespace": namespace,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
        },
        "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": port }],
    })
}
