//! Breakers, outlier detection, slow start: what a service's policy says of them, every default filled in.

use super::super::schema::{self, OrOff};
use super::policy::mode;
use crate::policy::Conditions;
use crate::policy::breaker::{BreakerConfig, BreakerScope, WindowKind};
use crate::policy::outlier::{FailurePercentage, OutlierConfig, SuccessRate};

/// The inner one of `layers` that says something of it counts as a whole: grades of two layers would make a
/// third breaker that nobody has asked for.
pub(super) fn breaker(layers: &[Option<&schema::Policy>]) -> Option<BreakerConfig> {
    let typed = layers.iter().rev().flatten().find_map(|policy| policy.circuit_breaker.as_ref())?;
    let typed = typed.on()?;
    let mut config = BreakerConfig::of_failure_rate();
    config.mode = mode(typed.mode.as_ref())?;
    let graded = typed.consecutive_failures.is_some()
        || typed.failure_count.is_some()
        || typed.failure_rate.is_some()
        || typed.slow_call_rate.is_some();
    if graded {
        config.consecutive_failures = typed.consecutive_failures;
        config.failure_count = typed.failure_count;
        config.failure_rate = typed.failure_rate.map(|ratio| ratio.0);
        config.slow_call_rate = typed.slow_call_rate.map(|ratio| ratio.0);
    }
    config.scope = match typed.scope {
        Some(schema::BreakerScope::Service) => BreakerScope::Service,
        Some(schema::BreakerScope::Both) => BreakerScope::Both,
        Some(schema::BreakerScope::Endpoint) | None => BreakerScope::Endpoint,
    };
    config.window = match &typed.window {
        Some(schema::BreakerWindow::Time(time)) => WindowKind::Time(time.0),
        Some(schema::BreakerWindow::Calls(calls)) => WindowKind::Calls(calls.calls),
        None => config.window,
    };
    let or = |typed: Option<schema::Duration>, default| typed.map_or(default, |typed| typed.0);
    config.slow_call = or(typed.slow_call, config.slow_call);
    config.open_for = or(typed.open_for, config.open_for);
    config.max_open_for = or(typed.max_open_for, config.max_open_for);
    config.min_calls = typed.min_calls.unwrap_or(config.min_calls);
    config.probes = typed.probes.unwrap_or(config.probes);
    if let Some(failures) = &typed.failures {
        config.failures = Conditions::default();
        failures.iter().for_each(|condition| condition.add_to(&mut config.failures));
    }
    Some(config)
}

/// On where nobody says otherwise: it never keeps a request from being answered.
pub(super) fn outlier(layers: &[Option<&schema::Policy>]) -> Option<OutlierConfig> {
    let mut config = OutlierConfig::default();
    let typed = layers.iter().rev().flatten().find_map(|policy| policy.outlier_detection.as_ref());
    let Some(typed) = typed else { return Some(config) };
    let typed = typed.on()?;
    config.mode = mode(typed.mode.as_ref())?;
    let count = |typed: &Option<OrOff<u32>>, default| match typed {
        None => default,
        Some(typed) => typed.on().copied(),
    };
    config.consecutive_5xx = count(&typed.consecutive_5xx, config.consecutive_5xx);
    config.consecutive_gateway_errors =
        count(&typed.consecutive_gateway_errors, config.consecutive_gateway_errors);
    if let Some(typed) = &typed.success_rate {
        config.success_rate = typed.on().map(|typed| {
            let default = SuccessRate::default();
            SuccessRate {
                min_endpoints: typed.min_endpoints.unwrap_or(default.min_endpoints),
                min_calls: typed.min_calls.unwrap_or(default.min_calls),
                deviations: typed.deviations.unwrap_or(default.deviations),
            }
        });
    }
    if let Some(typed) = &typed.failure_percentage {
        config.failure_percentage = typed.on().map(|typed| {
            let default = FailurePercentage::default();
            FailurePercentage {
                threshold: typed.threshold.map_or(default.threshold, |ratio| ratio.0),
                min_endpoints: typed.min_endpoints.unwrap_or(default.min_endpoints),
                min_calls: typed.min_calls.unwrap_or(default.min_calls),
            }
        });
    }
    let or = |typed: Option<schema::Duration>, default| typed.map_or(default, |typed| typed.0);
    config.interval = or(typed.interval, config.interval);
    config.base_ejection = or(typed.ejection_time, config.base_ejection);
    config.max_ejection = or(typed.max_ejection_time, config.max_ejection);
    config.max_ejected = typed.max_ejected.map_or(config.max_ejected, |ratio| ratio.0);
    Some(config)
}
