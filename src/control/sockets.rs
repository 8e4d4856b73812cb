//! Sockets for what is configured, and clear words where there is none.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};

use crate::app::StartError;
use crate::listen;

/// One socket for each worker. The first is bound alone, so that an address that another process
/// shares is refused instead of being shared.
pub fn bind_all(
    address: SocketAddr,
    count: usize,
    ours: &HashSet<SocketAddr>,
) -> std::io::Result<Vec<TcpListener>> {
    if address.port() != 0 && !ours.contains(&address) {
        drop(listen::bind(address, true)?);
    }
    let first = listen::bind(address, false)?;
    let real = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen::bind(real, false)?);
    }
    Ok(sockets)
}

pub fn bind_one(
    address: Option<SocketAddr>,
    key: &str,
) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = match listen::bind(address, true) {
        Err(error) if without_ipv6(&error, address) && address.ip().is_unspecified() => {
            listen::bind(SocketAddr::from(([0, 0, 0, 0], address.port())), true)
        }
        bound => bound,
    };
    let listener = bound.map_err(|error| StartError::Bind(cannot_bind(address, &error, key)))?;
    let real = listener.local_addr()?;
    Ok(Some((listener, real)))
}

pub fn without_ipv6(error: &std::io::Error, address: SocketAddr) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    address.is_ipv6() && missing.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

pub fn cannot_bind(address: SocketAddr, error: &std::io::Error, key: &str) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let help = match error.kind() {
        AddrInUse => "another process has it: stop that one or choose another port",
        AddrNotAvailable => "this host has no such address: choose one of its own, or 0.0.0.0",
        PermissionDenied => "ports below 1024 need the capability NET_BIND_SERVICE",
        _ => "choose another address",
    };
    format!("{key}: cannot listen on {address}: {error}; {help}")
}
