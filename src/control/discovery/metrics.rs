//! The metrics of registries and of what is known by them.

use std::sync::Arc;

use super::Standings;
use crate::clock;
use crate::registry::State;
use crate::telemetry::metrics::Metrics;

/// Adds them.
pub fn watch(metrics: &Metrics, standings: &Arc<Standings>) -> [prometheus::Result<()>; 6] {
    let of = || standings.clone();
    let (up, errors, registered, stale, states, held) = (of(), of(), of(), of(), of(), of());
    [
        metrics.gauges(
            "pilotfish_registry_up",
            "1 if the last word of a registry was an answer.",
            &["registry"],
            move |emit| {
                for registry in up.registries() {
                    registry.is_up.into_iter().for_each(|is_up| emit(&[&registry.name], is_up.into()));
                }
            },
        ),
        metrics.counters(
            "pilotfish_registry_errors_total",
            "What registries were asked without an answer.",
            &["registry", "reason"],
            move |emit| {
                for registry in errors.registries() {
                    for (reason, count) in registry.errors {
                        emit(&[&registry.name, reason], count as f64);
                    }
                }
            },
        ),
        metrics.gauges(
            "pilotfish_registry_registered",
            "1 if our app is announced in a registry.",
            &["registry"],
            move |emit| {
                for registry in registered.registries() {
                    let is_there = registry.is_registered.into_iter();
                    is_there.for_each(|is_there| emit(&[&registry.name], is_there.into()));
                }
            },
        ),
        metrics.gauges(
            "pilotfish_registry_staleness_seconds",
            "How long ago the registry of a service was last heard; 0 while it answers.",
            &["service"],
            move |emit| {
                let now = clock::now();
                for (service, standing) in stale.services() {
                    emit(&[&service], standing.age(now).as_secs_f64());
                }
            },
        ),
        metrics.gauges(
            "pilotfish_registry_service_state",
            "1 for the state in which the endpoints of a service are known.",
            &["service", "state"],
            move |emit| {
                for (service, standing) in states.services() {
                    for state in State::ALL {
                        emit(&[&service, state.as_str()], (standing.state == state).into());
                    }
                }
            },
        ),
        metrics.gauges(
            "pilotfish_registry_held_endpoints",
            "Endpoints that the registry tells no more and that are kept because they still answer.",
            &["service"],
            move |emit| {
                for (service, standing) in held.services() {
                    emit(&[&service], standing.held.len() as f64);
                }
            },
        ),
    ]
}
