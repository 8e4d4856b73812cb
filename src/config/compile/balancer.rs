//! How an endpoint is chosen: balancers, keys, zones, and which endpoints routes select.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::super::schema::{
    self, Algorithm, Chooser, Config, HashKey, LoadBalancer, LoadBalancerSettings, OrOff, ZoneAware,
};
use super::super::snapshot::Selector;
use super::super::units::Factor;
use super::{Compiler, Mistake, Path, path_to};
use crate::balance::{self, Cookie, Key, Kind, Plan, ZonePlan, is_prime};

/// What a key can be, for messages.
const KEYS: &str = "`header: x-user`, `cookie: session`, `query: user` or `source: true`";

/// The plan for `service`. Its mistakes are told by [`Compiler::check_balancer`].
pub(super) fn plan(typed: Option<&LoadBalancer>, service: &str) -> Plan {
    let plain = |kind| Plan { kind, ..Plan::default() };
    match typed {
        None => Plan::default(),
        Some(LoadBalancer::Algorithm(algorithm)) => match algorithm {
            Algorithm::RoundRobin => plain(Kind::RoundRobin),
            Algorithm::Random => plain(Kind::Random),
            Algorithm::LeastRequest => plain(Kind::LeastRequest),
            Algorithm::PeakEwma => plain(Kind::PeakEwma),
            Algorithm::RingHash => plain(Kind::RingHash),
            Algorithm::Maglev => plain(Kind::Maglev),
            Algorithm::StickyCookie => sticky(&schema::StickyCookie::default(), service),
        },
        Some(LoadBalancer::With(with)) => {
            let LoadBalancerSettings { ring_hash, maglev, sticky_cookie } = &**with;
            let bound = |typed: &Option<OrOff<Factor>>| {
                typed.as_ref().and_then(OrOff::on).map(|factor| factor.0)
            };
            if let Some(typed) = ring_hash {
                Plan {
                    key: typed.key.as_ref().and_then(key),
                    bounded_load: bound(&typed.bounded_load),
                    ..plain(Kind::RingHash)
                }
            } else if let Some(typed) = maglev {
                Plan {
                    key: typed.key.as_ref().and_then(key),
                    bounded_load: bound(&typed.bounded_load),
                    table_size: typed.table_size.filter(|size| is_prime(*size)),
                    ..plain(Kind::Maglev)
                }
            } else if let Some(typed) = sticky_cookie {
                sticky(typed, service)
            } else {
                Plan::default()
            }
        }
    }
}

fn sticky(typed: &schema::StickyCookie, service: &str) -> Plan {
    let name = typed.name.as_ref().map(|name| name.as_str().into());
    let cookie = Cookie {
        // One for each service: a client may have several of them behind one host.
        name: name.unwrap_or_else(|| format!("pilotfish-{service}").into()),
        service: service.into(),
        ttl: typed.ttl.map(|ttl| ttl.0),
        path: typed.path.as_ref().map_or("/", |path| path.as_str()).into(),
        secure: typed.secure.unwrap_or(false),
        same_site: match typed.same_site {
            Some(schema::SameSite::Strict) => balance::SameSite::Strict,
            Some(schema::SameSite::None) => balance::SameSite::None,
            Some(schema::SameSite::Lax) | None => balance::SameSite::Lax,
        },
    };
    let kind = match typed.then {
        Some(Chooser::RoundRobin) => Kind::RoundRobin,
        Some(Chooser::Random) => Kind::Random,
        Some(Chooser::LeastRequest) => Kind::LeastRequest,
        Some(Chooser::PeakEwma) | None => Kind::PeakEwma,
    };
    Plan { kind, sticky: Some(Arc::new(cookie)), ..Plan::default() }
}

/// What zones are to a service; nothing where our own is not known.
pub(super) fn zone(typed: Option<&OrOff<ZoneAware>>, own: Option<&str>) -> Option<ZonePlan> {
    let typed = typed.and_then(OrOff::on)?;
    Some(ZonePlan { own: own?.into(), min_endpoints: typed.min_endpoints.unwrap_or(1) as usize })
}

