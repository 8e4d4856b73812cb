//! Policies: the outer scope's, and over it what the inner one says.

use super::super::schema::{self, HeaderEdits, OrOff};
use super::super::units::HeaderName;
use super::{Compiler, Mistake, Path};
use crate::policy::{BudgetLimits, HeaderOps, Policy};

impl Compiler<'_> {
    /// Lays `typed` over `policy`. `of_service`: the budget of a service may be set here.
    pub(super) fn policy_of(
        &mut self,
        policy: &mut Policy,
        typed: Option<&schema::Policy>,
        at: &Path,
        of_service: bool,
    ) {
        let Some(typed) = typed else { return };
        match &typed.timeout {
            None => {}
            Some(OrOff::Off) => {
                policy.timeouts.request = None;
                policy.timeouts.stream_idle = None;
            }
            Some(OrOff::On(timeout)) => {
                let each = timeout.each();
                if let Some(request) = each.request {
                    policy.timeouts.request = request.on().map(|duration| duration.0);
                }
                if let Some(connect) = each.connect {
                    policy.timeouts.connect = connect.0;
                }
                if let Some(idle) = each.stream_idle {
                    policy.timeouts.stream_idle = idle.on().map(|duration| duration.0);
                }
            }
        }
        match &typed.retry {
            None => {}
            Some(OrOff::Off) => policy.max_resends = 0,
            Some(OrOff::On(retry)) => {
                if let Some(max) = retry.max_retries {
                    policy.max_resends = max;
                }
                if retry.budget.is_some() && !of_service {
                    let at = at.join("retry").join("budget");
                    self.mistake(
                        Mistake::at_key(at, "the retry budget is one for the whole service")
                            .help("move it to `services.<name>.policy.retry.budget`"),
                    );
                }
            }
        }
        if let Some(max_body) = &typed.max_body {
            policy.max_body = max_body.on().map(|size| size.0);
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
                .map(
                    |(name, value): (&HeaderName, &super::super::units::HeaderValue)| {
                        self.framing_field(name, at.join(key).join(name));
                        (name.0.clone(), value.0.clone())
                    },
                )
                .collect::<Vec<_>>()
        };
        let (set, add) = (pairs(&typed.set, "set"), pairs(&typed.add, "add"));
        let remove = typed.remove.as_deref().unwrap_or_default();
        for (index, name) in remove.iter().enumerate() {
            self.framing_field(name, at.join("remove").join(index));
        }
        HeaderOps {
            remove: remove.iter().map(|name| name.0.clone()).collect(),
            set,
            add,
        }
    }

    /// Fields that frame or address a message are not for routes to change.
    fn framing_field(&mut self, name: &HeaderName, at: Path) {
        const OURS: [&str; 7] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "te",
            "transfer-encoding",
            "upgrade",
        ];
        let name = name.0.as_str();
        if OURS.contains(&name) {
            let help = if name == "host" {
                "use `rewrite: { host: ... }`"
            } else {
                "leave it to the proxy, which frames each message anew"
            };
            let message = format!("`{name}` cannot be changed by a route");
            self.mistake(Mistake::at_key(at, message).help(help));
        }
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
