//! Asks servers of DNS, and tells what is not there from what is not known.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::{Error, Reason};
use super::answer::Target;

/// How long one server has for one question, which is asked as often as `resolv.conf` says (twice by default).
const LONGEST: Duration = Duration::from_secs(2);
/// Questions at a time.
pub const AT_ONCE: usize = 32;
/// What is not there is asked for again after this, where the answer does not say.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

pub struct Asking {
    resolver: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
    turns: Rc<Semaphore>,
}

/// The records of one kind that a name has. None is an answer too.
#[derive(Debug, Default)]
struct Reply {
    records: Vec<Record>,
    additional: Vec<Record>,
    ttl: Option<Duration>,
}

/// The SRV records of a name.
#[derive(Debug)]
pub struct Services {
    pub records: Vec<SRV>,
    additional: Vec<Record>,
    ttl: Duration,
}

impl Asking {
    /// `server`: who is asked instead of those of `/etc/resolv.conf`, with whole names only.
    ///
    /// # Errors
    /// There is no good `/etc/resolv.conf`.
    pub fn of(server: Option<SocketAddr>, turns: Rc<Semaphore>) -> Result<Self, Error> {
        let (mut config, options) = match server {
            Some(server) => (only(server), ResolverOpts::default()),
            None => read_system_conf().map_err(|error| {
                let detail = format!("/etc/resolv.conf: {error}; correct it, or give `server`");
                Error::new(Reason::Refused, detail)
            })?,
        };
        let search = match server {
            Some(_) => Vec::new(),
            None => std::mem::take(&mut config.search),
        };
        let ndots = if server.is_some() { 0 } else { options.ndots };
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let asks = builder.options_mut();
        asks.timeout = options.timeout.min(LONGEST);
        asks.attempts = options.attempts;
        // The TTL is for us to keep.
        asks.cache_size = 0;
        asks.use_hosts_file = ResolveHosts::Never;
        // As resolv.conf(5) has it: the next server is for when the one before does not answer.
        asks.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        asks.num_concurrent_reqs = 1;
        asks.max_active_requests = 4 * AT_ONCE;
        let resolver = builder.build().map_err(|error| why("the resolver", &error))?;
        Ok(Self { resolver, search, ndots, turns })
    }

    /// The whole names that `name` may stand for, in the order in which they are tried (resolv.conf(5)).
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        candidates(name, &self.search, self.ndots)
    }

    /// The SRV records of the first of `names` that has any.
    ///
    /// # Errors
    /// That is not known of one of them, and no other has any.
    pub async fn services(&self, names: Vec<Name>) -> Result<Services, Error> {
        let mut failed = None;
        let mut ttl = None;
        for name in names {
            match self.ask(&name, RecordType::SRV).await {
                Ok(reply) if reply.records.is_empty() => ttl = shorter(ttl, reply.ttl),
                Ok(reply) => {
                    let srv = |record: &Record| match &record.data {
                        RData::SRV(srv) => Some(srv.clone()),
                        _ => None,
                    };
                    let records = reply.records.iter().filter_map(srv).collect();
                    let ttl = reply.ttl.unwrap_or(NEGATIVE_TTL);
                    return Ok(Services { records, additional: reply.additional, ttl });
                }
                Err(error) if ends_search(&error) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                let ttl = ttl.unwrap_or(NEGATIVE_TTL);
                Ok(Services { records: Vec::new(), additional: Vec::new(), ttl })
            }
        }
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, Error> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let answer = self.resolver.lookup(name.clone(), kind).await;
        let what = || format!("{name} {kind}");
        let lookup = match answer {
            Ok(lookup) => lookup,
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let is_there = none.soa.is_some() || none.ns.is_none();
                return match none.response_code {
                    ResponseCode::NXDomain => Ok(()),
                    ResponseCode::NoError if is_there => Ok(()),
                    ResponseCode::NoError => {
                        let detail =
                            format!("{}: the server only names others; it must recurse", what());
                        Err(Error::new(Reason::Refused, detail))
                    }
                    code => Err(Error::new(Reason::Failed, format!("{}: {code}", what()))),
                }
                .map(|()| {
                    let ttl = none.negative_ttl.map(seconds);
                    Reply { ttl, ..Reply::default() }
                });
            }
            Err(error) => return Err(why(&what(), &error)),
        };
        // Of aliases on the way too.
        let ttl = lookup.answers().iter().map(|record| record.ttl).min().map(seconds);
        let is_asked = |record: &&Record| record.record_type() == kind;
        Ok(Reply {
            records: lookup.answers().iter().filter(is_asked).cloned().collect(),
            additional: lookup.additionals().to_vec(),
            ttl,
        })
    }
}

