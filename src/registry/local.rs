//! By which of our addresses others reach us, where nobody has said so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::{Error, Reason};
use crate::config::units::Address;

/// How long it may take to find out where a registry is.
const RESOLVE: Duration = Duration::from_secs(3);
/// Documentation addresses (RFC 5737, RFC 3849): what is on the way there is what other hosts see of us.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Where a registry is.
pub struct Found<'a> {
    registry: &'a Address,
    /// At least one.
    places: Vec<IpAddr>,
}

impl Found<'_> {
    pub fn is_on_this_host(&self) -> bool {
        self.places.iter().all(IpAddr::is_loopback)
    }

    /// The address of ours from which it is reached; of a registry on this host, the one that other hosts are
    /// reached from.
    ///
    /// # Errors
    /// There is no way to it.
    pub fn ours(&self) -> Result<IpAddr, Error> {
        best(&self.places, way_to).ok_or_else(|| {
            let detail = format!(
                "none of our addresses leads to {}, so it is not known where others reach us; set `advertise.address`",
                self.registry
            );
            Error::new(Reason::Refused, detail)
        })
    }
}

/// Looks where `registry` is.
///
/// # Errors
/// It is not known.
pub async fn find(registry: &Address) -> Result<Found<'_>, Error> {
    let (host, port) = match registry {
        Address::Socket(address) => {
            return Ok(Found { registry, places: vec![address.ip().to_canonical()] });
        }
        Address::Unix(_) => {
            return Ok(Found { registry, places: vec![Ipv4Addr::LOCALHOST.into()] });
        }
        Address::Name { host, port } => (&**host, *port),
    };
    let why = |reason, what: &dyn std::fmt::Display| {
        Error::new(reason, format!("{registry} cannot be resolved: {what}"))
    };
    let found = timeout(RESOLVE, lookup_host((host, port))).await;
    let found =
        found.map_err(|_| why(Reason::Timeout, &format!("no answer within {RESOLVE:?}")))?;
    let found = found.map_err(|error| why(Reason::Unreachable, &error))?;
    let places: Vec<_> = found.map(|address| address.ip().to_canonical()).collect();
    match places.is_empty() {
        true => Err(why(Reason::Unreachable, &"it has no address")),
        false => Ok(Found { registry, places }),
    }
}

/// `way`: our address on the way to another.
fn best(registry: &[IpAddr], way: impl Fn(IpAddr) -> Option<IpAddr>) -> Option<IpAddr> {
    let outside = |ip: IpAddr| way(ip).filter(|ours| !ours.is_loopback());
    if let Some(ours) = registry.iter().find_map(|ip| outside(*ip)) {
        return Some(ours);
    }
    // Of a registry that is elsewhere there would have been one. On this host, without a way out, nobody else asks.
    let here = registry.iter().find(|ip| ip.is_loopback())?;
    ELSEWHERE.into_iter().find_map(outside).or_else(|| way(*here))
}

fn way_to(peer: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Of UDP this sends nothing: the kernel tells the way.
    socket.connect((peer, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// What a host with these ways makes of a registry: each is where it leads, and our address on it.
    fn made(registry: &[&str], ways: &[(&str, &str)]) -> Option<IpAddr> {
        let registry: Vec<_> = registry.iter().map(|text| ip(text)).collect();
        let way = |to: IpAddr| match (to, to.is_loopback()) {
            (to, true) => Some(to),
            (to, false) => ways.iter().find(|(end, _)| ip(end) == to).map(|(_, ours)| ip(ours)),
        };
        best(&registry, way)
    }

    #[test]
    fn the_address_from_which_the_registry_is_reached() {
        let out = ("192.0.2.1", "10.0.0.7");
        let out6 = ("2001:db8::1", "fd00::7");
        let inside = ("172.16.0.1", "172.16.0.7");
        for (registry, ways, ours) in [
            // Not by the way that all else goes.
            (&["172.16.0.1"][..], &[out, inside][..], Some("172.16.0.7")),
            (&["fd00::1"], &[out, ("fd00::1", "fd00::7")], Some("fd00::7")),
            // Of several the first that there is a way to.
            (&["fd00::1", "172.16.0.1"], &[out, inside], Some("172.16.0.7")),
            // One of ours.
            (&["172.16.0.7"], &[("172.16.0.7", "172.16.0.7")], Some("172.16.0.7")),
            // On this host it is what the others see.
            (&["127.0.0.1"], &[out, out6], Some("10.0.0.7")),
            (&["127.0.0.1"], &[out6], Some("fd00::7")),
            (&["::1", "127.0.0.1"], &[out6], Some("fd00::7")),
            // And where there are no others, this host.
            (&["127.0.0.1"], &[], Some("127.0.0.1")),
            (&["::1"], &[], Some("::1")),
            // Nobody else would find us by that.
            (&["172.16.0.1"], &[], None),
            (&["172.16.0.1"], &[out], None),
        ] {
            assert_eq!(made(registry, ways), ours.map(ip), "{registry:?} by {ways:?}");
        }
    }

    #[test]
    fn a_registry_is_found_by_its_name() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().expect("a runtime");
        let is_here = |text: &str| {
            let address = text.parse().expect("an address");
            let found = runtime.block_on(find(&address));
            found.map(|it| it.is_on_this_host()).map_err(|error| error.reason)
        };
        assert_eq!(is_here("localhost:8500"), Ok(true));
        assert_eq!(is_here("[::1]:8500"), Ok(true));
        assert_eq!(is_here("[::ffff:127.0.0.1]:8500"), Ok(true));
        assert_eq!(is_here("192.0.2.1:8500"), Ok(false));
    }
}
