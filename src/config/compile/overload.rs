//! Bulkheads, adaptive concurrency, priorities, and when the proxy itself is overloaded.

use super::super::schema::{self, OrOff, PriorityName};
use super::{Compiler, Mistake, Path, path_to};
use crate::policy::adaptive::AdaptiveLimits;
use crate::policy::codel::CodelLimits;
use crate::policy::shed::{Priority, ShedLimits, Thresholds};
use crate::policy::slots::UNLIMITED;
use crate::policy::{BulkheadLimits, PriorityOf};

fn limit(typed: Option<&OrOff<u32>>, into: &mut u32) {
    match typed {
        None => {}
        Some(OrOff::Off) => *into = UNLIMITED,
        Some(OrOff::On(limit)) => *into = *limit,
    }
}

/// The bulkhead that policies of a service ask for, the outer ones first, over `limits`.
pub(super) fn bulkhead(
    mut limits: BulkheadLimits,
    layers: &[Option<&schema::Policy>],
) -> BulkheadLimits {
    let mut codel = None;
    for policy in layers.iter().flatten() {
        match &policy.bulkhead {
            None => {}
            Some(OrOff::Off) => {
                limits = BulkheadLimits { adaptive: limits.adaptive, ..BulkheadLimits::UNLIMITED };
                codel = None;
            }
            Some(OrOff::On(typed)) => {
                limit(typed.max_requests.as_ref(), &mut limits.max_requests);
                limit(typed.max_connections.as_ref(), &mut limits.max_connections);
                limits.max_pending = typed.max_pending.unwrap_or(limits.max_pending);
                if let Some(timeout) = typed.queue_timeout {
                    limits.queue_timeout = timeout.0;
                }
                if let Some(typed) = &typed.codel {
                    codel = Some(typed.on().map(self::codel));
                }
                if let Some(typed) = &typed.endpoint {
                    let endpoint = &mut limits.endpoint;
                    limit(typed.max_requests.as_ref(), &mut endpoint.max_requests);
                    limit(typed.max_connections.as_ref(), &mut endpoint.max_connections);
                    endpoint.max_pending = typed.max_pending.unwrap_or(endpoint.max_pending);
                }
            }
        }
        match &policy.adaptive_concurrency {
            None => {}
            Some(OrOff::Off) => limits.adaptive = None,
            Some(OrOff::On(typed)) => {
                limits.adaptive = Some(adaptive(limits.adaptive.unwrap_or_default(), typed));
            }
        }
    }
    // A limit that is found out has a queue in front of it all the time.
    let unsaid = limits.adaptive.map(|_| CodelLimits::default());
    limits.codel = codel.unwrap_or(unsaid);
    limits
}

fn codel(typed: &schema::Codel) -> CodelLimits {
    let default = CodelLimits::default();
    CodelLimits {
        target: typed.target.map_or(default.target, |target| target.0),
        interval: typed.interval.map_or(default.interval, |interval| interval.0),
    }
}

fn adaptive(outer: AdaptiveLimits, typed: &schema::AdaptiveConcurrency) -> AdaptiveLimits {
    let min_rtt = typed.min_rtt.clone().unwrap_or_default();
    let min = typed.min_limit.unwrap_or(outer.min);
    AdaptiveLimits {
        min,
        max: typed.max_limit.unwrap_or(outer.max).max(min),
        update: typed.update_interval.map_or(outer.update, |update| update.0),
        measure: min_rtt.interval.map_or(outer.measure, |interval| interval.0),
        samples: min_rtt.samples.unwrap_or(outer.samples),
        jitter: min_rtt.jitter.map_or(outer.jitter, |jitter| jitter.0),
        buffer: min_rtt.buffer.map_or(outer.buffer, |buffer| buffer.0),
    }
}

fn priority_of(name: PriorityName) -> Priority {
    match name {
        PriorityName::Critical => Priority::Critical,
        PriorityName::Default => Priority::Default,
        PriorityName::Sheddable => Priority::Sheddable,
    }
}

/// `inner` over `outer`: a header stays where only the default changes.
pub(super) fn priority(outer: &PriorityOf, inner: &schema::Priority) -> PriorityOf {
    PriorityOf {
        header: inner.header.as_ref().map(|name| name.0.clone()).or_else(|| outer.header.clone()),
        otherwise: inner.default.map_or(outer.otherwise, priority_of),
    }
}

