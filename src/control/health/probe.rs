//! One check: it goes the way of a request, by a connection of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame};

use crate::clock;
use crate::endpoint::{Endpoint, Held};
use crate::http2::Patient;
use crate::policy::End;
use crate::policy::health::{CheckKind, Finding, HealthCheck};
use crate::telemetry::metrics::Recorder;
use crate::upstream::connect::connect;
use crate::upstream::{
    ConnectError, ConnectErrorKind, Pool, PoolLimits, ResponseBody, Reuse, Wire,
};

/// How connections of checks are made.
pub struct Dialling {
    pub limits: PoolLimits,
    pub recorder: Rc<Recorder>,
}

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
    /// We have no descriptor or no memory for a connection.
    #[error("it could not be asked: {0}")]
    Exhausted(Box<str>),
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
            Self::Exhausted(_) => "exhausted",
        }
    }

    /// What it says of who was to be asked.
    pub fn finding(&self) -> Finding {
        match self {
            Self::Exhausted(_) => Finding::Nothing,
            Self::Timeout(_)
            | Self::Connect(_)
            | Self::Status(_)
            | Self::NotServing(_)
            | Self::Broken(_) => Finding::Failed,
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
    dialling: &Dialling,
) -> Result<(), Failed> {
    let limit = check.timeout;
    let asked = async {
        match &check.kind {
            CheckKind::Tcp => {
                connect(&endpoint.address, limit).await.map(drop).map_err(|e| unreached(e, limit))
            }
            CheckKind::Http { path, host, statuses } => {
                let parts = head(Method::GET, wire, path.clone(), &authority(host, name));
                let (answer, _, _) = exchange(parts, None, endpoint, wire, limit, dialling).await?;
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
                let answered = exchange(parts, body, endpoint, Wire::Http2, limit, dialling);
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
        ConnectErrorKind::Exhausted => Failed::Exhausted(error.to_string().into()),
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
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
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
/// whether the others could make one. A pool that lives as long as the check sees to both, also where the check
/// is given up: a connection of HTTP/2 that hung must not carry the next one.
async fn exchange(
    parts: Parts,
    body: Option<Message>,
    endpoint: &Endpoint,
    wire: Wire,
    limit: Duration,
    dialling: &Dialling,
) -> Result<Exchanged, Failed> {
    let connections = Pool::new(dialling.limits, dialling.recorder.clone());
    let admit = async || Ok(Held::default());
    let now = clock::now();
    let lease = connections.checkout(endpoint, wire, limit, Reuse::Not, now, admit).await;
    let mut lease = lease.map_err(|error| unreached(error, limit))?;
    let sent = lease.send(&parts, &Default::default(), body, |_, _| {}).await;
    let (response, _) = sent.map_err(|error| Failed::Broken(error.to_string().into()))?;
    let (parts, mut body) = response.into_parts();
    let (read, trailers) = read(&mut body).await?;
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
    match serving_status(body) {
        Some(1) => Ok(()),
        Some(2) => Err(Failed::NotServing("NOT_SERVING")),
        Some(3) => Err(Failed::NotServing("SERVICE_UNKNOWN")),
        Some(_) => Err(Failed::NotServing("UNKNOWN")),
        None => Err(Failed::NotServing("what is no message of its health service")),
    }
}

/// `HealthCheckResponse { status: 1 }`: a field that is not there is 0, of one that is there twice the last one
/// counts, and those that we do not know are skipped. None where it is no such message, or compressed.
fn serving_status(body: &[u8]) -> Option<u64> {
    let [0, a, b, c, d, message @ ..] = body else { return None };
    let mut rest = message.get(..u32::from_be_bytes([*a, *b, *c, *d]) as usize)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(length..)?;
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            (&none, status("0"), &[][..], "gRPC says what is no message of its health service"),
            (&status("12"), HeaderMap::new(), &[][..], "gRPC says that it has no health service"),
            (&none, status("5"), &[][..], "gRPC says that it does not know the service"),
            (&none, HeaderMap::new(), &message(1)[..], "gRPC says nothing that is gRPC"),
        ] {
            let failed = serving(headers, &trailers, body).unwrap_err();
            assert_eq!(failed.to_string(), says);
        }
    }

    #[test]
    fn only_we_are_to_blame_where_descriptors_are_scarce() {
        let address = crate::endpoint::Address::Unix("/run/a.sock".into());
        let failed = |kind| unreached(ConnectError::new(kind, &address, ""), Duration::ZERO);
        assert_eq!(failed(ConnectErrorKind::Exhausted).finding(), Finding::Nothing);
        for kind in [ConnectErrorKind::Timeout, ConnectErrorKind::Refused, ConnectErrorKind::Other]
        {
            assert_eq!(failed(kind).finding(), Finding::Failed);
        }
    }

    /// A field of protobuf, with the bits of its type.
    fn field(number: u8, kind: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | kind][..], content].concat()
    }

    proptest! {
        /// Whatever other fields stand around it, the last status counts.
        #[test]
        fn other_fields_are_skipped(
            others in prop::collection::vec((2..16_u8, 0..4_usize), 0..6),
            status in 0..4_u8,
            at in any::<prop::sample::Index>(),
        ) {
            let contents: [(u8, &[u8]); 4] =
                [(0, &[0x80, 1]), (1, &[7; 8]), (2, &[3, 8, 2, 8]), (5, &[7; 4])];
            let mut fields: Vec<_> = others
                .into_iter()
                .map(|(number, kind)| field(number, contents[kind].0, contents[kind].1))
                .collect();
            fields.insert(at.index(fields.len() + 1), field(1, 0, &[status]));
            let message = fields.concat();
            let body = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
            prop_assert_eq!(serving_status(&body), Some(status.into()));
            // What was cut off says nothing.
            prop_assert_eq!(serving_status(&body[..body.len() - 1]), None);
        }

        #[test]
        fn no_answer_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let status = serving_status(&body);
            prop_assert!(status.is_none() || body[0] == 0);
        }
    }
}
