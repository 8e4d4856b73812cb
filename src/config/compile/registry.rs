//! Registries, and what is made of what they say.

use std::time::Duration;

use super::super::schema::{self, OrOff};
use super::super::snapshot::Names;
use super::super::units::{Address, HttpUrl, Period, RegistryUrl};
use super::{Compiler, Mistake, Path, path_to, quote};
use crate::registry::dns;
use crate::registry::settings::{
    Advertise, Consul, ConsulCheck, Directory, Discovery, Dns, DnsRecords, Etcd, Eureka, Kind,
    Kubernetes, OnDemand, Removal, SERVICE, Settings,
};

const CONSUL: &str = "http://127.0.0.1:8500";
const EUREKA: &str = "http://127.0.0.1:8761/eureka";
const ETCD: &str = "http://127.0.0.1:2379";
/// What Consul takes at least (`DeregisterCriticalServiceAfter`).
const SHORTEST_DEREGISTRATION: Duration = Duration::from_secs(60);
/// An announcement that has to be renewed more often is lost by any pause.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

impl Compiler<'_> {
    /// The registries in the order in which they are asked.
    pub(super) fn registries(&mut self) -> Vec<Settings> {
        let typed = match &self.config.registry {
            Some(OrOff::Off) => return Vec::new(),
            Some(OrOff::On(typed)) => typed,
            None => {
                let kind = Kind::Directory(directory(None, None));
                return vec![Settings { kind, advertise: Some(Advertise::default()) }];
            }
        };
        let mut all = Vec::new();
        for (index, registry) in typed.each() {
            let at = path_to!["registry"];
            let at = index.map_or(at.clone(), |index| at.join(index));
            let settings = match registry {
                schema::Registry::Url(url) => self.registry(&of_url(url), &at),
                schema::Registry::With(with) => self.registry(with, &at),
            };
            let Some(settings) = settings else { continue };
            if all.iter().any(|other: &Settings| other.kind == settings.kind) {
                let mistake = Mistake::at(at, "this registry is listed twice");
                self.mistake(mistake.help("remove one"));
                continue;
            }
            all.push(settings);
        }
        if all.is_empty() && matches!(typed, schema::Registries::Several(_)) {
            let mistake = Mistake::at(path_to!["registry"], "the list has no registry");
            let mistake = mistake.help("write `registry: off`, or name one");
            self.mistake(mistake.unless_wrong(path_to!["registry"]));
        }
        all
    }

    fn registry(&mut self, typed: &schema::RegistrySettings, at: &Path) -> Option<Settings> {
        let given = [
            ("directory", typed.directory.is_some()),
            ("dns", typed.dns.is_some()),
            ("consul", typed.consul.is_some()),
            ("eureka", typed.eureka.is_some()),
            ("kubernetes", typed.kubernetes.is_some()),
            ("etcd", typed.etcd.is_some()),
        ];
        let name =
            self.at_most_one(&given, at, "write a list, in the order in which they are asked");
        let Some(name) = name? else {
            let mistake = Mistake::at(at.clone(), "it is not said which registry that is");
            let help = "write one of `directory`, `dns`, `consul`, `eureka`, `kubernetes`, `etcd`, as in \
                        `consul: { address: http://127.0.0.1:8500 }`";
            self.mistake(mistake.help(help).unless_wrong(at.clone()));
            return None;
        };
        let below = at.join(name);
        let kind = if let Some(typed) = &typed.directory {
            Kind::Directory(self.directory(typed, &below))
        } else if let Some(typed) = &typed.dns {
            Kind::Dns(self.dns(typed, &below)?)
        } else if let Some(typed) = &typed.consul {
            Kind::Consul(self.consul(typed, &below))
        } else if let Some(typed) = &typed.eureka {
            Kind::Eureka(self.eureka(typed, &below))
        } else if let Some(typed) = &typed.etcd {
            Kind::Etcd(self.etcd(typed, &below))
        } else {
            let typed = typed.kubernetes.clone().unwrap_or_default();
            Kind::Kubernetes(Kubernetes {
                namespace: typed.namespace.map(|name| name.to_string()),
                port: typed.port,
                zone: self.config.service.as_ref().and_then(|service| service.zone.clone()),
                kubeconfig: typed.kubeconfig.map(Into::into),
                context: typed.context,
            })
        };
        let announces = kind.announces();
        let advertise = match &typed.advertise {
            Some(OrOff::Off) => None,
            Some(OrOff::On(_)) if !announces => {
                let message = format!("`{name}` is not told of our app: who runs it tells");
                self.mistake(Mistake::at_key(at.join("advertise"), message).help("remove it"));
                None
            }
            None if !announces => None,
            None => Some(Advertise::default()),
            Some(OrOff::On(typed)) => Some(self.advertise(typed, &at.join("advertise"))),
        };
        Some(Settings { kind, advertise })
    }

    fn advertise(&mut self, typed: &schema::Advertise, at: &Path) -> Advertise {
        let given = typed.address.as_ref().map(|address| address.as_str());
        let given = given.filter(|address| *address != "auto");
        if given.is_some_and(|address| address.parse().is_ok_and(is_nowhere)) {
            let mistake = Mistake::at(at.join("address"), "nobody can reach that address");
            self.mistake(mistake.help("write the one where others reach us, or `auto`"));
        }
        if self.config.service.is_none() {
            let mistake = Mistake::at_key(at.clone(), "there is no app to be announced");
            self.mistake(mistake.help("name it in `service`").unless_wrong(path_to!["service"]));
        }
        Advertise {
            address: given.map(Into::into),
            port: typed.port,
            id: typed.id.as_ref().map(ToString::to_string),
            weight: typed.weight,
            tags: typed.tags.clone().unwrap_or_default(),
        }
    }

    fn directory(&mut self, typed: &schema::Directory, at: &Path) -> Directory {
        self.check_lease(typed.ttl, at);
        directory(typed.path.as_ref(), typed.ttl)
    }

    fn dns(&mut self, typed: &schema::Dns, at: &Path) -> Option<Dns> {
        if !typed.name.contains(SERVICE) {
            let message = format!("{} is the same for each service", quote(&typed.name));
            let help =
                format!("write `{SERVICE}` where the service stands, as in `{SERVICE}.internal`");
            self.mistake(Mistake::at(at.join("name"), message).help(help));
        } else if let Err(error) = dns::name(&typed.name, "a") {
            let help =
                "write labels of at most 63 letters, digits, `-` and `_`, with dots between them";
            self.mistake(Mistake::at(at.join("name"), error.detail).help(help));
        }
        let server = match &typed.server {
            Some(Address::Socket(server)) => Some(*server),
            None => None,
            Some(other) => {
                let message = format!(
                    "{} is no address that can be asked for names",
                    quote(&other.to_string())
                );
                let help = "write an IP address with its port, as in `10.0.0.2:53`";
                self.mistake(Mistake::at(at.join("server"), message).help(help));
                None
            }
        };
        let records = match (typed.records, typed.port) {
            (Some(schema::DnsRecords::Srv) | None, None) => DnsRecords::Srv,
            (Some(schema::DnsRecords::Address) | None, Some(port)) => DnsRecords::Address(port),
            (Some(schema::DnsRecords::Srv), Some(_)) => {
                let mistake =
                    Mistake::at_key(at.join("port"), "SRV records tell the ports themselves");
                self.mistake(mistake.help("remove it, or write `records: address`"));
                return None;
            }
            (Some(schema::DnsRecords::Address), None) => {
                let mistake = Mistake::at_key(at.join("records"), "addresses alone have no port");
                self.mistake(
                    mistake.help("add `port`, or write `records: srv`").unless_wrong(at.clone()),
                );
                return None;
            }
        };
        let min_ttl = typed.min_ttl.map_or(Duration::from_secs(1), |it| it.0);
        let max_ttl = typed.max_ttl.map_or(Duration::from_secs(60).max(min_ttl), |it| it.0);
        if min_ttl > max_ttl {
            let key = if typed.max_ttl.is_some() { "max_ttl" } else { "min_ttl" };
            let mistake = Mistake::at(at.join(key), "`min_ttl` is longer than `max_ttl`");
            self.mistake(mistake.help("make it shorter"));
        }
        Some(Dns { name: typed.name.clone(), records, server, min_ttl, max_ttl })
    }

    fn consul(&mut self, typed: &schema::Consul, at: &Path) -> Consul {
        self.check_lease(typed.ttl, at);
        let deregister_after = typed.deregister_after.map_or(SHORTEST_DEREGISTRATION, |it| it.0);
        if deregister_after < SHORTEST_DEREGISTRATION {
            let message = "Consul forgets nobody sooner than after a minute";
            let mistake = Mistake::at(at.join("deregister_after"), message);
            self.mistake(mistake.help("write `1m` or more"));
        }
        self.check_ca(typed.ca_file.as_ref(), typed.address.iter(), at);
        Consul {
            address: typed.address.clone().unwrap_or_else(|| default_url(CONSUL)),
            token_file: typed.token_file.as_ref().map(Into::into),
            ca_file: typed.ca_file.as_ref().map(Into::into),
            datacenter: typed.datacenter.as_ref().map(ToString::to_string),
            namespace: typed.namespace.as_ref().map(ToString::to_string),
            tag: typed.tag.clone(),
            check: match typed.check {
                Some(schema::ConsulCheck::Http) => ConsulCheck::Http,
                Some(schema::ConsulCheck::Ttl) | None => ConsulCheck::Ttl,
            },
            ttl: typed.ttl.map_or(Duration::from_secs(15), |it| it.0),
            deregister_after,
        }
    }

    fn eureka(&mut self, typed: &schema::Eureka, at: &Path) -> Eureka {
        let addresses = self.addresses(typed.addresses.as_ref(), EUREKA, at);
        self.check_ca(typed.ca_file.as_ref(), &addresses, at);
        self.check_password(typed.username.as_ref(), typed.password_file.as_ref(), at);
        self.check_lease(typed.ttl, at);
        let renew = typed.renew.map_or(Duration::from_secs(30), |it| it.0);
        let ttl = typed.ttl.map_or((renew * 3).max(Duration::from_secs(90)), |it| it.0);
        if ttl <= renew {
            let message = "Eureka would forget us between two times that we tell it";
            let mistake = Mistake::at(at.join("ttl"), message);
            self.mistake(mistake.help("make `ttl` three times as long as `renew`"));
        }
        Eureka {
            addresses,
            username: typed.username.clone(),
            password_file: typed.password_file.as_ref().map(Into::into),
            ca_file: typed.ca_file.as_ref().map(Into::into),
            poll: typed.poll.map_or(Duration::from_secs(10), |it| it.0),
            renew,
            ttl,
        }
    }

    fn etcd(&mut self, typed: &schema::Etcd, at: &Path) -> Etcd {
        let addresses = self.addresses(typed.addresses.as_ref(), ETCD, at);
        self.check_ca(typed.ca_file.as_ref(), &addresses, at);
        self.check_password(typed.username.as_ref(), typed.password_file.as_ref(), at);
        self.check_lease(typed.ttl, at);
        let prefix = typed.prefix.as_deref().unwrap_or("/pilotfish/services/");
        Etcd {
            addresses,
            prefix: format!("{}/", prefix.trim_end_matches('/')),
            username: typed.username.clone(),
            password_file: typed.password_file.as_ref().map(Into::into),
            ca_file: typed.ca_file.as_ref().map(Into::into),
            ttl: typed.ttl.map_or(Duration::from_secs(15), |it| it.0),
        }
    }

    fn addresses(
        &mut self,
        typed: Option<&Vec<HttpUrl>>,
        default: &str,
        at: &Path,
    ) -> Vec<HttpUrl> {
        let Some(typed) = typed else { return vec![default_url(default)] };
        if typed.is_empty() {
            let mistake = Mistake::at(at.join("addresses"), "the list has no server");
            self.mistake(mistake.help(format!("write one, as in `[{default}]`")));
        }
        typed.clone()
    }

    /// Tells of authorities that nobody is checked by.
    fn check_ca<'a>(
        &mut self,
        ca_file: Option<&String>,
        urls: impl IntoIterator<Item = &'a HttpUrl>,
        at: &Path,
    ) {
        if ca_file.is_some() && !urls.into_iter().any(|url| url.is_tls) {
            let message = "without TLS no certificate is checked";
            let mistake = Mistake::at_key(at.join("ca_file"), message);
            self.mistake(mistake.help("remove it, or begin the address with `https://`"));
        }
    }

    fn check_lease(&mut self, ttl: Option<Period>, at: &Path) {
        if ttl.is_some_and(|ttl| ttl.0 < SHORTEST_LEASE) {
            let message = "our app would be forgotten in less than a second";
            self.mistake(Mistake::at(at.join("ttl"), message).help("write `1s` or more"));
        }
    }

    fn check_password(&mut self, user: Option<&String>, file: Option<&String>, at: &Path) {
        let (key, other) = match (user, file) {
            (Some(_), None) => ("username", "password_file"),
            (None, Some(_)) => ("password_file", "username"),
            _ => return,
        };
        let mistake =
            Mistake::at_key(at.join(key), format!("`{key}` is nothing without `{other}`"));
        self.mistake(mistake.help(format!("add `{other}`")).unless_wrong(at.clone()));
    }

    /// What is made of what registries say.
    pub(super) fn discovery(&mut self) -> Discovery {
        let typed = self.config.discovery.clone().unwrap_or_default();
        let state_dir = self.config.runtime.as_ref().and_then(|runtime| runtime.state_dir.as_ref());
        if let Some(path) = state_dir.filter(|path| !path.starts_with('/')) {
            let message = format!("{} is no whole path", quote(path));
            let mistake = Mistake::at(path_to!["runtime", "state_dir"], message);
            self.mistake(mistake.help("begin it with `/`"));
        }
        let on_demand = match &typed.on_demand {
            Some(OrOff::Off) => None,
            Some(OrOff::On(typed)) => Some(typed.clone()),
            None => Some(schema::OnDemand::default()),
        };
        let removal = match &typed.removal {
            Some(OrOff::Off) => None,
            Some(OrOff::On(typed)) => Some(typed.clone()),
            None => Some(schema::Removal::default()),
        };
        Discovery {
            first_answer: typed.first_answer.map_or(Duration::from_secs(2), |it| it.0),
            on_demand: on_demand.map(|typed| OnDemand {
                max_services: typed.max_services.unwrap_or(1000) as usize,
                idle: typed.idle.map_or(Duration::from_secs(600), |it| it.0),
            }),
            debounce: typed.debounce.map_or(Duration::from_millis(100), |it| it.0),
            removal: removal.map(|typed| Removal {
                above: typed.above.map_or(0.5, |ratio| ratio.0),
                hold: typed.hold.map_or(Duration::from_secs(300), |it| it.0),
            }),
            expire_after: typed.expire_after.map_or(Duration::from_secs(3600), |it| it.0),
            state_dir: state_dir.map(Into::into),
        }
    }
}

