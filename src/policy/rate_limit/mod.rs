//! Rate limits: which requests share a bucket, and whether one of them may pass. Whoever has no Redis to
//! ask, or gets no answer from it, decides here; [`shared`] is what Redis is asked.

mod gcra;
pub mod shared;
mod table;

use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::Mode;
use gcra::Bucket;
pub use gcra::{Decision, Quota, Rate};
use table::Table;

/// One limit of a configuration.
#[derive(Debug)]
pub struct RateLimit {
    /// Its place in the snapshot's list.
    pub slot: u32,
    /// Where in the configuration it stands: what is counted across reloads, and across instances.
    pub place: Arc<str>,
    /// For metrics: `place`, told from others of the same place.
    pub name: Arc<str>,
    pub spec: Spec,
    /// Of all instances together.
    pub whole: Rate,
    pub mode: Mode,
    /// Whether answers have `RateLimit-*`.
    pub headers: bool,
    /// With which its keys in Redis begin.
    pub prefix: Box<str>,
    pub state: Arc<State>,
}

/// What makes two limits the same one. A limit that a reload did not change keeps its buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub requests: u32,
    pub per: Duration,
    pub burst: u32,
    pub key: Key,
    pub scope: Scope,
    pub max_keys: usize,
}

/// Which requests share a bucket.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// All.
    None,
    /// Those of one client: an address of IPv4, or a network of 64 bits of IPv6, which is what one
    /// subscriber has at least.
    ClientIp,
    /// Those of one client by the name that was proved; those of all without one.
    Identity,
    /// Those that have the same text there; those that have none, too.
    Header(HeaderName),
}

/// Whose requests the limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of this instance.
    Instance,
    /// Those of all instances: each may let pass its share.
    Service,
    /// Those of all instances, counted in Redis.
    Redis,
}

/// What of a request says which bucket is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOf<'a> {
    All,
    Client(IpAddr),
    Text(&'a [u8]),
}

/// The buckets of a limit, shared by the workers and kept across reloads.
// Written with every request: a cache line of its own keeps the neighbours' out.
#[repr(align(64))]
pub struct State(Buckets);

enum Buckets {
    One(Bucket),
    // The hash is keyed by chance (SipHash): who chooses the keys must not choose their places.
    Keyed(Table, RandomState),
}

impl RateLimit {
    /// What one instance of `instances` lets pass on its own.
    pub fn rate(&self, instances: u32) -> Rate {
        match self.spec.scope {
            Scope::Service => self.whole.shared_by(instances),
            // While Redis is away each instance has the whole.
            Scope::Instance | Scope::Redis => self.whole,
        }
    }
}

impl Spec {
    /// Of all instances together.
    pub fn whole(&self) -> Rate {
        let whole = Rate::new(self.requests, self.per, self.burst);
        match self.scope {
            Scope::Instance | Scope::Service => whole,
            Scope::Redis => whole.in_steps_of(shared::NANOS),
        }
    }

    pub fn state(&self) -> Arc<State> {
        Arc::new(State(match self.key {
            Key::None => Buckets::One(Bucket::default()),
            _ => Buckets::Keyed(Table::new(self.max_keys), RandomState::new()),
        }))
    }
}

impl State {
    /// Takes a token of the bucket of `key`. `now` is as of [`crate::clock::Instant`].
    pub fn take(&self, key: KeyOf<'_>, rate: Rate, now: u64) -> Decision {
        match &self.0 {
            Buckets::One(bucket) => bucket.take(rate, now),
            Buckets::Keyed(table, hasher) => {
                let hash = match key {
                    KeyOf::All => 0,
                    KeyOf::Client(ip) => hasher.hash_one(network(ip)),
                    KeyOf::Text(text) => hasher.hash_one(text),
                };
                table.take(hash, rate, now)
            }
        }
    }

