//! Clients that stay with the endpoint that first served them, by a cookie that the proxy sets.
//!
//! The cookie names the endpoint by a digest of the service's name and the address, the same in every
//! proxy and after every reload. It is no secret, but it shows nothing of the network to who reads it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use sha1::{Digest, Sha1};

use super::key;
use crate::endpoint::Endpoint;

/// The cookie of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    pub name: Box<str>,
    /// The name of the service, so that an address in two of them has two names.
    pub service: Box<str>,
    /// Until the client's browser ends where it is `None`.
    pub ttl: Option<Duration>,
    pub path: Box<str>,
    /// Whether clients may send it by TLS alone.
    pub secure: bool,
    pub same_site: SameSite,
}

/// With which requests from other sites a browser sends the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

impl Cookie {
    /// The endpoint that the request wants, by its digest. Anything else than one of ours is no wish.
    pub fn read(&self, headers: &HeaderMap) -> Option<u64> {
        let value = key::cookie(headers, &self.name)?;
        let digits = value.len() == 16 && value.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(value).ok().filter(|_| digits)?;
        u64::from_str_radix(text, 16).ok()
    }

    /// The field that makes the client come back to `endpoint`.
    pub fn set(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        let digest = self.digest(endpoint);
        let mut text = format!("{}={digest:016x}; Path={}", self.name, self.path);
        if let Some(ttl) = self.ttl {
            let _ = write!(text, "; Max-Age={}", ttl.as_secs());
        }
        text.push_str("; HttpOnly");
        if self.secure {
            text.push_str("; Secure");
        }
        text.push_str(match self.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        });
        // Names and paths of the configuration are visible ASCII.
        HeaderValue::try_from(text).ok()
    }

    fn digest(&self, endpoint: &Endpoint) -> u64 {
        let mut sha = Sha1::new();
        sha.update(self.service.as_bytes());
        sha.update([0]);
        sha.update(endpoint.label.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&sha.finalize()[..8]);
        u64::from_be_bytes(first)
    }
}

/// The endpoints of a service by what the cookie says.
#[derive(Debug)]
pub(super) struct Sticky {
    pub(super) cookie: Arc<Cookie>,
    by_digest: HashMap<u64, u32, foldhash::fast::RandomState>,
}

impl Sticky {
    pub(super) fn new(cookie: Arc<Cookie>, endpoints: &[Arc<Endpoint>]) -> Self {
        let by_digest =
            (0..).zip(endpoints).map(|(index, endpoint)| (cookie.digest(endpoint), index));
        Self { by_digest: by_digest.collect(), cookie }
    }

    pub(super) fn find(&self, digest: u64) -> Option<usize> {
        self.by_digest.get(&digest).map(|index| *index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Address;

    fn cookie() -> Cookie {
        Cookie {
            name: "route".into(),
            service: "users".into(),
            ttl: None,
            path: "/".into(),
            secure: false,
            same_site: SameSite::Lax,
        }
    }

    fn endpoint(port: u16) -> Arc<Endpoint> {
        let address = Address::Socket(([10, 0, 0, 1], port).into());
        Arc::new(Endpoint::new(address, Arc::default()))
    }

    fn read(cookie: &Cookie, field: &str) -> Option<u64> {
        let value = HeaderValue::from_str(field).unwrap();
        cookie.read(&HeaderMap::from_iter([(http::header::COOKIE, value)]))
    }

    #[test]
    fn what_is_set_is_found_again() {
        let endpoints: Vec<_> = (1..50).map(endpoint).collect();
        let sticky = Sticky::new(cookie().into(), &endpoints);
        for (index, endpoint) in endpoints.iter().enumerate() {
            let set = sticky.cookie.set(endpoint).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            assert!(!pair.contains("10.0.0.1"), "{pair}");
            let wish = read(&sticky.cookie, &pair).unwrap();
            assert_eq!(sticky.find(wish), Some(index));
        }
        let other = Cookie { service: "orders".into(), ..cookie() };
        assert_ne!(other.digest(&endpoints[0]), cookie().digest(&endpoints[0]));
    }

    #[test]
    fn attributes() {
        let all = Cookie {
            ttl: Some(Duration::from_secs(3600)),
            path: "/shop".into(),
            secure: true,
            same_site: SameSite::None,
            ..cookie()
        };
        let text = |cookie: Cookie| cookie.set(&endpoint(80)).unwrap().to_str().unwrap().to_owned();
        let rest = |text: String| text.split_once("; ").unwrap().1.to_owned();
        assert_eq!(rest(text(cookie())), "Path=/; HttpOnly; SameSite=Lax");
        let full = "Path=/shop; Max-Age=3600; HttpOnly; Secure; SameSite=None";
        assert_eq!(rest(text(all)), full);
    }

    #[test]
    fn nonsense_is_no_wish() {
        for field in [
            "route=",
            "route=10.0.0.1:80",
            "route=+123456789abcdef",
            "route=0123",
            "other=0123456789abcdef",
        ] {
            assert_eq!(read(&cookie(), field), None, "{field}");
        }
        assert_eq!(read(&cookie(), "route=00000000000000ff"), Some(255));
    }
}
