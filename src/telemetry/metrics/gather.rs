//! Shards into metric families, on control, when somebody asks.

use super::cell::{BOUNDS, Observed};
use super::family::Family;
use super::request::SeriesKey;
use super::shard::Shard;
use crate::telemetry::Direction;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// All shards that there have been.
pub(super) type Shards = Arc<Mutex<Vec<Arc<Shard>>>>;

/// The sums over all workers.
pub(super) struct WorkerCollector(pub(super) Shards);

impl Collector for WorkerCollector {
    /// None, which a registry takes once: it would only compare names that stand in this file.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut families = request_families(&shards);
        families.extend(fixed_families(&shards));
        families.extend(labelled_families(&shards));
        families
    }
}

/// Label values to what was observed under them. The names are the family's.
type Sums = BTreeMap<Vec<Box<str>>, Observed>;

fn request_families(shards: &[Arc<Shard>]) -> Vec<MetricFamily> {
    let http = ["http_request_method", "http_response_status_code", "http_route", "error_type"];
    let rpc = ["rpc_system", "rpc_grpc_status_code"];
    let with_peer = |names: &[&'static str]| [names, &["peer_service"]].concat();
    let mut http_sums: [Sums; 2] = Default::default();
    let mut rpc_sums: [Sums; 2] = Default::default();
    let mut requests: BTreeMap<Vec<Box<str>>, u64> = BTreeMap::new();
    for series in shards.iter().flat_map(|shard| shard.requests.all()) {
        let (key, observed) = (&*series.key, series.duration.read());
        let side = key.direction.index();
        http_sums[side].entry(http_values(key)).or_default().add(&observed);
        if let Some(values) = rpc_values(key) {
            rpc_sums[side].entry(values).or_default().add(&observed);
        }
        if key.direction == Direction::Inbound {
            let values = [key.method.as_str(), &key.route, &key.status.to_string()];
            *requests.entry(values.map(Box::from).to_vec()).or_default() += observed.count();
        }
    }
    let [http_server, http_client] = http_sums;
    let [rpc_server, rpc_client] = rpc_sums;
    let requests = requests
        .into_iter()
        .map(|(values, count)| counter(labels(&["method", "path", "status"], &values), count));
    vec![
        histograms(
            "http_server_request_duration_seconds",
            "Time from a request's first byte to its response's last, inbound.",
            &http,
            http_server,
        ),
        histograms(
            "http_client_request_duration_seconds",
            "Time from a request's first byte to its response's last, outbound.",
            &with_peer(&http),
            http_client,
        ),
        histograms(
            "rpc_server_call_duration_seconds",
            "Duration of gRPC calls, inbound.",
            &rpc,
            rpc_server,
        ),
        histograms(
            "rpc_client_call_duration_seconds",
            "Duration of gRPC calls, outbound.",
            &with_peer(&rpc),
            rpc_client,
        ),
        family(
            "http_requests_total",
            "Inbound requests; path is the route's template.",
            MetricType::COUNTER,
            requests.collect(),
        ),
    ]
}

fn http_values(key: &SeriesKey) -> Vec<Box<str>> {
    let status = key.status.to_string();
    let mut values = vec![key.method.as_str().into(), status.into(), key.route.clone()];
    values.push(key.error.into());
    values.extend((key.direction == Direction::Outbound).then(|| key.service.clone()));
    values
}

fn rpc_values(key: &SeriesKey) -> Option<Vec<Box<str>>> {
    let mut values: Vec<Box<str>> = vec!["grpc".into(), key.grpc_status?.to_string().into()];
    values.extend((key.direction == Direction::Outbound).then(|| key.service.clone()));
    Some(values)
}

fn fixed_families(shards: &[Arc<Shard>]) -> Vec<MetricFamily> {
    let by_direction = |read: &dyn Fn(&Shard, usize) -> f64| {
        Direction::ALL.map(|direction| {
            let labels = labels(&["direction"], &[direction.as_str().into()]);
            (labels, shards.iter().map(|shard| read(shard, direction.index())).sum::<f64>())
        })
    };
    let gauges = |name, help, read: &dyn Fn(&Shard, usize) -> f64| {
        let metrics = by_direction(read).map(|(labels, value)| gauge(labels, value));
        family(name, help, MetricType::GAUGE, metrics.into())
    };
    let connections_total = by_direction(&|shard, side| shard.connections_total[side].get() as f64)
        .map(|(labels, value)| counter(labels, value as u64));
    let pool_idle = shards.iter().map(|shard| shard.pool_idle.get() as f64).sum();
    let panics = shards.iter().map(|shard| shard.panics.get()).sum();
    vec![
        gauges(
            "pilotfish_connections_open",
            "Connections that clients have open.",
            &|shard, side| shard.connections_open[side].get() as f64,
        ),
        gauges("pilotfish_requests_in_flight", "Requests without their end.", &|shard, side| {
            shard.requests_in_flight[side].get() as f64
        }),
        family(
            "pilotfish_connections_total",
            "Connections accepted from clients.",
            MetricType::COUNTER,
            connections_total.into(),
        ),
        family(
            "pilotfish_upstream_pool_idle",
            "Upstream connections that wait in a pool.",
            MetricType::GAUGE,
            vec![gauge(Vec::new(), pool_idle)],
        ),
        family(
            "pilotfish_panics_total",
            "Panics caught in a request or a connection.",
            MetricType::COUNTER,
            vec![counter(Vec::new(), panics)],
        ),
    ]
}

fn labelled_families(shards: &[Arc<Shard>]) -> Vec<MetricFamily> {
    vec![
        sum("pilotfish_retries_total", "Requests sent again.", shards, |shard| &shard.retries),
        sum(
            "pilotfish_retry_skipped_total",
            "Retries that were wanted and not allowed.",
            shards,
            |shard| &shard.retry_skipped,
        ),
        sum("pilotfish_hedges_total", "Requests sent to a second endpoint.", shards, |shard| {
            &shard.hedges
        }),
        sum(
            "pilotfish_hedge_skipped_total",
            "Hedges that were due and not allowed.",
            shards,
            |shard| &shard.hedge_skipped,
        ),
        sum("pilotfish_rejected_total", "Requests refused by the proxy.", shards, |shard| {
            &shard.rejected
        }),
        sum(
            "pilotfish_shadow_decisions_total",
            "What policies in shadow mode would have done.",
            shards,
            |shard| &shard.shadow_decisions,
        ),
        sum(
            "pilotfish_bulkhead_overflow_total",
            "Requests and connections that a bulkhead refused.",
            shards,
            |shard| &shard.bulkhead_overflow,
        ),
        sum(
            "pilotfish_circuit_breaker_changes_total",
            "Circuit breakers that opened or closed.",
            shards,
            |shard| &shard.breaker_changes,
        ),
        sum(
            "pilotfish_outlier_ejections_total",
            "Causes to eject an endpoint, by what became of it.",
            shards,
            |shard| &shard.ejections,
        ),
        sum(
            "pilotfish_panic_picks_total",
            "Endpoints picked though they are ejected, because so many are.",
            shards,
            |shard| &shard.panic_picks,
        ),
        sum(
            "pilotfish_health_checks_total",
            "Active health checks, by what came of them.",
            shards,
            |shard| &shard.health_checks,
        ),
        sum(
            "pilotfish_shed_total",
            "Requests refused because the proxy had too little of something.",
            shards,
            |shard| &shard.shed,
        ),
        sum("pilotfish_faults_total", "Faults on purpose.", shards, |shard| &shard.faults),
        sum("pilotfish_fallback_total", "Answers that stood in for others.", shards, |shard| {
            &shard.fallbacks
        }),
        sum(
            "pilotfish_mirror_total",
            "Copies of requests by what became of them.",
            shards,
            |shard| &shard.mirrored,
        ),
        sum(
            "pilotfish_rate_limit_total",
            "Requests that met a rate limit, by what it decided.",
            shards,
            |shard| &shard.rate_limits,
        ),
        sum(
            "pilotfish_rate_limit_fallback_total",
            "Requests that a shared rate limit decided on without Redis.",
            shards,
            |shard| &shard.rate_limit_fallbacks,
        ),
        sum(
            "pilotfish_zone_picks_total",
            "Endpoints picked where those of our zone are preferred.",
            shards,
            |shard| &shard.zone_picks,
        ),
        sum(
            "pilotfish_sticky_picks_total",
            "Endpoints picked by a cookie or a key of the client.",
            shards,
            |shard| &shard.sticky_picks,
        ),
        sum(
            "pilotfish_split_requests_total",
            "Requests that a split has sent to a service, or to a subset of its endpoints.",
            shards,
            |shard| &shard.splits,
        ),
        sum(
            "pilotfish_upstream_connections_total",
            "Upstream connections by how they were come by.",
            shards,
            |shard| &shard.upstream_connections,
        ),
        sum("pilotfish_tcp_connections_total", "Connections tunnelled.", shards, |shard| {
            &shard.tcp_connections
        }),
        sum("pilotfish_tcp_sent_bytes_total", "Bytes tunnelled to servers.", shards, |shard| {
            &shard.tcp_sent_bytes
        }),
        sum(
            "pilotfish_tcp_received_bytes_total",
            "Bytes tunnelled from servers.",
            shards,
            |shard| &shard.tcp_received_bytes,
        ),
        sum("pilotfish_accept_errors_total", "Failures to accept.", shards, |shard| {
            &shard.accept_errors
        }),
    ]
}

fn sum<const N: usize>(
    name: &str,
    help: &str,
    shards: &[Arc<Shard>],
    of: fn(&Shard) -> &Family<N>,
) -> MetricFamily {
    let mut sums: BTreeMap<[Box<str>; N], u64> = BTreeMap::new();
    for shard in shards {
        of(shard).for_each(|values, count| *sums.entry(values.clone()).or_default() += count);
    }
    let names = shards.first().map(|shard| *of(shard).names());
    let metrics = sums
        .into_iter()
        .flat_map(|(values, count)| names.map(|names| counter(labels(&names, &values), count)));
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn histograms(name: &str, help: &str, names: &[&str], sums: Sums) -> MetricFamily {
    let metrics = sums.into_iter().map(|(values, observed)| {
        let mut metric = Metric::from_label(labels(names, &values));
        metric.set_histogram(histogram(&observed));
        metric
    });
    family(name, help, MetricType::HISTOGRAM, metrics.collect())
}

fn histogram(observed: &Observed) -> Histogram {
    let mut cumulative = 0;
    let buckets = BOUNDS.iter().zip(observed.buckets).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(observed.count());
    histogram.set_sample_sum(observed.sum_seconds);
    histogram
}

pub(super) fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: Vec<Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

pub(super) fn labels(names: &[&str], values: &[Box<str>]) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.to_string());
        pair
    };
    names.iter().zip(values.iter().map(|value| &**value)).map(pair).collect()
}

