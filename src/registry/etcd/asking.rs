//! Questions to etcd, with the token that it may want.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::wire::{Line, Lines, Refusal, Token, Watched};
use crate::registry::http::{Ask, json as json_of, refused};
use crate::registry::secret::Secret;
use crate::registry::servers::Servers;
use crate::registry::settings;
use crate::registry::{Error, Reason};

/// A line of a stream has no more than this: what etcd takes as one request is 1.5 MB.
const LONGEST_LINE: usize = 64 << 20;

/// How long an answer may take, or the beginning of a watch.
const WITHIN: Duration = Duration::from_secs(5);

pub struct Asking {
    servers: Servers,
    credentials: Option<(String, Secret)>,
    token: RefCell<Option<HeaderValue>>,
}

impl Asking {
    /// # Errors
    /// The certificates cannot be used.
    pub fn new(settings: &settings::Etcd) -> Result<Self, Error> {
        let password = settings.password_file.as_deref().map(|path| Secret::new("password", path));
        let credentials = settings.username.clone().zip(password);
        let servers = Servers::new(&settings.addresses, settings.ca_file.as_deref())?;
        Ok(Self { servers, credentials, token: RefCell::default() })
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The answer to `body` at `path`, also one that says no.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<Response<Bytes>, Error> {
        let answer = self.servers.ask(self.question(path, body)).await?;
        if !wants_token(&answer) {
            return Ok(answer);
        }
        let Some((user, file)) = &self.credentials else { return Ok(answer) };
        // What was there is refused: it may have been of a server that has ended.
        self.token.take();
        self.authenticate(user, &file.read().await?).await?;
        self.servers.ask(self.question(path, body)).await
    }

    /// The answer to `body` at `path`.
    pub async fn value<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Error> {
        let answer = self.ask(path, body).await?;
        if !answer.status().is_success() {
            return Err(self.refused(&answer));
        }
        self.parsed(&answer)
    }

    pub fn parsed<T: DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<T, Error> {
        let whose = |error: Error| Error::new(error.reason, format!("{}: {error}", self.base()));
        json_of(answer).map_err(whose)
    }

    /// Why an answer is no good.
    pub fn refused(&self, answer: &Response<Bytes>) -> Error {
        let said: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
        let help = match said.message.as_str() {
            "" if answer.status() == StatusCode::NOT_FOUND => {
                "it has no `/v3`: etcd 3.4 or newer is needed"
            }
            message if message.contains("user name is empty") => {
                "it wants `username` and `password_file`"
            }
            message if message.contains("permission denied") => {
                "the user must be allowed to read and write all keys below the prefix"
            }
            _ => return refused(&self.base(), answer),
        };
        let detail = format!("{}: {} {}: {help}", self.base(), answer.status(), said.message);
        Error::new(Reason::Refused, detail)
    }

    pub fn base(&self) -> String {
        self.servers.client().base().to_string()
    }

    /// Follows what `create` asks for.
    pub async fn watch(&self, create: &Value) -> Result<Stream, Error> {
        let body = json!({ "create_request": create });
        let place = self.servers.current();
        let stream = self.servers.client().stream(self.question("/v3/watch", &body));
        let answer = match stream.await {
            Ok(answer) => answer,
            Err(error) => {
                self.servers.turn_from(place);
                return Err(error);
            }
        };
        let base = self.base();
        if answer.status().is_success() {
            return Ok(Stream { base, place, body: answer.into_body(), lines: Lines::default() });
        }
        self.servers.turn_from(place);
        let status = answer.status();
        let body = timeout(WITHIN, answer.into_body().collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        let said: Refusal = serde_json::from_slice(&body).unwrap_or_default();
        Err(Error::new(Reason::Failed, format!("{base}: no watch: {status} {}", said.message)))
    }

    fn question<'a>(&self, path: &'a str, body: &Value) -> Ask<'a> {
        let mut ask = Ask::new(Method::POST, path).json(body).within(WITHIN);
        if let Some(token) = &*self.token.borrow() {
            ask.headers.insert(AUTHORIZATION, token.clone());
        }
        ask
    }

    async fn authenticate(&self, user: &str, password: &str) -> Result<(), Error> {
        let body = json!({ "name": user, "password": password });
        let ask = Ask::new(Method::POST, "/v3/auth/authenticate").json(&body);
        let answer = self.servers.ask(ask).await?;
        let base = self.base();
        if answer.status().is_success() {
            let Token { token } = self.parsed(&answer)?;
            let mut token = HeaderValue::from_str(&token).map_err(|_| {
                Error::new(Reason::Garbage, format!("{base}: the token makes no sense"))
            })?;
            token.set_sensitive(true);
            self.token.replace(Some(token));
            return Ok(());
        }
        let said: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
        // Switched off meanwhile: no token is wanted.
        if said.message.contains("authentication is not enabled") {
            return Ok(());
        }
        let detail = format!(
            "{base}: {} {}: it does not take `username` with the password of `password_file`",
            answer.status(),
            said.message
        );
        Err(Error::new(Reason::Refused, detail))
    }
}

/// Ours is none, or none any more.
fn wants_token(answer: &Response<Bytes>) -> bool {
    if answer.status().is_success() {
        return false;
    }
    let said: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    answer.status() == StatusCode::UNAUTHORIZED
        || said.message.contains("user name is empty")
        || said.message.contains("revision of auth store is old")
}

/// What comes of a watch.
pub struct Stream {
    base: String,
    /// Which of the servers tells.
    pub place: usize,
    body: Incoming,
    lines: Lines,
}

impl Stream {
    /// The next that is told; none at the end. Nothing is lost where this is dropped.
    pub async fn next(&mut self) -> Result<Option<Watched>, Error> {
        loop {
            if let Some(line) = self.lines.next() {
                return self.read(&line).map(Some);
            }
            if self.lines.len() > LONGEST_LINE {
                return Err(Error::new(
                    Reason::Garbage,
                    format!("{}: the watch has no end of line", self.base),
                ));
            }
            match self.body.frame().await {
                None | Some(Err(_)) => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<Watched, Error> {
        let garbage = |why: String| {
            Error::new(Reason::Garbage, format!("{}: the watch makes no sense: {why}", self.base))
        };
        let line: Line<Watched> =
            serde_json::from_slice(line).map_err(|error| garbage(error.to_string()))?;
        match line {
            Line { result: Some(watched), .. } => Ok(watched),
            Line { error: Some(refusal), .. } => Err(Error::new(
                Reason::Failed,
                format!("{}: the watch ended: {}", self.base, refusal.message),
            )),
            Line { result: None, error: None } => Err(garbage("an empty object".to_owned())),
        }
    }
}
