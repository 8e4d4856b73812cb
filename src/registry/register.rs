//! Announces our own app in one registry for as long as it is wished, whatever happens to the registry.
//!
//! One task does all for one place, one step after the other: what is announced anew, under another name or taken
//! back never crosses what was under way before.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Announcement, Error, Health, Reason, Registry, Renewal};
use crate::backoff::Backoff;
use crate::clock::{self, Instant};

/// What is wished of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The app has not been well yet: what may stand there is of another one, and is taken back.
    NotYet,
    Here(Health),
    /// It is taken back, and then the task ends.
    Gone,
}

/// What is to be announced where.
#[derive(Clone)]
pub struct Wanted {
    /// Another one than before leads to the same place: what stands there is replaced, not taken back.
    pub registry: Rc<dyn Registry>,
    pub ours: Announcement,
    pub wish: Wish,
    /// Hears whether it is announced; none when it has been taken back.
    pub told: Rc<dyn Fn(Option<bool>)>,
}

impl Wanted {
    /// Whether nothing is to be done where this was wanted before.
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.registry, &other.registry)
            && self.ours == other.ours
            && self.wish == other.wish
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After this it is announced anew even if the registry seems to know it: what somebody has changed there, or
/// what is half lost, is as it was again.
const ANEW: Duration = Duration::from_secs(300);
/// No step takes longer.
const WITHIN: Duration = Duration::from_secs(10);
/// An announcement that is under way when it is to be taken back may take this much longer: what is broken off may
/// be heard later than what follows it.
const FINISH: Duration = Duration::from_secs(1);
/// What was broken off all the same is heard within this, and then taken back again.
const LATE: Duration = Duration::from_secs(5);
/// A registry that hears nothing for so many renewals has forgotten us.
const LEASE: u32 = 3;
/// How often a failure that goes on is told.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Does what is wanted until that is [`Wish::Gone`] and done.
pub async fn announce(mut wanted: watch::Receiver<Wanted>) {
    let mut random = fastrand::Rng::new();
    let mut standing = Standing::of(&wanted.borrow());
    let mut backoff: Option<Backoff> = None;
    (standing.told)(Some(false));
    loop {
        standing.follow(&wanted.borrow_and_update());
        let Some(every) = standing.renewal() else { return };
        // Without anybody who wants it, it is to go.
        let is_alone = wanted.has_changed().is_err();
        let wish = if is_alone { Wish::Gone } else { wanted.borrow().wish };
        let done = match wish {
            Wish::Here(health) => match standing.keep(health, &wanted).await {
                Some(done) => done.map(|()| Some(every.mul_f64(0.9 + 0.1 * random.f64()))),
                None => continue,
            },
            Wish::NotYet | Wish::Gone => match standing.leave().await {
                // It may be wanted again meanwhile.
                Ok(true) if wanted.has_changed().unwrap_or(false) => continue,
                Ok(true) if wish == Wish::Gone => return (standing.told)(None),
                Ok(true) => {
                    (standing.told)(Some(false));
                    Ok(None)
                }
                again => again.map(|_| Some(LATE)),
            },
        };
        let wait = match done {
            Ok(wait) => {
                backoff = None;
                wait
            }
            Err(_) => {
                // A lease does not bear longer than a renewal.
                let longest = LONGEST_WAIT.min(every);
                let new = || Backoff::new(FIRST_WAIT.min(longest), longest);
                Some(backoff.get_or_insert_with(new).next(&mut random).min(longest))
            }
        };
        tokio::select! {
            () = until(wait) => {}
            changed = wanted.changed(), if !is_alone => drop(changed),
        }
    }
}

/// What stands in a registry, or may stand there.
#[derive(Clone)]
struct Entry {
    /// By which it can be reached, the best one first. Another way to a registry may lead nowhere.
    by: Vec<Rc<dyn Registry>>,
    ours: Announcement,
}

impl Entry {
    async fn take_back(&self) -> Result<(), Error> {
        let mut done = Ok(());
        for registry in &self.by {
            done = within(registry.deregister(&self.ours)).await;
            if done.is_ok() {
                tracing::info!(registry = registry.name(), id = self.ours.id, "deregistered");
                break;
            }
        }
        done
    }
}

