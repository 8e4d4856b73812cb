//! The interval of outlier detection, and what metrics show of endpoints and breakers.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::clock::{self, Instant};
use crate::config::live::Live;
use crate::config::snapshot::{Cluster, Snapshot};
use crate::endpoint::Endpoint;
use crate::policy::breaker::{BreakerState, SharedBreaker};
use crate::policy::outlier::Ruling;
use crate::telemetry::metrics::{Metrics, Recorder};

/// How often it is looked whether an interval has passed.
const EVERY: Duration = Duration::from_secs(1);

/// Looks at the shares of failures of each interval, for as long as the process lives.
pub async fn look(live: Live, recorder: Rc<Recorder>) {
    loop {
        sleep(EVERY).await;
        let now = clock::now();
        for cluster in &live.current().clusters {
            let Some(outliers) = cluster.outliers.as_ref().filter(|it| it.is_due(now)) else {
                continue;
            };
            let endpoints = cluster.endpoints();
            for (index, cause, ruling) in outliers.look(endpoints, now) {
                recorder.ruled(&cluster.name, &endpoints[index], cause, ruling);
                if let Ruling::WouldEject(_) = ruling {
                    recorder.shadow(Ruling::WOULD_EJECT);
                }
            }
        }
    }
}

/// The services that are called: the app is none, though it may have the name of one, and neither is a name that
/// somebody called and no registry knows.
fn each(snapshot: &Snapshot, mut visit: impl FnMut(&Cluster)) {
    let app = snapshot.inbound.app.map(|app| app.cluster);
    for (index, cluster) in (0..).zip(&snapshot.clusters) {
        let exists = cluster.discovered.as_ref().is_none_or(|it| it.exists);
        if exists && index != snapshot.passthrough_cluster() && Some(index) != app {
            visit(cluster);
        }
    }
}

/// How an endpoint is seen: one of a closed set. The states that say more come first.
pub fn state(endpoint: &Endpoint, now: Instant) -> &'static str {
    if endpoint.refuses(now).is_some() {
        "breaker_open"
    } else if endpoint.state.is_unhealthy() {
        "unhealthy"
    } else if endpoint.state.is_away(now) {
        "ejected"
    } else {
        "available"
    }
}

/// Adds the gauges.
pub fn watch(metrics: &Metrics, live: &Live) -> [prometheus::Result<()>; 2] {
    let (of_endpoints, of_breakers) = (live.clone(), live.clone());
    [
        metrics.watch_endpoints(move |emit| {
            let now = clock::now();
            each(&of_endpoints.current(), |cluster| {
                let endpoints = cluster.endpoints();
                emit(&[&cluster.name, "known"], endpoints.len() as f64);
                for of in ["available", "unhealthy", "ejected", "breaker_open"] {
                    let count = endpoints.iter().filter(|endpoint| state(endpoint, now) == of);
                    emit(&[&cluster.name, of], count.count() as f64);
                }
                if let Some(slow_start) = &cluster.availability.slow_start {
                    let warms = |endpoint: &Endpoint| {
                        let since = endpoint.state.fresh_since();
                        state(endpoint, now) == "available"
                            && since != Instant(0)
                            && slow_start.share(since, now) < 1.0
                    };
                    let warming = endpoints.iter().filter(|endpoint| warms(endpoint)).count();
                    emit(&[&cluster.name, "warming"], warming as f64);
                }
            });
        }),
        metrics.gauges(
            "pilotfish_circuit_breaker_state",
            "Circuit breakers, of services and of endpoints, in each state.",
            &["service", "scope", "state"],
            move |emit| {
                each(&of_breakers.current(), |cluster| {
                    let endpoints = cluster.endpoints().iter();
                    let breakers: Vec<_> =
                        endpoints.filter_map(|endpoint| endpoint.breaker.as_deref()).collect();
                    let service: Vec<_> = cluster.breaker.as_deref().into_iter().collect();
                    for (scope, breakers) in [("endpoint", breakers), ("service", service)] {
                        count(&breakers, |state, count| {
                            emit(&[&cluster.name, scope, state], count as f64);
                        });
                    }
                });
            },
        ),
    ]
}

/// How many there are in each state, where there are any.
fn count(breakers: &[&SharedBreaker], mut emit: impl FnMut(&'static str, usize)) {
    const STATES: [BreakerState; 3] =
        [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];
    for state in STATES.into_iter().filter(|_| !breakers.is_empty()) {
        emit(state.as_str(), breakers.iter().filter(|breaker| breaker.state() == state).count());
    }
}
