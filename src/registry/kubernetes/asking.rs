//! The API server: where it is, who we are, and why it does not answer.

use std::cell::RefCell;
use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::client::ConfigExt;
use kube::client::middleware::{AuthLayer, BaseUriLayer};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};

use crate::clock::{self, Instant};
use crate::registry::http::causes;
use crate::registry::settings::Kubernetes;
use crate::registry::{Error, Reason};

/// How long one answer may take; of a watch, its beginning.
pub const WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes is tried after this, so often, and given up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const TRIES: u32 = 3;
/// An idle one is kept for this long.
const IDLE: Duration = Duration::from_secs(30);

/// No sooner than after this it is looked again who the API server is and who we are.
const RENEW: Duration = Duration::from_secs(1);

pub struct Asking {
    settings: Kubernetes,
    /// With when it was made.
    client: RefCell<Option<(Client, Instant)>>,
}

/// What a client is made of.
struct Parts {
    base: BaseUriLayer,
    auth: Option<AuthLayer>,
    connector: HttpsConnector<HttpConnector>,
    namespace: String,
}

impl Asking {
    pub fn new(settings: Kubernetes) -> Self {
        Self { settings, client: RefCell::default() }
    }

    /// Something failed: kubeconfig, token and certificates may have been replaced.
    pub fn renew(&self) {
        let mut client = self.client.borrow_mut();
        if client.as_ref().is_some_and(|(_, made)| clock::now() >= *made + RENEW) {
            *client = None;
        }
    }

    /// The EndpointSlices of a namespace; none: of that of the settings, of the kubeconfig or of the pod.
    ///
    /// # Errors
    /// It is not known where the API server is or who we are.
    pub async fn api(&self, namespace: Option<&str>) -> Result<Api<EndpointSlice>, Error> {
        let made = self.client.borrow().as_ref().map(|(client, _)| client.clone());
        let client = match made {
            Some(client) => client,
            None => {
                let client = self.connect().await?;
                self.client.replace(Some((client.clone(), clock::now())));
                client
            }
        };
        let namespace = namespace.or(self.settings.namespace.as_deref());
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        Ok(Api::namespaced(client, &namespace))
    }

    async fn connect(&self) -> Result<Client, Error> {
        let settings = self.settings.clone();
        // Files may be slow, and a kubeconfig may name a program to be asked who we are.
        let parts = tokio::task::spawn_blocking(move || parts(&settings));
        let parts = timeout(WITHIN, parts).await.map_err(|_| late("who we are"))?;
        let parts = parts.map_err(|error| Error::new(Reason::Failed, error.to_string()))??;
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(parts.connector);
        let service = ServiceBuilder::new()
            .layer(parts.base)
            .option_layer(parts.auth)
            .map_err(BoxError::from)
            .service(pool);
        Ok(Client::new(service, parts.namespace))
    }
}

/// Reads all that a client needs, on a thread that may wait.
fn parts(settings: &Kubernetes) -> Result<Parts, Error> {
    let config = config(settings)?;
    let unusable = |error: kube::Error| {
        let detail = format!("what the kubeconfig has cannot be used: {}", causes(&error));
        Error::new(Reason::Refused, detail)
    };
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEP_ALIVE));
    connector.set_keepalive_interval(Some(KEEP_ALIVE / 3));
    connector.set_keepalive_retries(Some(TRIES));
    Ok(Parts {
        base: config.base_uri_layer(),
        auth: config.auth_layer().map_err(unusable)?,
        connector: config.rustls_https_connector_with_connector(connector).map_err(unusable)?,
        namespace: config.default_namespace,
    })
}

fn config(settings: &Kubernetes) -> Result<Config, Error> {
    let path = settings.kubeconfig.as_ref();
    if path.is_none() && std::env::var_os("KUBECONFIG").is_none() {
        return Config::incluster().map_err(|error| {
            let help = "outside of a pod give `kubeconfig`, or $KUBECONFIG";
            let detail = format!("which API server is not known: {}; {help}", causes(&error));
            Error::new(Reason::Refused, detail)
        });
    }
    let what = path.map_or("$KUBECONFIG".to_owned(), |it| it.display().to_string());
    let why = |error: &dyn std::error::Error| {
        Error::new(Reason::Refused, format!("{what} cannot be used: {}", causes(error)))
    };
    let read = path.map_or_else(Kubeconfig::from_env, |it| Kubeconfig::read_from(it).map(Some));
    let kubeconfig = read.map_err(|error| why(&error))?.unwrap_or_default();
    let options =
        KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    // It waits for nothing but files; there is no other way to it.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| why(&error))?;
    let config = runtime.block_on(Config::from_custom_kubeconfig(kubeconfig, &options));
    config.map_err(|error| why(&error))
}

pub fn late(what: &str) -> Error {
    Error::new(Reason::Timeout, format!("the API server: no answer within {WITHIN:?} to {what}"))
}

/// Why there is no answer. `namespace`: that of the question, where it was named.
pub fn why(error: &kube::Error, namespace: Option<&str>) -> Error {
    let said =
        |reason, help: &str| Error::new(reason, format!("the API server: {}{help}", causes(error)));
    match error {
        kube::Error::Api(status) => {
            let place = namespace.map_or("its namespace".to_owned(), |it| format!("`{it}`"));
            let (reason, help) = match status.code {
                401 => (Reason::Refused, "; check the token or the certificate".to_owned()),
                403 => {
                    let needs = "the service account needs `list` and `watch` on `endpointslices` of `discovery.k8s.io` in";
                    (Reason::Refused, format!("; {needs} {place}"))
                }
                0 => (Reason::Garbage, "the answer makes no sense".to_owned()),
                400..500 if status.code != 429 => (Reason::Refused, String::new()),
                _ => (Reason::Failed, String::new()),
            };
            let detail = format!("the API server: {} {}{help}", status.code, status.message);
            Error::new(reason, detail)
        }
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => said(Reason::Garbage, ""),
        kube::Error::Auth(_) => said(Reason::Refused, "; check who the kubeconfig says we are"),
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            said(Reason::Unreachable, "")
        }
        _ => said(Reason::Failed, ""),
    }
}
