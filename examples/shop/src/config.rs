//! What the proxies of the shop are told: a file of YAML each, short enough to be read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde_json::json;

use crate::place::{Place, Places, Service};

/// Who knows where instances run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registry {
    Directory(PathBuf),
    Consul(String),
    Eureka(String),
    Etcd(String),
}

impl Registry {
    /// As `--registry` names it: where instances of this host can be announced.
    pub fn from_url(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let http = format!("http://{rest}");
        match scheme {
            "consul" => Ok(Self::Consul(http)),
            "eureka" => Ok(Self::Eureka(http)),
            "etcd" => Ok(Self::Etcd(http)),
            "directory" if rest.starts_with('/') => Ok(Self::Directory(rest.into())),
            _ => Err("such as consul://127.0.0.1:8500, eureka://127.0.0.1:8761/eureka, \
                      etcd://127.0.0.1:2379 or directory:///run/pilotfish/services"
                .to_owned()),
        }
    }

    fn yaml(&self) -> String {
        // All listen on 127.0.0.1 alone, so that it is the address by which they are to be found.
        let here = "advertise: { address: 127.0.0.1 }";
        match self {
            Self::Directory(path) => format!("{{ directory: {{ path: {} }} }}", quoted(path)),
            Self::Consul(url) => format!("{{ consul: {{ address: {} }}, {here} }}", json!(url)),
            Self::Eureka(url) => format!("{{ eureka: {{ addresses: [{}] }}, {here} }}", json!(url)),
            Self::Etcd(url) => format!("{{ etcd: {{ addresses: [{}] }}, {here} }}", json!(url)),
        }
    }
}

/// A server of another protocol than HTTP, to which an app comes through its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend(Url);

impl Backend {
    pub fn new(text: &str, default_port: impl Fn(&str) -> Option<u16>) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| error.to_string())?;
        let unknown = || format!("a URL of {}: is not known here", url.scheme());
        let port = default_port(url.scheme()).ok_or_else(unknown)?;
        if url.port().is_none() {
            url.set_port(Some(port)).map_err(|()| "it names no host".to_owned())?;
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        Ok(Self(url))
    }

    pub fn database(text: &str) -> Result<Self, String> {
        Self::new(text, |scheme| match scheme {
            "postgres" | "postgresql" => Some(5432),
            "mysql" | "mariadb" => Some(3306),
            _ => None,
        })
    }

    pub fn broker(text: &str) -> Result<Self, String> {
        Self::new(text, |scheme| (scheme == "amqp").then_some(5672))
    }

    fn address(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        format!("{host}:{}", self.0.port().unwrap_or_default())
    }

    /// The URL for who goes there directly.
    pub fn direct(&self) -> String {
        self.0.to_string()
    }

    /// The URL for who goes there by this port of this host.
    pub fn by(&self, port: u16) -> String {
        let mut url = self.0.clone();
        // It has a host, so that it can have another one.
        let _ = url.set_host(Some("127.0.0.1"));
        let _ = url.set_port(Some(port));
        url.to_string()
    }
}

/// What a sidecar governs besides HTTP.
#[derive(Debug, Default, Clone)]
pub struct Backends<'a> {
    pub database: Option<&'a Backend>,
    pub amqp: Option<&'a Backend>,
}

/// A path as YAML, which takes what JSON does.
fn quoted(path: &Path) -> String {
    json!(path.to_string_lossy()).to_string()
}

/// How a proxy of the shop is run, whatever it does.
fn running(registry: &Registry, admin: u16, metrics: u16, access_log: &Path) -> String {
    format!(
        "registry: {}\n\
         admin: {{ listen: 127.0.0.1:{admin}, metrics: 127.0.0.1:{metrics} }}\n\
         telemetry: {{ access_log: {{ format: text, path: {} }} }}\n\
         drain: {{ linger: 0s, timeout: 2s }}\n\
         runtime: {{ workers: 1 }}\n",
        registry.yaml(),
        quoted(access_log)
    )
}

