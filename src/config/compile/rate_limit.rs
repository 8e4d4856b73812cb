//! Rate limits: each place of the configuration that says some has buckets of its own, which a reload
//! keeps where it does not change the limit.

use std::sync::Arc;
use std::time::Duration;

use super::super::schema::{self, OrOff, RateLimitClient, RateLimitKey, RateLimitScope};
use super::super::snapshot::Snapshot;
use super::policy::mode;
use super::services::address;
use super::{Compiler, Mistake, Path, path_to, quote};
use crate::policy::rate_limit::{Key, Scope, Spec, shared};
use crate::policy::{Policy, RateLimit};
use crate::redis::{Redis, Settings};

/// The limits that hold; nothing where there are none.
pub(super) type Limits = Option<Arc<[Arc<RateLimit>]>>;

/// No bucket takes longer to be full: times of a bucket are numbers of 64 bits.
const LONGEST_REFILL: Duration = Duration::from_secs(3650 * 86_400);

/// What is kept of the snapshot before, and what is made of it.
#[derive(Default)]
pub(super) struct Made {
    before: Vec<Arc<RateLimit>>,
    pub limits: Vec<Arc<RateLimit>>,
    /// Places so far. Routes may have the same name.
    places: Vec<String>,
}

impl Made {
    pub fn after(before: Vec<Arc<RateLimit>>) -> Self {
        Self { before, ..Self::default() }
    }
}

/// `policy` with the limits that an inner scope says, if it says any.
pub(super) fn limited(policy: Arc<Policy>, said: Option<Limits>) -> Arc<Policy> {
    match said {
        None => policy,
        Some(rate_limits) => Arc::new(Policy { rate_limits, ..(*policy).clone() }),
    }
}

