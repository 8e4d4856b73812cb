//! What the policies of a service say of it as a whole, every default filled in: breakers, outlier detection,
//! panic threshold, slow start, and with them its bulkhead and its budget.

use std::sync::Arc;
use std::time::Duration;

use super::super::schema::{self, OrOff};
use super::super::units;
use super::overload::bulkhead;
use super::policy::{budget, mode, overlay};
use super::{Compiler, Mistake, Path};
use crate::balance::Availability;
use crate::policy::breaker::{BreakerConfig, BreakerScope, WindowKind};
use crate::policy::health::HealthCheck;
use crate::policy::outlier::{FailurePercentage, OutlierConfig, SuccessRate};
use crate::policy::{BudgetLimits, BulkheadLimits, Conditions, Policy, SlowStart};

/// What holds for a service as a whole.
pub(super) struct Governance {
    pub budget: BudgetLimits,
    pub bulkhead: BulkheadLimits,
    pub breaker: Option<Arc<BreakerConfig>>,
    pub outliers: Option<OutlierConfig>,
    pub availability: Availability,
    pub health: Option<Arc<HealthCheck>>,
}

impl Governance {
    /// A service that the configuration has, by the policies around it, the outer ones first; the budget is
    /// not for the first of them to say.
    pub(super) fn of_service(layers: &[Option<&schema::Policy>]) -> Self {
        Self {
            budget: budget(&layers[1..]),
            bulkhead: bulkhead(BulkheadLimits::default(), layers),
            breaker: breaker(layers).map(Arc::new),
            outliers: outlier(layers),
            availability: availability(layers),
            health: None,
        }
    }

    /// What stands alone: there is no other endpoint to turn to.
    pub(super) fn of_one(policy: Option<&schema::Policy>) -> Self {
        Self {
            budget: BudgetLimits::default(),
            bulkhead: bulkhead(BulkheadLimits::UNLIMITED, &[policy]),
            breaker: None,
            outliers: None,
            availability: Availability::default(),
            health: None,
        }
    }
}

/// The inner one of `layers` that says something of it counts as a whole: grades of two layers would make a
/// third breaker that nobody has asked for.
fn breaker(layers: &[Option<&schema::Policy>]) -> Option<BreakerConfig> {
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
    config.slow_call = time(typed.slow_call, config.slow_call);
    config.open_for = time(typed.open_for, config.open_for);
    config.max_open_for = time(typed.max_open_for, config.max_open_for);
    // A probe that hangs ends by its timeout, which tells more than another one would.
    config.probe_patience = config.open_for.max(request_timeout(layers).unwrap_or_default());
    config.min_calls = typed.min_calls.unwrap_or(config.min_calls);
    config.probes = typed.probes.unwrap_or(config.probes);
    if let Some(failures) = &typed.failures {
        config.failures = Conditions::default();
        failures.iter().for_each(|condition| condition.add_to(&mut config.failures));
    }
    Some(config)
}

fn request_timeout(layers: &[Option<&schema::Policy>]) -> Option<Duration> {
    let innermost = layers.iter().fold(Policy::default(), |outer, inner| overlay(outer, *inner));
    innermost.timeouts.request
}

/// On where nobody says otherwise: it never keeps a request from being answered.
fn outlier(layers: &[Option<&schema::Policy>]) -> Option<OutlierConfig> {
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
                deviations: typed.deviations.map_or(default.deviations, |number| number.0),
                min_gap: typed.min_gap.map_or(default.min_gap, |ratio| ratio.0),
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
    config.interval = time(typed.interval, config.interval);
    config.base_ejection = time(typed.ejection_time, config.base_ejection);
    config.max_ejection = time(typed.max_ejection_time, config.max_ejection);
    config.max_ejected = typed.max_ejected.map_or(config.max_ejected, |ratio| ratio.0);
    Some(config)
}

fn time(typed: Option<units::Period>, default: Duration) -> Duration {
    typed.map_or(default, |typed| typed.0)
}

fn availability(layers: &[Option<&schema::Policy>]) -> Availability {
    let mut availability = Availability::default();
    for policy in layers.iter().flatten() {
        if let Some(threshold) = &policy.panic_threshold {
            availability.panic_threshold = threshold.on().map_or(0.0, |ratio| ratio.0);
        }
        if let Some(typed) = &policy.slow_start {
            let outer = availability.slow_start.unwrap_or_default();
            availability.slow_start = typed.on().map(|typed| SlowStart {
                window: typed.window.map_or(outer.window, |window| window.0),
                min_share: typed.min_weight.map_or(outer.min_share, |ratio| ratio.0),
                aggression: typed.aggression.map_or(outer.aggression, |number| number.0),
            });
        }
    }
    availability
}

