//! Fallbacks, faults on purpose, and mirrors.

use std::sync::Arc;

use http::StatusCode;

use super::super::schema::{self, FallbackCause, FallbackOn, OrOff};
use super::super::units;
use super::policy::mode;
use super::{Compiler, Mistake, Path, Protocol, path_to};
use crate::policy::fallback::{Cause, Fallback, Instead};
use crate::policy::fault::{Abort, Delay, Fault};
use crate::policy::{Mirror, Mode};
use crate::route::{Condition, HeaderMatch};

/// Without the mistakes, which [`Compiler::check_faults`] tells.
pub(super) fn fallback(typed: &schema::Fallback) -> Fallback {
    let on = match &typed.on {
        None => Cause::DEFAULT.to_vec(),
        Some(on) => on.iter().copied().filter_map(cause).collect(),
    };
    let instead = match &typed.service {
        Some(name) => Instead::Service(name.as_str().into()),
        None => Instead::Answer(Box::new(super::routes::stored_answer(&respond(typed)))),
    };
    Fallback { on, instead }
}

fn respond(typed: &schema::Fallback) -> schema::Respond {
    schema::Respond {
        status: typed.status,
        body: typed.body.clone(),
        json: typed.json.clone(),
        headers: typed.headers.clone(),
    }
}

fn cause(typed: FallbackOn) -> Option<Cause> {
    Some(match typed {
        FallbackOn::Status(status) => Cause::Status(StatusCode::from_u16(status).ok()?),
        FallbackOn::Named(FallbackCause::BreakerOpen) => Cause::BreakerOpen,
        FallbackOn::Named(FallbackCause::NoEndpoint) => Cause::NoEndpoint,
        FallbackOn::Named(FallbackCause::ConnectFailure) => Cause::ConnectFailure,
        FallbackOn::Named(FallbackCause::Reset) => Cause::Reset,
        FallbackOn::Named(FallbackCause::Timeout) => Cause::Timeout,
        FallbackOn::Named(FallbackCause::Overflow) => Cause::Overflow,
        FallbackOn::Named(FallbackCause::OverloadShed) => Cause::Shed,
        FallbackOn::Named(FallbackCause::RateLimited) => Cause::RateLimited,
    })
}

/// None where its mode is off.
pub(super) fn fault(typed: &schema::Fault) -> Option<Fault> {
    let mode: Mode = mode(typed.mode.as_ref())?;
    let share = |share: Option<units::Ratio>| share.map_or(1.0, |share| share.0);
    let headers = typed.headers.iter().flatten().filter_map(|(name, value)| {
        Some(HeaderMatch { name: name.0.clone(), condition: condition(value)? })
    });
    Some(Fault {
        mode,
        headers: headers.collect(),
        delay: typed
            .delay
            .as_ref()
            .map(|delay| Delay { duration: delay.duration.0, share: share(delay.share) }),
        abort: typed.abort.as_ref().map(|abort| Abort {
            status: abort.status.and_then(|status| StatusCode::from_u16(status).ok()),
            grpc_status: abort.grpc_status,
            share: share(abort.share),
        }),
    })
}

fn condition(typed: &schema::ValueMatch) -> Option<Condition> {
    match typed {
        schema::ValueMatch::Exact(text) => Some(Condition::Exact(text.clone())),
        schema::ValueMatch::Condition(typed) => match (&typed.present, &typed.regex, &typed.not) {
            (Some(present), ..) => Some(Condition::Present(*present)),
            (_, Some(regex), _) => Condition::regex(regex).ok(),
            (.., not) => not.clone().map(Condition::Not),
        },
    }
}

pub(super) fn mirror(typed: &schema::Mirror) -> Mirror {
    Mirror {
        service: Arc::from(typed.service.as_str()),
        share: typed.share.map_or(1.0, |share| share.0),
        max_in_flight: typed.max_in_flight.unwrap_or(100),
        max_body: typed.max_body.map_or(64 * 1024, |size| size.0 as usize),
    }
}

