//! Eureka, by its REST interface. What it has is read once for all services that are followed: as a whole, then
//! by what has changed, and as a whole again where a change was missed.

mod announce;
mod answer;
mod mirror;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::http::{Ask, escaped, json, refused};
use super::secret::Secret;
use super::servers::Servers;
use super::{Announcement, Error, Health, Reason, Registry, Renewal, Task, Tell, local, settings};
use crate::backoff::Backoff;
use crate::clock::{self, Instant};
use answer::{Answer, Applications, One};
use mirror::Mirror;

/// Eureka knows the changes of the last three minutes, and answers may be a minute old.
const CHANGES_REACH: Duration = Duration::from_secs(90);
/// All is read again after this, whatever the changes say: their check counts instances, and one that went as
/// another came would not be missed.
const WHOLE_AFTER: Duration = Duration::from_secs(600);
/// More new services than this at once are read by reading all.
const ONE_BY_ONE: usize = 8;
/// How long one server may take, but for the answer with all.
const WITHIN: Duration = Duration::from_secs(5);
/// How long that may take.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

pub struct Eureka {
    name: String,
    settings: settings::Eureka,
    servers: Servers,
    password: Option<Secret>,
    mirror: RefCell<Mirror>,
    /// How the last poll ended; none before the first.
    polled: watch::Sender<Option<Result<(), Error>>>,
    /// A service is followed that was not read yet.
    wanted: Notify,
    /// Runs while something is followed.
    poll: RefCell<Option<AbortHandle>>,
    told: RefCell<Option<Told>>,
}

/// What a server was told of us last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    /// Under which name.
    path: String,
    health: Health,
    server: usize,
}

impl Eureka {
    /// # Errors
    /// The certificates of `ca_file` cannot be used.
    pub fn new(settings: &settings::Eureka) -> Result<Self, Error> {
        let servers = Servers::new(&settings.addresses, settings.ca_file.as_deref())?;
        Ok(Self {
            name: format!("eureka {}", servers.client().base().address),
            settings: settings.clone(),
            servers,
            password: settings.password_file.as_deref().map(|path| Secret::new("password", path)),
            mirror: RefCell::default(),
            polled: watch::Sender::new(None),
            wanted: Notify::new(),
            poll: RefCell::default(),
            told: RefCell::default(),
        })
    }