pub(super) fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

pub(super) fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// What a [`SampledCollector`] asks: calls its argument once for each series, with the label
/// values in the order of the names.
pub(super) type Read = Box<dyn Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync>;

/// A family whose values lie elsewhere and are read when somebody asks.
pub(super) struct SampledCollector {
    pub(super) desc: Desc,
    pub(super) kind: MetricType,
    pub(super) read: Read,
}

impl SampledCollector {
    pub(super) fn new(
        (name, help): (&str, &str),
        names: &[&str],
        kind: MetricType,
        read: Read,
    ) -> prometheus::Result<SampledCollector> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        Ok(SampledCollector { desc, kind, read })
    }
}

impl Collector for SampledCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let names: Vec<&str> = self.desc.variable_labels.iter().map(String::as_str).collect();
        // By label values, because two samples of one series would break the whole scrape.
        let mut values_seen: BTreeMap<Vec<Box<str>>, f64> = BTreeMap::new();
        (self.read)(&mut |values, value| {
            *values_seen
                .entry(values.iter().map(|text| Box::from(*text)).collect())
                .or_default() += value;
        });
        let metrics = values_seen.into_iter().map(|(values, value)| match self.kind {
            MetricType::COUNTER => counter(labels(&names, &values), value as u64),
            _ => gauge(labels(&names, &values), value),
        });
        let metrics = metrics.collect();
        vec![family(&self.desc.fq_name, &self.desc.help, self.kind, metrics)]
    }
}
