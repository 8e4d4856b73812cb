//! A registry that cannot be used, as its files cannot be read. A volume may be mounted late: it is tried again and
//! again, and until then it says why.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::settings::Kind;
use super::{Announcement, Error, Health, Registry, Renewal, Task, Tell};
use crate::backoff::Backoff;
use crate::clock::{self, Instant};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How it is made.
type Make = Box<dyn Fn() -> Result<Rc<dyn Registry>, Error>>;

pub struct Unusable {
    name: String,
    make: Make,
    made: OnceCell<Rc<dyn Registry>>,
    failed: RefCell<Failed>,
}

/// The last time.
struct Failed {
    error: Error,
    again_at: Instant,
    backoff: Backoff,
}

impl Unusable {
    pub fn new(kind: &Kind, make: Make, error: Error) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let failed = Failed { error, again_at: clock::now() + FIRST_WAIT, backoff };
        Self { name: name(kind), make, made: OnceCell::new(), failed: RefCell::new(failed) }
    }

    /// The registry, where it can be made by now. Many may ask: not all try.
    fn made(&self) -> Result<&Rc<dyn Registry>, Error> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let mut failed = self.failed.borrow_mut();
        let now = clock::now();
        if now < failed.again_at {
            return Err(failed.error.clone());
        }
        match (self.make)() {
            Ok(made) => {
                tracing::info!(registry = self.name, "can be used now");
                Ok(self.made.get_or_init(|| made))
            }
            Err(error) => {
                failed.again_at = now + failed.backoff.next(&mut fastrand::Rng::new());
                failed.error = error.clone();
                Err(error)
            }
        }
    }
}

/// As it will call itself.
fn name(kind: &Kind) -> String {
    let address = match kind {
        Kind::Consul(consul) => Some(&consul.address),
        Kind::Eureka(eureka) => eureka.addresses.first(),
        Kind::Etcd(etcd) => etcd.addresses.first(),
        Kind::Directory(_) | Kind::Dns(_) | Kind::Kubernetes(_) => None,
    };
    let name = kind.as_str();
    address.map_or(name.to_owned(), |url| format!("{name} {}", url.address))
}

impl Registry for Unusable {
    fn name(&self) -> &str {
        self.made.get().map_or(&self.name, |made| made.name())
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let made = loop {
                match self.made() {
                    Ok(made) => break made.clone(),
                    Err(error) => tell.failed(error).await,
                }
            };
            made.watch(service, tell).await;
        })
    }

    fn renewal(&self) -> Option<Duration> {
        match self.made.get() {
            Some(made) => made.renewal(),
            // What cannot be announced is to be told.
            None => Some(LONGEST_WAIT),
        }
    }

    fn register<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<(), Error>> {
        Box::pin(async move { self.made()?.register(ours, health).await })
    }

    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move { self.made()?.renew(ours, health).await })
    }

    fn is_one(&self, one: &Announcement, other: &Announcement) -> bool {
        match self.made.get() {
            Some(made) => made.is_one(one, other),
            None => (&one.service, &one.id) == (&other.service, &other.id),
        }
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move { self.made()?.deregister(ours).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::Directory;
    use crate::registry::{Reason, make, settings::Settings};
    use std::cell::Cell;

    fn directory(dir: &std::path::Path) -> Kind {
        Kind::Directory(Directory { path: Some(dir.into()), ttl: Duration::from_secs(10) })
    }

    /// A registry that can be made when `can`, and how often that was tried.
    fn unusable(can: &Rc<Cell<bool>>, tries: &Rc<Cell<u32>>, kind: Kind) -> Unusable {
        let (can, tries, made) = (can.clone(), tries.clone(), kind.clone());
        let error = || Error::new(Reason::Refused, "not mounted yet");
        let again = move || {
            tries.set(tries.get() + 1);
            let settings = Settings { kind: made.clone(), advertise: None };
            if can.get() { Ok(make(&settings)) } else { Err(error()) }
        };
        Unusable::new(&kind, Box::new(again), error())
    }

    #[test]
    fn it_is_made_when_that_is_possible_and_not_tried_all_the_time() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let (can, tries) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
            let registry = unusable(&can, &tries, directory(dir.path()));
            for _ in 0..1000 {
                assert_eq!(
                    registry.made().err().map(|it| it.detail).as_deref(),
                    Some("not mounted yet")
                );
            }
            assert_eq!(tries.get(), 0, "it was tried a moment ago");
            for _ in 0..600 {
                tokio::time::advance(Duration::from_secs(1)).await;
                assert!(registry.made().is_err());
            }
            assert!((40..=100).contains(&tries.get()), "{}", tries.get());
            can.set(true);
            tokio::time::advance(LONGEST_WAIT).await;
            assert!(registry.made().is_ok());
            assert_eq!(registry.renewal(), Some(Duration::from_secs(10) / 3));
        });
    }

    #[test]
    fn what_cannot_be_asked_has_taken_nothing_back() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("users@users-1.json");
        std::fs::write(&path, "").expect("a file");
        let (can, tries) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let registry = unusable(&can, &tries, directory(dir.path()));
        let ours = Announcement::plain("users", "users-1");
        runtime.block_on(async {
            assert!(registry.deregister(&ours).await.is_err(), "nobody was asked");
            can.set(true);
            tokio::time::advance(LONGEST_WAIT).await;
            assert_eq!((registry.deregister(&ours).await, path.exists()), (Ok(()), false));
        });
    }

    #[test]
    fn what_cannot_be_announced_is_told() {
        let (can, tries) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let registry = unusable(&can, &tries, directory("/nowhere".as_ref()));
        assert!(registry.renewal().is_some(), "somebody tries");
    }
}