/// The first that is given. Its mistakes are told by [`Compiler::check_key`].
pub(super) fn key(typed: &HashKey) -> Option<Key> {
    let header = typed.header.as_ref().map(|name| Key::Header(name.0.clone()));
    let cookie = || typed.cookie.as_ref().map(|name| Key::Cookie(name.as_str().into()));
    let source = || typed.source.filter(|source| *source).map(|_| Key::Source);
    let query = || typed.query.as_ref().map(|name| Key::Query(name.as_str().into()));
    header.or_else(cookie).or_else(source).or_else(query)
}

/// What the routes of a configuration select of each service, besides all of it.
pub(super) fn selectors(config: &Config) -> HashMap<&str, BTreeSet<Selector>> {
    let mut selectors: HashMap<&str, BTreeSet<Selector>> = HashMap::new();
    let inbound = config.inbound.as_ref().and_then(OrOff::on);
    let inbound = inbound.and_then(|inbound| inbound.routes.as_ref()).map(|routes| (routes, None));
    let services = config.services.iter().flat_map(|services| &services.by_name);
    let services = services.filter_map(|(name, service)| {
        service.routes.as_ref().map(|routes| (routes, Some(name.as_str())))
    });
    for (routes, own) in inbound.into_iter().chain(services) {
        for target in routes.iter().filter_map(|route| route.to.as_ref()).flat_map(|to| &to.0) {
            let selector = selector(target);
            if let Some(service) = target.service.as_ref().map(|name| name.as_str()).or(own)
                && !selector.is_all()
            {
                selectors.entry(service).or_default().insert(selector);
            }
        }
    }
    selectors
}

/// What a target of a route selects.
pub(super) fn selector(target: &schema::Target) -> Selector {
    let labels = target.labels.iter().flatten();
    Selector {
        version: target.version.as_deref().map(Into::into),
        labels: labels.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
    }
}