    /// Asks and waits, until it is dropped.
    async fn poll(self: Rc<Self>) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut random = fastrand::Rng::new();
        let mut read = Read::default();
        loop {
            let outcome = self.read(&mut read).await;
            let well = outcome.is_ok();
            let wait = if well {
                backoff.reset();
                // So that those that were sent away together do not stay together.
                self.settings.poll.mul_f64(0.9 + 0.2 * random.f64())
            } else {
                // Changes may be what cannot be read.
                read.all = None;
                backoff.next(&mut random)
            };
            self.polled.send_replace(Some(outcome));
            tokio::select! {
                () = sleep(wait) => {}
                // Not sooner than is good after a failure.
                () = self.wanted.notified(), if well => {}
            }
        }
    }

    async fn read(&self, read: &mut Read) -> Result<(), Error> {
        let unread = self.mirror.borrow().unread();
        let all = read.wants_all(clock::now()) || unread.len() > ONE_BY_ONE;
        // Another server may not have had the changes that this one tells of.
        if all || !self.read_changes().await? || self.servers.current() != read.server {
            self.read_all().await?;
            read.all = Some(clock::now());
        } else {
            for app in unread {
                self.read_one(&app).await?;
            }
        }
        read.any = Some(clock::now());
        read.server = self.servers.current();
        Ok(())
    }

    /// False: all has to be read.
    async fn read_changes(&self) -> Result<bool, Error> {
        let answer = self.ask(Ask::get("/apps/delta").within(WITHIN)).await?;
        // Some servers do not tell of changes.
        if matches!(answer.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
            return Ok(false);
        }
        let delta: Answer = self.parsed(&answer)?;
        Ok(self.mirror.borrow_mut().apply(delta.applications))
    }

    async fn read_all(&self) -> Result<(), Error> {
        let answer = self.ask(Ask::get("/apps").within(WHOLE_WITHIN)).await?;
        let all: Answer = self.parsed(&answer)?;
        let Applications { hash, application } = all.applications;
        // One that has none says so twice.
        if application.0.is_empty() && hash.as_ref().is_none_or(|hash| !hash.0.is_empty()) {
            let detail = format!(
                "{}: the answer makes no sense: neither applications nor that there are none",
                self.base()
            );
            return Err(Error::new(Reason::Garbage, detail));
        }
        self.mirror.borrow_mut().replace(application.0);
        Ok(())
    }

    async fn read_one(&self, app: &str) -> Result<(), Error> {
        let path = format!("/apps/{}", escaped(&app.to_uppercase()));
        let answer = self.ask(Ask::get(&path).within(WITHIN)).await?;
        let application = match answer.status() {
            StatusCode::NOT_FOUND => None,
            _ => Some(self.parsed::<One>(&answer)?.application),
        };
        self.mirror.borrow_mut().read(app, application);
        Ok(())
    }

    async fn ask(&self, mut ask: Ask<'_>) -> Result<Response<Bytes>, Error> {
        if let (Some(user), Some(file)) = (&self.settings.username, &self.password) {
            let password = file.read().await?;
            let basic = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
            // Base64 is always a value.
            if let Ok(mut basic) = HeaderValue::from_str(&basic) {
                basic.set_sensitive(true);
                ask.headers.insert(AUTHORIZATION, basic);
            }
        }
        let answer = self.servers.ask(ask).await?;
        match answer.status() {
            StatusCode::UNAUTHORIZED => Err(self.unauthorized()),
            _ => Ok(answer),
        }
    }

    fn unauthorized(&self) -> Error {
        let help = match &self.password {
            Some(file) => format!(
                "it does not take the `username` with the password of {}; correct them",
                file.path().display()
            ),
            None => "it wants `username` and `password_file`".to_owned(),
        };
        Error::new(Reason::Refused, format!("{}: 401 Unauthorized: {help}", self.base()))
    }

    fn parsed<T: DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<T, Error> {
        let base = self.base();
        if answer.status() == StatusCode::NOT_FOUND {
            let detail =
                format!("{base}: 404 Not Found{}", announce::hint(self.servers.client().base()));
            return Err(Error::new(Reason::Refused, detail));
        }
        if !answer.status().is_success() {
            return Err(refused(&base, answer));
        }
        if is_markup(answer) {
            let detail = format!(
                "{base}: it answers XML or HTML where JSON was asked for{}",
                announce::hint(self.servers.client().base())
            );
            return Err(Error::new(Reason::Garbage, detail));
        }
        json(answer).map_err(|error| Error::new(error.reason, format!("{base}: {error}")))
    }

    fn base(&self) -> String {
        self.servers.client().base().to_string()
    }

    async fn announce(&self, ours: &Announcement, health: Health) -> Result<(), Error> {
        let host = ours.address_for(self.servers.address()).await?;
        let ip = match host.parse::<IpAddr>() {
            Ok(ip) => Some(ip),
            // A name cannot stand there for clients that go by it.
            Err(_) => {
                let found = local::find(self.servers.address()).await;
                found.and_then(|found| found.ours()).ok()
            }
        };
        let body = announce::body(ours, health, &self.settings, &host, ip);
        if self.told.take() == Some(self.told(ours, health)) {
            // Only to be sure. All that is told again is a change, which everybody reads for three minutes.
            let path = announce::our_path(ours);
            let answer = self.ask(Ask::get(&path).within(WITHIN)).await?;
            let found = json::<serde_json::Value>(&answer).unwrap_or_default();
            if announce::stands(&found["instance"], &body) {
                self.told.replace(Some(self.told(ours, health)));
                return Ok(());
            }
        }
        let path = announce::path(ours);
        let answer = self.ask(Ask::new(Method::POST, &path).json(&body).within(WITHIN)).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            self.told.replace(Some(self.told(ours, health)));
            return Ok(());
        }
        let what = format!(
            "{}: our app was not taken{}",
            self.base(),
            announce::hint(self.servers.client().base())
        );
        Err(refused(&what, &answer))
    }
}

impl Eureka {
    /// What the server that is asked now would have been told.
    fn told(&self, ours: &Announcement, health: Health) -> Told {
        Told { path: announce::our_path(ours), health, server: self.servers.current() }
    }

