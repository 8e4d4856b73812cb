//! Routes: where each leads, and what it changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};

use super::super::schema;
use super::super::snapshot::{
    Action, Destination, Forward, PrefixRewrite, Redirect, Respond, Rewrite, Route, Selector, To,
};
use super::super::units;
use super::balancer::{key, selector};
use super::policy::overlay_shared;
use super::rate_limit::{Limits, limited};
use super::{Compiler, Mistake, Path, Protocol, path_to, quote};
use crate::balance::{Split, SplitError};
use crate::policy::{HeaderOps, Policy};
use crate::route::{HostPattern, Matcher, PathPattern};

/// What the routes of one list have in common.
#[derive(Default)]
pub(super) struct Scope<'a> {
    /// Where a route without `to` leads.
    pub own: Option<Destination>,
    /// What a `to` without `service` means.
    pub own_name: Option<&'a str>,
    /// Between the policy of the destination and that of the route.
    pub policy: Option<&'a schema::Policy>,
    /// What `policy` says of rate limits: the routes that say nothing themselves share the buckets.
    pub rate_limits: Option<Limits>,
    /// The list, as the rate limits of its routes are called by.
    pub place: String,
    /// Applied before those of the route.
    pub ops: (HeaderOps, HeaderOps),
}

/// Whether one of `routes` looks at the path.
pub(super) fn path_sensitive(routes: &[(Matcher, Arc<Route>)]) -> bool {
    routes.iter().any(|(matcher, _)| !matches!(matcher.path, PathPattern::Any))
}

impl<'a> Compiler<'a> {
    pub(super) fn routes(
        &mut self,
        typed: &'a [schema::Route],
        at: &Path,
        scope: &Scope<'a>,
    ) -> Vec<(Matcher, Arc<Route>)> {
        let mut compiled = Vec::with_capacity(typed.len());
        for (index, route) in typed.iter().enumerate() {
            let at = at.join(index);
            let matcher = self.matcher(route.matches.as_ref(), &at.join("match"));
            let action = self.action(route, matcher.as_ref(), &at, scope);
            self.check_policy(route.policy.as_ref(), &at.join("policy"));
            self.check_sticky(route, &at);
            let (request, response) = self.both_header_ops(
                route.request_headers.as_ref(),
                route.response_headers.as_ref(),
                &at,
            );
            let (Some(matcher), Some(action)) = (matcher, action) else {
                continue;
            };
            // Of several destinations the first one's policy is the base: mostly they are versions of
            // one thing.
            let to = match &action {
                Action::Forward(forward) => Some(forward.to.first()),
                Action::Redirect(_) | Action::Respond(_) => scope.own,
            };
            let pattern: Arc<str> = matcher.path.pattern().into();
            let name = route.name.as_deref().map(Into::into);
            let name: Arc<str> = name.unwrap_or_else(|| pattern.clone());
            let place = format!("{}.{name}", scope.place);
            let rate_limits = self.rate_limits(&[route.policy.as_ref()], &place);
            let policy = overlay_shared(self.policy_towards(to, scope), route.policy.as_ref());
            let route = Route {
                slot: self.route_slot(),
                name,
                pattern,
                action,
                policy: limited(policy, rate_limits),
                request_headers: scope.ops.0.then(&request).boxed(),
                response_headers: scope.ops.1.then(&response).boxed(),
            };
            compiled.push((matcher, Arc::new(route)));
        }
        compiled
    }

    /// A route that forwards all it gets to `to`.
    pub(super) fn plain_route(
        &mut self,
        name: &str,
        to: Destination,
        scope: &Scope<'a>,
    ) -> Arc<Route> {
        Arc::new(Route {
            slot: self.route_slot(),
            name: name.into(),
            pattern: "/*".into(),
            action: Action::Forward(Forward { to: To::One(to), rewrite: None }),
            policy: self.policy_towards(Some(to), scope),
            request_headers: scope.ops.0.clone().boxed(),
            response_headers: scope.ops.1.clone().boxed(),
        })
    }

    /// A call to a service has the policy of that service, wherever it comes from.
    fn policy_towards(&self, to: Option<Destination>, scope: &Scope<'a>) -> Arc<Policy> {
        let policy = to.map_or_else(Arc::default, |to| self.policies[to.cluster as usize].clone());
        limited(overlay_shared(policy, scope.policy), scope.rate_limits.clone())
    }

