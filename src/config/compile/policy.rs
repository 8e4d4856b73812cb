//! Policies: the outer scope's, and over it what the inner one says.

use std::sync::Arc;

use super::super::schema::{self, HeaderEdits, OrOff};
use super::super::units::{self, HeaderName, HedgeDelay};
use super::{Compiler, Mistake, Path, fault, overload};
use crate::policy::deadline::DeadlineField;
use crate::policy::hedge::After;
use crate::policy::{BudgetLimits, Conditions, HeaderOps, Hedge, Mode, Policy, Retry};

/// The same for a policy that is shared: it stays so where nothing is laid over it.
pub(super) fn overlay_shared(outer: Arc<Policy>, inner: Option<&schema::Policy>) -> Arc<Policy> {
    match inner {
        None => outer,
        Some(_) => Arc::new(overlay((*outer).clone(), inner)),
    }
}

/// `inner` over `outer`. Its mistakes are told by [`Compiler::check_policy`].
pub(super) fn overlay(mut outer: Policy, inner: Option<&schema::Policy>) -> Policy {
    let Some(inner) = inner else { return outer };
    match &inner.timeout {
        None => {}
        Some(OrOff::Off) => {
            outer.timeouts.request = None;
            outer.timeouts.stream_idle = None;
        }
        Some(OrOff::On(timeout)) => overlay_timeouts(&mut outer, &timeout.each()),
    }
    match &inner.retry {
        None => {}
        Some(OrOff::Off) => outer.retry.max = 0,
        Some(OrOff::On(retry)) => outer.retry = overlay_retry(outer.retry, retry),
    }
    if let Some(hedge) = &inner.hedge {
        outer.hedge = hedge.on().and_then(|typed| overlay_hedge(outer.hedge.as_deref(), typed));
    }
    if let Some(max_body) = &inner.max_body {
        outer.max_body = max_body.on().map(|size| size.0);
    }
    if let Some(priority) = &inner.priority {
        outer.priority = overload::priority(&outer.priority, priority);
    }
    if let Some(fallback) = &inner.fallback {
        outer.fallback = fallback.on().map(|fallback| Arc::new(fault::fallback(fallback)));
    }
    if let Some(typed) = &inner.fault {
        outer.fault = typed.on().and_then(fault::fault).map(Arc::new);
    }
    if let Some(mirror) = &inner.mirror {
        outer.mirror = mirror.on().map(|mirror| Arc::new(fault::mirror(mirror)));
    }
    outer
}

fn overlay_timeouts(outer: &mut Policy, inner: &schema::Timeouts) {
    let Policy { timeouts, deadline, retry, .. } = outer;
    if let Some(request) = &inner.request {
        timeouts.request = request.on().map(|duration| duration.0);
    }
    if let Some(connect) = inner.connect {
        timeouts.connect = connect.0;
    }
    if let Some(idle) = &inner.stream_idle {
        timeouts.stream_idle = idle.on().map(|duration| duration.0);
    }
    match mode(inner.mode.as_ref()) {
        // What is over another mode and does not say otherwise has that mode.
        Some(mode) if inner.mode.is_some() => timeouts.mode = mode,
        Some(_) => {}
        None => {
            timeouts.request = None;
            timeouts.stream_idle = None;
            retry.per_try = None;
        }
    }
    match &inner.deadline_header {
        None => {}
        Some(OrOff::Off) => deadline.field = DeadlineField::Off,
        Some(OrOff::On(name)) => deadline.field = DeadlineField::of(&name.0),
    }
    deadline.propagate = inner.propagate.unwrap_or(deadline.propagate);
}

fn overlay_hedge(outer: Option<&Hedge>, inner: &schema::Hedge) -> Option<Arc<Hedge>> {
    let mut hedge = outer.cloned().unwrap_or_default();
    if inner.mode.is_some() {
        hedge.mode = mode(inner.mode.as_ref())?;
    }
    match inner.after {
        None => {}
        Some(HedgeDelay::Time(time)) => hedge.after = After::Delay(time.0),
        Some(HedgeDelay::Percentile(percentile)) => hedge.after = After::Percentile(percentile),
    }
    hedge.max = inner.max.unwrap_or(hedge.max);
    if let Some(methods) = inner.methods {
        hedge.any_method = methods == schema::RetryMethods::All;
    }
    Some(Arc::new(hedge))
}

fn overlay_retry(mut outer: Retry, inner: &schema::Retry) -> Retry {
    if let Some(max) = inner.max_retries {
        outer.max = max;
    }
    if let Some(on) = &inner.on {
        outer.on = Conditions::default();
        on.iter().for_each(|condition| condition.add_to(&mut outer.on));
    }
    if let Some(methods) = inner.methods {
        outer.any_method = methods == schema::RetryMethods::All;
    }
    if let Some(per_try) = &inner.per_try_timeout {
        outer.per_try = per_try.on().map(|duration| duration.0);
    }
    let backoff = inner.backoff.clone().unwrap_or_default();
    if let Some(base) = backoff.base {
        outer.backoff.base = base.0;
    }
    if let Some(max) = backoff.max {
        outer.backoff.max = max.0;
    }
    if let Some(max) = inner.max_retry_after {
        outer.max_retry_after = max.0;
    }
    outer
}

