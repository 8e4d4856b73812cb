//! Who knows where services run, and what we make of what they say.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OrOff;
use crate::config::units::{Address, Duration, Host, HttpUrl, Name, Period, Ratio, RegistryUrl};

/// One registry, or several: for each service the first of them that has an instance of it tells.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Registries {
    /// Several, in their order.
    Several(Vec<Registry>),
    /// One.
    One(Registry),
}

impl Registries {
    /// Each, with its place in the list if there is one.
    pub fn each(&self) -> impl Iterator<Item = (Option<usize>, &Registry)> {
        let (one, several) = match self {
            Self::One(one) => (Some((None, one)), &[][..]),
            Self::Several(several) => (None, &several[..]),
        };
        one.into_iter().chain(several.iter().enumerate().map(|(at, registry)| (Some(at), registry)))
    }
}

/// A registry: a URL, or one of the kinds with its settings.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Registry {
    /// Where it is.
    Url(RegistryUrl),
    /// Its settings.
    With(Box<RegistrySettings>),
}

/// One of the kinds, and how our own app is announced there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// Files of one host, with nothing to install.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
    /// DNS: names that lead to instances. Nobody is announced there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Consul, by an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<Consul>,
    /// Eureka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eureka: Option<Eureka>,
    /// EndpointSlices of Kubernetes. Nobody is announced there: Kubernetes does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// etcd: a key for each instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    /// How our own app is announced, or `off`. Default: on, where there is an app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<OrOff<Advertise>>,
}

/// Files of one host: one for each instance, kept fresh by who wrote it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Where they are. Default: `/run/pilotfish/services`; for another user than root
    /// `$XDG_RUNTIME_DIR/pilotfish/services`, or below the directory for temporary files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long a file counts after it was last refreshed. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
}

/// Names of DNS that lead to the instances of a service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The name to ask for, in which `{service}` stands for the service, as in
    /// `{service}.shop.svc.cluster.local` or `_http._tcp.{service}.internal`.
    pub name: String,
    /// What is asked for. Default: `address` where there is a `port`, else `srv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<DnsRecords>,
    /// The port of all instances, for `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The server to ask, by its IP address, as in `10.0.0.2:53`. Default: those of `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Address>,
    /// An answer is asked for again after this, even if its TTL is shorter. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<Period>,
    /// An answer is asked for again after this, even if its TTL is longer. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<Period>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsRecords {
    /// A and AAAA: addresses, of which all have the same port.
    Address,
    /// SRV: hosts with ports, weights and priorities.
    Srv,
}

/// Consul, by an agent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consul {
    /// The agent. Default: `http://127.0.0.1:8500`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<HttpUrl>,
    /// A file with the ACL token; it is read again when it changes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// A file with the certificates of the authorities to trust. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// The datacenter whose instances are called. Default: the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<Name>,
    /// The namespace (Consul Enterprise). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// Only instances with this tag are called. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// How the agent learns that we are well. Default: `ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<ConsulCheck>,
    /// How long we count as well after we last said so. Default: `15s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
    /// How long after we stopped being well Consul forgets us, at least `1m`. Default: `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deregister_after: Option<Period>,
}

/// How a Consul agent learns that we are well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsulCheck {
    /// We tell it.
    Ttl,
    /// It asks our `/ready`.
    Http,
}

/// Eureka.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eureka {
    /// The servers; another one is asked when one does not answer.
    /// Default: `[http://127.0.0.1:8761/eureka]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<HttpUrl>>,
    /// The user. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// A file with the certificates of the authorities to trust. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// How often it is asked what has changed. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll: Option<Period>,
    /// How often we tell that we are there. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew: Option<Period>,
    /// How long Eureka keeps us after we last told. Default: `90s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
}

/// EndpointSlices of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// The namespace of services whose name has none. Default: our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The port to call, by its name in the service or the number on which pods listen. Default: the only one, or
    /// `http`, or the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Who the API server is and who we are. Default: `$KUBECONFIG`, or what the pod has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// The context of the kubeconfig. Default: the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// etcd.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// The servers; another one is asked when one does not answer. Default: `[http://127.0.0.1:2379]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<HttpUrl>>,
    /// What all keys begin with. Default: `/pilotfish/services/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The user. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// A file with the certificates of the authorities to trust. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// How long we are kept after we last told that we are there. Default: `15s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
}

/// How our own app is announced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Advertise {
    /// Where others reach us, or `auto`: the address from which we reach the registry. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Host>,
    /// The port where others reach us. Default: that of `inbound.listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// What tells us from other instances, and stays the same when we start again.
    /// Default: the service, the host and the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
    /// Our share of the requests, relative to others. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
    /// Words that others choose by. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// What we make of what registries say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// How long a request waits for the first answer about a service. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_answer: Option<Duration>,
    /// Services that our app calls and `services` does not name, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OrOff<OnDemand>>,
    /// Changes that come within this are put in force together. Default: `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Duration>,
    /// What happens when many instances go at once, or `off`. Default: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removal: Option<OrOff<Removal>>,
    /// How long after the last word of a registry what it said counts as old. Instances that do not
    /// answer are left out then. Default: `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Period>,
}

/// Services that our app calls and the configuration does not name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemand {
    /// The most of them at a time. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_services: Option<u32>,
    /// How long after its last call one is followed. Default: `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Period>,
}

/// What happens when many instances of a service go at once: those that still answer stay for a while.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// More than this share of a service is many. Default: `50%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<Ratio>,
    /// How long they stay, as long as they answer. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Period>,
}

/// Words about our own app that registries pass on.
pub type Metadata = BTreeMap<String, String>;
