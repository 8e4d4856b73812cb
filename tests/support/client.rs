//! Clients: raw bytes, and one request at a time by hyper over HTTP/1 or HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Why the proxy answered itself.
    pub fn reason(&self) -> &str {
        self.header("x-pilotfish-reason")
    }
}

/// Writes `bytes`, then reads until the proxy closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    within(async {
        let mut stream = TcpStream::connect(address).await.expect("the proxy takes connections");
        stream.write_all(bytes).await.expect("the proxy reads");
        let mut answer = Vec::new();
        // A reset after the answer is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = Request::get(path).header("host", "test.example");
    send(address, request.body(Empty::<Bytes>::new()).expect("a request")).await
}

/// By a service's name, through an outbound listener.
pub async fn get_from(address: SocketAddr, host: &str, path: &str) -> Answer {
    let request = Request::get(path).header("host", host);
    send(address, request.body(Empty::<Bytes>::new()).expect("a request")).await
}

pub async fn post(address: SocketAddr, host: &str, path: &str, body: impl Into<Bytes>) -> Answer {
    let request = Request::post(path).header("host", host);
    send(address, request.body(Full::new(body.into())).expect("a request")).await
}

/// One request over a new HTTP/1.1 connection.
pub async fn send<B>(address: SocketAddr, request: Request<B>) -> Answer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    try_send(address, request).await.expect("an answer")
}

/// One request to somebody who may not be there, or who goes away.
pub async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Option<Answer> {
    let asked = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        read(sender.send_request(request).await.ok()?).await.ok()
    };
    within(asked).await
}

pub async fn try_send<B>(address: SocketAddr, request: Request<B>) -> hyper::Result<Answer>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    within(async {
        let mut sender = http1(address).await;
        read(sender.send_request(request).await?).await
    })
    .await
}

/// One request over a new HTTP/2 connection.
pub async fn send2<B>(address: SocketAddr, request: Request<B>) -> hyper::Result<Answer>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    within(async {
        let mut sender = http2(address).await;
        read(sender.send_request(request).await?).await
    })
    .await
}

/// A connection of HTTP/1.1 that can be used again.
pub async fn http1<B>(address: SocketAddr) -> http1::SendRequest<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.expect("the proxy takes connections");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection.with_upgrades());
    sender
}

pub async fn http2<B>(address: SocketAddr) -> http2::SendRequest<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.expect("the proxy takes connections");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

/// Reads a response to its end.
pub async fn read(response: Response<hyper::body::Incoming>) -> hyper::Result<Answer> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body: collected.to_bytes(),
        trailers,
    })
}

/// A connection on which a test writes and reads what it wants, step by step.
pub struct Raw {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy takes connections");
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.expect("the proxy reads");
    }

    /// Reads up to `end` and returns what came up to there, `end` included.
    pub async fn until(&mut self, end: &str) -> String {
        within(async {
            loop {
                if let Some(at) = super::raw::find(&self.read, end.as_bytes()) {
                    let taken: Vec<u8> = self.read.drain(..at + end.len()).collect();
                    return String::from_utf8_lossy(&taken).into_owned();
                }
                match self.stream.read_buf(&mut self.read).await {
                    Ok(1..) => {}
                    end_of_it => panic!(
                        "{end_of_it:?} before {end:?}: {:?}",
                        String::from_utf8_lossy(&self.read)
                    ),
                }
            }
        })
        .await
    }

    /// The next head, up to its empty line.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// All that still comes, up to the close.
    pub async fn rest(mut self) -> String {
        let _ = within(self.stream.read_to_end(&mut self.read)).await;
        String::from_utf8_lossy(&self.read).into_owned()
    }
}
