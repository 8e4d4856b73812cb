//! Metrics: each worker counts in a shard of its own, control adds the shards up when somebody
//! asks, so a scrape never runs on a worker.
//!
//! A finished request costs one look-up by small integers and two plain stores. The families about
//! requests (`http_*`, `rpc_*`) are projections of that one histogram. `http_requests_total` counts
//! inbound requests, a gateway's too: outbound ones are another sidecar's inbound ones.
//!
//! The number of series has an end: labels come from the configuration or from our code, a shard
//! holds 10,000 request series and 1,000 of each other family, then labels collapse to
//! `_overflow`; and [`Metrics::retain`] removes what the configuration no longer has.

mod cell;
mod family;
mod gather;
mod request;
mod shard;
#[cfg(test)]
mod tests;

pub use cell::{Counter, Gauge};
pub use family::{Family, Handle};
pub use request::{ErrorType, MethodLabel, RequestKey, RequestLabels};
pub use shard::{OpenGuard, Recorder, Shard, WorkerShard};

use super::log_writer::LogStats;
use gather::{SampledCollector, Shards, WorkerCollector};
use prometheus::proto::MetricType;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The value that labels collapse to when there are too many.
pub const OVERFLOW: &str = "_overflow";

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the configuration has, by the names that stand in labels. Names that our code makes up
/// (such as one for destinations outside of the configuration) belong in here as well.
#[derive(Debug, Default)]
pub struct Live {
    /// Templates of all routes.
    pub routes: HashSet<Box<str>>,
    pub services: HashSet<Box<str>>,
    /// Names of all rate limits.
    pub limits: HashSet<Box<str>>,
}

impl Live {
    /// Whether a series with this label may stay.
    fn keeps(&self, label: &str, value: &str) -> bool {
        let names = match label {
            "route" => &self.routes,
            "service" => &self.services,
            "limit" => &self.limits,
            _ => return true,
        };
        value.is_empty() || value == OVERFLOW || names.contains(value)
    }
}

/// The registry, on control.
pub struct Metrics {
    registry: Registry,
    shards: Shards,
    live: Mutex<Option<Live>>,
    service_info: IntGaugeVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    last_reload_timestamp: IntGauge,
}

impl Metrics {
    /// A registry with the families that are always there; `version` is our own.
    pub fn new(version: &str) -> Metrics {
        Metrics::with_registry(version).expect("names and labels are constants and valid")
    }

    fn with_registry(version: &str) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let shards = Shards::default();
        registry.register(Box::new(WorkerCollector(shards.clone())))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let build_info =
            int_gauges("pilotfish_build_info", "The version that runs.", &["version"])?;
        build_info.with_label_values(&[version]).set(1);
        registry.register(Box::new(build_info))?;

        let service_info = int_gauges(
            "pilotfish_service_info",
            "The service that this sidecar governs.",
            &["name", "version", "zone"],
        )?;
        registry.register(Box::new(service_info.clone()))?;

        let opts = Opts::new("pilotfish_config_reload_total", "Configurations read, by result.");
        let reloads = IntCounterVec::new(opts, &["result"])?;
        for result in [RELOADED, REFUSED] {
            reloads.with_label_values(&[result]);
        }
        registry.register(Box::new(reloads.clone()))?;

        let last_reload_successful = IntGauge::new(
            "pilotfish_config_last_reload_successful",
            "1 if the configuration that was read last is in force.",
        )?;
        registry.register(Box::new(last_reload_successful.clone()))?;

        let last_reload_timestamp = IntGauge::new(
            "pilotfish_config_last_reload_timestamp_seconds",
            "When the configuration in force was read.",
        )?;
        registry.register(Box::new(last_reload_timestamp.clone()))?;

        let live = Mutex::default();
        Ok(Metrics {
            registry,
            shards,
            live,
            service_info,
            reloads,
            last_reload_successful,
            last_reload_timestamp,
        })
    }

    /// A new shard, for a worker's [`Recorder`].
    pub fn worker(&self) -> WorkerShard {
        let shard = Arc::new(Shard::new());
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        WorkerShard(shard)
    }

    /// Says which service this is; what was said before is forgotten.
    pub fn set_service_info(&self, name: &str, version: &str, zone: &str) {
        self.service_info.reset();
        self.service_info.with_label_values(&[name, version, zone]).set(1);
    }

    /// Counts a configuration that was read at `now`, the first one too. One that was refused does
    /// not move the timestamp.
    pub fn config_read(&self, accepted: bool, now: SystemTime) {
        let result = if accepted { RELOADED } else { REFUSED };
        self.reloads.with_label_values(&[result]).inc();
        self.last_reload_successful.set(accepted.into());
        if accepted {
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_reload_timestamp.set(since.as_secs().try_into().unwrap_or(i64::MAX));
        }
    }

    /// Adds gauges whose values lie elsewhere. `read` runs on each scrape and calls its argument
    /// with label values, in the order of `labels`, and a number; numbers of one series are added
    /// up.
    ///
    /// # Errors
    /// The name is taken, or it or a label is not a valid name.
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        read: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        self.sampled((name, help), labels, MetricType::GAUGE, read)
    }

    /// [`Metrics::gauges`], for counts that only grow.
    ///
    /// # Errors
    /// As there.
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        read: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        self.sampled((name, help), labels, MetricType::COUNTER, read)
    }

    fn sampled(
        &self,
        name_and_help: (&str, &str),
        labels: &[&str],
        kind: MetricType,
        read: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let collector = SampledCollector::new(name_and_help, labels, kind, Box::new(read))?;
        self.registry.register(Box::new(collector))
    }

    /// Adds `pilotfish_endpoints`: `read` emits `[service, state]` and a number.
    ///
    /// # Errors
    /// It was added before.
    pub fn watch_endpoints(
        &self,
        read: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let help = "Endpoints known, by what we think of them.";
        self.gauges("pilotfish_endpoints", help, &["service", "state"], read)
    }

    /// Adds the access log's own counts.
    ///
    /// # Errors
    /// They were added before.
    pub fn watch_access_log(&self, stats: Arc<LogStats>) -> prometheus::Result<()> {
        let of_errors = stats.clone();
        self.counters(
            "pilotfish_access_log_dropped_total",
            "Lines of the access log that were lost.",
            &[],
            move |emit| emit(&[], stats.dropped_lines() as f64),
        )?;
        self.counters(
            "pilotfish_access_log_write_errors_total",
            "Failed writes of the access log.",
            &[],
            move |emit| emit(&[], of_errors.write_errors() as f64),
        )
    }

    /// Removes the series whose route or service is gone, now and before each
    /// [`Metrics::encode`], since requests of an older snapshot may end later.
    ///
    /// Call it after a snapshot was published. A series that a worker made in between, and that
    /// was removed by the older `live`, begins again at zero.
    pub fn retain(&self, live: Live) {
        self.sweep(&live);
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
    }

    fn sweep(&self, live: &Live) {
        for shard in &*self.shards.lock().unwrap_or_else(PoisonError::into_inner) {
            shard.retain(live);
        }
    }

    /// All series in Prometheus' text format 0.0.4.
    pub fn encode(&self) -> String {
        if let Some(live) = &*self.live.lock().unwrap_or_else(PoisonError::into_inner) {
            self.sweep(live);
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics: cannot be encoded");
        }
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Values of the label `result` of `pilotfish_config_reload_total`.
const RELOADED: &str = "success";
const REFUSED: &str = "failure";

fn int_gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}
