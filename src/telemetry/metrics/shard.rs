//! What one worker counts, and the handle by which it does.

use super::Live;
use super::cell::{Counter, Gauge};
use super::family::Family;
use super::request::{
    MAX_SERIES, RequestKey, RequestLabels, RequestSeries, RequestTable, SeriesKey,
};
use crate::telemetry::Direction;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The counters of one worker: written by it alone, read by control. Series of a worker that has
/// ended stay, so that no sum goes down.
#[derive(Debug)]
#[repr(align(128))]
pub struct Shard {
    pub(super) connections_open: [Gauge; 2],
    pub(super) connections_total: [Counter; 2],
    pub(super) requests_in_flight: [Gauge; 2],
    /// Upstream connections that wait in the pool.
    pub pool_idle: Gauge,
    /// Panics that were caught in a request or a connection.
    pub panics: Counter,
    /// `[service, reason]`
    pub retries: Family<2>,
    /// `[reason]`: retries that were wanted and not allowed.
    pub retry_skipped: Family<1>,
    /// `[service, result]`: `sent`, `won`.
    pub hedges: Family<2>,
    /// `[reason]`: hedges that were due and not allowed.
    pub hedge_skipped: Family<1>,
    /// `[reason]`: requests that we refused ourselves.
    pub rejected: Family<1>,
    /// `[policy, would]`: what policies in shadow mode would have done.
    pub shadow_decisions: Family<2>,
    /// `[service, reason]`: requests and connections that a bulkhead refused.
    pub bulkhead_overflow: Family<2>,
    /// `[service, scope, to]`: breakers that opened or closed; scope is `endpoint` or `service`.
    pub breaker_changes: Family<3>,
    /// `[service, cause, result]`: causes to eject an endpoint, see [`Recorder::ruled`].
    pub ejections: Family<3>,
    /// `[service]`: picked though it is ejected, because so many are.
    pub panic_picks: Family<1>,
    /// `[service, result]`: `success`, or how the check failed.
    pub health_checks: Family<2>,
    /// `[priority, signal]`: requests that were refused because the proxy had too little.
    pub shed: Family<2>,
    /// `[service, fault]`: `delay`, `abort`.
    pub faults: Family<2>,
    /// `[service, reason]`: answers that stood in for others.
    pub fallbacks: Family<2>,
    /// `[service, result]`: copies by what became of them; the service is the one that gets them.
    pub mirrored: Family<2>,
    /// `[limit, decision]`: what rate limits decided.
    pub rate_limits: Family<2>,
    /// `[limit]`: decided without Redis, though it is shared.
    pub rate_limit_fallbacks: Family<1>,
    /// `[service, zone]`: `local` or `other`, where endpoints of our zone are preferred.
    pub zone_picks: Family<2>,
    /// `[service, result]`: what became of cookies and keys that clients have, see `telemetry::picks`.
    pub sticky_picks: Family<2>,
    pub splits: Family<2>,
    /// `[service, result]`: `opened`, `reused`, or how it failed.
    pub upstream_connections: Family<2>,
    /// `[direction, service]`
    pub tcp_connections: Family<2>,
    /// `[direction, service]`: bytes to the server.
    pub tcp_sent_bytes: Family<2>,
    /// `[direction, service]`: bytes from the server.
    pub tcp_received_bytes: Family<2>,
    /// `[reason]`
    pub accept_errors: Family<1>,
    pub(super) requests: RequestTable,
}

impl Shard {
    pub(super) fn new() -> Shard {
        Shard {
            connections_open: Default::default(),
            connections_total: Default::default(),
            requests_in_flight: Default::default(),
            pool_idle: Gauge::default(),
            panics: Counter::default(),
            retries: Family::new(["service", "reason"]),
            retry_skipped: Family::new(["reason"]),
            hedges: Family::new(["service", "result"]),
            hedge_skipped: Family::new(["reason"]),
            rejected: Family::new(["reason"]),
            shadow_decisions: Family::new(["policy", "would"]),
            bulkhead_overflow: Family::new(["service", "reason"]),
            breaker_changes: Family::new(["service", "scope", "to"]),
            ejections: Family::new(["service", "cause", "result"]),
            panic_picks: Family::new(["service"]),
            health_checks: Family::new(["service", "result"]),
            shed: Family::new(["priority", "signal"]),
            faults: Family::new(["service", "fault"]),
            fallbacks: Family::new(["service", "reason"]),
            mirrored: Family::new(["service", "result"]),
            rate_limits: Family::new(["limit", "decision"]),
            rate_limit_fallbacks: Family::new(["limit"]),
            zone_picks: Family::new(["service", "zone"]),
            sticky_picks: Family::new(["service", "result"]),
            splits: Family::new(["service", "subset"]),
            upstream_connections: Family::new(["service", "result"]),
            tcp_connections: Family::new(["direction", "service"]),
            tcp_sent_bytes: Family::new(["direction", "service"]),
            tcp_received_bytes: Family::new(["direction", "service"]),
            accept_errors: Family::new(["reason"]),
            requests: RequestTable::default(),
        }
    }