impl Compiler<'_> {
    /// Tells what is wrong in a policy that is not a service's.
    pub(super) fn check_policy(&mut self, typed: Option<&schema::Policy>, at: &Path) {
        if let Some(typed) = typed {
            self.check_service_only(typed, at);
            self.check_limits(typed, at);
            self.check_resilience(typed, at);
            self.check_faults(typed, at);
            self.check_timeouts(typed, at);
        }
        self.check_rate_limits(typed, at);
        if let Some(schema::Policy { retry: Some(OrOff::On(retry)), .. }) = typed
            && retry.budget.is_some()
        {
            let mistake = Mistake::at_key(
                at.join("retry").join("budget"),
                "the retry budget is one for a whole service",
            );
            self.mistake(mistake.help(
                "move it to `services.<name>.policy.retry`, or for all to `services.defaults`",
            ));
        }
    }

    /// Tells what is wrong in timeouts and hedges wherever they stand.
    pub(super) fn check_timeouts(&mut self, typed: &schema::Policy, at: &Path) {
        if let Some(OrOff::On(schema::Timeout::Each(each))) = &typed.timeout {
            let at = at.join("timeout");
            match &each.deadline_header {
                Some(OrOff::On(name)) => {
                    self.framing_field(name, at.join("deadline_header"));
                    if name.0.as_str() == "grpc-timeout" {
                        let message = "`grpc-timeout` is for gRPC, which has it anyway";
                        let mistake = Mistake::at(at.join("deadline_header"), message);
                        self.mistake(mistake.help("name the header of plain HTTP"));
                    }
                }
                Some(OrOff::Off) if each.propagate == Some(true) => {
                    let message = "there is no header to propagate the timeout by";
                    let mistake = Mistake::at(at.join("propagate"), message);
                    self.mistake(mistake.help("give `deadline_header` a name, or leave it out"));
                }
                _ => {}
            }
        }
        if let Some(OrOff::On(retry)) = &typed.retry {
            let default = Retry::default().backoff;
            let backoff = retry.backoff.clone().unwrap_or_default();
            let base = backoff.base.map_or(default.base, |base| base.0);
            let max = backoff.max.map_or(default.max, |max| max.0);
            if base > max {
                let key = if backoff.base.is_some() { "base" } else { "max" };
                let message = "the first pause is longer than any may be";
                let mistake = Mistake::at(at.join("retry").join("backoff").join(key), message);
                self.mistake(
                    mistake.help(format!("raise `max`, which is {}", units::Duration(max))),
                );
            }
        }
        let typed_hedge = typed.hedge.as_ref().and_then(|hedge| hedge.on());
        let timeout = match &typed.timeout {
            Some(OrOff::On(timeout)) => timeout.each().request,
            _ => None,
        };
        if let (Some(hedge), Some(OrOff::On(request))) = (typed_hedge, timeout)
            && let Some(HedgeDelay::Time(after)) = hedge.after
            && after.0 >= request.0
        {
            let message = "the request times out before it would be hedged";
            let mistake = Mistake::at(at.join("hedge").join("after"), message);
            self.mistake(mistake.help(format!("let it be less than `timeout`, {request}")));
        }
    }

    pub(super) fn both_header_ops(
        &mut self,
        request: Option<&HeaderEdits>,
        response: Option<&HeaderEdits>,
        at: &Path,
    ) -> (HeaderOps, HeaderOps) {
        (
            self.header_ops(request, &at.join("request_headers")),
            self.header_ops(response, &at.join("response_headers")),
        )
    }

    fn header_ops(&mut self, typed: Option<&HeaderEdits>, at: &Path) -> HeaderOps {
        let Some(typed) = typed else {
            return HeaderOps::default();
        };
        let mut pairs = |map: &Option<schema::Map<HeaderName, _>>, key: &str| {
            let map = map.as_ref();
            map.into_iter()
                .flatten()
                .map(|(name, value): (&HeaderName, &super::super::units::HeaderValue)| {
                    self.framing_field(name, at.join(key).join(name));
                    (name.0.clone(), value.0.clone())
                })
                .collect::<Vec<_>>()
        };
        let (set, add) = (pairs(&typed.set, "set"), pairs(&typed.add, "add"));
        let remove = typed.remove.as_deref().unwrap_or_default();
        for (index, name) in remove.iter().enumerate() {
            self.framing_field(name, at.join("remove").join(index));
        }
        HeaderOps { remove: remove.iter().map(|name| name.0.clone()).collect(), set, add }
    }

    /// Fields that frame or address a message are not for routes to change.
    pub(super) fn framing_field(&mut self, name: &HeaderName, at: Path) {
        const OURS: [&str; 8] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
        ];
        let name = name.0.as_str();
        if OURS.contains(&name) {
            let help = if name == "host" {
                "use `rewrite: { host: ... }` of a route"
            } else {
                "leave it to the proxy, which frames each message anew"
            };
            let message = format!("the header `{name}` cannot be changed");
            self.mistake(Mistake::at_key(at, message).help(help));
        }
    }
}

/// The mode of a policy; none where it is off.
pub(super) fn mode(typed: Option<&OrOff<schema::Mode>>) -> Option<Mode> {
    match typed {
        None | Some(OrOff::On(schema::Mode::Enforce)) => Some(Mode::Enforce),
        Some(OrOff::On(schema::Mode::Shadow)) => Some(Mode::Shadow),
        Some(OrOff::Off) => None,
    }
}

/// The budget that a policy of a service asks for.
pub(super) fn budget(layers: &[Option<&schema::Policy>]) -> BudgetLimits {
    let mut limits = BudgetLimits::default();
    for policy in layers.iter().flatten() {
        let Some(OrOff::On(retry)) = &policy.retry else {
            continue;
        };
        let Some(budget) = &retry.budget else {
            continue;
        };
        if let Some(ratio) = budget.ratio {
            limits.ratio = ratio.0;
        }
        if let Some(min) = budget.min_per_second {
            limits.min_per_second = min;
        }
    }
    limits
}