/// The front door: it has no app, and its routes lead to services.
pub fn gateway(places: &Places, registry: &Registry, access_log: &Path) -> String {
    let listen = places.port;
    let head = format!(
        "service: {{ name: gateway }}
inbound:
  listen: 127.0.0.1:{listen}
  protocol: http
  policy:
    max_body: 64KiB
    # A client that wants more gets 429 and is told when to come again.
    rate_limit: {{ requests: 500, per: 1s, key: client_ip }}
  routes:
    - {{ match: {{ path_prefix: /users }}, to: user-service }}
    - {{ match: {{ path_prefix: /orders }}, to: order-service }}
    # What is in stock anybody may read, and nobody from outside may write.
    - {{ match: {{ path_prefix: /stock, methods: [GET, HEAD] }}, to: inventory-service }}
outbound: off
"
    );
    head + SERVICES_OF_GATEWAY
        + &running(registry, places.gateway.admin, places.gateway.metrics, access_log)
}

const SERVICES_OF_GATEWAY: &str = "services:
  defaults:
    policy:
      # Orders come with an Idempotency-Key: what may have been done is asked for again, of another instance, and done
      # once. An answer takes 5 s at most; who takes longer hangs.
      retry:
        max_retries: 3
        on: [connect_failure, refused_stream, reset, timeout, 503]
        per_try_timeout: 6s
      # A sidecar whose app has died says 503 faster than any other answers, and would be asked ever more. It is left
      # alone, but for a second at a time, as there are only two. Unlike a breaker this never refuses anybody.
      outlier_detection: { consecutive_5xx: 3, ejection_time: 1s, max_ejection_time: 1s }
";

/// A sidecar of an instance.
pub fn sidecar(
    place: &Place,
    backends: &Backends,
    registry: &Registry,
    access_log: &Path,
) -> String {
    let Place { service, ports, .. } = place;
    let mut yaml = format!(
        "service: {{ name: {service}, port: {}, health_check: {{ http: /health, interval: 1s, timeout: 1s }} }}\n\
         inbound: {{ listen: 127.0.0.1:{} }}\n",
        ports.app, ports.inbound
    );
    yaml.push_str(&outbound(place, backends));
    yaml.push_str(&services(*service, backends));
    yaml + &running(registry, ports.admin, ports.metrics, access_log)
}

fn outbound(Place { service, ports, .. }: &Place, backends: &Backends) -> String {
    let mut lines = Vec::new();
    if backends.database.is_some() {
        lines.push(format!("{}: database", ports.database));
    }
    if backends.amqp.is_some() {
        lines.push(format!("{}: broker", ports.amqp));
    }
    match (lines.is_empty(), service) {
        (true, Service::Order) => format!("outbound: {{ listen: 127.0.0.1:{} }}\n", ports.outbound),
        // It calls nobody.
        (true, _) => "outbound: off\n".to_owned(),
        (false, _) => format!(
            "outbound:\n  listen: 127.0.0.1:{}\n  ports: {{ {} }}\n",
            ports.outbound,
            lines.join(", ")
        ),
    }
}

fn services(service: Service, backends: &Backends) -> String {
    let mut yaml = String::new();
    for (name, backend) in [("database", backends.database), ("broker", backends.amqp)] {
        if let Some(backend) = backend {
            let endpoint = json!(backend.address());
            let _ = writeln!(yaml, "  {name}: {{ endpoints: [{endpoint}], protocol: tcp }}");
        }
    }
    if service == Service::Order {
        yaml.push_str(SERVICES_OF_ORDERS);
    }
    match yaml.is_empty() {
        true => yaml,
        false => format!("services:\n{yaml}"),
    }
}