    /// Keys that are held, and keys that were forgotten though they still owed something; nothing for a
    /// limit without keys.
    pub fn keys(&self) -> Option<(usize, u64)> {
        match &self.0 {
            Buckets::One(_) => None,
            Buckets::Keyed(table, _) => Some((table.keys(), table.evicted())),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// State is no part of what was configured.
impl PartialEq for RateLimit {
    fn eq(&self, other: &Self) -> bool {
        let of = |limit: &Self| (limit.place.clone(), limit.mode, limit.headers);
        of(self) == of(other) && self.spec == other.spec
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.requests == 1 { "" } else { "s" };
        write!(f, "{} request{plural} in {:?}", self.requests, self.per)?;
        match &self.key {
            Key::None => Ok(()),
            Key::ClientIp => f.write_str(" from one address"),
            Key::Identity => f.write_str(" from one identity"),
            Key::Header(name) => write!(f, " with the same {name}"),
        }
    }
}

/// What of an address tells clients apart: all of IPv4, the upper half of IPv6.
fn network(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        // No network of IPv6 that is in use begins with zeros.
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    }
}

impl KeyOf<'_> {
    /// As it stands in Redis. What a client wrote is not written there: it may be a credential.
    fn write(&self, out: &mut String) {
        let _ = match self {
            Self::All => Ok(()),
            Self::Client(ip) => match ip.to_canonical() {
                IpAddr::V4(ip) => write!(out, "{ip}"),
                IpAddr::V6(_) => write!(out, "{:016x}", network(*ip)),
            },
            Self::Text(text) => {
                use sha1::{Digest, Sha1};
                Sha1::digest(text).iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3_600_000_000_000;

    fn spec(key: Key, scope: Scope) -> Spec {
        Spec { requests: 1, per: Duration::from_secs(60), burst: 1, key, scope, max_keys: 100 }
    }

    fn ip(text: &str) -> KeyOf<'static> {
        KeyOf::Client(text.parse().unwrap())
    }

    #[test]
    fn clients_of_ipv6_are_told_apart_by_their_network() {
        let spec = spec(Key::ClientIp, Scope::Instance);
        let (rate, state) = (spec.whole(), spec.state());
        let taken = |text| state.take(ip(text), rate, START).allowed;
        assert!(taken("2001:db8:1:2::1"));
        assert!(!taken("2001:db8:1:2:ffff::9"));
        assert!(taken("2001:db8:1:3::1"));
        assert!(taken("10.0.0.1"));
        assert!(taken("10.0.0.2"));
        assert!(!taken("::ffff:10.0.0.1"));
    }

    #[test]
    fn without_a_key_all_share() {
        let spec = spec(Key::None, Scope::Instance);
        let (rate, state) = (spec.whole(), spec.state());
        assert!(state.take(ip("10.0.0.1"), rate, START).allowed);
        assert!(!state.take(ip("10.0.0.2"), rate, START).allowed);
        assert_eq!(state.keys(), None);
    }

    #[test]
    fn instances_share_what_is_the_services() {
        let of = |scope| {
            let spec = Spec { requests: 100, burst: 100, ..spec(Key::None, scope) };
            let limit = RateLimit {
                slot: 0,
                place: "inbound".into(),
                name: "inbound".into(),
                whole: spec.whole(),
                mode: Mode::Enforce,
                headers: true,
                prefix: Box::default(),
                state: spec.state(),
                spec,
            };
            limit.rate(4)
        };
        let per = Duration::from_secs(60);
        assert_eq!(of(Scope::Service), Rate::new(25, per, 25));
        assert_eq!(of(Scope::Instance), Rate::new(100, per, 100));
        assert_eq!(of(Scope::Redis), Rate::new(100, per, 100));
    }

    #[test]
    fn keys_of_redis_hold_no_credentials() {
        let text = |key: KeyOf<'_>| {
            let mut out = String::new();
            key.write(&mut out);
            out
        };
        assert_eq!(text(ip("10.0.0.1")), "10.0.0.1");
        assert_eq!(text(ip("2001:db8:1:2::1")), "20010db800010002");
        assert_eq!(text(KeyOf::Text(b"secret")), "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4");
        assert_eq!(text(KeyOf::All), "");
    }
}