    /// What is known of `ours` does not count any more; of another entry it does.
    fn forget(&self, ours: &Announcement) {
        let path = announce::our_path(ours);
        self.told.borrow_mut().take_if(|told| told.path == path);
    }
}

/// What was read when.
#[derive(Default)]
struct Read {
    all: Option<Instant>,
    any: Option<Instant>,
    server: usize,
}

impl Read {
    /// Changes would not do.
    fn wants_all(&self, now: Instant) -> bool {
        let older = |at: Option<Instant>, than| at.is_none_or(|at| now - at > than);
        older(self.all, WHOLE_AFTER) || older(self.any, CHANGES_REACH)
    }
}

/// XML, as Eureka gives it to who does not ask for JSON, or a page of something else.
fn is_markup(answer: &Response<Bytes>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.contains("xml") || kind.contains("html"))
        || answer.body().trim_ascii_start().starts_with(b"<")
}

/// One that follows an application. The first begins the poll, and with the last it ends.
struct Following {
    eureka: Rc<Eureka>,
    app: Box<str>,
}

impl Following {
    fn begin(eureka: &Rc<Eureka>, app: Box<str>) -> Self {
        let mut mirror = eureka.mirror.borrow_mut();
        let is_first = !mirror.is_followed();
        mirror.follow(&app);
        if is_first {
            let poll = tokio::task::spawn_local(eureka.clone().poll());
            eureka.poll.replace(Some(poll.abort_handle()));
        } else if mirror.instances(&app).is_none() {
            eureka.wanted.notify_one();
        }
        Self { eureka: eureka.clone(), app }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut mirror = self.eureka.mirror.borrow_mut();
        mirror.unfollow(&self.app);
        if !mirror.is_followed() {
            if let Some(poll) = self.eureka.poll.take() {
                poll.abort();
            }
            *mirror = Mirror::default();
            self.eureka.polled.send_replace(None);
        }
    }
}

impl Registry for Eureka {
    fn name(&self) -> &str {
        &self.name
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let app: Box<str> = service.to_lowercase().into();
            let following = Following::begin(&self, app.clone());
            let mut polled = self.polled.subscribe();
            loop {
                let last = polled.borrow_and_update().clone();
                let told = match last {
                    Some(Ok(())) => self.mirror.borrow().instances(&app).map(Ok),
                    Some(Err(error)) => Some(Err(error)),
                    None => None,
                };
                if let Some(told) = told {
                    tell.heard(told, &mut polled).await;
                }
                // The sender is ours: it stays.
                if polled.changed().await.is_err() {
                    break;
                }
            }
            drop(following);
        })
    }

    fn renewal(&self) -> Option<Duration> {
        Some(self.settings.renew)
    }

    fn register<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<(), Error>> {
        Box::pin(self.announce(ours, health))
    }

    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move {
            let path = announce::our_path(ours);
            let told = self.told.borrow().clone().filter(|told| told.path == path);
            let Some(told) = told else { return Ok(Renewal::Forgotten) };
            // Another server may have heard of us from the one before, or not yet.
            if told != self.told(ours, health) {
                self.announce(ours, health).await?;
                return Ok(Renewal::Kept);
            }
            let answer = self.ask(Ask::new(Method::PUT, &path).within(WITHIN)).await?;
            match answer.status() {
                StatusCode::NOT_FOUND => {
                    self.forget(ours);
                    Ok(Renewal::Forgotten)
                }
                status if status.is_success() => Ok(Renewal::Kept),
                _ => Err(refused(&format!("{}: our lease was not renewed", self.base()), &answer)),
            }
        })
    }

    fn is_one(&self, one: &Announcement, other: &Announcement) -> bool {
        announce::our_path(one) == announce::our_path(other)
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move {
            self.forget(ours);
            let path = announce::our_path(ours);
            let answer = self.ask(Ask::new(Method::DELETE, &path).within(WITHIN)).await?;
            match answer.status() {
                StatusCode::NOT_FOUND => Ok(()),
                status if status.is_success() => Ok(()),
                _ => Err(refused(&format!("{}: our app was not removed", self.base()), &answer)),
            }
        })
    }
}
