//! Where a request wants to go: one authority and one path, whatever the form it was written in.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Version};

use super::error::Failure;
use crate::listen::http1::Rejection;

/// The one authority of a request (RFC 9112 3.2, RFC 9113 8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the client wrote it, with its port.
    pub authority: HeaderValue,
    /// Lower case, without port and brackets.
    pub host: String,
    pub port: Option<u16>,
    /// What is said of it in `forwarded`, once it was said.
    pub forwarded: OnceCell<HeaderValue>,
}

/// The target of the request before on the same connection, which is nearly always the next one's too.
#[derive(Debug, Default)]
pub struct LastTarget(RefCell<Option<Rc<Target>>>);

const fn malformed(reason: &'static str, message: &'static str) -> Failure {
    Failure::Malformed(Rejection { status: 400, reason, message })
}

impl LastTarget {
    /// The target of a request. `:authority` and the absolute form win over `Host`.
    ///
    /// # Errors
    /// No authority, two of them, or one that is none.
    pub fn or_of(&self, parts: &Parts) -> Result<Rc<Target>, Failure> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(malformed("two_hosts", "two Host fields; send one"));
        }
        let written = match (parts.uri.authority(), host) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            (None, None) if parts.version == Version::HTTP_10 => b"localhost",
            (None, None) => return Err(malformed("no_host", "no Host; name the host you want")),
        };
        let mut last = self.0.borrow_mut();
        if let Some(last) = &*last
            && last.authority.as_bytes() == written
        {
            return Ok(last.clone());
        }
        let value = HeaderValue::from_bytes(written)
            .map_err(|_| malformed("bad_host", "the authority has characters that no host has"))?;
        Ok(last.insert(Rc::new(Target::parse(value)?)).clone())
    }
}

impl Target {
    fn parse(value: HeaderValue) -> Result<Self, Failure> {
        const BAD: Failure = malformed("bad_host", "Host is not a host name with an optional port");
        let authority = Authority::try_from(value.as_bytes()).map_err(|_| BAD)?;
        if authority.as_str().contains('@') {
            return Err(malformed("userinfo", "user and password in the target are not taken"));
        }
        let host = authority.host();
        let has_port = authority.as_str().len() > host.len();
        if host.is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(BAD);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // `example.com.` is the same host, and no way around the routes of `example.com`.
        let bare = bare.strip_suffix('.').unwrap_or(bare);
        let port = authority.port_u16();
        let host = bare.to_ascii_lowercase();
        Ok(Self { host, port, authority: value, forwarded: OnceCell::new() })
    }
}

/// The path of a request, checked for what a method may not ask for.
///
/// # Errors
/// `*` for anything but `OPTIONS`, and a path that does not begin with `/`.
pub fn path_and_query(parts: &Parts) -> Result<PathAndQuery, Failure> {
    let path = parts.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    match path.as_str() {
        "*" if parts.method == Method::OPTIONS => Ok(path),
        text if text.starts_with('/') => Ok(path),
        _ => Err(malformed("bad_target", "the path begins with /; * is for OPTIONS alone")),
    }
}

/// `path` with another path and the same query.
///
/// # Errors
/// The new path is not one.
pub fn with_path(whole: &PathAndQuery, path: &str) -> Result<PathAndQuery, Failure> {
    let text: Cow<'_, str> = match whole.query() {
        Some(query) => format!("{path}?{query}").into(),
        None => path.into(),
    };
    PathAndQuery::try_from(&*text)
        .map_err(|_| Failure::BadPath(format!("{path} is no valid path after its rewrite")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn target(uri: &str, hosts: &[&str]) -> Result<(String, Option<u16>), &'static str> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = LastTarget::default().or_of(&parts).map_err(|failure| failure.reason())?;
        Ok((target.host.clone(), target.port))
    }

    #[test]
    fn one_authority() {
        let ok = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(target("/a", &["User-Service:3001"]), ok("user-service", Some(3001)));
        assert_eq!(target("http://a.example/x", &["b.example"]), ok("a.example", None));
        assert_eq!(target("/", &["[::1]:80"]), ok("::1", Some(80)));
        assert_eq!(target("/", &["Shop.Example.:80"]), ok("shop.example", Some(80)));
        assert_eq!(target("/", &[]), Err("no_host"));
        assert_eq!(target("/", &["a", "b"]), Err("two_hosts"));
        assert_eq!(target("/", &["a", "a"]), Err("two_hosts"));
        assert_eq!(target("/", &["u@a"]), Err("userinfo"));
        for bad in ["", "a/b", "a b", "a:99999", "a:80a", "[::1", "a\\b", "a?x", "a#x", "a:"] {
            assert_eq!(target("/", &[bad]), Err("bad_host"), "{bad:?}");
        }
    }

    #[test]
    fn the_last_target_serves_the_same_authority_alone() {
        let last = LastTarget::default();
        let ask = |host: &str| {
            let (parts, ()) = Request::builder().header(HOST, host).body(()).unwrap().into_parts();
            last.or_of(&parts)
        };
        let first = ask("a:80").unwrap();
        assert!(Rc::ptr_eq(&first, &ask("a:80").unwrap()));
        assert_eq!(ask("b:80").unwrap().host, "b");
        assert!(ask("b:").is_err());
        assert_eq!(ask("a:80").unwrap().host, "a");
    }

    #[test]
    fn a_new_path_keeps_the_query() {
        let whole = PathAndQuery::from_static("/a/b?x=1");
        assert_eq!(with_path(&whole, "/new").unwrap(), "/new?x=1");
        assert_eq!(with_path(&PathAndQuery::from_static("/a"), "/new").unwrap(), "/new");
        assert!(with_path(&whole, "/a b").is_err());
    }
}
