//! etcd, by the JSON that it speaks beside gRPC. Each instance is a key, `<prefix><service>/<id>`, that lives as
//! long as its lease is renewed.

mod asking;
mod members;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Announcement, Error, Health, Reason, Registry, Renewal, Task, Tell, settings};
use crate::backoff::Backoff;
use crate::clock;
use asking::Asking;
use members::{Members, Said};
use wire::{Granted, Int, Kept, Line, Range, Refusal, Watched, below, encoded};

/// A watch that says nothing for so long may be broken: all is read beside it.
const QUIET: Duration = Duration::from_secs(10);
/// A watch that ended sooner than this did not go well.
const SHORT: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

const NO_LEASE: &str = "lease not found";

pub struct Etcd {
    name: String,
    settings: settings::Etcd,
    asking: Asking,
    ours: RefCell<Option<Lease>>,
}

/// What our key lives by.
#[derive(Debug, Clone)]
struct Lease {
    id: i64,
    key: String,
    health: Health,
}

impl Etcd {
    /// # Errors
    /// The certificates of `ca_file` cannot be used.
    pub fn new(settings: &settings::Etcd) -> Result<Self, Error> {
        let asking = Asking::new(settings)?;
        let name = format!("etcd {}", asking.servers().client().base().address);
        Ok(Self { name, settings: settings.clone(), asking, ours: RefCell::default() })
    }

    /// Follows what becomes of `members`. Ends where all is to be read again.
    async fn follow(&self, range: &Value, mut members: Members, tell: &Tell) -> Result<(), Error> {
        let mut create = range.clone();
        create["start_revision"] = (members.revision.0 + 1).to_string().into();
        create["progress_notify"] = true.into();
        let mut stream = self.asking.watch(&create).await?;
        let began = clock::now();
        loop {
            // Not all at once.
            let quiet = QUIET.mul_f64(0.8 + 0.2 * fastrand::f64());
            match timeout(quiet, stream.next()).await {
                Ok(Ok(Some(told))) if told.canceled => return self.canceled(&told),
                Ok(Ok(Some(told))) => members.apply(told.events),
                Ok(Ok(None)) => {
                    self.asking.servers().turn_from(stream.place);
                    if clock::now() - began >= SHORT {
                        return Ok(());
                    }
                    let detail = format!("{}: the watch broke off", self.asking.base());
                    return Err(Error::new(Reason::Unreachable, detail));
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let now = self.read(range).await?;
                    let is_another = self.asking.servers().current() != stream.place;
                    // A store that went back is another one: it does not tell us what is new in it.
                    if is_another || now.revision < members.revision {
                        return Ok(());
                    }
                    if now.has_changed_since(&members) {
                        // The watch did not tell: what stands between may have forgotten it, and whoever still
                        // holds it hears nothing for ever.
                        return self.tell(&now, tell);
                    }
                    members = now;
                }
            }
            self.tell(&members, tell)?;
        }
    }

    async fn read(&self, range: &Value) -> Result<Members, Error> {
        Ok(Members::read(self.asking.value::<Range>("/v3/kv/range", range).await?))
    }

    fn tell(&self, members: &Members, tell: &Tell) -> Result<(), Error> {
        let instances = members.instances().map_err(|key| {
            let detail = format!(
                "{}: the value of {key} is no instance; is `prefix` that of something else?",
                self.asking.base()
            );
            Error::new(Reason::Garbage, detail)
        })?;
        tell.instances(instances);
        Ok(())
    }

    fn canceled(&self, told: &Watched) -> Result<(), Error> {
        // What happened since we read is not known any more; what is there now is.
        if told.compact_revision.0 > 0 || told.cancel_reason.contains("has been compacted") {
            return Ok(());
        }
        let detail =
            format!("{}: the watch was refused: {}", self.asking.base(), told.cancel_reason);
        Err(Error::new(Reason::Refused, detail))
    }

    fn key(&self, ours: &Announcement) -> String {
        format!("{}{}/{}", self.settings.prefix, ours.service, ours.id)
    }

    /// What our key says, encoded.
    async fn said(&self, ours: &Announcement, health: Health) -> Result<String, Error> {
        let address = ours.address_for(self.asking.servers().address()).await?;
        Ok(encoded(&json!(Said::of(ours, address, health)).to_string()))
    }

