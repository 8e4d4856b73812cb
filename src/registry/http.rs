//! The HTTP client of registries: JSON over a few connections, with time limits.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Error, Reason, disk};
use crate::config::units::HttpUrl;

/// What an answer may have at most: 100,000 instances with 1 KB each.
const LARGEST: usize = 100 << 20;
/// What the certificates of all that are trusted may have: those of a system have a fifth.
const LARGEST_BUNDLE: u64 = 1 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// An idle one is kept for this long.
const IDLE: Duration = Duration::from_secs(30);

/// Asks one server. Connections are kept.
pub struct Client {
    base: HttpUrl,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// One question.
#[derive(Clone)]
pub struct Ask<'a> {
    pub method: Method,
    /// Path and query, after the path of the server.
    pub path: &'a str,
    pub headers: HeaderMap,
    /// JSON.
    pub body: Option<Vec<u8>>,
    /// How long the whole answer may take.
    pub within: Duration,
}

impl<'a> Ask<'a> {
    /// A GET for JSON, which may take 10 s.
    pub fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn new(method: Method, path: &'a str) -> Self {
        let within = Duration::from_secs(10);
        Self { method, path, headers: HeaderMap::new(), body: None, within }
    }

    pub fn json(self, body: &serde_json::Value) -> Self {
        Self { body: Some(body.to_string().into_bytes()), ..self }
    }

    pub fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

impl Client {
    /// `ca_file`: whom to trust instead of the authorities of the system, for `https`.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(base: HttpUrl, ca_file: Option<&Path>) -> Result<Self, Error> {
        let tls = match (base.is_tls, ca_file) {
            (true, Some(path)) => trusting(path)?,
            (true, None) => trusting_the_system()?,
            (false, _) => no_authorities()?,
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { base, pool })
    }

    pub fn base(&self) -> &HttpUrl {
        &self.base
    }

    /// The whole answer, whatever its status.
    ///
    /// # Errors
    /// None came, or not in time, or it was too long.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Response<Bytes>, Error> {
        let within = ask.within;
        let whole = async {
            let (head, body) = self.begin(ask).await?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(|error| {
                let detail = format!("{}: the answer broke off: {error}", self.base);
                Error::new(Reason::Unreachable, detail)
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout(within, whole).await.map_err(|_| self.late(within))?
    }

    /// The head of an answer whose body comes over time. `within` is for the head.
    ///
    /// # Errors
    /// None came, or not in time.
    pub async fn stream(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Error> {
        let within = ask.within;
        timeout(within, self.begin(ask)).await.map_err(|_| self.late(within))?
    }

    async fn begin(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Error> {
        let uri = format!("{}{}", self.base, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri);
        if let Some(headers) = request.headers_mut() {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            if ask.body.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            headers.extend(ask.headers);
        }
        let request = request.body(Full::from(ask.body.unwrap_or_default())).map_err(|error| {
            Error::new(Reason::Refused, format!("{}: cannot be asked: {error}", self.base))
        })?;
        self.pool.request(request).await.map_err(|error| {
            Error::new(Reason::Unreachable, format!("{}: {}", self.base, causes(&error)))
        })
    }

    fn late(&self, within: Duration) -> Error {
        Error::new(Reason::Timeout, format!("{}: no answer within {within:?}", self.base))
    }
}

/// The answer as JSON.
///
/// # Errors
/// It is none, or not the one that was expected.
pub fn json<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, Error> {
    serde_json::from_slice(answer.body()).map_err(|error| {
        Error::new(
            Reason::Garbage,
            format!("the answer makes no sense: {error}: {}", excerpt(answer)),
        )
    })
}

/// What is wrong with an answer whose status is not that of success.
pub fn refused(what: &str, answer: &Response<Bytes>) -> Error {
    let status = answer.status();
    let reason = match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST => Reason::Refused,
        _ => Reason::Failed,
    };
    Error::new(reason, format!("{what}: {status}: {}", excerpt(answer)))
}

/// As much of an answer as a log bears, in one line.
fn excerpt(answer: &Response<Bytes>) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(&answer.body()[..answer.body().len().min(LONGEST)]);
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    match text.trim() {
        "" => "(nothing)".to_owned(),
        text => text.chars().map(shown).collect(),
    }
}

/// An error with what caused it: hyper's own says only at which step.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, Error> {
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Reason::Refused, error.to_string()))
}

fn trusting_the_system() -> Result<rustls::ClientConfig, Error> {
    let roots = builder()?.with_native_roots().map_err(|error| {
        let detail = format!("no authorities of the system to trust: {error}; give `ca_file`");
        Error::new(Reason::Refused, detail)
    })?;
    Ok(roots.with_no_client_auth())
}

fn no_authorities() -> Result<rustls::ClientConfig, Error> {
    Ok(builder()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn trusting(path: &Path) -> Result<rustls::ClientConfig, Error> {
    let why = |error: &dyn std::fmt::Display| {
        let detail = format!("the certificates of {} cannot be used: {error}", path.display());
        Error::new(Reason::Refused, detail)
    };
    let mut roots = rustls::RootCertStore::empty();
    let (_, text) = disk::read(path, LARGEST_BUNDLE).map_err(|error| why(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        roots.add(certificate.map_err(|error| why(&error))?).map_err(|error| why(&error))?;
    }
    if roots.is_empty() {
        return Err(why(&"there are none in it"));
    }
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

/// A text as a part of a path or a query (RFC 3986 2.1).
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