    fn action(
        &mut self,
        route: &schema::Route,
        matcher: Option<&Matcher>,
        at: &Path,
        scope: &Scope<'a>,
    ) -> Option<Action> {
        let given = [
            ("to", route.to.is_some()),
            ("redirect", route.redirect.is_some()),
            ("respond", route.respond.is_some()),
        ];
        self.at_most_one(&given, at, "a route does one of them")?;
        if let Some(redirect) = &route.redirect {
            self.no_rewrite(route, at);
            return self.redirect(redirect, matcher, &at.join("redirect"));
        }
        if let Some(respond) = &route.respond {
            self.no_rewrite(route, at);
            return self.respond(respond, &at.join("respond"));
        }
        let destinations = match &route.to {
            Some(to) => self.destinations(route, to, at, scope),
            None => self.own(at, scope).map(To::One),
        };
        let rewrite = route.rewrite.clone().unwrap_or_default();
        let prefix = match rewrite.path_prefix {
            None => Some(None),
            Some(to) => self.prefix_rewrite(route, matcher, &to, at).map(Some),
        };
        let host = rewrite.host.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        let to = destinations?;
        let rewrite = Rewrite { prefix: prefix?, host };
        let rewrite = (rewrite != Rewrite::default()).then(|| Box::new(rewrite));
        Some(Action::Forward(Forward { to, rewrite }))
    }

    /// Where a route without `to` leads.
    fn own(&mut self, at: &Path, scope: &Scope<'a>) -> Option<Destination> {
        match scope.own {
            None => {
                let mistake = Mistake::at(at.clone(), "the route leads nowhere: there is no app");
                self.mistake(
                    mistake
                        .help("add `to: <service>`, `redirect`, `respond`, or the app as `service`")
                        .unless_wrong(path_to!["service"])
                        .unless_wrong(at.join("to"))
                        .unless_wrong(at.join("redirect"))
                        .unless_wrong(at.join("respond")),
                );
            }
            Some(own) if self.speaks_tcp(own.cluster) => {
                let message = match scope.own_name {
                    None => "routes are for HTTP, and the app speaks tcp".to_owned(),
                    Some(name) => format!("routes are for HTTP, and service `{name}` speaks tcp"),
                };
                self.mistake(
                    Mistake::at(at.clone(), message)
                        .help("remove the route, or say `protocol: auto`"),
                );
            }
            Some(_) => {}
        }
        scope.own
    }

    fn speaks_tcp(&self, cluster: u32) -> bool {
        self.clusters[cluster as usize].protocol == Protocol::Tcp
    }

    fn prefix_rewrite(
        &mut self,
        route: &schema::Route,
        matcher: Option<&Matcher>,
        replacement: &units::UrlPath,
        at: &Path,
    ) -> Option<PrefixRewrite> {
        let matches = route.matches.as_ref();
        if matches.is_none_or(|matches| matches.path_prefix.is_none()) {
            let mistake = Mistake::at_key(
                at.join("rewrite").join("path_prefix"),
                "there is no matched prefix to replace",
            );
            self.mistake(mistake.help("match by `path_prefix`").unless_wrong(at.join("match")));
            return None;
        }
        // What is wrong in `match` has been told.
        let PathPattern::Prefix(matched) = &matcher?.path else {
            return None;
        };
        Some(PrefixRewrite {
            // In the form in which request paths are compared with it.
            matched: matched.trim_end_matches('/').len(),
            replacement: replacement.as_str().into(),
        })
    }

    fn destinations(
        &mut self,
        route: &schema::Route,
        to: &schema::To,
        at: &Path,
        scope: &Scope<'a>,
    ) -> Option<To> {
        let mut destinations = Vec::new();
        let mut weights = Vec::new();
        let to_at = at.join("to");
        for (index, target) in to.0.iter().enumerate() {
            weights.push(target.weight.unwrap_or(1));
            destinations.extend(self.destination(target, &to_at.join(index), &to_at, scope));
        }
        match Split::new(&weights) {
            Ok(_) if destinations.len() == weights.len() && weights.len() == 1 => {
                Some(To::One(destinations[0]))
            }
            Ok(split) if destinations.len() == weights.len() => {
                let split = match route.sticky.as_ref().and_then(key) {
                    Some(key) => split.by_key(key, &names(to, scope)),
                    None => split,
                };
                Some(To::Split(Box::new((split, destinations.into()))))
            }
            Ok(_) => None,
            Err(error) => {
                let (message, help) = match error {
                    SplitError::Empty => ("the route leads nowhere", "name a service"),
                    SplitError::AllZero => (
                        "the weights of all targets are 0",
                        "give one of them a weight of at least 1",
                    ),
                };
                let mistake = Mistake::at(to_at.clone(), message).help(help);
                self.mistake(mistake.unless_wrong(to_at));
                None
            }
        }
    }