impl Compiler<'_> {
    /// Tells what is wrong in what guards a service, wherever it stands.
    pub(super) fn check_resilience(&mut self, typed: &schema::Policy, at: &Path) {
        if let Some(OrOff::On(breaker)) = &typed.circuit_breaker {
            self.check_breaker(breaker, &at.join("circuit_breaker"));
        }
        if let Some(OrOff::On(outliers)) = &typed.outlier_detection {
            for (key, typed) in [
                ("consecutive_5xx", &outliers.consecutive_5xx),
                ("consecutive_gateway_errors", &outliers.consecutive_gateway_errors),
            ] {
                if *typed == Some(OrOff::On(0)) {
                    let at = at.join("outlier_detection").join(key);
                    let mistake = Mistake::at(at, "no failure at all would eject");
                    self.mistake(mistake.help("write a number from 1, or `off`"));
                }
            }
            let zero = |ratio: Option<units::Ratio>| ratio.is_some_and(|ratio| ratio.0 == 0.0);
            let percentage = outliers.failure_percentage.as_ref().and_then(|it| it.on());
            if percentage.is_some_and(|it| zero(it.threshold)) {
                let at = at.join("outlier_detection").join("failure_percentage").join("threshold");
                let mistake = Mistake::at(at, "endpoints without a failure would be ejected");
                self.mistake(mistake.help("write a share above 0, as `85%`"));
            }
            if zero(outliers.max_ejected) {
                let at = at.join("outlier_detection").join("max_ejected");
                let mistake = Mistake::at(at, "one may always be ejected, however small the share");
                self.mistake(mistake.help("write `outlier_detection: off`, or a share above 0"));
            }
            let default = OutlierConfig::default();
            let first = time(outliers.ejection_time, default.base_ejection);
            let most = time(outliers.max_ejection_time, default.max_ejection);
            if first > most {
                let at = at.join("outlier_detection");
                self.too_long(
                    outliers.ejection_time.is_some(),
                    at,
                    "ejection_time",
                    "max_ejection_time",
                );
            }
        }
    }

    fn check_breaker(&mut self, typed: &schema::CircuitBreaker, at: &Path) {
        let default = BreakerConfig::of_failure_rate();
        if time(typed.open_for, default.open_for) > time(typed.max_open_for, default.max_open_for) {
            self.too_long(typed.open_for.is_some(), at.clone(), "open_for", "max_open_for");
        }
        if typed.slow_call.is_some() && typed.slow_call_rate.is_none() {
            let message = "no share of slow calls opens this breaker";
            let mistake = Mistake::at_key(at.join("slow_call"), message);
            self.mistake(mistake.help("add `slow_call_rate: 50%`, or remove `slow_call`"));
        }
        let by_share = typed.failure_rate.is_some() || typed.slow_call_rate.is_some();
        let by_share =
            by_share || typed.failure_count.is_none() && typed.consecutive_failures.is_none();
        let min = typed.min_calls.unwrap_or(default.min_calls);
        if let Some(schema::BreakerWindow::Calls(window)) = &typed.window {
            let held = window.calls;
            if by_share && held < min {
                let message = format!(
                    "the window holds {held} calls, and no share counts with fewer than {min}"
                );
                let mistake = Mistake::at(at.join("window"), message);
                self.mistake(mistake.help(format!("let it hold {min}, or set `min_calls` lower")));
            }
            if let Some(count) = typed.failure_count.filter(|count| *count > held) {
                let message = format!("the window holds {held} calls, and never {count} failures");
                let mistake = Mistake::at(at.join("failure_count"), message);
                self.mistake(
                    mistake.help(format!("write at most {held}, or let the window hold more")),
                );
            }
        }
        if typed.failures.as_ref().is_some_and(Vec::is_empty) {
            let mistake = Mistake::at(at.join("failures"), "nothing is a failure for this breaker");
            let mistake =
                mistake.help("list some, as `[5xx, connect_failure, timeout]`, or leave it out");
            self.mistake(mistake.unless_wrong(at.join("failures")));
        }
    }

    fn too_long(&mut self, first_is_typed: bool, at: Path, first: &str, most: &str) {
        let key = if first_is_typed { first } else { most };
        let message = format!("`{first}` is longer than `{most}`");
        self.mistake(Mistake::at(at.join(key), message).help(format!("raise `{most}`")));
    }
}
