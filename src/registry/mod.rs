//! Registries: who knows where services run, and where ours is announced. They live on control; workers see
//! only the snapshots that are made of what they tell.
//!
//! A registry is one file that implements [`Registry`]. It tells what it learns by [`Tell`], which waits before
//! something that failed is tried again; `register.rs` decides when our own app is announced.

pub mod consul;
pub mod demand;
pub mod directory;
mod disk;
pub mod dns;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod eureka;
pub mod http;
mod known;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod local;
mod place;
pub mod probe;
pub mod register;
mod secret;
mod servers;
pub mod settings;
pub mod store;
mod unusable;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::config::units::Address;
use crate::endpoint::Instance;
pub use known::{Known, Restored, State};
use settings::Kind;
use unusable::Unusable;

/// What a registry does, on the thread of control.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Somebody who knows where services run.
pub trait Registry {
    /// `consul`, or `consul 10.0.0.1:8500` where there could be another one: for logs and metrics.
    fn name(&self) -> &str;

    /// Follows `service` and tells of each change, of failures too, until it is dropped. It tells all instances,
    /// each with its own address; none is a valid answer. Those that must not be called now (critical, in
    /// maintenance, without a share) have a weight of 0: what is told to be ill is not taken for lost.
    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()>;

    /// How often an announcement has to be renewed; none where nobody is announced.
    fn renewal(&self) -> Option<Duration> {
        None
    }

    /// Announces our own app, or announces it anew: what was there of the same id is replaced.
    fn register<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<(), Error>> {
        let (_, _) = (ours, health);
        Box::pin(async { Err(Error::new(Reason::Refused, "nobody is announced there")) })
    }

    /// Says that our app is still there, and how it is.
    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        let (_, _) = (ours, health);
        Box::pin(async { Ok(Renewal::Forgotten) })
    }

    /// Whether what stands there for `one` is what stands there for `other`: to announce the other replaces it.
    fn is_one(&self, one: &Announcement, other: &Announcement) -> bool {
        (&one.service, &one.id) == (&other.service, &other.id)
    }

    /// Takes the announcement back. It is not there afterwards, also if it was not there before.
    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        let _ = ours;
        Box::pin(async { Ok(()) })
    }
}

/// A registry as the configuration has it. One that cannot be used says why, until it can.
pub fn make(settings: &settings::Settings) -> Rc<dyn Registry> {
    let kind = settings.kind.clone();
    try_make(&kind).unwrap_or_else(|error| {
        let again = kind.clone();
        Rc::new(Unusable::new(&kind, Box::new(move || try_make(&again)), error))
    })
}

fn try_make(kind: &Kind) -> Result<Rc<dyn Registry>, Error> {
    match kind {
        Kind::Directory(settings) => Ok(Rc::new(directory::Directory::new(settings))),
        Kind::Consul(settings) => consul::Consul::new(settings).map(|it| Rc::new(it) as _),
        Kind::Eureka(settings) => eureka::Eureka::new(settings).map(|it| Rc::new(it) as _),
        #[cfg(feature = "etcd")]
        Kind::Etcd(settings) => etcd::Etcd::new(settings).map(|it| Rc::new(it) as _),
        #[cfg(not(feature = "etcd"))]
        Kind::Etcd(_) => {
            let detail = "this pilotfish was built without etcd; build it with `--features etcd`";
            Err(Error::new(Reason::Refused, detail))
        }
        Kind::Dns(settings) => Ok(Rc::new(dns::Dns::new(settings))),
        #[cfg(feature = "kubernetes")]
        Kind::Kubernetes(settings) => Ok(Rc::new(kubernetes::Kubernetes::new(settings))),
        #[cfg(not(feature = "kubernetes"))]
        Kind::Kubernetes(_) => {
            let detail = "this pilotfish was built without kubernetes; build it with `--features kubernetes`";
            Err(Error::new(Reason::Refused, detail))
        }
    }
}

/// Our own app, as others are to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub service: Arc<str>,
    /// What tells it from other instances; the same when it starts again.
    pub id: String,
    /// Where others reach us. None: a registry that knows the address of its own host takes that; others take
    /// [`Announcement::address_for`].
    pub address: Option<Box<str>>,
    /// The sidecar's inbound.
    pub port: u16,
    /// Where `/ready` and `/metrics` are, if anywhere.
    pub metrics_port: Option<u16>,
    pub version: Option<String>,
    pub zone: Option<String>,
    pub weight: u32,
    pub tags: Vec<String>,
    pub metadata: BTreeMap<String, String>,
}

