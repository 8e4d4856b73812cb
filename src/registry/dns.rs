//! DNS: names that lead to the instances of a service, by addresses (A and AAAA) that all have the same port, or by
//! SRV records (RFC 2782). An answer is asked for again when its TTL is over. Nobody is announced there.
//!
//! That a name is not there is an answer; a server that fails, refuses, or does not answer is none.

mod answer;
mod asking;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::settings::{self, DnsRecords};
use super::{Error, Reason, Registry, Task, Tell};
use crate::clock::{self, Instant};
use crate::endpoint::{Address, Instance};
use answer::Target;
use asking::{Asking, Hosts};

/// Who does not answer is looked for anew no sooner than after this.
const RENEW: Duration = Duration::from_secs(5);
/// How long all questions about one service may take together.
const WITHIN: Duration = Duration::from_secs(15);

pub struct Dns {
    name: String,
    settings: settings::Dns,
    /// With when it was made. It is made anew where servers do not answer: `/etc/resolv.conf` may have changed.
    asking: RefCell<Option<(Rc<Asking>, Instant)>>,
    turns: Rc<Semaphore>,
}

/// What an answer says, and for how long.
struct Told {
    instances: Vec<Instance>,
    ttl: Duration,
}

impl Dns {
    pub fn new(settings: &settings::Dns) -> Self {
        let name = format!("dns {}", settings.name);
        let turns = Rc::new(Semaphore::new(asking::AT_ONCE));
        Self { name, settings: settings.clone(), asking: RefCell::default(), turns }
    }

    fn asking(&self) -> Result<Rc<Asking>, Error> {
        let mut asking = self.asking.borrow_mut();
        if let Some((asking, _)) = &*asking {
            return Ok(asking.clone());
        }
        let made = Rc::new(Asking::of(self.settings.server, self.turns.clone())?);
        *asking = Some((made.clone(), clock::now()));
        Ok(made)
    }

    fn failed(&self, error: &Error) {
        let is_of_servers = matches!(error.reason, Reason::Timeout | Reason::Unreachable);
        let mut asking = self.asking.borrow_mut();
        let is_old = |(_, made): &(Rc<Asking>, Instant)| clock::now() >= *made + RENEW;
        if is_of_servers && asking.as_ref().is_some_and(is_old) {
            *asking = None;
        }
    }

    async fn look(&self, name: &Name, hosts: &mut Hosts) -> Result<Told, Error> {
        let asking = self.asking()?;
        match self.settings.records {
            DnsRecords::Address(port) => {
                let (addresses, ttl) = hosts.addresses(&asking, asking.candidates(name)).await?;
                let instance = |ip| Instance::from(Address::Socket((ip, port).into()));
                Ok(Told { instances: addresses.into_iter().map(instance).collect(), ttl })
            }
            DnsRecords::Srv => {
                let services = asking.services(asking.candidates(name)).await?;
                let targets = answer::targets(&services.records);
                let (found, ttl) = hosts.of_targets(&asking, &targets, &services).await?;
                Ok(Told { instances: instances(&targets, &found), ttl })
            }
        }
    }

    /// How long what was told counts.
    fn rest(&self, ttl: Duration, random: &mut fastrand::Rng) -> Duration {
        let ttl = ttl.clamp(self.settings.min_ttl, self.settings.max_ttl);
        // Those who share a resolver would ask in the same moment, in which what it keeps is over.
        ttl.mul_f64(1.0 + 0.1 * random.f64())
    }
}

/// The name of a service by the `pattern` that has [`settings::SERVICE`] in it.
///
/// # Errors
/// It is too long, or has an empty label.
pub fn name(pattern: &str, service: &str) -> Result<Name, Error> {
    let name = pattern.replace(settings::SERVICE, service);
    let is_none = |_| Error::new(Reason::Refused, format!("`{name}` is no name of DNS"));
    Name::from_ascii(&name).map_err(is_none)
}

/// An instance for each address of each target.
fn instances(targets: &[Target], found: &HashMap<Name, Vec<IpAddr>>) -> Vec<Instance> {
    let of_one = |Target { host, port, weight }: &Target| {
        let (port, weight) = (*port, *weight);
        let instance = move |ip: &IpAddr| {
            let address = Address::Socket((*ip, port).into());
            Instance { weight, ..Instance::from(address) }
        };
        found.get(host).into_iter().flatten().map(instance)
    };
    targets.iter().flat_map(of_one).collect()
}

impl Registry for Dns {
    fn name(&self) -> &str {
        &self.name
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let mut random = fastrand::Rng::new();
            let mut hosts = Hosts::default();
            loop {
                let looked = async {
                    let name = name(&self.settings.name, &service)?;
                    let late = |_| {
                        let detail = format!("{name}: no answer within {WITHIN:?}");
                        Error::new(Reason::Timeout, detail)
                    };
                    timeout(WITHIN, self.look(&name, &mut hosts)).await.map_err(late)?
                };
                match looked.await {
                    Ok(Told { instances, ttl }) => {
                        tell.instances(instances);
                        sleep(self.rest(ttl, &mut random)).await;
                    }
                    Err(error) => {
                        self.failed(&error);
                        tell.failed(error).await;
                    }
                }
            }
        })
    }
}
