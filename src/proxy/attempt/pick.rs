//! Which endpoint is asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::super::admission;
use super::super::error::Failure;
use super::Call;
use super::outcome::{connect_failure, failed};
use crate::clock::{self, Instant};
use crate::config::snapshot::{Cluster, Destination};
use crate::endpoint::{Endpoint, InFlight};
use crate::upstream::ConnectErrorKind;
use crate::worker::{View, Worker};

/// Among what an endpoint is picked.
#[derive(Clone)]
pub enum Choice {
    Group(Destination),
    /// The one host that the client named.
    Host(Arc<Endpoint>),
}

/// An endpoint for a connection that carries no HTTP, dialled; as often as a request would be.
///
/// # Errors
/// No endpoint, or the connect failure of the last one.
pub async fn dial(
    worker: &Worker,
    view: &View,
    to: Destination,
    peer: IpAddr,
    connect_timeout: Duration,
) -> Result<(Arc<Endpoint>, InFlight, crate::stream::Stream), Failure> {
    const ATTEMPTS: usize = 3;
    let cluster = view.snapshot.cluster(to);
    let group = view.snapshot.group(to);
    let wish = group.balancer.wish_of_peer(peer);
    let mut tried = SmallVec::<[u32; 4]>::new();
    loop {
        let index = view.pick(to, &tried, wish, &mut worker.random.borrow_mut(), clock::now());
        let Some(index) = index else {
            return Err(no_endpoint(cluster));
        };
        tried.push(index as u32);
        let endpoint = &group.endpoints[index];
        let held = admission::connection(worker, cluster, endpoint, None).await;
        let held = held.map_err(|error| connect_failure(cluster, error))?;
        let began = clock::now();
        let in_flight = endpoint.begin(clock::nanos(began)).holding(held);
        match crate::upstream::connect::connect(&endpoint.address, connect_timeout).await {
            Ok(stream) => return Ok((endpoint.clone(), in_flight, stream)),
            Err(error) => {
                if error.kind == ConnectErrorKind::Exhausted {
                    worker.pool.close_idle();
                } else {
                    failed(&in_flight, began);
                }
                if tried.len() >= ATTEMPTS.min(group.endpoints.len()) {
                    return Err(connect_failure(cluster, error));
                }
            }
        }
    }
}

fn no_endpoint(cluster: &Cluster) -> Failure {
    Failure::NoEndpoint { service: cluster.name.to_string() }
}

impl Call<'_> {
    pub(super) fn pick(
        &self,
        tried: &mut SmallVec<[u32; 4]>,
        now: Instant,
    ) -> Result<Arc<Endpoint>, Failure> {
        match &self.to {
            Choice::Host(endpoint) => Ok(endpoint.clone()),
            Choice::Group(to) => {
                let random = &mut self.worker.random.borrow_mut();
                let group = self.view.snapshot.group(*to);
                let none = || no_endpoint(self.cluster);
                let mut index =
                    self.view.pick(*to, tried, self.wish, random, now).ok_or_else(none)?;
                // The one place where endpoints that are there are passed over.
                let unavailable = |index: usize| group.endpoints[index].state.is_full();
                if unavailable(index) {
                    const MOST: usize = 16;
                    let mut passed = tried.clone();
                    while unavailable(index) && passed.len() < tried.len() + MOST {
                        passed.push(index as u32);
                        index = self
                            .view
                            .pick(*to, &passed, self.wish, random, now)
                            .ok_or_else(none)?;
                        if passed.contains(&(index as u32)) {
                            // All of them are.
                            break;
                        }
                    }
                }
                tried.push(index as u32);
                Ok(group.endpoints[index].clone())
            }
        }
    }

    /// Whether an endpoint is left that was not tried. What cannot be reached now cannot be reached in
    /// the next microsecond either.
    pub(super) fn has_other(&self, tried: &[u32]) -> bool {
        match &self.to {
            Choice::Host(_) => false,
            Choice::Group(to) => tried.len() < self.view.snapshot.group(*to).endpoints.len(),
        }
    }
}
