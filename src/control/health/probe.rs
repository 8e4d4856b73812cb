//! One check: it goes the way of a request, by a connection of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame};

use crate::clock;
use crate::endpoint::{Endpoint, Held};
use crate::http2::Patient;
use crate::policy::End;
use crate::policy::health::{CheckKind, HealthCheck};
use crate::upstream::connect::connect;
use crate::upstream::{ConnectError, ConnectErrorKind, Pool, ResponseBody, Reuse, Wire};

/// What connections of checks are kept in.
pub type Connections = Rc<Pool<Message>>;

/// The body of a check: all of it, or taken.
pub struct Message(Option<Bytes>);

impl Body for Message {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

impl Patient for Message {}

/// Why a check failed. `Display` is for the log and for `/ready`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Connect(Box<str>),
    #[error("status {0}")]
    Status(u16),
    #[error("gRPC says {0}")]
    NotServing(&'static str),
    #[error("the connection broke: {0}")]
    Broken(Box<str>),
}

impl Failed {
    /// For the metric: one of a closed set.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connect(_) => "connect_failure",
            Self::Status(_) => "bad_status",
            Self::NotServing(_) => "not_serving",
            Self::Broken(_) => "broken",
        }
    }
}

/// Longer answers are not read to their end.
const LONGEST: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static("pilotfish-health-check");

/// Checks `endpoint`, which is called `name`.
///
/// # Errors
/// Why it is not well.
pub async fn probe(
    check: &HealthCheck,
    endpoint: &Endpoint,
    wire: Wire,
    name: &str,
    connections: &Connections,
) -> Result<(), Failed> {
    let limit = check.timeout;
    let asked = async {
        match &check.kind {
            CheckKind::Tcp => {
                connect(&endpoint.address, limit).await.map(drop).map_err(|e| unreached(e, limit))
            }
            CheckKind::Http { path, host, statuses } => {
                let parts = head(Method::GET, wire, path.clone(), &authority(host, name));
                let (answer, _, _) =
                    exchange(parts, None, endpoint, wire, limit, connections).await?;
                let end = End::Answered { status: answer.status(), grpc: None };
                if statuses.contains(end) {
                    Ok(())
                } else {
                    Err(Failed::Status(answer.status().as_u16()))
                }
            }
            CheckKind::Grpc { service, host } => {
                let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
                let mut parts = head(Method::POST, Wire::Http2, path, &authority(host, name));
                parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                parts.headers.insert(TE, HeaderValue::from_static("trailers"));
                let body = Some(Message(Some(question(service))));
                let answered = exchange(parts, body, endpoint, Wire::Http2, limit, connections);
                let (answer, body, trailers) = answered.await?;
                serving(answer.headers(), &trailers, &body)
            }
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(Failed::Timeout(limit)))
}

fn authority(host: &Option<HeaderValue>, name: &str) -> HeaderValue {
    let own = || HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("localhost"));
    host.clone().unwrap_or_else(own)
}

fn unreached(error: ConnectError, limit: Duration) -> Failed {
    match error.kind {
        ConnectErrorKind::Timeout => Failed::Timeout(limit),
        _ => Failed::Connect(error.to_string().into()),
    }
}

fn head(method: Method, wire: Wire, path: PathAndQuery, authority: &HeaderValue) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.headers.insert(USER_AGENT, AGENT);
    match wire {
        Wire::Http1 => {
            parts.version = Version::HTTP_11;
            parts.headers.insert(HOST, authority.clone());
            parts.uri = Uri::from(path);
        }
        Wire::Http2 => {
            parts.version = Version::HTTP_2;
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = authority.to_str().ok().and_then(|text| text.parse().ok());
            uri.path_and_query = Some(path);
            // A host was parsed when it was configured, and names of services are hosts.
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        }
    }
    parts
}

type Exchanged = (Response<()>, Bytes, HeaderMap);

/// Sends a request and reads its answer, over a new connection, which is closed then: a check is to find out
/// whether the others could make one.
async fn exchange(
    parts: Parts,
    body: Option<Message>,
    endpoint: &Endpoint,
    wire: Wire,
    limit: Duration,
    connections: &Connections,
) -> Result<Exchanged, Failed> {
    let admit = async || Ok(Held::default());
    let now = clock::now();
    let lease = connections.checkout(endpoint, wire, limit, Reuse::Not, now, admit).await;
    let mut lease = lease.map_err(|error| unreached(error, limit))?;
    let sent = lease.send(&parts, &Default::default(), body, |_, _| {}).await;
    let (response, _) = sent.map_err(|error| Failed::Broken(error.to_string().into()))?;
    let (parts, mut body) = response.into_parts();
    let (read, trailers) = read(&mut body).await?;
    drop((body, lease));
    connections.close_idle();
    Ok((Response::from_parts(parts, ()), read, trailers))
}

async fn read(body: &mut ResponseBody<Message>) -> Result<(Bytes, HeaderMap), Failed> {
    let (mut read, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        let frame = frame.map_err(|error| Failed::Broken(error.to_string().into()))?;
        match frame.into_data() {
            Ok(data) if read.len() + data.len() > LONGEST => break,
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((read.freeze(), trailers))
}

/// `HealthCheckRequest { service: 1 }` of gRPC's health checking protocol, as one message.
fn question(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.extend_from_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.extend_from_slice(&field);
    message.freeze()
}

/// Whether an answer says `SERVING`.
fn serving(headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Result<(), Failed> {
    let status = trailers.get("grpc-status").or_else(|| headers.get("grpc-status"));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(b"5") => return Err(Failed::NotServing("that it does not know the service")),
        Some(b"12") => return Err(Failed::NotServing("that it has no health service")),
        Some(_) => return Err(Failed::NotServing("that the check failed")),
        None => return Err(Failed::NotServing("nothing that is gRPC")),
    }
    // `HealthCheckResponse { status: 1 }`; a field that is not there is 0.
    match body {
        [0, 0, 0, 0, 2, 0x08, 1, ..] => Ok(()),
        [0, 0, 0, 0, 2, 0x08, 2, ..] => Err(Failed::NotServing("NOT_SERVING")),
        [0, 0, 0, 0, 2, 0x08, 3, ..] => Err(Failed::NotServing("SERVICE_UNKNOWN")),
        _ => Err(Failed::NotServing("UNKNOWN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_protobuf() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(300);
        let question = question(&long);
        assert_eq!(question[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(question.len(), 8 + 300);
    }

    #[test]
    fn only_serving_serves() {
        let status = |code: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))])
        };
        let none = HeaderMap::new();
        let message = |status: u8| [0, 0, 0, 0, 2, 8, status];
        assert_eq!(serving(&none, &status("0"), &message(1)), Ok(()));
        for (headers, trailers, body, says) in [
            (&none, status("0"), &message(2)[..], "gRPC says NOT_SERVING"),
            (&none, status("0"), &message(3)[..], "gRPC says SERVICE_UNKNOWN"),
            (&none, status("0"), &[0, 0, 0, 0, 0][..], "gRPC says UNKNOWN"),
            (&status("12"), HeaderMap::new(), &[][..], "gRPC says that it has no health service"),
            (&none, status("5"), &[][..], "gRPC says that it does not know the service"),
            (&none, HeaderMap::new(), &message(1)[..], "gRPC says nothing that is gRPC"),
        ] {
            let failed = serving(headers, &trailers, body).unwrap_err();
            assert_eq!(failed.to_string(), says);
        }
    }
}
