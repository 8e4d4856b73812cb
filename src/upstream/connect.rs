//! Dialling an endpoint.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::endpoint::Address;
use crate::stream::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectErrorKind {
    Timeout,
    Refused,
    Unresolved,
    /// The HTTP/2 preface or settings failed after the connection was there.
    Handshake,
    /// Out of descriptors or memory: our own fault, not the endpoint's.
    Exhausted,
    /// A bulkhead allows no further connection: nothing was dialled.
    Overflow,
    Other,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{address}: {message}")]
pub struct ConnectError {
    pub kind: ConnectErrorKind,
    pub address: Box<str>,
    pub message: Box<str>,
}

impl ConnectError {
    pub fn new(kind: ConnectErrorKind, address: &Address, message: impl Into<Box<str>>) -> Self {
        Self { kind, address: address.to_string().into(), message: message.into() }
    }

    fn io(address: &Address, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectErrorKind::Refused,
            io::ErrorKind::TimedOut => ConnectErrorKind::Timeout,
            _ if is_exhaustion(error) => ConnectErrorKind::Exhausted,
            _ => ConnectErrorKind::Other,
        };
        Self::new(kind, address, error.to_string())
    }
}

/// Whether the machine or the process has run out of something (descriptors, buffers, memory).
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Dials `address` within `limit`, name resolution and every address of a name included.
///
/// # Errors
/// What kept the last address from being reached, or that `limit` passed.
pub async fn connect(address: &Address, limit: Duration) -> Result<Stream, ConnectError> {
    match timeout(limit, dial(address, limit)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::new(
            ConnectErrorKind::Timeout,
            address,
            format!("no connection within {limit:?}"),
        )),
    }
}

/// How long one of several addresses of a name may take.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

async fn dial(address: &Address, limit: Duration) -> Result<Stream, ConnectError> {
    let failed = |error: io::Error| ConnectError::io(address, &error);
    match address {
        Address::Socket(socket) => dial_tcp(*socket).await.map_err(failed),
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(failed),
        Address::Name { host, port } => {
            let unresolved =
                |text: String| ConnectError::new(ConnectErrorKind::Unresolved, address, text);
            let mut last = unresolved("the name resolves to no address".into());
            let found = tokio::net::lookup_host((&**host, *port))
                .await
                .map_err(|error| unresolved(error.to_string()))?;
            let mut left: Vec<_> = found.collect();
            left.reverse();
            while let Some(socket) = left.pop() {
                // The last address may take all the time that there is, the others not: one of two
                // families is often a black hole (RFC 8305).
                let turn = if left.is_empty() { limit } else { NEXT_ADDRESS_AFTER.min(limit) };
                match timeout(turn, dial_tcp(socket)).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => last = failed(error),
                    Err(_) => last = failed(io::ErrorKind::TimedOut.into()),
                }
            }
            Err(last)
        }
    }
}

async fn dial_tcp(address: std::net::SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}
