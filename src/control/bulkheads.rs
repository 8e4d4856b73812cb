//! The gauges of bulkheads, read where they are when somebody asks.

use crate::config::live::Live;
use crate::config::snapshot::Cluster;
use crate::policy::slots::{Slots, UNLIMITED};
use crate::telemetry::Direction;
use crate::telemetry::metrics::Metrics;

/// Calls `visit` for each service with the side that it is on: the app, which may have the name of a service,
/// is inbound.
fn each(live: &Live, mut visit: impl FnMut(&str, &Cluster)) {
    let snapshot = live.current();
    let app = snapshot.inbound.app.map(|app| app.cluster);
    for (index, cluster) in (0..).zip(&snapshot.clusters) {
        let side = if Some(index) == app { Direction::Inbound } else { Direction::Outbound };
        visit(side.as_str(), cluster);
    }
}

type Registered = prometheus::Result<()>;

/// Adds the gauges.
pub fn watch(metrics: &Metrics, live: &Live) -> [Registered; 5] {
    let of_slots = |name, help, value: fn(&Slots) -> Option<u32>| {
        let live = live.clone();
        metrics.gauges(name, help, &["direction", "service", "kind"], move |emit| {
            each(&live, |side, cluster| {
                let bulkhead = &cluster.bulkhead;
                for (kind, slots) in
                    [("requests", &bulkhead.requests), ("connections", &*bulkhead.connections)]
                {
                    if let Some(value) = value(slots) {
                        emit(&[side, &cluster.name, kind], f64::from(value));
                    }
                }
            });
        })
    };
    let of_adaptive = |name, help, value: fn(&Cluster) -> Option<f64>| {
        let live = live.clone();
        metrics.gauges(name, help, &["direction", "service"], move |emit| {
            each(&live, |side, cluster| {
                if let Some(value) = value(cluster) {
                    emit(&[side, &cluster.name], value);
                }
            });
        })
    };
    [
        of_slots("pilotfish_bulkhead_in_use", "Requests and connections of a service.", |slots| {
            Some(slots.in_use())
        }),
        of_slots("pilotfish_bulkhead_queued", "Who waits for their turn.", |slots| {
            Some(slots.waiting())
        }),
        of_slots("pilotfish_bulkhead_limit", "What a service may have; none: no limit.", |slots| {
            Some(slots.limit()).filter(|limit| *limit != UNLIMITED)
        }),
        of_adaptive(
            "pilotfish_adaptive_concurrency_limit",
            "The limit of requests that was found out.",
            |cluster| cluster.bulkhead.adaptive().map(|(limit, _)| f64::from(limit)),
        ),
        of_adaptive(
            "pilotfish_adaptive_concurrency_min_rtt_seconds",
            "The latency without load.",
            |cluster| cluster.bulkhead.adaptive()?.1.map(|rtt| rtt.as_secs_f64()),
        ),
    ]
}