struct Standing {
    registry: Rc<dyn Registry>,
    ours: Announcement,
    told: Rc<dyn Fn(Option<bool>)>,
    /// By whom it may have been announced, also if nobody said so; none where it cannot be there.
    tried: Vec<Rc<dyn Registry>>,
    /// What was announced last, and by whom.
    stands: Option<(Rc<dyn Registry>, Announcement)>,
    /// Until when what was said last is good; none where it is not announced.
    good_until: Option<Instant>,
    /// When it is announced again, whatever the registry says.
    anew_at: Instant,
    /// Something was said without an answer: it may be heard after what is said next.
    is_late: bool,
    /// To be taken back.
    old: Vec<Entry>,
    warn_at: Instant,
}

impl Standing {
    fn of(wanted: &Wanted) -> Self {
        let now = clock::now();
        Self {
            registry: wanted.registry.clone(),
            ours: wanted.ours.clone(),
            told: wanted.told.clone(),
            tried: Vec::new(),
            stands: None,
            good_until: None,
            anew_at: now,
            is_late: false,
            old: Vec::new(),
            warn_at: now,
        }
    }

    /// Takes over what is wanted now. What stands under another name is to be taken back.
    fn follow(&mut self, wanted: &Wanted) {
        self.told = wanted.told.clone();
        let is_same = Rc::ptr_eq(&self.registry, &wanted.registry);
        if !is_same || self.ours != wanted.ours {
            if !wanted.registry.is_one(&self.ours, &wanted.ours) {
                self.abandon();
            }
            self.anew_at = clock::now();
            self.registry = wanted.registry.clone();
            self.ours = wanted.ours.clone();
        }
        if wanted.wish != Wish::Gone {
            let is_ours = |entry: &mut Entry| wanted.registry.is_one(&entry.ours, &wanted.ours);
            for entry in self.old.extract_if(.., is_ours) {
                self.tried.extend(entry.by);
            }
        }
    }

    /// How often it is to be renewed, by what it was announced too.
    fn renewal(&self) -> Option<Duration> {
        let every = self.registry.renewal()?;
        let stands = self.stands.as_ref().and_then(|(registry, _)| registry.renewal());
        Some(stands.map_or(every, |it| it.min(every)))
    }

    fn abandon(&mut self) {
        (self.good_until, self.stands) = (None, None);
        let mut by = std::mem::take(&mut self.tried);
        if !by.is_empty() {
            add(&mut by, &self.registry);
            // The newest has the last of what is needed to reach it.
            by.reverse();
            self.old.push(Entry { by, ours: self.ours.clone() });
        }
    }

    /// Sees to it that it is announced, and nothing else of ours; none where that was broken off, as it is to go.
    async fn keep(
        &mut self,
        health: Health,
        wanted: &watch::Receiver<Wanted>,
    ) -> Option<Result<(), Error>> {
        let mut done = self.renew(health, wanted).await?;
        if matches!(done, Ok(Renewal::Forgotten)) {
            done = self.register(health, wanted).await?;
        }
        if let Err(error) = &done {
            self.warn("cannot register", error);
            self.is_late |= error.reason == Reason::Timeout;
            self.renew_as_it_stands(health, wanted).await?;
        } else {
            self.is_good(&self.registry.clone());
        }
        let now = clock::now();
        self.good_until = self.good_until.filter(|until| now < *until);
        (self.told)(Some(self.good_until.is_some()));
        let swept = unless_gone(wanted, Duration::ZERO, self.take_back()).await?;
        Some(done.and(swept))
    }

    /// Renews what stands; it is [`Renewal::Forgotten`] where it is to be announced.
    async fn renew(
        &mut self,
        health: Health,
        wanted: &watch::Receiver<Wanted>,
    ) -> Option<Result<Renewal, Error>> {
        if self.good_until.is_none() || clock::now() >= self.anew_at {
            return Some(Ok(Renewal::Forgotten));
        }
        let renewed = within(self.registry.renew(&self.ours, health));
        let Some(renewed) = unless_gone(wanted, Duration::ZERO, renewed).await else {
            self.is_late = true;
            return None;
        };
        if matches!(renewed, Ok(Renewal::Forgotten)) {
            let (registry, id) = (self.registry.name(), &self.ours.id);
            tracing::info!(
                registry,
                id,
                "the registry does not know us any more; registering again"
            );
            self.good_until = None;
        }
        // What was late before has been heard by now, or never will be.
        self.is_late &= renewed.is_err();
        Some(renewed)
    }

