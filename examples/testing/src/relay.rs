//! Stands where a sidecar would: services call others by their name through it. It governs nothing. A test can stop a
//! call in it, before it is passed on or before its answer is given back, and do meanwhile what it wants.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::within;

/// Where in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nobody has seen it yet.
    Before,
    /// It was answered, and the caller does not know.
    After,
}

pub struct Relay {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

/// A call that is to be stopped.
pub struct Hold(oneshot::Receiver<oneshot::Sender<()>>);

/// A call that is stopped. It is cut where this is dropped.
#[must_use]
pub struct Held(oneshot::Sender<()>);

impl Relay {
    /// Calls to each name go to its address.
    pub async fn start(services: &[(&str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let services = services.iter().map(|(name, address)| (name.to_string(), *address));
        let inner = Arc::new(Inner {
            services: services.collect(),
            rules: Mutex::default(),
            http1: Client::builder(TokioExecutor::new()).build_http(),
            http2: Client::builder(TokioExecutor::new()).http2_only(true).build_http(),
        });
        let task = tokio::spawn(accept(listener, inner.clone()));
        Self { address, inner, task }
    }

    /// For `http_proxy`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the `nth` call from now of a kind: the last segment of its path. 1 is the next.
    pub fn hold(&self, kind: &str, nth: usize, moment: Moment) -> Hold {
        let (told, reached) = oneshot::channel();
        let rule = Rule { kind: kind.to_owned(), left: nth, moment, told };
        self.inner.rules().holds.push(rule);
        Hold(reached)
    }

    /// From now on calls to a service are answered 503, as a sidecar does that finds nobody.
    pub fn away(&self, service: &str) {
        self.inner.rules().away.insert(service.to_owned());
    }

    pub fn back(&self, service: &str) {
        self.inner.rules().away.remove(service);
    }

    /// From now on calls of a kind are passed on, and nobody hears of it.
    pub fn lose(&self, kind: &str) {
        self.inner.rules().lost.insert(kind.to_owned());
    }

    pub fn hear(&self, kind: &str) {
        self.inner.rules().lost.remove(kind);
    }

    /// From now on this share of the calls goes wrong, as a network and others' crashes have it: half of them before
    /// anybody has seen them, half of them after.
    pub fn misbehave(&self, seed: u64, share: f64) {
        self.inner.rules().faults = Some((fastrand::Rng::with_seed(seed), share));
    }

    /// From now on all goes well.
    pub fn behave(&self) {
        *self.inner.rules() = Rules::default();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hold {
    pub async fn reached(self) -> Held {
        Held(within(self.0).await.expect("the relay is there"))
    }
}

impl Held {
    /// Lets it go on.
    pub fn pass(self) {
        // Nobody may be waiting any more, and that is what a test wanted then.
        let _ = self.0.send(());
    }

    /// Its caller hears nothing, but that the connection or stream is at its end.
    pub fn cut(self) {}
}

struct Inner {
    services: HashMap<String, SocketAddr>,
    rules: Mutex<Rules>,
    http1: Client<HttpConnector, Full<Bytes>>,
    http2: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Default)]
struct Rules {
    holds: Vec<Rule>,
    away: HashSet<String>,
    lost: HashSet<String>,
    faults: Option<(fastrand::Rng, f64)>,
}

struct Rule {
    kind: String,
    left: usize,
    moment: Moment,
    told: oneshot::Sender<oneshot::Sender<()>>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// Until it is aborted, and its connections with it.
async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let inner = inner.clone();
        connections.spawn(async move {
            let handle = service_fn(|request| outliving(request, inner.clone()));
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), handle).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// In a task of its own: what is on its way arrives, even if the caller is dead by then.
async fn outliving(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Answer, Error> {
    tokio::spawn(handle(request, inner)).await?
}

/// An error cuts the connection, or the stream of HTTP/2.
async fn handle(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Answer, Error> {
    let authority = request.uri().authority().ok_or("neither absolute form nor :authority")?;
    let service = authority.host().to_owned();
    let kind = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let Some(&address) = inner.services.get(&service) else {
        return Ok(empty(StatusCode::BAD_GATEWAY));
    };
    let request = gathered(request, address).await?;

    inner.stop(&kind, Moment::Before).await?;
    if inner.rules().away.contains(&service) {
        return Ok(empty(StatusCode::SERVICE_UNAVAILABLE));
    }
    let is_http2 = request.version() == Version::HTTP_2;
    let client = if is_http2 { &inner.http2 } else { &inner.http1 };
    // What it said is had to its end, the trailers too, before the caller gets any of it.
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        Ok::<_, Error>(Response::from_parts(head, body.collect().await?))
    };
    let Ok(answer) = answer.await else { return Ok(empty(StatusCode::SERVICE_UNAVAILABLE)) };
    inner.stop(&kind, Moment::After).await?;
    let mut answer = answer.map(BodyExt::boxed_unsync);
    answer.headers_mut().remove(http::header::TRANSFER_ENCODING);
    Ok(answer)
}

/// The request as it goes to `address`, in the form that it came in.
async fn gathered(
    request: Request<Incoming>,
    address: SocketAddr,
) -> Result<Request<Full<Bytes>>, Error> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query(path)
        .build()?;
    Ok(Request::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = status;
    answer
}

impl Inner {
    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().expect("no panic")
    }

    /// Counts the call, and stops it where it is one to be stopped.
    async fn stop(&self, kind: &str, moment: Moment) -> Result<(), Error> {
        if self.rules().goes_wrong(kind, moment) {
            return Err("it goes wrong".into());
        }
        let Some(told) = self.rules().count(kind, moment) else { return Ok(()) };
        let (go_on, decision) = oneshot::channel();
        // A test that does not wait for it any more lets it pass.
        if told.send(go_on).is_err() {
            return Ok(());
        }
        decision.await.map_err(|_| "cut".into())
    }
}

impl Rules {
    fn goes_wrong(&mut self, kind: &str, moment: Moment) -> bool {
        let by_chance = self.faults.as_mut().is_some_and(|(rng, share)| rng.f64() < *share / 2.0);
        by_chance || moment == Moment::After && self.lost.contains(kind)
    }

    fn count(
        &mut self,
        kind: &str,
        moment: Moment,
    ) -> Option<oneshot::Sender<oneshot::Sender<()>>> {
        let mut reached = None;
        for (index, rule) in self.holds.iter_mut().enumerate() {
            if rule.kind == kind && rule.moment == moment {
                rule.left -= 1;
                if rule.left == 0 {
                    reached = Some(index);
                }
            }
        }
        reached.map(|index| self.holds.remove(index).told)
    }
}
