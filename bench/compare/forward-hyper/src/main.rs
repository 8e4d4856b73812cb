//! A bare forwarder: hyper's connections on both sides, a pool of idle connections for each endpoint,
//! endpoints in turn, and nothing else: no timeouts, no log, no metrics, no hygiene. What it costs is the
//! least that a proxy of this construction can cost. Do not put it before anything.
//!
//! `forward-hyper --workers 1 --http1 LISTEN --http2 LISTEN --grpc LISTEN --upstream ADDRESS...`
//! `--http1` and `--http2` (h2c) go on by HTTP/1.1, `--grpc` (h2c) by h2c.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http_body_util::{Either, Empty};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use lexopt::prelude::*;
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn Error + Send + Sync>;
type Out = Either<Leased, Empty<Bytes>>;

#[derive(Clone, Copy)]
enum Mode {
    Http1,
    Http2,
    Grpc,
}

#[derive(Clone, Default)]
struct Options {
    listen: Vec<(Mode, SocketAddr)>,
    upstreams: Vec<SocketAddr>,
    workers: usize,
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let workers: Vec<_> = (0..options.workers)
        .map(|_| {
            let options = options.clone();
            std::thread::spawn(move || worker(&options))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { workers: 1, ..Options::default() };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        let mode = match argument {
            Long("workers") => {
                options.workers = arguments.value()?.parse()?;
                continue;
            }
            Long("upstream") => {
                options.upstreams.push(arguments.value()?.parse()?);
                continue;
            }
            Long("http1") => Mode::Http1,
            Long("http2") => Mode::Http2,
            Long("grpc") => Mode::Grpc,
            other => return Err(other.unexpected().into()),
        };
        options.listen.push((mode, arguments.value()?.parse()?));
    }
    Ok(options)
}

fn worker(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let pool = Rc::new(Pool::new(&options.upstreams));
        for (mode, address) in &options.listen {
            tokio::task::spawn_local(serve(listener(*address)?, *mode, pool.clone()));
        }
        std::future::pending::<()>().await;
        Ok(())
    })
}

fn listener(address: SocketAddr) -> Result<TcpListener, Failure> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn serve(listener: TcpListener, mode: Mode, pool: Rc<Pool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let pool = pool.clone();
        let service =
            hyper::service::service_fn(move |request| forward(request, mode, pool.clone()));
        tokio::task::spawn_local(async move {
            let io = TokioIo::new(stream);
            // How a client's connection ends is of no interest here.
            let _ = match mode {
                Mode::Http1 => {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                }
                Mode::Http2 | Mode::Grpc => {
                    hyper::server::conn::http2::Builder::new(LocalExec)
                        .serve_connection(io, service)
                        .await
                }
            };
        });
    }
}

async fn forward(
    mut request: Request<Incoming>,
    mode: Mode,
    pool: Rc<Pool>,
) -> Result<Response<Out>, Infallible> {
    let answer = match mode {
        Mode::Http1 | Mode::Http2 => {
            to_http1(&mut request);
            pool.send_http1(request).await
        }
        Mode::Grpc => pool.send_http2(request).await,
    };
    Ok(match answer {
        Ok(response) => response.map(Either::Left),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

/// Origin form, and a Host.
fn to_http1(request: &mut Request<Incoming>) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    }
}

type Http1Sender = http1::SendRequest<Incoming>;
type Http2Sender = http2::SendRequest<Incoming>;

struct Pool {
    endpoints: Vec<Endpoint>,
    next: Cell<usize>,
}

struct Endpoint {
    address: SocketAddr,
    idle: RefCell<Vec<Http1Sender>>,
    shared: RefCell<Option<Http2Sender>>,
}

impl Pool {
    fn new(upstreams: &[SocketAddr]) -> Self {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            idle: RefCell::default(),
            shared: RefCell::default(),
        };
        Pool { endpoints: upstreams.iter().map(endpoint).collect(), next: Cell::new(0) }
    }

    fn choose(&self) -> usize {
        let at = self.next.get() % self.endpoints.len();
        self.next.set(at + 1);
        at
    }

    async fn send_http1(
        self: &Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Leased>, Failure> {
        let at = self.choose();
        let mut sender = self.endpoints[at].http1().await?;
        let response = sender.send_request(request).await?;
        let lease = Some((sender, self.clone(), at));
        Ok(response.map(|inner| Leased { inner, lease }))
    }

    async fn send_http2(
        self: &Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Leased>, Failure> {
        let mut sender = self.endpoints[self.choose()].http2().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|inner| Leased { inner, lease: None }))
    }
}

impl Endpoint {
    async fn http1(&self) -> Result<Http1Sender, Failure> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let (sender, connection) = http1::handshake(self.connect().await?).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    async fn http2(&self) -> Result<Http2Sender, Failure> {
        if let Some(sender) = &*self.shared.borrow()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let (sender, connection) = http2::handshake(LocalExec, self.connect().await?).await?;
        tokio::task::spawn_local(connection);
        *self.shared.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

/// The body of an answer; at its end the connection goes back to the pool.
struct Leased {
    inner: Incoming,
    lease: Option<(Http1Sender, Rc<Pool>, usize)>,
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some((sender, pool, at)) = self.lease.take()
            && self.inner.is_end_stream()
        {
            pool.endpoints[at].idle.borrow_mut().push(sender);
        }
    }
}

#[derive(Clone)]
struct LocalExec;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
