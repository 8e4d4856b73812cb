//! Where an instance is, as registries write it: a host and a port.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::units;
use crate::endpoint::Address;

/// None where nobody can be called by that: no host, no port, a path.
pub fn address(host: &str, port: u16) -> Option<Address> {
    let host = host.trim();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if port == 0 {
        return None;
    }
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return (!ip.is_unspecified()).then(|| Address::Socket((ip, port).into()));
    }
    match format!("{host}:{port}").parse().ok()? {
        units::Address::Socket(address) => Some(Address::Socket(address)),
        units::Address::Name { host, port } => Some(Address::Name { host: host.into(), port }),
        // A registry does not tell of what is on our disk.
        units::Address::Unix(_) => None,
    }
}

/// A host with its port, as it stands in a URL: an IPv6 address in brackets (RFC 3986).
pub fn authority(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_of_either_family() {
        let shown = |host, port| address(host, port).map(|address| address.to_string());
        assert_eq!(shown("10.0.0.1", 80).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(shown("::1", 80).as_deref(), Some("[::1]:80"));
        assert_eq!(shown("[::1]", 80).as_deref(), Some("[::1]:80"));
        assert_eq!(shown(" Users.Internal ", 80).as_deref(), Some("users.internal:80"));
        for nowhere in ["", "0.0.0.0", "::", "a b", "unix:/run/app.sock", "http://users", "a/b"] {
            assert_eq!(shown(nowhere, 80), None, "{nowhere}");
        }
        assert_eq!(shown("10.0.0.1", 0), None);
    }

    #[test]
    fn a_host_with_its_port_is_read_as_what_it_was() {
        for (host, written) in [
            ("10.0.0.1", "10.0.0.1:80"),
            ("users.internal", "users.internal:80"),
            ("::1", "[::1]:80"),
            ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80"),
        ] {
            assert_eq!(authority(host, 80), written);
            assert_eq!(written.parse().ok(), Some(units(host)), "{host}");
        }
    }

    fn units(host: &str) -> units::Address {
        match host.parse::<IpAddr>() {
            Ok(ip) => units::Address::Socket((ip, 80).into()),
            Err(_) => units::Address::Name { host: host.to_owned(), port: 80 },
        }
    }
}