const SERVICES_OF_ORDERS: &str = "  user-service:
    # The default, peak_ewma, turns away from an endpoint after its first failure, and leaves a breaker nothing to
    # count. This one counts on the breaker.
    load_balancer: least_request
    policy:
      # gRPC. A charge bears the key of its order: whoever hears of it twice charges once, so that all calls may be
      # sent again.
      retry:
        max_retries: 3
        on: [connect_failure, refused_stream, reset, timeout, 503, unavailable]
        methods: all
        per_try_timeout: 2s
      circuit_breaker: { consecutive_failures: 3, open_for: 1s, max_open_for: 1s }
      # Would count the same failures as the breaker, and leave an endpoint alone for longer than it is away.
      outlier_detection: off
  inventory-service:
    policy:
      # A reservation bears the key of its order too, and an event has an id. There is one instance: one that is slow
      # is waited for, as nobody else can be asked.
      retry: { max_retries: 3, on: [connect_failure, refused_stream, reset, 503], methods: all }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::TWO;

    fn directory() -> Registry {
        Registry::Directory("/tmp/a \"b\"/services".into())
    }

    #[test]
    fn a_registry_is_named_by_its_url() {
        let consul = Registry::from_url("consul://127.0.0.1:8500").expect("known");
        assert_eq!(
            consul.yaml(),
            r#"{ consul: { address: "http://127.0.0.1:8500" }, advertise: { address: 127.0.0.1 } }"#
        );
        let eureka = Registry::from_url("eureka://h:8761/eureka").expect("known");
        assert!(eureka.yaml().contains(r#"addresses: ["http://h:8761/eureka"]"#));
        for none in ["kubernetes://default", "consul", "directory://run", ""] {
            assert!(Registry::from_url(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_path_may_have_any_character() {
        assert_eq!(directory().yaml(), r#"{ directory: { path: "/tmp/a \"b\"/services" } }"#);
    }

    #[test]
    fn an_app_reaches_its_database_by_a_port_of_its_sidecar() {
        let database = Backend::database("postgres://u:p@db.internal/users?a=b").expect("a URL");
        assert_eq!(database.address(), "db.internal:5432");
        assert_eq!(database.by(23015), "postgres://u:p@127.0.0.1:23015/users?a=b");
        assert_eq!(Backend::database("mysql://h/d").expect("a URL").address(), "h:3306");
        let broker = Backend::broker("amqp://guest:guest@[::1]:5673/%2f").expect("a URL");
        assert_eq!(broker.address(), "[::1]:5673");
        assert_eq!(broker.by(9), "amqp://guest:guest@127.0.0.1:9/%2f");
        for none in ["sqlite://a.db", "postgres:///users", "h:5432", "amqps://h"] {
            assert!(Backend::database(none).is_err() && Backend::broker(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_sidecar_has_the_lines_that_its_service_needs() {
        let places = Places::choose(8080, 23000, &TWO).expect("room");
        let log = Path::new("/tmp/x.log");
        let user = sidecar(&places.instances[0], &Backends::default(), &directory(), log);
        assert!(user.starts_with("service: { name: user-service, port: 23010,"), "{user}");
        assert!(user.contains("\noutbound: off\n") && !user.contains("services:\n"), "{user}");
        let order = sidecar(&places.instances[2], &Backends::default(), &directory(), log);
        assert!(order.contains("\noutbound: { listen: 127.0.0.1:23032 }\nservices:\n"), "{order}");
        assert!(order.lines().count() < 40, "{order}");
    }

    #[test]
    fn what_is_not_http_goes_through_ports_of_the_sidecar() {
        let places = Places::choose(8080, 23000, &TWO).expect("room");
        let database = Backend::database("postgres://u:p@db/users").expect("a URL");
        let amqp = Backend::broker("amqp://broker").expect("a URL");
        let backends = Backends { database: Some(&database), amqp: Some(&amqp) };
        let inventory = &places.instances[4];
        let yaml = sidecar(inventory, &backends, &directory(), Path::new("/tmp/x.log"));
        assert!(yaml.contains("  ports: { 23055: database, 23056: broker }\n"), "{yaml}");
        assert!(yaml.contains("  database: { endpoints: [\"db:5432\"], protocol: tcp }\n"));
        assert!(yaml.contains("  broker: { endpoints: [\"broker:5672\"], protocol: tcp }\n"));
    }
}