impl Compiler<'_> {
    /// Tells what is wrong in how a service, or all of them, is balanced. `is_tcp`: of one that speaks it.
    pub(super) fn check_balancer(&mut self, typed: &LoadBalancer, is_tcp: bool, at: &Path) {
        let (name, hashed) = match typed {
            LoadBalancer::Algorithm(Algorithm::RingHash) => return self.no_key("ring_hash", at),
            LoadBalancer::Algorithm(Algorithm::Maglev) => return self.no_key("maglev", at),
            LoadBalancer::Algorithm(Algorithm::StickyCookie) => ("sticky_cookie", None),
            LoadBalancer::Algorithm(_) => return,
            LoadBalancer::With(with) => {
                let given = [
                    ("ring_hash", with.ring_hash.is_some()),
                    ("maglev", with.maglev.is_some()),
                    ("sticky_cookie", with.sticky_cookie.is_some()),
                ];
                let Some(name) = self.at_most_one(&given, at, "keep one of them") else {
                    return;
                };
                let Some(name) = name else {
                    let mistake = Mistake::at(at.clone(), "`load_balancer` names no algorithm");
                    let help = "write its name, as in `load_balancer: peak_ewma`, or its settings, \
                                as in `load_balancer: { sticky_cookie: {} }`";
                    return self.mistake(mistake.help(help).unless_wrong(at.clone()));
                };
                let ring = with.ring_hash.as_ref().map(|typed| &typed.key);
                let maglev = with.maglev.as_ref().map(|typed| &typed.key);
                if let Some(size) = with.maglev.as_ref().and_then(|typed| typed.table_size) {
                    self.check_table_size(size, &at.join("maglev").join("table_size"));
                }
                if let Some(typed) = &with.sticky_cookie {
                    self.check_cookie(typed, &at.join("sticky_cookie"));
                }
                (name, ring.or(maglev))
            }
        };
        let below = at.join(name);
        match hashed {
            Some(None) => {
                let mistake = Mistake::at(below.clone(), format!("`{name}` has no `key`"));
                let help = "say by what requests are told apart, as in `key: { header: x-user }`";
                self.mistake(mistake.help(help).unless_wrong(below));
            }
            Some(Some(key)) => {
                let key_at = below.join("key");
                self.check_key(key, &key_at);
                let has_source = self::key(key) == Some(Key::Source);
                if is_tcp && !has_source {
                    let message = "the service speaks tcp, which has no headers".to_owned();
                    let mistake = Mistake::at(key_at.clone(), message);
                    self.mistake(
                        mistake.help("write `key: { source: true }`").unless_wrong(key_at),
                    );
                }
            }
            None if is_tcp => {
                let mistake =
                    Mistake::at(at.clone(), "the service speaks tcp, which has no cookies");
                self.mistake(mistake.help(
                    "write `load_balancer: { ring_hash: { key: { source: true } } }`, which goes by \
                     the client's address",
                ));
            }
            None => {}
        }
    }

    fn no_key(&mut self, name: &str, at: &Path) {
        let mistake = Mistake::at(at.clone(), format!("`{name}` has no key to hash"));
        self.mistake(mistake.help(format!(
            "say by what requests are told apart, as in \
             `load_balancer: {{ {name}: {{ key: {{ header: x-user }} }} }}`"
        )));
    }

    /// Tells what is wrong in what requests are told apart by.
    pub(super) fn check_key(&mut self, typed: &HashKey, at: &Path) {
        let given = [
            ("header", typed.header.is_some()),
            ("cookie", typed.cookie.is_some()),
            ("source", typed.source.is_some()),
            ("query", typed.query.is_some()),
        ];
        let one = self.at_most_one(&given, at, "requests are told apart by one of them");
        if one.is_some() && key(typed).is_none() {
            let mistake = Mistake::at(at.clone(), "it is not said by what requests are told apart");
            self.mistake(mistake.help(format!("write {KEYS}")).unless_wrong(at.clone()));
        }
    }

    fn check_table_size(&mut self, size: u32, at: &Path) {
        if !is_prime(size) {
            let next = (size..).find(|number| is_prime(*number)).unwrap_or(balance::TABLE_SIZE);
            let mistake =
                Mistake::at(at.clone(), format!("`table_size` is {size}, which is no prime"));
            self.mistake(mistake.help(format!("write {next}, the next one")));
        }
    }

    fn check_cookie(&mut self, typed: &schema::StickyCookie, at: &Path) {
        if let Some(path) = typed.path.as_ref().filter(|path| path.as_str().contains(';')) {
            let path = path.as_str();
            let message = format!("`{path}` cannot be the path of a cookie: `;` would end it");
            self.mistake(
                Mistake::at(at.join("path"), message).help("write `/` or a prefix of paths"),
            );
        }
        if typed.same_site == Some(schema::SameSite::None) && typed.secure != Some(true) {
            let message = "browsers refuse a cookie with `same_site: none` that is not `secure`";
            self.mistake(
                Mistake::at(at.join("same_site"), message)
                    .help("add `secure: true`, or write `lax`")
                    .unless_wrong(at.join("secure")),
            );
        }
    }

    /// Tells why zones cannot be gone by. `hashes`: whether the same service is balanced by a hash.
    pub(super) fn check_zone(&mut self, typed: &OrOff<ZoneAware>, hashes: bool, at: &Path) {
        let OrOff::On(_) = typed else {
            return;
        };
        if self.config.service.as_ref().is_none_or(|own| own.zone.is_none()) {
            let mistake = Mistake::at_key(at.clone(), "`zone_aware` needs to know our own zone");
            self.mistake(
                mistake
                    .help("add `zone` to `service`, or write `off`")
                    .unless_wrong(path_to!["service"]),
            );
        }
        if hashes {
            let message = "by a hash, a key has one endpoint, whichever zone that is in";
            let mistake = Mistake::at_key(at.clone(), message);
            self.mistake(mistake.help("write `zone_aware: off`, or balance by something else"));
        }
    }
}