    /// False: there is no such lease.
    async fn put(&self, lease: &Lease, said: &str) -> Result<bool, Error> {
        let body = json!({
            "key": encoded(&lease.key),
            "value": said,
            "lease": lease.id.to_string(),
        });
        let answer = self.asking.ask("/v3/kv/put", &body).await?;
        match answer.status() {
            _ if is_of_lease(&answer) => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.asking.refused(&answer)),
        }
    }

    /// False: there is no such lease.
    async fn keep(&self, lease: &Lease) -> Result<bool, Error> {
        let body = json!({ "ID": lease.id.to_string() });
        let answer = self.asking.ask("/v3/lease/keepalive", &body).await?;
        if is_of_lease(&answer) {
            return Ok(false);
        }
        if !answer.status().is_success() {
            return Err(self.asking.refused(&answer));
        }
        match self.asking.parsed::<Line<Kept>>(&answer)? {
            Line { result: Some(kept), .. } => Ok(kept.ttl.0 > 0),
            Line { error: Some(refusal), .. } if refusal.message.contains(NO_LEASE) => Ok(false),
            Line { error, .. } => {
                let said = error.map(|refusal| refusal.message).unwrap_or_default();
                let detail = format!("{}: our lease was not renewed: {said}", self.asking.base());
                Err(Error::new(Reason::Failed, detail))
            }
        }
    }

    async fn announce(&self, ours: &Announcement, health: Health) -> Result<(), Error> {
        let said = self.said(ours, health).await?;
        let last = self.ours.take();
        let id = match last {
            Some(last) if self.keep(&last).await? => last.id,
            _ => self.grant().await?,
        };
        let lease = Lease { id, key: self.key(ours), health };
        if !self.stands(&lease, &said).await? && !self.put(&lease, &said).await? {
            let detail = format!("{}: it forgot our lease at once", self.asking.base());
            return Err(Error::new(Reason::Failed, detail));
        }
        self.ours.replace(Some(lease));
        Ok(())
    }

    async fn grant(&self) -> Result<i64, Error> {
        let seconds = self.settings.ttl.as_secs_f64().ceil().max(1.0) as u64;
        let body = json!({ "TTL": seconds.to_string() });
        let Granted { id } = self.asking.value("/v3/lease/grant", &body).await?;
        Ok(id.0)
    }

    /// Whether our key says what we would write: to write it again would be a change for all who watch.
    async fn stands(&self, lease: &Lease, said: &str) -> Result<bool, Error> {
        let body = json!({ "key": encoded(&lease.key) });
        let range: Range = self.asking.value("/v3/kv/range", &body).await?;
        Ok(range.kvs.iter().any(|kv| kv.lease == Int(lease.id) && kv.value == *said))
    }

    /// False: there is no lease or no key of ours.
    async fn refresh(&self, ours: &Announcement, health: Health) -> Result<bool, Error> {
        let key = self.key(ours);
        let lease = self.ours.borrow().clone().filter(|lease| lease.key == key);
        let Some(lease) = lease else { return Ok(false) };
        if !self.keep(&lease).await? {
            return Ok(false);
        }
        if lease.health != health {
            let said = self.said(ours, health).await?;
            let lease = Lease { health, ..lease };
            // What our key says is not known where no answer comes.
            self.ours.take();
            let is_put = self.put(&lease, &said).await?;
            self.ours.replace(is_put.then_some(lease));
            return Ok(is_put);
        }
        // A lease outlives a key that somebody removed.
        let body = json!({ "key": encoded(&key), "keys_only": true });
        let range: Range = self.asking.value("/v3/kv/range", &body).await?;
        Ok(!range.kvs.is_empty())
    }
}

/// It says that there is no such lease.
fn is_of_lease(answer: &Response<Bytes>) -> bool {
    let said: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    !answer.status().is_success() && said.message.contains(NO_LEASE)
}

impl Registry for Etcd {
    fn name(&self) -> &str {
        &self.name
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let range = below(&format!("{}{service}/", self.settings.prefix));
            let mut pause = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
            loop {
                let members = match self.read(&range).await {
                    Ok(members) => members,
                    Err(error) => {
                        tell.failed(error).await;
                        continue;
                    }
                };
                let began = clock::now();
                let followed = async {
                    self.tell(&members, &tell)?;
                    self.follow(&range, members, &tell).await
                };
                if let Err(error) = followed.await {
                    tell.failed(error).await;
                }
                if clock::now() - began >= SHORT {
                    pause.reset();
                }
                // Who can be read and not be followed is not to be read all the time.
                sleep(pause.next(&mut fastrand::Rng::new())).await;
            }
        })
    }

    fn renewal(&self) -> Option<Duration> {
        Some(self.settings.ttl / 3)
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
            match self.refresh(ours, health).await? {
                true => Ok(Renewal::Kept),
                false => Ok(Renewal::Forgotten),
            }
        })
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move {
            let key = self.key(ours);
            // Another key of ours may live by it meanwhile.
            self.ours.borrow_mut().take_if(|lease| lease.key == key);
            let body = json!({ "key": encoded(&key) });
            let answer = self.asking.ask("/v3/kv/deleterange", &body).await?;
            match answer.status().is_success() {
                true => Ok(()),
                false => Err(self.asking.refused(&answer)),
            }
        })
    }
}
