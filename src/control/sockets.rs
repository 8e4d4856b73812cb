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
    // What is ours already may be shared: a listener that changes its host keeps its port.
    if address.port() != 0 && !ours.iter().any(|other| other.port() == address.port()) {
        drop(bind_either(address, true)?);
    }
    let first = bind_either(address, false)?;
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
    let listener = bind_either(address, true)
        .map_err(|error| StartError::Bind(cannot_bind(address, &error, key)))?;
    let real = listener.local_addr()?;
    Ok(Some((listener, real)))
}

/// `[::]` means every address there is; where there is no IPv6 that is `0.0.0.0`.
fn bind_either(address: SocketAddr, exclusive: bool) -> std::io::Result<TcpListener> {
    match listen::bind(address, exclusive) {
        Err(error) if address.ip().is_unspecified() && without_ipv6(&error, address) => {
            listen::bind(SocketAddr::from(([0, 0, 0, 0], address.port())), exclusive)
        }
        bound => bound,
    }
}

/// Whether an address of every host with IPv6 cannot be had because this host is without.
pub fn without_ipv6(error: &std::io::Error, address: SocketAddr) -> bool {
    use rustix::io::Errno;
    let general = address.ip().is_unspecified() || address.ip().is_loopback();
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    address.is_ipv6()
        && general
        && missing.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
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
