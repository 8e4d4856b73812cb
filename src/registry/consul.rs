//! Consul, by an agent: services are followed by blocking queries, and our app is announced with a check that we
//! pass (TTL) or that the agent makes (HTTP).
//!
//! <https://developer.hashicorp.com/consul/api-docs/features/blocking>

mod answer;
mod index;
mod turns;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::http::{self, Ask, Client};
use super::place::authority;
use super::secret::Secret;
use super::settings::{self, ConsulCheck};
use super::{Announcement, Error, Health, Reason, Registry, Renewal, Task, Tell, local};
use crate::clock;
use crate::endpoint::Instance;
use index::Index;
use turns::Turns;

pub struct Consul {
    name: String,
    client: Client,
    settings: settings::Consul,
    /// Read for each question: it may be replaced at any time.
    token: Option<Secret>,
    turns: Turns,
}

/// How much later than it was asked to wait an answer may come.
const MARGIN: Duration = Duration::from_secs(4);
/// No question follows another one sooner: of a service that changes all the time each answer has more changes.
const PACE: Duration = Duration::from_millis(100);
/// How long anything else may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How often the agent asks our `/ready`, where it does.
const CHECK_EVERY: &str = "5s";

const TOKEN: &str = "x-consul-token";
const INDEX: &str = "x-consul-index";
/// The answer lacks what our token may not see.
const FILTERED: &str = "x-consul-results-filtered-by-acls";

impl Consul {
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(settings: &settings::Consul) -> Result<Self, Error> {
        let client = Client::new(settings.address.clone(), settings.ca_file.as_deref())?;
        let name = format!("consul {}", settings.address.address);
        let token = settings.token_file.as_deref().map(|path| Secret::new("token", path));
        Ok(Self { name, client, settings: settings.clone(), token, turns: Turns::default() })
    }

    /// Asks the agent in our name.
    async fn ask(&self, ask: Ask<'_>) -> Result<Response<Bytes>, Error> {
        let ask = match &self.token {
            Some(file) => ask.header(TOKEN, token(file).await?),
            None => ask,
        };
        self.client.ask(ask).await
    }

    /// Path and query, with what every question has.
    fn path(&self, path: &str, query: &[(&str, &str)]) -> String {
        let namespace = self.settings.namespace.as_deref().map(|namespace| ("ns", namespace));
        let query = query.iter().copied().chain(namespace);
        let query: Vec<String> =
            query.map(|(key, value)| format!("{key}={}", http::escaped(value))).collect();
        format!("/v1/{path}?{}", query.join("&"))
    }

    /// The next answer about `service`, when it changes or after a while.
    async fn look(&self, service: &str, index: &mut Index) -> Result<Vec<Instance>, Error> {
        // It is never closed.
        let _turn = self.turns.take(index.get() == 0).await;
        let longest = self.turns.wait();
        let wait = format!("{}ms", longest.as_millis());
        let last = index.get().to_string();
        let mut query = vec![("index", last.as_str())];
        let mut within = WITHIN;
        if index.get() > 0 {
            query.push(("wait", &wait));
            // The agent adds up to a sixteenth.
            within = longest + longest / 16 + MARGIN;
        }
        query.extend(self.settings.datacenter.as_deref().map(|datacenter| ("dc", datacenter)));
        query.extend(self.settings.tag.as_deref().map(|tag| ("tag", tag)));
        let path = self.path(&format!("health/service/{}", http::escaped(service)), &query);
        let answer = self.ask(Ask::get(&path).within(within)).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refused("cannot tell where a service runs", &answer));
        }
        let header = |name| answer.headers().get(name)?.to_str().ok();
        if header(FILTERED) == Some("true") {
            let help = "the token may not read all of this service; give it `service:read` and `node:read`";
            return Err(Error::new(Reason::Refused, format!("{}: {help}", self.name)));
        }
        let instances = answer::instances(&http::json::<Vec<answer::Entry>>(&answer)?)?;
        index.follow(header(INDEX).and_then(|index| index.parse().ok()));
        Ok(instances)
    }

    fn refused(&self, what: &str, answer: &Response<Bytes>) -> Error {
        let mut error = http::refused(&format!("{}: {what}", self.name), answer);
        let text = String::from_utf8_lossy(answer.body());
        let help = match answer.status() {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                "; check `token_file` and what the token may do"
            }
            _ if text.contains("No path to datacenter") => "; check `datacenter`",
            _ => "",
        };
        error.detail.push_str(help);
        error
    }

    async fn registration(&self, ours: &Announcement, health: Health) -> Result<Value, Error> {
        let mut meta = ours.metadata.clone();
        meta.extend(ours.zone.clone().map(|zone| ("zone".to_owned(), zone)));
        meta.extend(ours.version.clone().map(|version| ("version".to_owned(), version)));
        let after = format!("{}s", self.settings.deregister_after.as_secs());
        let (address, host) = self.addresses(ours).await?;
        let mut check = json!({
            "CheckID": check_id(ours),
            "Name": "pilotfish",
            "DeregisterCriticalServiceAfter": after,
            "Status": status(health),
        });
        match (self.settings.check, ours.metrics_port) {
            (ConsulCheck::Http, Some(port)) => {
                check["HTTP"] = format!("http://{}/ready", authority(&host, port)).into();
                check["Interval"] = CHECK_EVERY.into();
                check["Timeout"] = CHECK_EVERY.into();
            }
            _ => check["TTL"] = format!("{}s", self.settings.ttl.as_secs_f64()).into(),
        }
        Ok(json!({
            "Name": &*ours.service,
            "ID": ours.id,
            "Tags": ours.tags,
            "Address": address,
            "Port": ours.port,
            "Meta": meta,
            // Somebody who is not quite well takes less.
            "Weights": { "Passing": ours.weight, "Warning": 1 },
            "EnableTagOverride": false,
            "Check": check,
        }))
    }

    /// Where others reach us, and where the agent does. Of an agent on our own host, the agent's address is ours: that
    /// is said by none.
    async fn addresses(&self, ours: &Announcement) -> Result<(Box<str>, Box<str>), Error> {
        if let Some(given) = &ours.address {
            return Ok((given.clone(), given.clone()));
        }
        let agent = local::find(&self.settings.address.address).await?;
        let host: Box<str> = agent.ours()?.to_string().into();
        Ok((if agent.is_on_this_host() { "".into() } else { host.clone() }, host))
    }

    async fn put(&self, what: &str, path: &str, body: Option<&Value>) -> Result<(), Error> {
        let ask = Ask::new(Method::PUT, path).within(WITHIN);
        let ask = match body {
            Some(body) => ask.json(body),
            None => ask,
        };
        let answer = self.ask(ask).await?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.refused(what, &answer)),
        }
    }
}