impl Compiler<'_> {
    /// What the innermost of `layers` that says something says: of the outer ones nothing holds.
    pub(super) fn rate_limits(
        &mut self,
        layers: &[Option<&schema::Policy>],
        place: &str,
    ) -> Option<Limits> {
        let said =
            layers.iter().rev().flatten().find_map(|policy| policy.rate_limit.as_ref())?.on();
        let place = self.place(place);
        let mut limits = Vec::new();
        for (index, typed) in said.into_iter().flat_map(|said| said.each()) {
            let Some(mode) = mode(typed.mode.as_ref()) else { continue };
            let name = match index {
                None | Some(0) => place.clone(),
                Some(index) => format!("{place}[{index}]").into(),
            };
            let spec = spec(typed);
            let before = self.rate_limits.before.iter();
            let kept = before.clone().find(|l| l.place == place && l.spec == spec);
            let limit = Arc::new(RateLimit {
                slot: self.rate_limits.limits.len() as u32,
                prefix: self.prefix_of(&place, &spec),
                state: kept.map_or_else(|| spec.state(), |kept| kept.state.clone()),
                name,
                place: place.clone(),
                whole: spec.whole(),
                spec,
                mode,
                headers: typed.headers.unwrap_or(true),
            });
            self.rate_limits.limits.push(limit.clone());
            limits.push(limit);
        }
        Some((!limits.is_empty()).then(|| limits.into()))
    }

    /// `place`, told from another one of the same name.
    fn place(&mut self, place: &str) -> Arc<str> {
        let places = &mut self.rate_limits.places;
        places.push(place.to_owned());
        match places.iter().filter(|other| *other == place).count() {
            1 => place.into(),
            count => format!("{place}#{count}").into(),
        }
    }

    fn prefix_of(&self, place: &str, spec: &Spec) -> Box<str> {
        if spec.scope != Scope::Redis {
            return Box::default();
        }
        let redis = self.config.redis.as_ref().and_then(|redis| redis.prefix.as_deref());
        let service = self.config.service.as_ref().map_or("gateway", |own| own.name.as_str());
        shared::prefix(redis.unwrap_or(PREFIX), service, place, spec).into()
    }

    /// Tells what is wrong in the limits of the policy at `at`.
    pub(super) fn check_rate_limits(&mut self, typed: Option<&schema::Policy>, at: &Path) {
        let Some(OrOff::On(limits)) = typed.and_then(|typed| typed.rate_limit.as_ref()) else {
            return;
        };
        let at = at.join("rate_limit");
        let mut seen: Vec<Spec> = Vec::new();
        for (index, limit) in limits.each() {
            let at = index.map_or_else(|| at.clone(), |index| at.join(index));
            self.check_rate_limit(limit, &at);
            let spec = spec(limit);
            if seen.contains(&spec) {
                let mistake = Mistake::at(at, "the same limit is there twice");
                self.mistake(mistake.help("remove one of them"));
            }
            seen.push(spec);
        }
    }

    fn check_rate_limit(&mut self, limit: &schema::RateLimit, at: &Path) {
        let spec = spec(limit);
        if spec.per.is_zero() {
            let mistake = Mistake::at(at.join("per"), "no request fits into no time");
            self.mistake(mistake.help("write a duration like `1s` or `1m`"));
        }
        if spec.whole().refill() > LONGEST_REFILL {
            let key = if limit.burst.is_some() { "burst" } else { "per" };
            let mistake = Mistake::at(at.join(key), "it takes more than 10 years to fill up again");
            self.mistake(mistake.help("write a smaller `burst` or a shorter `per`"));
        }
        let inbound = self.config.inbound.as_ref().and_then(OrOff::on);
        let told = inbound.and_then(|inbound| inbound.trusted_proxies.as_ref());
        if spec.key == Key::Identity && told.is_none_or(Vec::is_empty) {
            let mistake =
                Mistake::at(at.join("key"), "nobody is trusted to tell the identity of a client");
            self.mistake(mistake.help(
                "add the proxies that check certificates, as in `inbound: { trusted_proxies: \
                 [10.0.0.0/8] }`, or name a header, as in `key: { header: x-user-id }`",
            ));
        }
        if limit.max_keys.is_some() && limit.key.is_none() {
            let mistake = Mistake::at_key(at.join("max_keys"), "there are no keys without `key`");
            self.mistake(
                mistake.help("remove it, or add `key: client_ip`").unless_wrong(at.clone()),
            );
        }
        if spec.scope == Scope::Redis && self.config.redis.is_none() {
            let mistake = Mistake::at(at.join("scope"), "there is no Redis to share it by");
            self.mistake(
                mistake
                    .help("add `redis: redis://127.0.0.1:6379` at the top, or use `scope: service`")
                    .unless_wrong(path_to!["redis"]),
            );
        }
    }

    /// The Redis; the same one as before where nothing of it has changed.
    pub(super) fn redis(&mut self, before: Option<&Arc<Redis>>) -> Option<Arc<Redis>> {
        let typed = self.config.redis.as_ref()?;
        if let Some(file) = typed.password_file.as_ref().filter(|file| !file.starts_with('/')) {
            let message = format!("{} is not an absolute path", quote(file));
            let mistake = Mistake::at(path_to!["redis", "password_file"], message);
            self.mistake(mistake.help("write the path from the root"));
        }
        if typed.username.is_some() && typed.password_file.is_none() {
            let mistake = Mistake::at_key(path_to!["redis", "username"], "a user needs a password");
            self.mistake(
                mistake
                    .help("add `password_file`, or remove it")
                    .unless_wrong(path_to!["redis", "password_file"]),
            );
        }
        let timeout = typed.timeout.map_or(TIMEOUT, |timeout| timeout.0);
        if timeout.is_zero() {
            let mistake = Mistake::at(path_to!["redis", "timeout"], "no answer comes in no time");
            self.mistake(mistake.help("write a duration like `50ms`"));
        }
        let settings = Settings {
            address: address(&typed.address.0),
            username: typed.username.as_deref().map(Into::into),
            password_file: typed.password_file.as_ref().map(Into::into),
            database: typed.database.unwrap_or(0),
            prefix: typed.prefix.as_deref().unwrap_or(PREFIX).into(),
            timeout,
        };
        let before = before.filter(|before| before.settings == settings).cloned();
        Some(before.unwrap_or_else(|| Arc::new(Redis::new(settings))))
    }

    /// Instances of our own service: by its endpoints, if the service is among those that we call; else as many as
    /// a registry told last.
    pub(super) fn instances(&self, previous: Option<&Snapshot>) -> u32 {
        let own = self.config.service.as_ref();
        let cluster = own.and_then(|own| self.by_name.get(own.name.as_str()));
        let group = cluster.and_then(|at| self.clusters[*at as usize].groups.first());
        let is_counted = |it: &&Snapshot| {
            self.discovers && own.is_some_and(|own| *it.service.name == *own.name.as_str())
        };
        match group {
            Some(group) => group.endpoints.len().max(1) as u32,
            None => previous.filter(is_counted).map_or(1, |previous| previous.instances),
        }
    }
}

const PREFIX: &str = "pilotfish";
const TIMEOUT: Duration = Duration::from_millis(50);

fn spec(typed: &schema::RateLimit) -> Spec {
    Spec {
        requests: typed.requests,
        per: typed.per.map_or(Duration::from_secs(1), |per| per.0),
        burst: typed.burst.unwrap_or(typed.requests),
        key: match &typed.key {
            None => Key::None,
            Some(RateLimitKey::Header(header)) => Key::Header(header.header.0.clone()),
            Some(RateLimitKey::Client(RateLimitClient::ClientIp)) => Key::ClientIp,
            Some(RateLimitKey::Client(RateLimitClient::Identity)) => Key::Identity,
        },
        scope: match typed.scope {
            Some(RateLimitScope::Service) => Scope::Service,
            Some(RateLimitScope::Redis) => Scope::Redis,
            Some(RateLimitScope::Instance) | None => Scope::Instance,
        },
        max_keys: typed.max_keys.unwrap_or(100_000) as usize,
    }
}
