use super::*;
use crate::telemetry::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);

fn key() -> RequestKey {
    RequestKey {
        generation: 1,
        route: 1,
        service: 1,
        direction: Direction::Inbound,
        method: MethodLabel::Get,
        status: 200,
        error: ErrorType::NONE,
        grpc_status: None,
    }
}

const LABELS: RequestLabels<'static> = RequestLabels { route: "/users", service: "user-service" };

/// Samples by name and labels as they stand in the text. Fails on what is not the text format:
/// a family without HELP or TYPE, a family twice, a sample outside of its family, a sample twice,
/// a value that is no number.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty(), "{line}");
            assert!(families.insert(name.to_owned()), "twice: {line}");
            (family, kind) = (name.to_owned(), String::new());
        } else if let Some(named) = line.strip_prefix("# TYPE ") {
            let (name, named) = named.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(matches!(named, "counter" | "gauge" | "histogram"), "{line}");
            kind = named.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family).unwrap();
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            let value = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn one_call_feeds_the_http_families() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let millis = [0.4, 0.5, 3.0, 20_000.0].map(|millis| Duration::from_secs_f64(millis / 1e3));
    for duration in millis {
        recorder.record(key(), || LABELS, duration);
    }
    let out = RequestKey { direction: Direction::Outbound, status: 503, ..key() };
    let out = RequestKey { error: ErrorType("connect_failure"), ..out };
    recorder.record(out, || LABELS, MILLISECOND);

    let samples = samples(&metrics.encode());
    let labels = r#"http_request_method="GET",http_response_status_code="200",http_route="/users",error_type="""#;
    let server = "http_server_request_duration_seconds";
    let bucket = |le: &str| samples[&format!("{server}_bucket{{{labels},le=\"{le}\"}}")];
    assert_eq!(bucket("0.0005"), 2.0);
    assert_eq!(bucket("0.001"), 2.0);
    assert_eq!(bucket("0.005"), 3.0);
    assert_eq!(bucket("10"), 3.0);
    assert_eq!(bucket("+Inf"), 4.0);
    assert_eq!(samples[&format!("{server}_count{{{labels}}}")], 4.0);
    assert!((samples[&format!("{server}_sum{{{labels}}}")] - 20.0039).abs() < 1e-9);
    assert_eq!(samples[r#"http_requests_total{method="GET",path="/users",status="200"}"#], 4.0);
    let client = r#"http_client_request_duration_seconds_count{http_request_method="GET",http_response_status_code="503",http_route="/users",error_type="connect_failure",peer_service="user-service"}"#;
    assert_eq!(samples[client], 1.0);
    // Outbound requests are not counted in the compatibility set.
    let totals = samples.keys().filter(|name| name.starts_with("http_requests_total"));
    assert_eq!(totals.count(), 1);
}

#[test]
fn grpc_calls_are_counted_by_their_status_and_as_http() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    for (direction, code) in [
        (Direction::Inbound, 0),
        (Direction::Inbound, 14),
        (Direction::Outbound, 14),
        (Direction::Outbound, 99),
    ] {
        let key = RequestKey { direction, grpc_status: Some(code), ..key() };
        recorder.record(key, || LABELS, MILLISECOND);
    }
    let samples = samples(&metrics.encode());
    let server = |code| {
        samples[&format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_system="grpc",rpc_grpc_status_code="{code}"}}"#
        )]
    };
    assert_eq!((server(0), server(14)), (1.0, 1.0));
    let client = |code| {
        samples[&format!(
            r#"rpc_client_call_duration_seconds_count{{rpc_system="grpc",rpc_grpc_status_code="{code}",peer_service="user-service"}}"#
        )]
    };
    assert_eq!((client(14), client(2)), (1.0, 1.0));
    assert_eq!(samples[r#"http_requests_total{method="GET",path="/users",status="200"}"#], 2.0);
}

#[test]
fn workers_add_up_while_control_reads() {
    const WORKERS: u64 = 4;
    const EACH: u64 = 20_000;
    let metrics = Metrics::new("0.1.0");
    let count = |metrics: &Metrics| {
        let text = metrics.encode();
        let name = r#"http_requests_total{method="GET",path="/users",status="200"}"#;
        samples(&text).get(name).copied().unwrap_or_default()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let shard = metrics.worker();
                scope.spawn(move || {
                    let recorder = Recorder::new(shard);
                    for _ in 0..EACH {
                        recorder.record(key(), || LABELS, MILLISECOND);
                        recorder.retries.inc(["user-service", "connect_failure"]);
                    }
                })
            })
            .collect();
        let mut last = 0.0;
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let now = count(&metrics);
            assert!(now >= last, "a count went from {last} to {now}");
            last = now;
        }
    });
    assert_eq!(count(&metrics), (WORKERS * EACH) as f64);
    let retries = r#"pilotfish_retries_total{service="user-service",reason="connect_failure"}"#;
    assert_eq!(samples(&metrics.encode())[retries], (WORKERS * EACH) as f64);
}