    pub(super) fn retain(&self, live: &Live) {
        self.requests.retain(live);
        self.retries.retain(live);
        self.hedges.retain(live);
        self.bulkhead_overflow.retain(live);
        self.breaker_changes.retain(live);
        self.ejections.retain(live);
        self.panic_picks.retain(live);
        self.health_checks.retain(live);
        self.faults.retain(live);
        self.fallbacks.retain(live);
        self.mirrored.retain(live);
        self.rate_limits.retain(live);
        self.rate_limit_fallbacks.retain(live);
        self.zone_picks.retain(live);
        self.sticky_picks.retain(live);
        self.splits.retain(live);
        self.upstream_connections.retain(live);
        self.tcp_connections.retain(live);
        self.tcp_sent_bytes.retain(live);
        self.tcp_received_bytes.retain(live);
    }
}

/// A new shard on its way to the thread that will write it.
#[derive(Debug)]
pub struct WorkerShard(pub(super) Arc<Shard>);

/// A worker's handle to its shard: the one writer. It cannot leave its thread.
pub struct Recorder {
    shard: Arc<Shard>,
    cache: RefCell<Cache>,
}

/// Series found before, by the small values of one snapshot.
#[derive(Default)]
struct Cache {
    generation: u64,
    series: HashMap<RequestKey, Arc<RequestSeries>, foldhash::fast::RandomState>,
}

impl Recorder {
    pub fn new(shard: WorkerShard) -> Rc<Recorder> {
        Rc::new(Recorder { shard: shard.0, cache: RefCell::default() })
    }

    /// Counts a finished request. `labels` is asked only when this combination is new to the cache.
    ///
    /// The first key of a newer snapshot empties the cache. A request that still belongs to an
    /// older one is looked up by its labels, since its numbers mean something else by now.
    pub fn record<'a>(
        &self,
        key: RequestKey,
        labels: impl FnOnce() -> RequestLabels<'a>,
        duration: Duration,
    ) {
        let mut cache = self.cache.borrow_mut();
        if key.generation > cache.generation || cache.series.len() >= 2 * MAX_SERIES {
            cache.series.clear();
            cache.generation = cache.generation.max(key.generation);
        }
        let is_current = key.generation == cache.generation;
        if is_current
            && let Some(series) = cache.series.get(&key)
            && !series.is_removed()
        {
            return series.duration.observe(duration);
        }
        let series = self.shard.requests.find_or_create(SeriesKey::new(&key, labels()));
        series.duration.observe(duration);
        if is_current {
            cache.series.insert(key, series);
        }
    }

    /// Counts a connection, open until the guard is dropped.
    pub fn connection_opened(self: &Rc<Self>, direction: Direction) -> OpenGuard {
        self.shard.connections_total[direction.index()].inc();
        OpenGuard::new(self, direction, |shard| &shard.connections_open)
    }

    /// Counts a request in flight until the guard is dropped, which belongs into the body of the
    /// response, so that a cancelled request ends too.
    pub fn request_started(self: &Rc<Self>, direction: Direction) -> OpenGuard {
        OpenGuard::new(self, direction, |shard| &shard.requests_in_flight)
    }
}

impl Deref for Recorder {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// Something that is counted as long as it exists.
#[derive(Debug)]
pub struct OpenGuard {
    recorder: Rc<Recorder>,
    direction: Direction,
    gauges: fn(&Shard) -> &[Gauge; 2],
}

impl OpenGuard {
    fn new(
        recorder: &Rc<Recorder>,
        direction: Direction,
        gauges: fn(&Shard) -> &[Gauge; 2],
    ) -> OpenGuard {
        gauges(&recorder.shard)[direction.index()].inc();
        OpenGuard { recorder: recorder.clone(), direction, gauges }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        (self.gauges)(&self.recorder.shard)[self.direction.index()].dec();
    }
}
