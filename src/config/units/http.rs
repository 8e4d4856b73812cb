//! Units of HTTP: methods, header fields, hosts, paths.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::super::report::quote;
use super::net::is_host_name;
use super::{Invalid, Port, Unit, unit};

/// The name of a header field, in lower case whatever was typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(pub ::http::HeaderName);
unit!(HeaderName);

impl Ord for HeaderName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for HeaderName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Unit for HeaderName {
    const FORMAT: &'static str = "pilotfish-header-name";
    const NOUN: &'static str = "the name of a header like `x-env`";
    const PATTERN: &'static str = "^[-A-Za-z0-9!#$%&'*+.^_`|~]+$";
}

impl FromStr for HeaderName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        ::http::HeaderName::from_bytes(text.as_bytes()).map(Self).map_err(|_| {
            let help = match text.trim_matches(':').to_lowercase().as_str() {
                "authority" => "to match a host, write `host: …` in `match`".to_owned(),
                "path" => "to match a path, write `path: …` in `match`".to_owned(),
                "method" => "to match a method, write `methods: […]` in `match`".to_owned(),
                _ => "use letters, digits and `-`: `x-env`".to_owned(),
            };
            Invalid::new(format!("{} is not the name of a header", quote(text)), help)
        })
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The name of a cookie (RFC 6265, section 4.1.1): upper and lower case are different.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CookieName(String);
unit!(CookieName);

impl CookieName {
    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unit for CookieName {
    const FORMAT: &'static str = "pilotfish-cookie-name";
    const NOUN: &'static str = "the name of a cookie like `session`";
    const PATTERN: &'static str = "^[-A-Za-z0-9!#$%&'*+.^_`|~]+$";
}

impl FromStr for CookieName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Both are a `token`.
        match ::http::HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Invalid::new(
                format!("{} is not the name of a cookie", quote(text)),
                "use letters, digits, `-` and `_`: `session`",
            )),
        }
    }
}

impl fmt::Display for CookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a header field (RFC 9110, section 5.5): no line break, no other control
/// character, no blank at its ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderValue(pub ::http::HeaderValue);
unit!(HeaderValue);

impl Unit for HeaderValue {
    const FORMAT: &'static str = "pilotfish-header-value";
    const NOUN: &'static str = "the value of a header, a text of one line";
    const PATTERN: &'static str = r"^[^\r\n]*$";
}

impl FromStr for HeaderValue {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let not = || format!("{} is not the value of a header", quote(text));
        if text.trim_matches([' ', '\t']) != text {
            return Err(Invalid::new(not(), "remove the blanks at its ends"));
        }
        ::http::HeaderValue::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_| Invalid::new(not(), "write one line without control characters"))
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.as_bytes()))
    }
}

/// A request method. Methods are case-sensitive (RFC 9110, section 9.1), so `get` is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub ::http::Method);
unit!(Method);

impl Unit for Method {
    const FORMAT: &'static str = "pilotfish-method";
    const NOUN: &'static str = "a method like `GET`";
    const PATTERN: &'static str = "^[^a-z\\s]+$";
}

impl FromStr for Method {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let upper = text.to_ascii_uppercase();
        match ::http::Method::from_bytes(upper.as_bytes()) {
            Ok(method) if upper == text => Ok(Self(method)),
            Ok(_) => Err(Invalid::new(
                format!("{} is in lower case", quote(text)),
                format!("methods are case-sensitive: write {}", quote(&upper)),
            )),
            Err(_) => Err(Invalid::new(
                format!("{} is not a method", quote(text)),
                "write `GET`, `POST`, `PUT`, `PATCH`, `DELETE`, …",
            )),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// A host as requests name it, in lower case: `api.example.com`, `[::1]`, `name:8080`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);
unit!(Host);

impl Host {
    /// The host in lower case, with its port if one was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unit for Host {
    const FORMAT: &'static str = "pilotfish-host";
    const NOUN: &'static str = "a host like `api.example.com`";
    const PATTERN: &'static str = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?$";
}

impl FromStr for Host {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let not = || format!("{} is not a host", quote(text));
        if let Some((scheme, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return Err(Invalid::new(
                not(),
                format!("leave out the {}: {}", quote(&format!("{scheme}://")), quote(host)),
            ));
        }
        if let Some((host, path)) = text.split_once('/') {
            let help =
                format!("write {}, and {} as a path", quote(host), quote(&["/", path].concat()));
            return Err(Invalid::new(not(), help));
        }
        if text.contains('*') {
            return Err(Invalid::new(not(), "no `*` can stand here: write the whole host"));
        }
        let (host, port) = split_port(text);
        if let Some(port) = port {
            port.parse::<Port>().map_err(|error| Invalid::new(not(), error.help))?;
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bracketed {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host),
        };
        if !good {
            return Err(Invalid::new(
                not(),
                "write a name like `api.example.com`, with `:8080` after it if need be",
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Splits `host:port`, leaving the colons of `[::1]` alone.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which hosts a route takes, in lower case: a host, `*.example.com` for all below it, `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(String);
unit!(HostPattern);

impl HostPattern {
    /// The pattern in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unit for HostPattern {
    const FORMAT: &'static str = "pilotfish-host-pattern";
    const NOUN: &'static str = "a host like `api.example.com` or `*.example.com`";
    const PATTERN: &'static str =
        r"^(\*|(\*\.)?[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9a-fA-F:.]+\](:[0-9]+)?)$";
}

impl FromStr for HostPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        match text.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => {
                let host = rest.parse::<Host>()?;
                Ok(Self(format!("*.{}", host.as_str())))
            }
            None if !text.contains('*') => Ok(Self(text.parse::<Host>()?.0)),
            _ => Err(Invalid::new(
                format!("{} is not a host", quote(text)),
                "a `*` can only be the whole first label: `*.example.com`",
            )),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path of a URL as it is on the wire: begins with `/`, percent-encoded, no query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UrlPath(String);
unit!(UrlPath);

impl UrlPath {
    /// The path as it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unit for UrlPath {
    const FORMAT: &'static str = "pilotfish-path";
    const NOUN: &'static str = "a path like `/users`";
    const PATTERN: &'static str = r"^/[^\s?#]*$";
}

impl FromStr for UrlPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let not = || format!("{} is not a path", quote(text));
        if !text.starts_with('/') {
            let help = if text.contains("://") {
                "write only the path, without scheme and host: `/users`".to_owned()
            } else {
                format!("begin with a slash: {}", quote(&format!("/{text}")))
            };
            return Err(Invalid::new(not(), help));
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
            None => Ok(Self(text.to_owned())),
            Some(c @ ('?' | '#')) => Err(Invalid::new(
                not(),
                format!("leave out what follows the `{c}`: a path has no query and no fragment"),
            )),
            Some(c) => {
                let mut buffer = [0; 4];
                let bytes = c.encode_utf8(&mut buffer).bytes();
                let encoded: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
                Err(Invalid::new(
                    not(),
                    format!(
                        "paths are percent-encoded: write `{encoded}` for {}",
                        quote(&c.to_string())
                    ),
                ))
            }
        }
    }
}

impl fmt::Display for UrlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
