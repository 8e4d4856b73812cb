//! Upstreams: HTTP ones with a handler, and raw ones that write what a script says.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub type Body = BoxBody<Bytes, Infallible>;

/// A request as an upstream has seen it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("not text"))
    }
}

/// A server on a port of its own, gone with the test.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many connections it has taken.
    connections: Arc<std::sync::atomic::AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn body(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into()).boxed()
}

/// A body of unknown length with trailers.
pub fn with_trailers(text: &'static str, trailers: HeaderMap) -> Body {
    frames([Frame::data(Bytes::from_static(text.as_bytes())), Frame::trailers(trailers)])
}

/// A body of unknown length, frame by frame.
pub fn frames(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    Frames(frames.into_iter().collect()).boxed()
}

/// `text`, and then nothing more. `held` lives as long as the body.
pub fn endless(text: &'static str, held: impl Send + Sync + Unpin + 'static) -> Body {
    struct Endless<T>(Option<Bytes>, T);

    impl<T: Unpin> http_body::Body for Endless<T> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.take() {
                Some(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
                None => Poll::Pending,
            }
        }
    }

    Endless(Some(Bytes::from_static(text.as_bytes())), held).boxed()
}

impl Upstream {
    /// Answers 200 with its own `name`.
    pub async fn named(name: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(body(name)) }).await
    }

    /// Answers 200 with the body that it got.
    pub async fn echo() -> Self {
        Self::http(|seen| async move { Response::new(body(seen.body)) }).await
    }

    /// HTTP/1.1 and HTTP/2 (prior knowledge) on one port. The body of a request is read whole before
    /// `handler` gets it.
    pub async fn http<H, F>(handler: H) -> Self
    where
        H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = seen.clone();
        let serve = move |request: Request<Incoming>| {
            let (handler, record) = (handler.clone(), record.clone());
            async move {
                let (parts, incoming) = request.into_parts();
                let collected = incoming.collect().await;
                let (body, trailers) = match collected {
                    Ok(collected) => {
                        let trailers = collected.trailers().cloned();
                        (collected.to_bytes(), trailers)
                    }
                    Err(_) => (Bytes::from_static(b"<broken>"), None),
                };
                let seen = Seen {
                    method: parts.method,
                    uri: parts.uri,
                    version: parts.version,
                    headers: parts.headers,
                    body,
                    trailers,
                };
                record.lock().unwrap().push(seen.clone());
                Ok::<_, Infallible>(handler(seen).await)
            }
        };
        Self::serve(seen, move |stream| {
            let serve = serve.clone();
            async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let service = service_fn(serve);
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            }
        })
        .await
    }

    /// Each connection goes to `script`, bytes and all.
    pub async fn raw<H, F>(script: H) -> Self
    where
        H: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve(Arc::default(), script).await
    }

    /// Reads one request head on each connection, answers `answer`, and closes.
    pub async fn canned(answer: &'static [u8]) -> Self {
        Self::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer).await;
        })
        .await
    }

    /// As [`Upstream::canned`], at an address that was known before.
    pub async fn canned_at(address: SocketAddr, answer: &'static [u8]) -> Self {
        Self::serve_at(address, Arc::default(), move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer).await;
        })
        .await
    }

    /// Each connection goes to `script`; who records writes to `seen`.
    pub async fn serve<H, F>(seen: Arc<Mutex<Vec<Seen>>>, script: H) -> Self
    where
        H: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve_at(([127, 0, 0, 1], 0).into(), seen, script).await
    }

    async fn serve_at<H, F>(address: SocketAddr, seen: Arc<Mutex<Vec<Seen>>>, script: H) -> Self
    where
        H: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            // Dropped with the task, which ends every connection.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                open.spawn(script(stream));
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, seen, connections, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// An HTTP upstream that answers with the status that it is told to, and `upstream`.
pub struct Switch {
    pub upstream: Upstream,
    status: Arc<std::sync::atomic::AtomicU16>,
}

impl Switch {
    pub async fn on(status: u16) -> Self {
        let status = Arc::new(std::sync::atomic::AtomicU16::new(status));
        let told = status.clone();
        let upstream = Upstream::http(move |_| {
            let status = told.load(std::sync::atomic::Ordering::SeqCst);
            let response = Response::builder().status(status).body(body("upstream"));
            async move { response.expect("a status") }
        })
        .await;
        Self { upstream, status }
    }

    pub fn set(&self, status: u16) {
        self.status.store(status, std::sync::atomic::Ordering::SeqCst);
    }

    /// Requests that it got.
    pub fn seen(&self) -> usize {
        self.upstream.seen().len()
    }
}

/// A listener whose queue is full: it takes no more connections, and refuses none.
pub struct Full {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl Full {
    pub async fn start() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = listener.expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("its address").as_socket().expect("of IP");
        let mut queue = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            queue.push(stream);
        }
        Self { address, _listener: listener, _queue: queue }
    }
}

/// Reads up to the empty line that ends a head; what came after it too.
pub async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(1..) => {}
            _ => break,
        }
    }
    head
}