/// Which host names registries may know.
pub(super) fn names(registries: &[Settings], discovery: &Discovery) -> Names {
    let suffixes = registries.iter().flat_map(|registry| match registry.kind {
        Kind::Consul(_) => &[".service.consul"][..],
        Kind::Kubernetes(_) => &[".svc.cluster.local", ".svc"],
        _ => &[],
    });
    let has_namespaces = |it: &Settings| matches!(it.kind, Kind::Kubernetes(_));
    Names {
        on_demand: discovery.on_demand.is_some() && !registries.is_empty(),
        suffixes: suffixes.copied().collect(),
        labels: if registries.iter().any(has_namespaces) { 2 } else { 1 },
    }
}

fn is_nowhere(ip: std::net::IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

fn directory(path: Option<&String>, ttl: Option<Period>) -> Directory {
    Directory { path: path.map(Into::into), ttl: ttl.map_or(Duration::from_secs(10), |it| it.0) }
}

/// The settings that a URL stands for.
fn of_url(url: &RegistryUrl) -> schema::RegistrySettings {
    let mut settings = schema::RegistrySettings::default();
    match url.clone() {
        RegistryUrl::Directory(path) => {
            let path = Some(path.display().to_string());
            settings.directory = Some(schema::Directory { path, ttl: None });
        }
        RegistryUrl::Consul(url) => {
            settings.consul = Some(schema::Consul { address: Some(url), ..Default::default() });
        }
        RegistryUrl::Eureka(url) => {
            let addresses = Some(vec![url]);
            settings.eureka = Some(schema::Eureka { addresses, ..Default::default() });
        }
        RegistryUrl::Etcd(url) => {
            let addresses = Some(vec![url]);
            settings.etcd = Some(schema::Etcd { addresses, ..Default::default() });
        }
        RegistryUrl::Kubernetes(namespace) => {
            settings.kubernetes = Some(schema::Kubernetes { namespace, ..Default::default() });
        }
    }
    settings
}

fn default_url(text: &str) -> HttpUrl {
    // Of our own constants.
    text.parse().unwrap_or_else(|_| HttpUrl {
        is_tls: false,
        address: Address::Socket(([127, 0, 0, 1], 80).into()),
        path: String::new(),
    })
}
