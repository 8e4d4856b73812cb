//! What a request waits for that is the first to call a service: until a registry has told where that runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use tokio::time::timeout;

use super::choose::{self, Chosen, Found, Way};
use super::connection::Connection;
use super::error::Failure;
use super::target::Target;
use crate::clock::{self, Instant};
use crate::config::discovered::FirstAnswer;
use crate::config::snapshot::Destination;
use crate::worker::{View, Worker};

/// What is not known yet of the service that is called.
pub enum Unsettled {
    /// Where it runs.
    Pending(Arc<FirstAnswer>),
    /// Whether a registry knows it.
    Unknown(Box<str>),
}

/// What there is without an answer is put in force when the time for the first answer is over. Who asked first waits
/// for that too.
const MARGIN: Duration = Duration::from_millis(250);

/// How long a request still waits.
pub struct Patience {
    until: Instant,
}

impl Patience {
    pub fn of(view: &View) -> Self {
        Self { until: clock::now() + view.snapshot.discovery.first_answer + MARGIN }
    }

    /// Waits for what is not known. Whether it is known now; without, the request takes what there is.
    pub async fn settle(&self, worker: &Worker, unsettled: &Unsettled) -> bool {
        let told = async {
            match unsettled {
                Unsettled::Pending(first) => {
                    first.wait().await;
                    true
                }
                Unsettled::Unknown(service) => worker.demands.follow(service).await,
            }
        };
        let left = self.until.saturating_duration_since(clock::now());
        timeout(left, told).await.unwrap_or(false)
    }
}

/// Finds the route of a request when what it calls is known, in the snapshot that is in force then.
///
/// # Errors
/// As [`choose::route`].
pub async fn settled(
    worker: &Worker,
    connection: &Connection,
    target: &Target,
    parts: &Parts,
    unsettled: Unsettled,
    path: PathAndQuery,
) -> Result<(Rc<View>, Chosen), Failure> {
    let (mut unsettled, mut path) = (unsettled, path);
    let patience = Patience::of(&worker.view());
    loop {
        let may_wait = patience.settle(worker, &unsettled).await;
        let view = worker.view();
        match choose::route(worker, &view, connection, target, path, parts, may_wait)? {
            Found::Route(chosen) => return Ok((view, chosen)),
            Found::Unsettled(next, back) => (unsettled, path) = (next, back),
        }
    }
}

/// Finds where a `CONNECT` leads when that is known.
///
/// # Errors
/// As [`choose::tunnel`].
pub async fn settled_tunnel(
    worker: &Worker,
    connection: &Connection,
    target: &Target,
    mut unsettled: Unsettled,
) -> Result<(Rc<View>, Way), Failure> {
    let patience = Patience::of(&worker.view());
    loop {
        let may_wait = patience.settle(worker, &unsettled).await;
        let view = worker.view();
        match choose::tunnel(worker, &view, connection, target, may_wait)? {
            Ok(way) => return Ok((view, way)),
            Err(next) => unsettled = next,
        }
    }
}

/// What a connection of bytes goes by when it is known where its service runs.
pub async fn settled_bytes(worker: &Worker, view: Rc<View>, to: Destination) -> Rc<View> {
    let Some(first) = view.snapshot.cluster(to).pending().cloned() else { return view };
    Patience::of(&view).settle(worker, &Unsettled::Pending(first)).await;
    worker.view()
}
