//! Where a redirected connection was going before the kernel sent it here (`SO_ORIGINAL_DST`).

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the client dialled, if the kernel has redirected the connection; none for a
/// connection that was made to us.
///
/// # Errors
/// The socket is gone.
pub fn original_dst(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // Without connection tracking, or for an address that was not redirected, the option is not there.
    let original = found.ok().and_then(|address| address.as_socket());
    Ok(original.filter(|address| *address != local))
}