    /// By what requests are told apart, which only several targets can be chosen by.
    fn check_sticky(&mut self, route: &schema::Route, at: &Path) {
        let Some(typed) = &route.sticky else {
            return;
        };
        self.check_key(typed, &at.join("sticky"));
        if route.to.as_ref().is_none_or(|to| to.0.len() < 2) {
            let message = "`sticky` chooses among several targets, and the route has one";
            let mistake = Mistake::at_key(at.join("sticky"), message);
            self.mistake(
                mistake
                    .help(
                        "give `to` a list of targets; among the endpoints of one service it is \
                         `load_balancer: { ring_hash: { key: ... } }` that does this",
                    )
                    .unless_wrong(at.join("to")),
            );
        }
    }

    /// `at` is its place in the list `to`.
    fn destination(
        &mut self,
        target: &schema::Target,
        at: &Path,
        to: &Path,
        scope: &Scope<'a>,
    ) -> Option<Destination> {
        let name = match (&target.service, scope.own_name) {
            (Some(name), _) => name.as_str(),
            (None, Some(own)) => own,
            (None, None) => {
                let mistake = Mistake::at(at.clone(), "`service` is missing");
                self.mistake(mistake.help("name one of `services`").unless_wrong(to.clone()));
                return None;
            }
        };
        let Some(&cluster) = self.by_name.get(name) else {
            self.unknown_service(name, at.join("service"));
            return None;
        };
        if self.speaks_tcp(cluster) {
            let message = format!("routes are for HTTP, and service `{name}` speaks tcp");
            self.mistake(
                Mistake::at(at.join("service"), message)
                    .help("let it be reached by a port of `outbound.ports`"),
            );
        }
        let group = self.group_of(cluster, name, target, at)?;
        Some(Destination { cluster, group })
    }

    /// The endpoints that a target selects.
    fn group_of(
        &mut self,
        cluster: u32,
        name: &str,
        target: &schema::Target,
        at: &Path,
    ) -> Option<u32> {
        let wanted = selector(target);
        let groups = &self.clusters[cluster as usize].groups;
        if let Some(group) = groups.iter().position(|group| group.selector == wanted) {
            return Some(group as u32);
        }
        let endpoints = groups.first().map_or(&[][..], |group| &group.endpoints);
        let known: BTreeSet<String> = match wanted.labels.is_empty() {
            true => endpoints.iter().filter_map(|e| e.version.as_deref().map(quote)).collect(),
            false => endpoints
                .iter()
                .map(|endpoint| Selector {
                    version: wanted.version.as_ref().and(endpoint.version.clone()),
                    labels: endpoint.labels.clone(),
                })
                .filter(|known| !known.is_all())
                .map(|known| quote(&known.to_string()))
                .collect(),
        };
        let key = match (&wanted.version, wanted.labels.is_empty()) {
            (Some(_), true) => Some("version"),
            (None, _) => Some("labels"),
            (Some(_), false) => None,
        };
        let (message, missing) = match &wanted.version {
            Some(version) if wanted.labels.is_empty() => (
                format!("no endpoint of `{name}` has version {}", quote(version)),
                format!("version: {version}"),
            ),
            _ => (
                format!("no endpoint of `{name}` has {}", quote(&wanted.to_string())),
                "labels: { ... }".to_owned(),
            ),
        };
        let help = if known.is_empty() {
            format!("add `{missing}` to endpoints of `{name}`")
        } else {
            format!("its endpoints have {}", Vec::from_iter(known).join(", "))
        };
        let at = key.map_or_else(|| at.clone(), |key| at.join(key));
        let endpoints = path_to!["services", name, "endpoints"];
        self.mistake(Mistake::at(at, message).help(help).unless_wrong(endpoints));
        None
    }