    /// Renews what was announced by another way to the registry than the one that leads nowhere now.
    async fn renew_as_it_stands(
        &mut self,
        health: Health,
        wanted: &watch::Receiver<Wanted>,
    ) -> Option<()> {
        let Some((registry, ours)) = self.stands.clone() else { return Some(()) };
        if self.good_until.is_none() || Rc::ptr_eq(&registry, &self.registry) {
            return Some(());
        }
        let renewed = within(registry.renew(&ours, health));
        match unless_gone(wanted, Duration::ZERO, renewed).await? {
            Ok(Renewal::Kept) => self.is_good(&registry),
            Ok(Renewal::Forgotten) => self.good_until = None,
            Err(error) => tracing::debug!(registry = registry.name(), %error, "not renewed"),
        }
        Some(())
    }

    fn is_good(&mut self, by: &Rc<dyn Registry>) {
        if let Some(every) = by.renewal() {
            self.good_until = Some(clock::now() + every * LEASE);
        }
    }

    async fn register(
        &mut self,
        health: Health,
        wanted: &watch::Receiver<Wanted>,
    ) -> Option<Result<Renewal, Error>> {
        let registered = within(self.registry.register(&self.ours, health));
        let Some(registered) = unless_gone(wanted, FINISH, registered).await else {
            self.is_late = true;
            add(&mut self.tried, &self.registry);
            return None;
        };
        match &registered {
            Ok(()) => {
                self.tried = vec![self.registry.clone()];
                self.stands = Some((self.registry.clone(), self.ours.clone()));
            }
            // Nothing of it stands there.
            Err(error) if error.reason == Reason::Refused => {}
            Err(_) => add(&mut self.tried, &self.registry),
        }
        if registered.is_ok() {
            // What is late may have been heard after this, and says what is not so any more.
            let is_late = std::mem::take(&mut self.is_late);
            self.anew_at = clock::now() + if is_late { Duration::ZERO } else { ANEW };
            if self.good_until.is_none() {
                let (registry, id) = (self.registry.name(), &self.ours.id);
                tracing::info!(registry, service = &*self.ours.service, id, "registered");
            }
        }
        Some(registered.map(|()| Renewal::Kept))
    }

    /// Takes all back. False: it is to be done once more, as something may be heard late.
    async fn leave(&mut self) -> Result<bool, Error> {
        self.abandon();
        let was_late = std::mem::take(&mut self.is_late);
        let again = if was_late { self.old.clone() } else { Vec::new() };
        let done = self.take_back().await;
        self.is_late |= done.is_err() && !again.is_empty();
        done?;
        self.old = again;
        Ok(self.old.is_empty())
    }

    /// Takes back what is old; what does not work is kept for the next time.
    async fn take_back(&mut self) -> Result<(), Error> {
        let mut done = Ok(());
        let mut at = 0;
        while let Some(entry) = self.old.get(at) {
            match entry.take_back().await {
                Ok(()) => drop(self.old.remove(at)),
                Err(error) => {
                    self.is_late |= error.reason == Reason::Timeout;
                    done = Err(error);
                    at += 1;
                }
            }
        }
        if let Err(error) = &done {
            self.warn("cannot deregister", error);
        }
        done
    }

    fn warn(&mut self, what: &str, error: &Error) {
        let now = clock::now();
        if now >= self.warn_at {
            self.warn_at = now + WARN_EVERY;
            let registry = self.registry.name();
            tracing::warn!(registry, reason = error.reason.as_str(), "{what}: {error}");
        }
    }
}

fn add(all: &mut Vec<Rc<dyn Registry>>, registry: &Rc<dyn Registry>) {
    all.retain(|it| !Rc::ptr_eq(it, registry));
    all.push(registry.clone());
}

/// What `step` does; none where the announcement is to go and `step` takes more than `longer` then.
async fn unless_gone<T>(
    wanted: &watch::Receiver<Wanted>,
    longer: Duration,
    step: impl Future<Output = T>,
) -> Option<T> {
    let mut step = std::pin::pin!(step);
    // Of its own: what changes besides is not to be missed.
    let mut wanted = wanted.clone();
    let is_gone = async {
        // An error: whoever wants it is gone. What is read holds a lock, which is let go of here: who wants something
        // else meanwhile is on this thread.
        let _ = wanted.wait_for(|wanted| wanted.wish == Wish::Gone).await;
    };
    tokio::select! {
        biased;
        done = &mut step => return Some(done),
        () = is_gone => {}
    }
    timeout(longer, step).await.ok()
}

async fn until(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn within<T>(done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::new(Reason::Timeout, format!("no answer within {WITHIN:?}"));
    timeout(WITHIN, done).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

#[cfg(test)]
mod tests;