#[test]
fn labels_are_asked_once_a_snapshot() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let asked = std::cell::Cell::new(0);
    let record = |generation| {
        let labels = || {
            asked.set(asked.get() + 1);
            LABELS
        };
        recorder.record(RequestKey { generation, ..key() }, labels, MILLISECOND);
    };
    for (generation, expected) in [(1, 1), (1, 1), (2, 2), (2, 2), (1, 3), (2, 3)] {
        record(generation);
        assert_eq!(asked.get(), expected);
    }
    let name = r#"http_requests_total{method="GET",path="/users",status="200"}"#;
    assert_eq!(samples(&metrics.encode())[name], 6.0, "the series goes on across snapshots");
}

#[test]
fn numbers_of_an_older_snapshot_do_not_mean_the_new_ones() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let label = |route| move || RequestLabels { route, service: "" };
    recorder.record(RequestKey { generation: 2, ..key() }, label("/new"), MILLISECOND);
    recorder.record(key(), label("/old"), MILLISECOND);
    recorder.record(RequestKey { generation: 2, ..key() }, label("/new"), MILLISECOND);
    let samples = samples(&metrics.encode());
    assert_eq!(samples[r#"http_requests_total{method="GET",path="/new",status="200"}"#], 2.0);
    assert_eq!(samples[r#"http_requests_total{method="GET",path="/old",status="200"}"#], 1.0);
}

#[test]
fn the_number_of_request_series_has_an_end() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let requests = 3 * request::MAX_SERIES as u32;
    for route in 0..requests {
        let status = 200 + (route % 2) as u16;
        let name = route.to_string();
        let labels = || RequestLabels { route: &name, service: "" };
        recorder.record(RequestKey { route, status, ..key() }, labels, MILLISECOND);
    }
    let samples = samples(&metrics.encode());
    let totals: Vec<_> =
        samples.iter().filter(|(name, _)| name.starts_with("http_requests_total")).collect();
    assert_eq!(totals.len(), request::MAX_SERIES + 2);
    assert_eq!(totals.iter().map(|(_, count)| **count).sum::<f64>(), f64::from(requests));
    let overflow = r#"http_requests_total{method="_OTHER",path="_overflow",status="201"}"#;
    assert_eq!(samples[overflow], request::MAX_SERIES as f64);
}

#[test]
fn what_a_reload_removed_is_gone_and_may_return() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let record = |route: u32| {
        let labels = || RequestLabels {
            route: if route == 1 { "/kept" } else { "/gone" },
            service: "user-service",
        };
        recorder.record(RequestKey { route, ..key() }, labels, MILLISECOND);
    };
    let paths = || -> Vec<(String, f64)> {
        let samples = samples(&metrics.encode());
        let totals = samples.into_iter().filter_map(|(name, count)| {
            let rest = name.strip_prefix(r#"http_requests_total{method="GET",path=""#)?;
            Some((rest.split('"').next()?.to_owned(), count))
        });
        totals.collect()
    };
    let live = |routes: &[&str]| Live {
        routes: routes.iter().map(|route| Box::from(*route)).collect(),
        services: ["user-service".into()].into(),
        ..Live::default()
    };
    record(1);
    record(2);
    recorder.retries.inc(["gone-service", "any"]);
    metrics.retain(live(&["/kept"]));
    assert_eq!(paths(), [("/kept".to_owned(), 1.0)]);
    assert!(!metrics.encode().contains("gone-service"));
    // A straggler of the old snapshot.
    record(2);
    assert_eq!(paths(), [("/kept".to_owned(), 1.0)]);
    // The route is back: what the worker has cached must not count into nowhere.
    metrics.retain(live(&["/kept", "/gone"]));
    record(1);
    record(2);
    assert_eq!(paths(), [("/gone".to_owned(), 1.0), ("/kept".to_owned(), 2.0)]);
}

#[test]
fn guards_count_up_and_down() {
    let metrics = Metrics::new("0.1.0");
    let recorder = Recorder::new(metrics.worker());
    let connection = recorder.connection_opened(Direction::Inbound);
    let request = recorder.request_started(Direction::Outbound);
    let read = || {
        let samples = samples(&metrics.encode());
        [
            r#"pilotfish_connections_open{direction="inbound"}"#,
            r#"pilotfish_connections_open{direction="outbound"}"#,
            r#"pilotfish_connections_total{direction="inbound"}"#,
            r#"pilotfish_requests_in_flight{direction="outbound"}"#,
        ]
        .map(|name| samples[name])
    };
    assert_eq!(read(), [1.0, 0.0, 1.0, 1.0]);
    drop((connection, request));
    assert_eq!(read(), [0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn control_has_its_own_families() {
    let metrics = Metrics::new("0.1.0");
    metrics.set_service_info("order-service", "1.4.2", "old");
    metrics.set_service_info("order-service", "1.4.2", "a\"b");
    metrics.config_read(true, UNIX_EPOCH + Duration::from_secs(1000));
    metrics.config_read(false, UNIX_EPOCH + Duration::from_secs(2000));
    let emit_endpoints = |emit: &mut dyn FnMut(&[&str], f64)| {
        emit(&["user-service", "healthy"], 2.0);
        emit(&["user-service", "ejected"], 1.0);
        emit(&["user-service", "healthy"], 1.0);
    };
    metrics.watch_endpoints(emit_endpoints).unwrap();
    assert!(metrics.watch_endpoints(emit_endpoints).is_err());
    metrics.watch_access_log(Arc::default()).unwrap();
    let samples = samples(&metrics.encode());
    for (name, value) in [
        (r#"pilotfish_build_info{version="0.1.0"}"#, 1.0),
        (r#"pilotfish_service_info{name="order-service",version="1.4.2",zone="a\"b"}"#, 1.0),
        (r#"pilotfish_config_reload_total{result="success"}"#, 1.0),
        (r#"pilotfish_config_reload_total{result="failure"}"#, 1.0),
        ("pilotfish_config_last_reload_successful", 0.0),
        ("pilotfish_config_last_reload_timestamp_seconds", 1000.0),
        (r#"pilotfish_endpoints{service="user-service",state="healthy"}"#, 3.0),
        (r#"pilotfish_endpoints{service="user-service",state="ejected"}"#, 1.0),
        ("pilotfish_access_log_dropped_total", 0.0),
        ("pilotfish_panics_total", 0.0),
        ("pilotfish_upstream_pool_idle", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    let infos = samples.keys().filter(|name| name.starts_with("pilotfish_service_info"));
    assert_eq!(infos.count(), 1);
    #[cfg(target_os = "linux")]
    assert!(samples["process_resident_memory_bytes"] > 0.0);
}
