//! What the configuration says of registries.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::directory;
use crate::config::units::HttpUrl;

/// One registry, and how our own app is announced there.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub kind: Kind,
    /// None where it is not announced.
    pub advertise: Option<Advertise>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Directory(Directory),
    Dns(Dns),
    Consul(Consul),
    Eureka(Eureka),
    Kubernetes(Kubernetes),
    Etcd(Etcd),
}

impl Kind {
    /// As the configuration calls it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Dns(_) => "dns",
            Self::Consul(_) => "consul",
            Self::Eureka(_) => "eureka",
            Self::Kubernetes(_) => "kubernetes",
            Self::Etcd(_) => "etcd",
        }
    }

    /// Whether our app can be announced there. Elsewhere who runs it tells of it.
    pub fn announces(&self) -> bool {
        !matches!(self, Self::Dns(_) | Self::Kubernetes(_))
    }

    /// Whether what is announced in the one stands in the other too, as far as that can be seen without asking.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let shares = |one: &[HttpUrl], other: &[HttpUrl]| {
            one.iter().any(|it| other.iter().any(|other| it.is_same_place(other)))
        };
        match (self, other) {
            (Self::Directory(one), Self::Directory(other)) => one.place() == other.place(),
            // An agent registers in its own datacenter.
            (Self::Consul(one), Self::Consul(other)) => {
                one.address.is_same_place(&other.address) && one.namespace == other.namespace
            }
            (Self::Eureka(one), Self::Eureka(other)) => shares(&one.addresses, &other.addresses),
            (Self::Etcd(one), Self::Etcd(other)) => {
                one.prefix == other.prefix && shares(&one.addresses, &other.addresses)
            }
            _ => self == other,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    /// None: a place that all sidecars of one user share.
    pub path: Option<PathBuf>,
    pub ttl: Duration,
}

impl Directory {
    fn place(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(directory::shared_path)
    }
}

/// What stands for the service in [`Dns::name`].
pub const SERVICE: &str = "{service}";

#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// With [`SERVICE`] in it.
    pub name: String,
    pub records: DnsRecords,
    /// None: those of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsRecords {
    /// A and AAAA, each with this port.
    Address(u16),
    Srv,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Consul {
    pub address: HttpUrl,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    pub tag: Option<String>,
    pub check: ConsulCheck,
    pub ttl: Duration,
    /// At least a minute.
    pub deregister_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsulCheck {
    /// We tell the agent that we are well.
    Ttl,
    /// The agent asks our `/ready`.
    Http,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Eureka {
    /// At least one.
    pub addresses: Vec<HttpUrl>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub poll: Duration,
    pub renew: Duration,
    pub ttl: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kubernetes {
    pub namespace: Option<String>,
    /// The name or the number of the port to call.
    pub port: Option<String>,
    /// Ours, for the hints of endpoints.
    pub zone: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Etcd {
    /// At least one.
    pub addresses: Vec<HttpUrl>,
    /// Ends with `/`.
    pub prefix: String,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub ttl: Duration,
}

/// How our own app is announced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advertise {
    /// None: the one from which the registry is reached.
    pub address: Option<Box<str>>,
    /// None: that of the inbound listener.
    pub port: Option<u16>,
    /// None: made of the service, the host and the port.
    pub id: Option<String>,
    pub weight: Option<u32>,
    pub tags: Vec<String>,
}

/// What we make of what registries say.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// How long a request waits for the first answer about a service.
    pub first_answer: Duration,
    pub on_demand: Option<OnDemand>,
    pub debounce: Duration,
    pub removal: Option<Removal>,
    /// What was said so long ago is old.
    pub expire_after: Duration,
    /// Where the last good answers are kept; none: in `$STATE_DIRECTORY`, if that is set.
    pub state_dir: Option<PathBuf>,
}

/// Services that are called and that the configuration does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDemand {
    pub max_services: usize,
    /// How long after its last call one is followed.
    pub idle: Duration,
}

/// What happens when many instances of a service go at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Removal {
    /// More than this share is many.
    pub above: f64,
    /// How long those that answer stay.
    pub hold: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: Option<&str>) -> Kind {
        let path = path.map(Into::into);
        Kind::Directory(Directory { path, ttl: Duration::from_secs(10) })
    }

    fn consul(url: &str, namespace: Option<&str>) -> Kind {
        Kind::Consul(Consul {
            address: url.parse().expect("a URL"),
            token_file: None,
            ca_file: None,
            datacenter: None,
            namespace: namespace.map(Into::into),
            tag: None,
            check: ConsulCheck::Ttl,
            ttl: Duration::from_secs(15),
            deregister_after: Duration::from_secs(60),
        })
    }

    fn etcd(urls: &[&str], prefix: &str) -> Kind {
        Kind::Etcd(Etcd {
            addresses: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
            prefix: prefix.to_owned(),
            username: None,
            password_file: None,
            ca_file: None,
            ttl: Duration::from_secs(15),
        })
    }

    #[test]
    fn one_place_has_several_spellings() {
        let shared = directory::shared_path();
        let here = consul("http://127.0.0.1:8500", None);
        let of = |url| etcd(&["http://10.0.0.1:2379", url], "/a/");
        for (one, other, is_same) in [
            (directory(None), directory(None), true),
            (directory(None), directory(shared.to_str()), true),
            (directory(Some("/run/a/")), directory(Some("/run//a")), true),
            (directory(None), directory(Some("/run/a")), false),
            (here.clone(), consul("http://localhost:8500", None), true),
            (here.clone(), consul("http://[::1]:8500/", None), true),
            (here.clone(), consul("https://127.0.0.1:8500", None), true),
            (here.clone(), consul("http://localhost:8501", None), false),
            (here.clone(), consul("http://127.0.0.1:8500", Some("shop")), false),
            // Another one may listen there.
            (here.clone(), consul("http://127.0.0.2:8500", None), false),
            (here.clone(), consul("http://consul:8500", None), false),
            (of("http://10.0.0.2:2379"), of("http://10.0.0.3:2379"), true),
            (of("http://10.0.0.2:2379"), etcd(&["http://10.0.0.2:2379"], "/b/"), false),
            (etcd(&["http://localhost:2379"], "/a/"), of("http://127.0.0.1:2379"), true),
            (here, directory(None), false),
        ] {
            assert_eq!(one.is_same_place(&other), is_same, "{one:?} {other:?}");
            assert_eq!(other.is_same_place(&one), is_same, "{other:?} {one:?}");
        }
    }
}
