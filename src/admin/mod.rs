//! The admin server, on control: what Pilotfish tells about itself and what can be asked of it.
//!
//! | surface | bound to | answers |
//! |---|---|---|
//! | [`Surface::Admin`] | loopback, 15000 | everything; changes by POST only |
//! | [`Surface::Metrics`] | all addresses, 15020 | `/metrics`, `/live`, `/ready` |
//!
//! `route` decides what a request asks for, `answer` does it.

mod answer;
mod route;
#[cfg(test)]
mod tests;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// Connections at a time; further ones wait in the backlog.
const MAX_CONNECTIONS: u32 = 1024;
/// A client must send its head within this, and its next one: it is the idle timeout too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After this a connection ends once its answer is out, so that nobody holds a place for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How long a connection that has to end may take for its answer.
const GRACE: Duration = Duration::from_secs(5);
/// A pause when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which part of the paths a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Admin,
    Metrics,
}

/// What a reload came to: what to tell, or why the old configuration stays.
pub type Reload = Pin<Box<dyn Future<Output = Result<String, String>>>>;

/// Takes a level or directives, or says what is wrong with them.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String>>;

/// What the server can ask of the rest. All of it runs on control.
pub struct Handles {
    /// Metrics in Prometheus' text format 0.0.4.
    pub metrics: Box<dyn Fn() -> String>,
    /// The configuration in force, its secrets masked.
    pub config_dump: Box<dyn Fn() -> serde_json::Value>,
    /// Services and what we think of their endpoints.
    pub clusters: Box<dyn Fn() -> serde_json::Value>,
    /// What to tell when ready, a refused reload too; or why not.
    pub ready: Box<dyn Fn() -> Result<String, String>>,
    /// It runs to its end even if the client goes away.
    pub reload: Box<dyn Fn() -> Reload>,
    /// Begins to drain.
    pub drain: Box<dyn Fn()>,
    /// Drains and ends.
    pub quit: Box<dyn Fn()>,
    pub log_level: Box<dyn Fn() -> String>,
    /// Directives are as in `info,pilotfish=debug`.
    pub set_log_level: SetLogLevel,
    pub version: String,
}

/// Serves until `shutdown` is done, then waits a few seconds for answers that are on their way.
///
/// It uses `spawn_local`, so it needs a `LocalRuntime` or a `LocalSet`.
pub async fn serve(
    listener: TcpListener,
    surface: Surface,
    handles: Rc<Handles>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let (ending, ended) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, surface, handles.clone(), ended.clone());
                spawn_local(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin: cannot accept");
                tokio::select! {
                    () = &mut shutdown => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    // All places are free again when the last connection has ended.
    let _ = timeout(GRACE, places.acquire_many(MAX_CONNECTIONS)).await;
}

async fn connection(
    stream: TcpStream,
    surface: Surface,
    handles: Rc<Handles>,
    mut ended: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let handles = handles.clone();
        async move { Ok::<_, Infallible>(answer::answer(request, surface, &handles).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // Errors are the client's: it sent garbage, or went away.
        _ = &mut connection => return,
        _ = ended.wait_for(|ended| *ended) => {}
        () = sleep(CONNECTION_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
