//! Services of one namespace that are followed together: one list, then one watch, by a selector of their names.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_core::Stream;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Kubernetes;
use super::asking::{self, WITHIN};
use super::slices::{self, SERVICE, Slice};
use crate::backoff::Backoff;
use crate::clock;
use crate::endpoint::Instance;
use crate::registry::{Error, Reason};

/// Services of one group: their names stand in each question.
const MOST: usize = 32;
/// How long the API server keeps a watch open, a fifth less by chance.
const WATCH: Duration = Duration::from_secs(240);
/// The API server says each minute how far it is, also where nothing happens. One that says nothing for so long may
/// have gone without a word.
const QUIET: Duration = Duration::from_secs(90);
/// What ends sooner did not go well.
const SHORT: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Slices of one answer.
const PAGE: u32 = 500;
/// What has been asked for is not known any more (`Expired`).
const GONE: u16 = 410;

/// What is told of one service.
pub type Told = Result<Rc<[Instance]>, Error>;

#[derive(Default)]
pub struct Group {
    /// None: our own.
    namespace: Option<Box<str>>,
    followed: RefCell<BTreeMap<Box<str>, Followed>>,
    /// Counts services that have joined, and tells of it.
    joined: Cell<u64>,
    changed: Notify,
    failing: RefCell<Option<Error>>,
    task: RefCell<Option<AbortHandle>>,
}

struct Followed {
    by: usize,
    told: watch::Sender<Option<Told>>,
}

/// A service is followed for as long as this lives.
pub struct Member {
    of: Rc<Kubernetes>,
    group: Rc<Group>,
    service: Box<str>,
}

/// Follows a service in a group with room for it, or in a new one.
pub fn join(
    of: &Rc<Kubernetes>,
    service: &str,
    namespace: Option<&str>,
) -> (watch::Receiver<Option<Told>>, Member) {
    let mut groups = of.groups.borrow_mut();
    let takes = |group: &&Rc<Group>| {
        let followed = group.followed.borrow();
        group.namespace.as_deref() == namespace
            && (followed.len() < MOST || followed.contains_key(service))
    };
    let group = groups.iter().find(takes).cloned().unwrap_or_else(|| {
        let group = Rc::new(Group { namespace: namespace.map(Into::into), ..Group::default() });
        let task = tokio::task::spawn_local(group.clone().run(of.clone()));
        group.task.replace(Some(task.abort_handle()));
        groups.push(group.clone());
        group
    });
    let mut followed = group.followed.borrow_mut();
    let one = followed.entry(service.into()).or_insert_with(|| {
        group.joined.set(group.joined.get() + 1);
        group.changed.notify_one();
        let failing = group.failing.borrow().clone();
        Followed { by: 0, told: watch::Sender::new(failing.map(Err)) }
    });
    one.by += 1;
    let mut told = one.told.subscribe();
    told.mark_changed();
    drop(followed);
    (told, Member { of: of.clone(), group, service: service.into() })
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut followed = self.group.followed.borrow_mut();
        let Some(one) = followed.get_mut(&self.service) else { return };
        one.by -= 1;
        if one.by > 0 {
            return;
        }
        // Who is left is followed on by the same watch: what it tells of this one is passed over.
        followed.remove(&self.service);
        if followed.is_empty() {
            self.of.groups.borrow_mut().retain(|group| !Rc::ptr_eq(group, &self.group));
            if let Some(task) = self.group.task.take() {
                task.abort();
            }
        }
    }
}

/// Whom a list and its watch are of.
struct Asked {
    joined: u64,
    selector: String,
}

/// Why a watch is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Others are to be followed too.
    Joined,
    /// What happened since is not known any more: all is to be read again.
    Expired,
}

/// All slices of a group, and of which time they are.
#[derive(Default)]
struct Read {
    slices: BTreeMap<String, Slice>,
    version: String,
}

