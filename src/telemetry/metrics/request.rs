//! The series that a finished request counts in. There is one histogram a combination of labels;
//! all families about requests are projections of it, made when control gathers them.

use super::cell::Histogram;
use super::{Live, OVERFLOW};
use crate::telemetry::Direction;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Request series in one shard. Above it labels collapse, which takes at most 2000 series more (a
/// direction and a status each).
pub(super) const MAX_SERIES: usize = 10_000;

/// A method as a label: the closed set of OpenTelemetry, `_OTHER` for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodLabel {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Connect,
    Trace,
    Other,
}

impl MethodLabel {
    /// Methods are case-sensitive: `get` is another one.
    pub fn of(method: &http::Method) -> MethodLabel {
        match method.as_str() {
            "GET" => MethodLabel::Get,
            "HEAD" => MethodLabel::Head,
            "POST" => MethodLabel::Post,
            "PUT" => MethodLabel::Put,
            "PATCH" => MethodLabel::Patch,
            "DELETE" => MethodLabel::Delete,
            "OPTIONS" => MethodLabel::Options,
            "CONNECT" => MethodLabel::Connect,
            "TRACE" => MethodLabel::Trace,
            _ => MethodLabel::Other,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            MethodLabel::Get => "GET",
            MethodLabel::Head => "HEAD",
            MethodLabel::Post => "POST",
            MethodLabel::Put => "PUT",
            MethodLabel::Patch => "PATCH",
            MethodLabel::Delete => "DELETE",
            MethodLabel::Options => "OPTIONS",
            MethodLabel::Connect => "CONNECT",
            MethodLabel::Trace => "TRACE",
            MethodLabel::Other => "_OTHER",
        }
    }
}

/// The label `error_type`: a reason in snake case out of our code, or nothing.
///
/// Equality and hash are those of the address: cheap, and two addresses of one text only take two
/// places in a cache.
#[derive(Clone, Copy, Debug)]
pub struct ErrorType(pub &'static str);

impl ErrorType {
    pub const NONE: ErrorType = ErrorType("");
}

impl PartialEq for ErrorType {
    fn eq(&self, other: &ErrorType) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ErrorType {}

impl Hash for ErrorType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.0.as_ptr().addr());
        state.write_usize(self.0.len());
    }
}

/// All the labels of a finished request, as small values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The snapshot's number, which only grows: `route` and `service` mean something in it alone.
    pub generation: u64,
    /// The route's place in the snapshot.
    pub route: u32,
    /// The service's place in the snapshot.
    pub service: u32,
    pub direction: Direction,
    pub method: MethodLabel,
    /// 0: the client got no answer.
    pub status: u16,
    pub error: ErrorType,
    /// A gRPC call's, out of its trailers; nothing if this was no gRPC call. Above 16 counts as 2
    /// (`UNKNOWN`).
    pub grpc_status: Option<u8>,
}

/// What `route` and `service` of a [`RequestKey`] are called. They come from the configuration,
/// never from a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLabels<'a> {
    /// The route's template; empty if none matched.
    pub route: &'a str,
    /// The service that was called; empty if there was none.
    pub service: &'a str,
}

/// What a series is known by, across snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    pub(super) direction: Direction,
    pub(super) method: MethodLabel,
    pub(super) status: u16,
    pub(super) error: &'static str,
    pub(super) grpc_status: Option<u8>,
    pub(super) route: Box<str>,
    pub(super) service: Box<str>,
}

impl SeriesKey {
    pub(super) fn new(key: &RequestKey, labels: RequestLabels<'_>) -> SeriesKey {
        SeriesKey {
            direction: key.direction,
            method: key.method,
            status: key.status,
            error: key.error.0,
            grpc_status: key.grpc_status.map(|code| if code > 16 { 2 } else { code }),
            route: labels.route.into(),
            service: labels.service.into(),
        }
    }

    /// What is left of the labels when there are too many series. Statuses outside 100 to 599 are
    /// no more told apart.
    fn collapsed(&self) -> SeriesKey {
        SeriesKey {
            direction: self.direction,
            method: MethodLabel::Other,
            status: if (100..600).contains(&self.status) { self.status } else { 0 },
            error: if self.error.is_empty() { "" } else { OVERFLOW },
            grpc_status: None,
            route: OVERFLOW.into(),
            service: OVERFLOW.into(),
        }
    }
}

/// Aligned so that the series of two workers never share a cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct RequestSeries {
    pub(super) duration: Histogram,
    pub(super) key: Arc<SeriesKey>,
    /// No longer in the table. A worker that has it cached must look it up anew.
    removed: AtomicBool,
}

impl RequestSeries {
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }
}

/// All request series of a shard. The owner takes the lock when its cache misses; control holds it
/// while it copies pointers.
#[derive(Debug, Default)]
pub(super) struct RequestTable(Mutex<SeriesMap>);

type SeriesMap = HashMap<Arc<SeriesKey>, Arc<RequestSeries>, foldhash::fast::RandomState>;

impl RequestTable {
    pub(super) fn find_or_create(&self, key: SeriesKey) -> Arc<RequestSeries> {
        let mut table = self.lock();
        if let Some(series) = table.get(&key) {
            return series.clone();
        }
        let key = if table.len() >= MAX_SERIES { key.collapsed() } else { key };
        let key = Arc::new(key);
        let new = || {
            let removed = AtomicBool::new(false);
            Arc::new(RequestSeries { duration: Histogram::default(), key: key.clone(), removed })
        };
        table.entry(key.clone()).or_insert_with(new).clone()
    }

    pub(super) fn all(&self) -> Vec<Arc<RequestSeries>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn retain(&self, live: &Live) {
        self.lock().retain(|key, series| {
            let keeps = live.keeps("route", &key.route) && live.keeps("service", &key.service);
            series.removed.store(!keeps, Relaxed);
            keeps
        });
    }

    fn lock(&self) -> MutexGuard<'_, SeriesMap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
