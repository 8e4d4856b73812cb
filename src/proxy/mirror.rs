//! A copy of a request for another service. It waits for nothing and nothing waits for it: it is sent when
//! all of the body has gone by, in a task of its own, at most once, and its answer is read and thrown away.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Version};
use tokio::time::timeout;

use super::admission;
use super::attempt::{self, Call};
use super::incoming::Incoming;
use super::upload::{RequestBody, Upload};
use crate::clock;
use crate::config::snapshot::{Cluster, Destination};
use crate::endpoint::Held;
use crate::policy::Mirror;
use crate::policy::breaker::SharedBreaker;
use crate::policy::slots::{Slot, Slots};
use crate::upstream::Reuse;
use crate::worker::{View, Worker};

/// Says of a request that it is a copy.
pub static MIRROR: HeaderName = HeaderName::from_static("x-pilotfish-mirror");

/// A copy that waits for the body.
pub struct Copying {
    worker: Rc<Worker>,
    view: Rc<View>,
    cluster: u32,
    parts: Parts,
    path: PathAndQuery,
    authority: HeaderValue,
    grpc: bool,
    _counted: Slot<Arc<Slots>>,
    max_body: usize,
    /// What has gone by of the body.
    body: Vec<u8>,
    /// Told of it already.
    over: Cell<bool>,
}

/// Takes a copy of `call`, if this is one of the requests that are copied; whether it did.
pub fn begin(call: &Call<'_>, mirror: &Mirror) -> bool {
    let chance = call.worker.random.borrow_mut().f64();
    // What becomes a tunnel has no copy, and a copy has none, lest two mirrors face each other.
    if !mirror.takes(chance) || call.upgrade.is_some() || call.parts.headers.contains_key(&MIRROR) {
        return false;
    }
    let Some(service) = call.view.snapshot.outbound.hosts.get(&*mirror.service) else {
        return false;
    };
    let cluster = &call.view.snapshot.clusters[service.cluster as usize];
    let dropped = |result| {
        call.worker.recorder.mirrored.inc([&cluster.name, result]);
        false
    };
    let Some(counted) = admission::copy(&cluster.bulkhead, mirror.max_in_flight) else {
        return dropped("dropped");
    };
    let announced = call.upload.as_ref().and_then(|upload| upload.announced());
    if announced.is_some_and(|length| length > mirror.max_body as u64) {
        return dropped("body_too_large");
    }
    let copying = Copying {
        worker: call.worker.clone(),
        view: call.view.clone(),
        cluster: service.cluster,
        parts: call.parts.clone(),
        path: call.path.clone(),
        authority: call.authority.clone(),
        grpc: call.is_grpc,
        _counted: counted,
        max_body: mirror.max_body,
        body: Vec::new(),
        over: Cell::new(false),
    };
    match &call.upload {
        None => copying.complete(),
        Some(upload) => upload.copy_to(copying),
    }
    true
}

impl Copying {
    /// More of the body has gone by. Whether there is still room for it.
    #[must_use]
    pub fn push(&mut self, data: &Bytes) -> bool {
        if self.body.len() + data.len() > self.max_body {
            self.tell("body_too_large");
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    /// All of the body has gone by.
    pub fn complete(self) {
        self.over.set(true);
        tokio::task::spawn_local(async move {
            let result = self.send().await;
            self.tell(result);
        });
    }

    fn cluster(&self) -> &Cluster {
        &self.view.snapshot.clusters[self.cluster as usize]
    }

    fn tell(&self, result: &'static str) {
        self.over.set(true);
        self.worker.recorder.mirrored.inc([&self.cluster().name, result]);
    }

    /// What became of it.
    async fn send(&self) -> &'static str {
        let view = &self.view;
        let Some(service) = view.snapshot.outbound.hosts.get(&*self.cluster().name) else {
            return "failed";
        };
        let timeouts = service.fallback.policy.timeouts;
        // A copy of a long answer ends at some time as well.
        let longest = timeouts.request.unwrap_or(std::time::Duration::from_secs(60));
        match timeout(longest, self.exchange(timeouts.connect)).await {
            Ok(Some(())) => "answered",
            Ok(None) => "failed",
            Err(_) => "timeout",
        }
    }

    async fn exchange(&self, connect: std::time::Duration) -> Option<()> {
        let (worker, cluster) = (&self.worker, self.cluster());
        let wire = attempt::wire(cluster.protocol, self.grpc)?;
        // It tells nothing, so it is no probe either.
        let passes = |breaker: &Arc<SharedBreaker>| breaker.passes_unseen();
        cluster.breaker.as_ref().is_none_or(passes).then_some(())?;
        let slots = admission::OfService::new(&self.view, self.cluster);
        let _slot = Slot::try_take(slots)?;
        let to = Destination { cluster: self.cluster, group: 0 };
        let now = clock::now();
        // Without a wish, as Envoy's: a key or cookie is read from the request as the client sent it, which this is
        // no more.
        let picked = self.view.pick(to, &[], None, &mut worker.random.borrow_mut(), now).ok()?;
        let endpoint = &self.view.snapshot.group(to).endpoints[picked.index];
        endpoint.breaker.as_ref().is_none_or(passes).then_some(())?;
        let held = match endpoint.state.bulkhead() {
            Some(bulkhead) => Held([Some(Slot::try_take(bulkhead.requests.clone())?), None]),
            None => Held::default(),
        };
        let in_flight = endpoint.begin(now).holding(held);
        let admit = async || admission::connection(worker, cluster, endpoint, Some(now)).await;
        let checkout = worker.pool.checkout(endpoint, wire, connect, Reuse::Allowed, now, admit);
        let mut lease = checkout.await.ok()?;
        let head = self.head(wire);
        let body = (!self.body.is_empty()).then(|| {
            let body = Incoming::Whole(Some(Bytes::copy_from_slice(&self.body)));
            RequestBody::of(&Upload::new(body, None, None, now))
        });
        let sent = lease.send(&head, &Default::default(), body, |_, _| {}).await;
        let (response, _) = sent.ok()?;
        let mut body = response.into_body();
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            frame.ok()?;
        }
        drop(body);
        lease.release(clock::now());
        drop(in_flight);
        Some(())
    }

    fn head(&self, wire: crate::upstream::Wire) -> Parts {
        let mut head = self.parts.clone();
        head.headers.insert(MIRROR.clone(), HeaderValue::from_static("1"));
        head.headers.remove(EXPECT);
        if !self.body.is_empty() {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        let from_http2 = head.version == Version::HTTP_2;
        attempt::address(&mut head, wire, from_http2, &self.authority, &self.path);
        head
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        // The request broke off before its end.
        if !self.over.get() {
            self.tell("incomplete");
        }
    }
}
