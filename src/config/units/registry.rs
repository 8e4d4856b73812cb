//! Where registries are: `http://127.0.0.1:8500`, `consul://127.0.0.1:8500`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::super::report::quote;
use super::net::{Address, Name};
use super::{Invalid, Unit, unit};

/// Where a server is that speaks HTTP: `http://127.0.0.1:8500`, `https://eureka.internal/eureka`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// Host and port, the port of the scheme where none was typed.
    pub address: Address,
    /// What all paths begin with: empty, or from a `/` on, without one at its end.
    pub path: String,
}
unit!(HttpUrl);

impl Unit for HttpUrl {
    const FORMAT: &'static str = "pilotfish-http-url";
    const NOUN: &'static str = "a URL like `http://127.0.0.1:8500`";
    const PATTERN: &'static str =
        r"^https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?(/.*)?$";
}

impl FromStr for HttpUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (is_tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => {
                return Err(Invalid::new(
                    format!("{} is no URL", quote(without_user(text))),
                    "begin with `http://` or `https://`",
                ));
            }
        };
        let (authority, path) = split_path(rest);
        let address = with_port(authority, if is_tls { 443 } else { 80 })?;
        if path.contains(['?', '#']) || path.contains(char::is_whitespace) {
            return Err(Invalid::new(
                format!("{} has more than a path", quote(text)),
                "leave out what follows it",
            ));
        }
        Ok(Self { is_tls, address, path: path.trim_end_matches('/').to_owned() })
    }
}

impl HttpUrl {
    /// Whether both lead to one server, as far as can be seen without asking. No port speaks with TLS and
    /// without it.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let places = (canonical(&self.address), canonical(&other.address));
        places.0 == places.1 && self.path == other.path
    }
}

/// This host has a name and an address of each family.
fn canonical(address: &Address) -> Address {
    match address {
        Address::Name { host, port } if host.trim_end_matches('.') == "localhost" => {
            Address::Socket((Ipv4Addr::LOCALHOST, *port).into())
        }
        Address::Socket(socket) if socket.ip() == Ipv6Addr::LOCALHOST => {
            Address::Socket((Ipv4Addr::LOCALHOST, socket.port()).into())
        }
        Address::Socket(socket) => {
            Address::Socket((socket.ip().to_canonical(), socket.port()).into())
        }
        other => other.clone(),
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.address, self.path)
    }
}

/// A registry in one line: its kind, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegistryUrl {
    /// `directory:///run/pilotfish/services`.
    Directory(PathBuf),
    /// `consul://127.0.0.1:8500`.
    Consul(HttpUrl),
    /// `eureka://127.0.0.1:8761/eureka`.
    Eureka(HttpUrl),
    /// `etcd://127.0.0.1:2379`.
    Etcd(HttpUrl),
    /// `kubernetes://shop`, a namespace; without one our own.
    Kubernetes(Option<Name>),
}
unit!(RegistryUrl);

impl Unit for RegistryUrl {
    const FORMAT: &'static str = "pilotfish-registry-url";
    const NOUN: &'static str = "a registry like `consul://127.0.0.1:8500`";
    const PATTERN: &'static str = r"^(consul|eureka|etcd|kubernetes|directory)://.*$";
}

const KINDS: &str = "write `consul://127.0.0.1:8500`, `eureka://127.0.0.1:8761/eureka`, `etcd://127.0.0.1:2379`, \
                     `kubernetes://` or `directory:///run/pilotfish/services`";