impl Registry for Consul {
    fn name(&self) -> &str {
        &self.name
    }

    fn watch(self: Rc<Self>, service: Arc<str>, tell: Tell) -> Task<'static, ()> {
        Box::pin(async move {
            let _member = self.turns.join();
            let mut index = Index::default();
            loop {
                let began = clock::now();
                match self.look(&service, &mut index).await {
                    Ok(instances) => {
                        tell.instances(instances);
                        sleep(PACE.saturating_sub(clock::now() - began)).await;
                    }
                    Err(error) => {
                        // Who answered may have been started anew.
                        index = Index::default();
                        tell.failed(error).await;
                    }
                }
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
        Box::pin(async move {
            let path = self.path("agent/service/register", &[("replace-existing-checks", "true")]);
            let body = self.registration(ours, health).await?;
            self.put("does not take our app", &path, Some(&body)).await
        })
    }

    fn renew<'a>(
        &'a self,
        ours: &'a Announcement,
        health: Health,
    ) -> Task<'a, Result<Renewal, Error>> {
        Box::pin(async move {
            if self.settings.check == ConsulCheck::Http && ours.metrics_port.is_some() {
                return self.is_known(ours).await;
            }
            // The note does not change, so that nobody is woken by it.
            let action = if health == Health::Passing { "pass" } else { "fail" };
            let id = check_id(ours);
            let path = self.path(&format!("agent/check/{action}/{}", http::escaped(&id)), &[]);
            let answer = self.ask(Ask::new(Method::PUT, &path).within(WITHIN)).await?;
            let forgotten = || {
                let text = String::from_utf8_lossy(answer.body()).to_lowercase();
                text.contains("does not have associated ttl") || text.contains("unknown check")
            };
            match answer.status() {
                StatusCode::OK => Ok(Renewal::Kept),
                StatusCode::NOT_FOUND => Ok(Renewal::Forgotten),
                _ if forgotten() => Ok(Renewal::Forgotten),
                _ => Err(self.refused("does not hear that we are there", &answer)),
            }
        })
    }

    fn is_one(&self, one: &Announcement, other: &Announcement) -> bool {
        // Whatever the service.
        one.id == other.id
    }

    fn deregister<'a>(&'a self, ours: &'a Announcement) -> Task<'a, Result<(), Error>> {
        Box::pin(async move {
            let id = http::escaped(&ours.id);
            let path = self.path(&format!("agent/service/deregister/{id}"), &[]);
            let answer = self.ask(Ask::new(Method::PUT, &path).within(WITHIN)).await?;
            match answer.status() {
                StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
                _ => Err(self.refused("does not let our app go", &answer)),
            }
        })
    }
}

impl Consul {
    /// Whether the agent has our app still.
    async fn is_known(&self, ours: &Announcement) -> Result<Renewal, Error> {
        let path = self.path(&format!("agent/service/{}", http::escaped(&ours.id)), &[]);
        let answer = self.ask(Ask::get(&path).within(WITHIN)).await?;
        match answer.status() {
            StatusCode::OK => Ok(Renewal::Kept),
            StatusCode::NOT_FOUND => Ok(Renewal::Forgotten),
            _ => Err(self.refused("does not hear that we are there", &answer)),
        }
    }
}

fn check_id(ours: &Announcement) -> String {
    format!("service:{}", ours.id)
}

fn status(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Critical => "critical",
    }
}

async fn token(file: &Secret) -> Result<HeaderValue, Error> {
    let text = file.read().await?;
    let mut value = HeaderValue::from_str(text.trim()).map_err(|_| {
        let detail = format!("what is in {} is no token", file.path().display());
        Error::new(Reason::Refused, detail)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