    fn redirect(
        &mut self,
        typed: &schema::Redirect,
        matcher: Option<&Matcher>,
        at: &Path,
    ) -> Option<Action> {
        let same_path = match (&typed.path, matcher.map(|matcher| &matcher.path)) {
            (None, _) => true,
            (Some(path), Some(PathPattern::Exact(matched))) => path.as_str() == matched,
            (Some(_), _) => false,
        };
        let same_host = match (&typed.host, matcher.map(|matcher| &*matcher.hosts)) {
            (None, _) => true,
            (Some(host), Some([HostPattern::Exact(matched)])) => host.as_str() == matched,
            (Some(_), _) => false,
        };
        if same_path && same_host && typed.scheme.is_none() {
            let mistake = Mistake::at(at.clone(), "the redirect leads back to the same place");
            self.mistake(
                mistake.help("give another `scheme`, `host` or `path`").unless_wrong(at.clone()),
            );
            return None;
        }
        // Its number is one of five that the schema has checked.
        let status = typed.status.map(StatusCode::from_u16);
        Some(Action::Redirect(Box::new(Redirect {
            status: status.and_then(Result::ok).unwrap_or(StatusCode::FOUND),
            scheme: typed.scheme.map(|scheme| match scheme {
                schema::RedirectScheme::Http => "http".into(),
                schema::RedirectScheme::Https => "https".into(),
            }),
            host: typed.host.as_ref().map(|host| host.as_str().into()),
            path: typed.path.as_ref().map(|path| path.as_str().into()),
        })))
    }

    fn respond(&mut self, typed: &schema::Respond, at: &Path) -> Option<Action> {
        self.check_stored_answer(typed, at);
        Some(Action::Respond(Box::new(stored_answer(typed))))
    }

    /// Tells what is wrong in an answer of ours.
    pub(super) fn check_stored_answer(&mut self, typed: &schema::Respond, at: &Path) {
        let given = [("body", typed.body.is_some()), ("json", typed.json.is_some())];
        let body = self.at_most_one(&given, at, "keep one of them").flatten();
        if let (Some(status @ (204 | 205 | 304)), Some(key)) = (typed.status, body) {
            let mistake = Mistake::at_key(at.join(key), format!("a response {status} has no body"));
            self.mistake(mistake.help("remove it, or answer 200"));
        }
        for name in typed.headers.iter().flatten().map(|(name, _): (&units::HeaderName, _)| name) {
            self.framing_field(name, at.join("headers").join(name));
        }
    }

    fn no_rewrite(&mut self, route: &schema::Route, at: &Path) {
        if route.rewrite.is_some() {
            self.mistake(
                Mistake::at_key(at.join("rewrite"), "only what is sent on can be rewritten")
                    .help("remove it, or use `to`"),
            );
        }
    }
}

/// An answer of ours, as it goes out. Its mistakes are told by [`Compiler::check_stored_answer`].
pub(super) fn stored_answer(typed: &schema::Respond) -> Respond {
    let mut headers = HeaderOps::default();
    let mut set = |name: HeaderName, value| headers.set.push((name, value));
    let body = match (&typed.body, &typed.json) {
        (Some(text), _) => {
            set(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Bytes::from(text.clone())
        }
        (_, Some(json)) => {
            set(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(json.to_string())
        }
        (None, None) => Bytes::new(),
    };
    for (name, value) in typed.headers.iter().flatten() {
        let (name, value): (&units::HeaderName, &units::HeaderValue) = (name, value);
        set(name.0.clone(), value.0.clone());
    }
    let status = typed.status.map(StatusCode::from_u16);
    Respond { status: status.and_then(Result::ok).unwrap_or(StatusCode::OK), body, headers }
}

/// The targets of a route by names that stay the same when their weights change.
fn names(to: &schema::To, scope: &Scope<'_>) -> Vec<(String, u32)> {
    let name = |target: &schema::Target| {
        let service = target.service.as_ref().map(|name| name.as_str()).or(scope.own_name);
        format!("{} {}", service.unwrap_or_default(), selector(target))
    };
    to.0.iter().map(|target| (name(target), target.weight.unwrap_or(1))).collect()
}