impl FromStr for RegistryUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some((kind, rest)) = text.split_once("://") else {
            return Err(Invalid::new(format!("{} is no registry", quote(text)), KINDS));
        };
        let http = |port, path: &str| {
            let (authority, typed) = split_path(rest);
            let path = if typed.is_empty() { path } else { typed.trim_end_matches('/') };
            let address = with_port(authority, port)?;
            Ok(HttpUrl { is_tls: false, address, path: path.to_owned() })
        };
        match kind {
            "consul" => http(8500, "").map(Self::Consul),
            "eureka" => http(8761, "/eureka").map(Self::Eureka),
            "etcd" => http(2379, "").map(Self::Etcd),
            "kubernetes" => match rest.trim_end_matches('/') {
                "" => Ok(Self::Kubernetes(None)),
                namespace => namespace.parse().map(|name| Self::Kubernetes(Some(name))),
            },
            "directory" if rest.starts_with('/') => Ok(Self::Directory(rest.into())),
            "directory" => Err(Invalid::new(
                format!("{} has no whole path", quote(text)),
                format!("write `directory:///{rest}`"),
            )),
            "http" | "https" => Err(Invalid::new(
                format!("{} does not say which registry that is", quote(without_user(text))),
                format!(
                    "write `consul://{0}`, or `consul: {{ address: {kind}://{0} }}`",
                    host(rest)
                ),
            )),
            _ => Err(Invalid::new(format!("no registry is called {}", quote(kind)), KINDS)),
        }
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let http = |url: &HttpUrl| format!("{}{}", url.address, url.path);
        match self {
            Self::Directory(path) => write!(f, "directory://{}", path.display()),
            Self::Consul(url) => write!(f, "consul://{}", http(url)),
            Self::Eureka(url) => write!(f, "eureka://{}", http(url)),
            Self::Etcd(url) => write!(f, "etcd://{}", http(url)),
            Self::Kubernetes(None) => f.write_str("kubernetes://"),
            Self::Kubernetes(Some(namespace)) => write!(f, "kubernetes://{namespace}"),
        }
    }
}

fn split_path(rest: &str) -> (&str, &str) {
    rest.find('/').map_or((rest, ""), |at| rest.split_at(at))
}

fn with_port(authority: &str, port: u16) -> Result<Address, Invalid> {
    if let Some((_, host)) = authority.rsplit_once('@') {
        // What stands before it is not repeated: it is a secret.
        return Err(Invalid::new(
            "a password does not belong in a URL",
            format!("write {}, and give the password by a file", quote(host)),
        ));
    }
    let has_port = !authority.ends_with(']') && authority.contains(':');
    match has_port {
        true => authority.parse(),
        false => format!("{authority}:{port}").parse(),
    }
}

/// A URL that is to be shown, without a secret in it.
fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, rest)| rest)
}

fn host(rest: &str) -> &str {
    split_path(without_user(rest)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads<T: Unit + fmt::Debug>(text: &str, canonical: &str) {
        assert_eq!(text.parse::<T>().expect(text).to_string(), canonical);
    }

    #[test]
    fn urls_get_the_port_of_their_kind() {
        reads::<HttpUrl>("http://127.0.0.1", "http://127.0.0.1:80");
        reads::<HttpUrl>("https://Eureka.internal/eureka/", "https://eureka.internal:443/eureka");
        reads::<HttpUrl>("http://[::1]:8500", "http://[::1]:8500");
        reads::<RegistryUrl>("consul://127.0.0.1", "consul://127.0.0.1:8500");
        reads::<RegistryUrl>("eureka://e", "eureka://e:8761/eureka");
        reads::<RegistryUrl>("eureka://e:80/v2/", "eureka://e:80/v2");
        reads::<RegistryUrl>("etcd://[::1]", "etcd://[::1]:2379");
        reads::<RegistryUrl>("kubernetes://", "kubernetes://");
        reads::<RegistryUrl>("kubernetes://shop", "kubernetes://shop");
        reads::<RegistryUrl>("directory:///run/x", "directory:///run/x");
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        let why = |text: &str| text.parse::<RegistryUrl>().expect_err(text).to_string();
        assert!(why("127.0.0.1:8500").contains("`consul://127.0.0.1:8500`"));
        assert!(why("http://127.0.0.1:8500").contains("`consul://127.0.0.1:8500`"));
        assert!(why("zookeeper://z").contains("no registry is called `zookeeper`"));
        assert!(why("directory://run/x").contains("`directory:///run/x`"));
        assert!(why("consul://me:secret@c").contains("a password does not belong"));
        assert!(!why("consul://me:secret@c").contains("secret"));
        assert!(!why("http://me:secret@c").contains("secret"));
        let why = |text: &str| text.parse::<HttpUrl>().expect_err(text).to_string();
        assert!(why("127.0.0.1:8500").contains("begin with `http://`"));
        assert!(why("http://c/x?y").contains("more than a path"));
    }
}