impl Compiler<'_> {
    /// Tells what is wrong in the faults, fallbacks and mirrors of a policy. The services have to be known.
    pub(super) fn check_faults(&mut self, typed: &schema::Policy, at: &Path) {
        if let Some(OrOff::On(fallback)) = &typed.fallback {
            self.check_fallback(fallback, &at.join("fallback"));
        }
        if let Some(OrOff::On(fault)) = &typed.fault {
            self.check_fault(fault, &at.join("fault"));
        }
        if let Some(OrOff::On(mirror)) = &typed.mirror {
            let at = at.join("mirror").join("service");
            self.http_service(&mirror.service, &at);
            self.not_itself(&mirror.service, at, "would get a copy of each of its own requests");
        }
    }

    fn check_fallback(&mut self, typed: &schema::Fallback, at: &Path) {
        if typed.on.as_ref().is_some_and(Vec::is_empty) {
            let mistake = Mistake::at(at.join("on"), "it stands in for nothing");
            let mistake = mistake.help("list failures, as `[timeout, 503]`, or leave it out");
            self.mistake(mistake.unless_wrong(at.join("on")));
        }
        let Some(service) = &typed.service else {
            if typed.status.is_none() && typed.body.is_none() && typed.json.is_none() {
                let mistake = Mistake::at(at.clone(), "it is not said what is answered instead");
                let mistake =
                    mistake.help("add `status`, `body`, `json` or `service`, or say `off`");
                self.mistake(mistake.unless_wrong(at.clone()));
            }
            return self.check_stored_answer(&respond(typed), at);
        };
        self.http_service(service, &at.join("service"));
        self.not_itself(service, at.join("service"), "would stand in for itself");
        let given = [
            ("status", typed.status.is_some()),
            ("body", typed.body.is_some()),
            ("json", typed.json.is_some()),
            ("headers", typed.headers.is_some()),
        ];
        for (key, given) in given {
            if given {
                let message = format!("`{key}` and `service` are both given");
                let mistake = Mistake::at_key(at.join(key), message);
                self.mistake(mistake.help("the other service's answer is passed on as it is"));
            }
        }
        for (index, on) in typed.on.iter().flatten().enumerate() {
            let name = match on {
                FallbackOn::Named(FallbackCause::OverloadShed) => "overload_shed",
                FallbackOn::Named(FallbackCause::RateLimited) => "rate_limited",
                _ => continue,
            };
            let message = format!("`{name}` cannot be answered by another service");
            let mistake = Mistake::at(at.join("on").join(index), message);
            self.mistake(mistake.help("such a request is not to be sent at all; answer it here"));
        }
    }

    fn check_fault(&mut self, typed: &schema::Fault, at: &Path) {
        for (name, value) in typed.headers.iter().flatten() {
            // The condition itself is made anew where the policy is laid over another.
            let _ = self.condition(value, &at.join("headers").join(name));
        }
        if typed.delay.is_none() && typed.abort.is_none() && typed.mode.is_none() {
            let mistake = Mistake::at(at.clone(), "the fault does nothing");
            let mistake = mistake.help("add `delay` or `abort`, or say `off`");
            self.mistake(mistake.unless_wrong(at.clone()));
        }
        if let Some(abort) = &typed.abort
            && abort.status.is_none()
            && abort.grpc_status.is_none()
        {
            let at = at.join("abort");
            let mistake = Mistake::at(at.clone(), "`status` is missing");
            self.mistake(mistake.help("write `status: 503`, or `grpc_status`").unless_wrong(at));
        }
    }

    /// Tells where a policy of a service names that same service.
    fn not_itself(&mut self, name: &units::Name, at: Path, what: &str) {
        let own = path_to!["services", name, "policy"];
        if at.is_within(&own) {
            let mistake = Mistake::at(at, format!("service `{}` {what}", name.as_str()));
            self.mistake(mistake.help("name another service"));
        }
    }

    /// Tells where `name` is no service, or none for HTTP.
    fn http_service(&mut self, name: &units::Name, at: &Path) {
        let name = name.as_str();
        match self.by_name.get(name) {
            None => self.unknown_service(name, at.clone()),
            Some(&cluster) if self.clusters[cluster as usize].protocol == Protocol::Tcp => {
                let message = format!("this is for HTTP, and service `{name}` speaks tcp");
                self.mistake(Mistake::at(at.clone(), message).help("name another service"));
            }
            Some(_) => {}
        }
    }
}