impl Announcement {
    /// One that says nothing but what it has to.
    #[cfg(test)]
    pub fn plain(service: &str, id: &str) -> Self {
        Self {
            service: service.into(),
            id: id.to_owned(),
            address: None,
            port: 15006,
            metrics_port: None,
            version: None,
            zone: None,
            weight: 1,
            tags: vec![],
            metadata: BTreeMap::new(),
        }
    }

    /// What others may choose it by: the metadata, and `tag.<tag>` for each tag.
    pub fn labels(&self) -> impl Iterator<Item = (String, String)> {
        let tags = self.tags.iter().map(|tag| (format!("tag.{tag}"), "true".to_owned()));
        self.metadata.clone().into_iter().chain(tags)
    }

    /// The address that was given, or that of ours by which those who know `registry` reach us.
    ///
    /// # Errors
    /// None was given, and it cannot be found out.
    pub async fn address_for(&self, registry: &Address) -> Result<Box<str>, Error> {
        match &self.address {
            Some(given) => Ok(given.clone()),
            None => Ok(local::find(registry).await?.ours()?.to_string().into()),
        }
    }
}

/// How our own app is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Passing,
    /// It is there and must not be called.
    Critical,
}

/// What a registry says to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Kept,
    /// It does not know us (any more): we are to register again.
    Forgotten,
}

/// Why a registry did not tell what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub reason: Reason,
    /// What happened, and what to do where that is known.
    pub detail: String,
}

/// The label of `pilotfish_registry_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// It answered that it cannot.
    Failed,
    /// It answered that we may not, or that what we ask for is not there.
    Refused,
    /// It answered what makes no sense.
    Garbage,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Garbage => "garbage",
        }
    }
}

impl Error {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {}

/// What a registry tells of one service.
#[derive(Debug)]
pub struct News {
    /// Which list of registries it is.
    pub generation: u64,
    /// Which of the registries tells, by its place in the configuration.
    pub registry: usize,
    pub service: Arc<str>,
    /// All instances that there are, or why that is not known.
    pub told: Result<Vec<Instance>, Error>,
}

/// How a registry tells what it learns of one service.
pub struct Tell {
    generation: u64,
    registry: usize,
    service: Arc<str>,
    to: mpsc::UnboundedSender<News>,
    backoff: RefCell<Backoff>,
}

impl Tell {
    const FIRST_WAIT: Duration = Duration::from_millis(250);
    const LONGEST_WAIT: Duration = Duration::from_secs(15);

    /// In the name of the registry at this place of the list of this generation.
    pub fn new(
        generation: u64,
        registry: usize,
        service: Arc<str>,
        to: mpsc::UnboundedSender<News>,
    ) -> Self {
        let backoff = RefCell::new(Backoff::new(Self::FIRST_WAIT, Self::LONGEST_WAIT));
        Self { generation, registry, service, to, backoff }
    }

    /// All instances that there are now. The same as the last time is to be told too: it says that the registry
    /// lives.
    pub fn instances(&self, instances: Vec<Instance>) {
        self.backoff.borrow_mut().reset();
        self.send(Ok(instances));
    }

    /// Tells why the instances are not known, and waits for as long as is good before the next try.
    pub async fn failed(&self, error: Error) {
        let wait = self.backoff.borrow_mut().next(&mut fastrand::Rng::new());
        self.send(Err(error));
        sleep(wait).await;
    }

    /// Tells what a task has heard that asks for several, and waits by itself where that fails: what it hears `next` is
    /// not waited out.
    pub async fn heard<T>(
        &self,
        told: Result<Vec<Instance>, Error>,
        next: &mut watch::Receiver<T>,
    ) {
        match told {
            Ok(instances) => self.instances(instances),
            Err(error) => tokio::select! {
                biased;
                () = self.failed(error) => {}
                _ = next.changed() => next.mark_changed(),
            },
        }
    }

    fn send(&self, told: Result<Vec<Instance>, Error>) {
        // Nobody listens any more when the proxy ends.
        let (generation, registry) = (self.generation, self.registry);
        let _ = self.to.send(News { generation, registry, service: self.service.clone(), told });
    }
}