pub(super) fn shed(typed: Option<&OrOff<schema::Overload>>) -> Option<ShedLimits> {
    let default = ShedLimits::default();
    let typed = match typed {
        None => return Some(default),
        Some(typed) => typed.on()?,
    };
    let shares = |sheddable: Option<_>, otherwise: Option<_>, of: Option<Thresholds<f64>>| {
        let share = |typed: Option<crate::config::units::Ratio>, of| typed.map_or(of, |r| r.0);
        of.map(|of| Thresholds {
            sheddable: share(sheddable, of.sheddable),
            default: share(otherwise, of.default),
        })
    };
    let lag = match &typed.event_loop_lag {
        None => default.lag,
        Some(OrOff::Off) => None,
        Some(OrOff::On(typed)) => default.lag.map(|of| Thresholds {
            sheddable: typed.sheddable.map_or(of.sheddable, |d| d.0),
            default: typed.default.map_or(of.default, |d| d.0),
        }),
    };
    let memory = match &typed.memory {
        None => default.memory,
        Some(OrOff::Off) => None,
        Some(OrOff::On(typed)) => shares(typed.sheddable, typed.default, default.memory),
    };
    let memory_limit = typed.memory.as_ref().and_then(|memory| memory.on()?.limit);
    let descriptors = match &typed.descriptors {
        None => default.descriptors,
        Some(OrOff::Off) => None,
        Some(OrOff::On(typed)) => shares(typed.sheddable, typed.default, default.descriptors),
    };
    Some(ShedLimits { lag, memory, memory_limit: memory_limit.map(|size| size.0), descriptors })
}

impl Compiler<'_> {
    /// Tells where something of a whole service stands in a policy that is of less.
    pub(super) fn check_service_only(&mut self, typed: &schema::Policy, at: &Path) {
        let given = [
            ("bulkhead", typed.bulkhead.is_some()),
            ("adaptive_concurrency", typed.adaptive_concurrency.is_some()),
        ];
        // The app is a single endpoint.
        let of_many = [
            ("circuit_breaker", typed.circuit_breaker.is_some()),
            ("outlier_detection", typed.outlier_detection.is_some()),
            ("panic_threshold", typed.panic_threshold.is_some()),
            ("slow_start", typed.slow_start.is_some()),
        ];
        let of_app = *at == path_to!["inbound", "policy"];
        if *at == path_to!["outbound", "policy"] {
            return;
        }
        let has_app = of_app && self.app.is_some();
        let given = given.into_iter().filter(|_| !has_app).chain(of_many);
        for (key, given) in given {
            if given {
                let message = match (of_app, has_app) {
                    (true, true) => format!("`{key}` is for services, of which the app is none"),
                    (true, false) => format!("`{key}` here is the app's, and there is no app"),
                    (false, _) => format!("`{key}` is one for a whole service"),
                };
                let mistake = Mistake::at_key(at.join(key), message).help(
                    "move it to `services.<name>.policy`, or for all to `services.defaults.policy`",
                );
                self.mistake(mistake.unless_wrong(path_to!["service"]));
            }
        }
    }

    /// Tells what is wrong in limits wherever they stand.
    pub(super) fn check_limits(&mut self, typed: &schema::Policy, at: &Path) {
        if let Some(OrOff::On(adaptive)) = &typed.adaptive_concurrency {
            let default = AdaptiveLimits::default();
            let min = adaptive.min_limit.unwrap_or(default.min);
            let max = adaptive.max_limit.unwrap_or(default.max);
            if min > max {
                let key = if adaptive.min_limit.is_some() { "min_limit" } else { "max_limit" };
                let message = format!("the lowest limit, {min}, is above the highest, {max}");
                let at = at.join("adaptive_concurrency").join(key);
                self.mistake(Mistake::at(at, message).help("exchange them"));
            }
        }
    }

    /// Tells where less important requests would be refused later than others.
    pub(super) fn check_overload(&mut self) {
        let Some(limits) = shed(self.config.overload.as_ref()) else { return };
        let wrong = [
            ("event_loop_lag", limits.lag.is_some_and(|it| it.sheddable > it.default)),
            ("memory", limits.memory.is_some_and(|it| it.sheddable > it.default)),
            ("descriptors", limits.descriptors.is_some_and(|it| it.sheddable > it.default)),
        ];
        for (key, wrong) in wrong {
            if wrong {
                let message = "sheddable requests would be refused later than others";
                let mistake = Mistake::at(path_to!["overload", key], message);
                self.mistake(mistake.help("let `sheddable` be at most `default`"));
            }
        }
        if limits.memory_limit == Some(0) {
            let mistake = Mistake::at(path_to!["overload", "memory", "limit"], "no process fits");
            self.mistake(mistake.help("leave it out for the limit of the cgroup"));
        }
    }
}