impl Group {
    async fn run(self: Rc<Self>, of: Rc<Kubernetes>) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let began = clock::now();
            let followed = self.follow(&of).await;
            if clock::now() - began >= SHORT {
                backoff.reset();
            }
            match followed {
                Ok(Over::Joined) => continue,
                Ok(Over::Expired) => {}
                Err(error) => {
                    of.asking.renew();
                    self.failed(error);
                }
            }
            sleep(backoff.next(&mut fastrand::Rng::new())).await;
        }
    }

    fn failed(&self, error: Error) {
        for followed in self.followed.borrow().values() {
            followed.told.send_replace(Some(Err(error.clone())));
        }
        self.failing.replace(Some(error));
    }

    /// Lists, tells, and follows.
    async fn follow(&self, of: &Kubernetes) -> Result<Over, Error> {
        let api = of.asking.api(self.namespace.as_deref()).await?;
        let asked = Asked { joined: self.joined.get(), selector: self.selector() };
        let mut read = list(&api, &asked.selector).await?;
        self.failing.take();
        self.tell_all(&read, of);
        loop {
            let began = clock::now();
            if let Some(over) = self.follow_once(&api, &asked, &mut read, of).await? {
                return Ok(over);
            }
            // One that ends as soon as it has begun is not asked for all the time.
            if clock::now() - began < SHORT {
                sleep(FIRST_WAIT).await;
            }
        }
    }

    fn selector(&self) -> String {
        let followed = self.followed.borrow();
        let names: Vec<&str> = followed.keys().map(|name| &**name).collect();
        format!("{SERVICE} in ({})", names.join(","))
    }

    /// One watch, to its end. None: the next one goes on where it ended.
    async fn follow_once(
        &self,
        api: &Api<EndpointSlice>,
        asked: &Asked,
        read: &mut Read,
        of: &Kubernetes,
    ) -> Result<Option<Over>, Error> {
        // Not all sidecars at once.
        let keep = WATCH.mul_f64(0.8 + 0.2 * fastrand::f64()).as_secs();
        let params = WatchParams::default().labels(&asked.selector).timeout(keep as u32);
        let opened = timeout(WITHIN, api.watch(&params, &read.version)).await;
        let stream = match opened.map_err(|_| asking::late("a watch"))? {
            Ok(stream) => stream,
            Err(kube::Error::Api(status)) if status.code == GONE => return Ok(Some(Over::Expired)),
            Err(error) => return Err(asking::why(&error, self.namespace.as_deref())),
        };
        // It lives, and goes on from where we are.
        self.tell_all(read, of);
        let mut stream = pin!(stream);
        let (began, mut says_nothing) = (clock::now(), true);
        loop {
            let event = poll_fn(|context| stream.as_mut().poll_next(context));
            let event = tokio::select! {
                event = timeout(QUIET, event) => event,
                // Of those that had joined before we asked too.
                () = self.changed.notified() => match self.joined.get() == asked.joined {
                    true => continue,
                    false => return Ok(Some(Over::Joined)),
                },
            };
            let Ok(event) = event else { return Ok(None) };
            let changed = match event {
                None if says_nothing && clock::now() - began < SHORT => {
                    return Err(Error::new(Reason::Unreachable, "the watch broke off"));
                }
                None => return Ok(None),
                Some(Err(error)) => return Err(asking::why(&error, self.namespace.as_deref())),
                Some(Ok(WatchEvent::Error(status))) if status.code == GONE => {
                    return Ok(Some(Over::Expired));
                }
                Some(Ok(WatchEvent::Error(status))) => {
                    return Err(asking::why(&kube::Error::Api(status), self.namespace.as_deref()));
                }
                Some(Ok(event)) => read.apply(event),
            };
            says_nothing = false;
            if changed.is_empty() {
                self.tell_all(read, of);
            }
            changed.iter().for_each(|service| self.tell(service, read, of));
        }
    }

    /// Also what has not changed: the API server lives.
    fn tell_all(&self, read: &Read, of: &Kubernetes) {
        for (service, followed) in &*self.followed.borrow() {
            followed.told.send_replace(Some(told(service, read, of)));
        }
    }

    fn tell(&self, service: &str, read: &Read, of: &Kubernetes) {
        if let Some(followed) = self.followed.borrow().get(service) {
            followed.told.send_replace(Some(told(service, read, of)));
        }
    }
}

fn told(service: &str, read: &Read, of: &Kubernetes) -> Told {
    let its: Vec<_> = read.slices.values().filter(|slice| &*slice.service == service).collect();
    slices::instances(&its, &of.wish).map(Into::into)
}

impl Read {
    /// The services whose slices have changed; none where the API server only says how far it is.
    fn apply(&mut self, event: WatchEvent<EndpointSlice>) -> Vec<Box<str>> {
        let (slice, is_there) = match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => (slice, true),
            WatchEvent::Deleted(slice) => (slice, false),
            WatchEvent::Bookmark(bookmark) => {
                self.version = bookmark.metadata.resource_version;
                return Vec::new();
            }
            WatchEvent::Error(_) => return Vec::new(),
        };
        self.version = slice.resource_version().unwrap_or_default();
        let name = slice.name_any();
        // It may have been of another service.
        let before = self.slices.remove(&name);
        let now = if is_there { Slice::of(slice) } else { None };
        let changed = before.iter().chain(&now).map(|slice| slice.service.clone()).collect();
        self.slices.extend(now.map(|slice| (name, slice)));
        changed
    }
}

/// All slices that `selector` takes, page by page.
async fn list(api: &Api<EndpointSlice>, selector: &str) -> Result<Read, Error> {
    let (mut read, mut began_anew) = (Read::default(), false);
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = timeout(WITHIN, api.list(&params)).await.map_err(|_| asking::late("a list"))?;
        let page = match page {
            Ok(page) => page,
            // The pages before are too old by now.
            Err(kube::Error::Api(status))
                if status.code == GONE && params.continue_token.is_some() && !began_anew =>
            {
                read = Read::default();
                params.continue_token = None;
                began_anew = true;
                continue;
            }
            Err(error) => return Err(asking::why(&error, None)),
        };
        read.version = page.metadata.resource_version.unwrap_or_default();
        for slice in page.items {
            let name = slice.name_any();
            read.slices.extend(Slice::of(slice).map(|slice| (name, slice)));
        }
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(read);
        }
    }
}