fn only(server: SocketAddr) -> ResolverConfig {
    let with_port = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        connection
    };
    let connections = vec![with_port(ProtocolConfig::Udp), with_port(ProtocolConfig::Tcp)];
    let server = NameServerConfig::new(server.ip(), true, connections);
    ResolverConfig::from_name_servers(vec![server])
}

fn candidates(name: &Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let within = |domain: &Name| {
        let mut within = name.clone().append_domain(domain).ok()?;
        within.set_fqdn(true);
        Some(within)
    };
    let mut names: Vec<Name> = search.iter().filter_map(within).collect();
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let at = if dots >= ndots { 0 } else { names.len() };
    names.insert(at, whole);
    names.dedup();
    names
}

/// Whether other names are not to be tried: of a server that cannot be asked it is not known whether the name is
/// there, and the next one may be another's. One that fails for a name is passed over, as glibc does it.
fn ends_search(error: &Error) -> bool {
    matches!(error.reason, Reason::Timeout | Reason::Unreachable)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// Why there is no answer.
fn why(what: &str, error: &NetError) -> Error {
    let (reason, help) = match error {
        NetError::Timeout => (Reason::Timeout, "; check the server and the way there"),
        NetError::Io(_) | NetError::NoConnections => {
            (Reason::Unreachable, "; check the server and the way there")
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            (Reason::Refused, "; the server does not serve us")
        }
        NetError::Dns(_) | NetError::Busy => (Reason::Failed, ""),
        _ => (Reason::Garbage, ""),
    };
    Error::new(reason, format!("{what}: {error}{help}"))
}

/// The addresses that hosts had, by family: while one family cannot be asked for, what it had stays.
#[derive(Debug, Default)]
pub struct Hosts(HashMap<Name, [Option<Vec<IpAddr>>; 2]>);

impl Hosts {
    /// The addresses of the first of `names` that has any, and how long they count.
    ///
    /// # Errors
    /// That is not known of one of them, and no other has any.
    pub async fn addresses(
        &mut self,
        asking: &Asking,
        names: Vec<Name>,
    ) -> Result<(Vec<IpAddr>, Duration), Error> {
        let mut failed = None;
        let mut ttl = None;
        for name in names {
            let asked = of_host(asking, &name).await;
            match self.conclude(&name, asked) {
                Ok((addresses, of_one)) if addresses.is_empty() => ttl = shorter(ttl, of_one),
                Ok((addresses, ttl)) => return Ok((addresses, ttl.unwrap_or(NEGATIVE_TTL))),
                Err(error) if ends_search(&error) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok((Vec::new(), ttl.unwrap_or(NEGATIVE_TTL))),
        }
    }

    /// The addresses of the host of each target, and how long all of it counts. What came with the answer is not
    /// asked for.
    ///
    /// # Errors
    /// One of them cannot be told: all of it is as it was then.
    pub async fn of_targets(
        &mut self,
        asking: &Rc<Asking>,
        targets: &[Target],
        services: &Services,
    ) -> Result<(HashMap<Name, Vec<IpAddr>>, Duration), Error> {
        let mut ttl = services.ttl;
        let mut found = HashMap::<Name, Vec<IpAddr>>::new();
        let is_target = |host: &Name| targets.iter().any(|target| target.host == *host);
        for record in services.additional.iter().filter(|record| is_target(&record.name)) {
            if let Some(ip) = record.data.ip_addr() {
                ttl = ttl.min(seconds(record.ttl));
                found.entry(record.name.to_lowercase()).or_default().push(ip);
            }
        }
        let mut asked = JoinSet::new();
        for Target { host, .. } in targets {
            if !found.contains_key(host) {
                found.insert(host.clone(), Vec::new());
                let (asking, host) = (asking.clone(), host.clone());
                asked.spawn_local(async move { (of_host(&asking, &host).await, host) });
            }
        }
        while let Some(done) = asked.join_next().await {
            let (both, host) = done.map_err(|error| {
                Error::new(Reason::Failed, format!("a question came to no end: {error}"))
            })?;
            let (addresses, of_one) = self.conclude(&host, both)?;
            ttl = of_one.map_or(ttl, |of_one| ttl.min(of_one));
            found.insert(host, addresses);
        }
        self.0.retain(|host, _| found.contains_key(host));
        Ok((found, ttl))
    }

    /// What follows of the answers for both families of a host.
    fn conclude(
        &mut self,
        host: &Name,
        asked: [Result<Reply, Error>; 2],
    ) -> Result<(Vec<IpAddr>, Option<Duration>), Error> {
        let before = self.0.entry(host.clone()).or_default();
        let mut ttl = None;
        let mut failed = None;
        let mut addresses = Vec::new();
        let is_told = asked.iter().any(Result::is_ok);
        for (family, asked) in before.iter_mut().zip(asked) {
            match asked {
                Ok(reply) => {
                    ttl = shorter(ttl, reply.ttl);
                    let ip = |record: &Record| record.data.ip_addr();
                    let of_family: Vec<_> = reply.records.iter().filter_map(ip).collect();
                    addresses.extend_from_slice(&of_family);
                    *family = Some(of_family);
                }
                Err(error) => {
                    addresses.extend(family.iter().flatten());
                    failed = Some(error);
                }
            }
        }
        match failed {
            // An error of one family is not an empty answer of the other.
            Some(error) if !is_told || addresses.is_empty() => Err(error),
            Some(_) => Ok((addresses, Some(NEGATIVE_TTL))),
            None => Ok((addresses, ttl)),
        }
    }
}

/// Both families of a host.
async fn of_host(asking: &Asking, host: &Name) -> [Result<Reply, Error>; 2] {
    let (four, six) =
        tokio::join!(asking.ask(host, RecordType::A), asking.ask(host, RecordType::AAAA));
    [four, six]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn names_are_whole_or_looked_for_in_domains() {
        let search = [name("shop.svc.test."), name("svc.test.")];
        let tried = |text: &str, ndots| {
            let names = candidates(&name(text), &search, ndots);
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(tried("users.", 5), ["users."]);
        assert_eq!(tried("users", 1), ["users.shop.svc.test.", "users.svc.test.", "users."]);
        assert_eq!(tried("a.b", 1), ["a.b.", "a.b.shop.svc.test.", "a.b.svc.test."]);
        assert_eq!(tried("a.b", 5), ["a.b.shop.svc.test.", "a.b.svc.test.", "a.b."]);
        let none = candidates(&name("a.b"), &[], 0);
        assert_eq!(none, [name("a.b.")]);
    }

    fn reply(addresses: &[&str], ttl: u32) -> Result<Reply, Error> {
        let record = |text: &&str| {
            let data = RData::from(text.parse::<IpAddr>().unwrap());
            Record::from_rdata(name("users.test."), ttl, data)
        };
        let records = addresses.iter().map(record).collect();
        Ok(Reply { records, additional: Vec::new(), ttl: Some(seconds(ttl)) })
    }

    fn error() -> Result<Reply, Error> {
        Err(Error::new(Reason::Failed, "SERVFAIL"))
    }

    #[test]
    fn a_family_that_cannot_be_told_keeps_what_it_had() {
        let mut hosts = Hosts::default();
        let host = name("users.test.");
        let mut told = |asked| {
            let told = hosts.conclude(&host, asked);
            told.map(|(addresses, ttl)| {
                (addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), ttl)
            })
        };
        let negative = Some(NEGATIVE_TTL);
        assert!(told([error(), error()]).is_err());
        assert!(told([error(), reply(&[], 9)]).is_err(), "an error is not empty");
        // A server that cannot speak of IPv6 at all is no reason to call nobody.
        assert_eq!(told([reply(&["10.0.0.1"], 9), error()]), Ok(("10.0.0.1".into(), negative)));
        let both = [reply(&["10.0.0.1"], 9), reply(&["fd00::1"], 7)];
        assert_eq!(told(both), Ok(("10.0.0.1 fd00::1".into(), Some(seconds(7)))));
        let one = [reply(&["10.0.0.2"], 9), error()];
        assert_eq!(told(one), Ok(("10.0.0.2 fd00::1".into(), negative)));
        assert!(told([error(), error()]).is_err(), "what it had is no answer");
        assert_eq!(told([reply(&[], 9), error()]), Ok(("fd00::1".into(), negative)));
        assert!(told([reply(&[], 3), reply(&[], 2)]).is_ok_and(|(told, _)| told.is_empty()));
        assert!(told([error(), error()]).is_err());
    }
}
