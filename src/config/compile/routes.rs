//! Routes: what each matches, where it leads, what it changes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};

use super::super::schema::{self, Match, ValueMatch};
use super::super::snapshot::{
    Action, Destination, Forward, PrefixRewrite, Redirect, Respond, Route,
};
use super::super::units;
use super::{Compiler, Mistake, Path, only, quote};
use crate::balance::Split;
use crate::policy::{HeaderOps, Policy};
use crate::route::{Condition, FieldMatch, HostPattern, Matcher, PathPattern, PatternError};

/// What the routes of one list have in common.
pub(super) struct Scope<'a> {
    /// Where a route without `to` leads.
    own: Option<Destination>,
    /// What a `to` without `service` means.
    own_name: Option<&'a str>,
    base: Base<'a>,
    ops: (HeaderOps, HeaderOps),
}

enum Base<'a> {
    /// The policy of the service is the base of all its routes.
    Service(Policy),
    /// The base is that of each destination, under what the listener says.
    Inbound(Option<&'a schema::Policy>),
}

impl<'a> Scope<'a> {
    pub(super) fn inbound(
        app: Option<Destination>,
        policy: Option<&'a schema::Policy>,
        ops: (HeaderOps, HeaderOps),
    ) -> Self {
        Self {
            own: app,
            own_name: None,
            base: Base::Inbound(policy),
            ops,
        }
    }

    pub(super) fn service(name: &'a str, to: Destination, policy: Policy) -> Self {
        let ops = Default::default();
        Self {
            own: Some(to),
            own_name: Some(name),
            base: Base::Service(policy),
            ops,
        }
    }
}

impl<'a> Compiler<'a> {
    /// The routes of a list, and whether one of them looks at the path.
    pub(super) fn routes(
        &mut self,
        typed: &'a [schema::Route],
        at: &Path,
        scope: &Scope<'a>,
    ) -> (Vec<(Matcher, Arc<Route>)>, bool) {
        let mut compiled = Vec::with_capacity(typed.len());
        let mut path_sensitive = false;
        for (index, route) in typed.iter().enumerate() {
            let at = at.join(index);
            let matcher = self.matcher(route.matches.as_ref(), &at.join("match"));
            let action = self.action(route, &at, scope);
            let policy = self.route_policy(route, action.as_ref(), &at, scope);
            let (request, response) = self.both_header_ops(
                route.request_headers.as_ref(),
                route.response_headers.as_ref(),
                &at,
            );
            let (Some(matcher), Some(action)) = (matcher, action) else {
                continue;
            };
            path_sensitive |= !matches!(matcher.path, PathPattern::Any);
            let pattern: Arc<str> = matcher.path.pattern().into();
            let route = Route {
                slot: self.route_slot(),
                name: route
                    .name
                    .as_deref()
                    .map_or_else(|| pattern.clone(), Into::into),
                pattern,
                action,
                policy,
                request_headers: scope.ops.0.then(&request),
                response_headers: scope.ops.1.then(&response),
            };
            compiled.push((matcher, Arc::new(route)));
        }
        (compiled, path_sensitive)
    }

    /// What becomes of a request that no route of the list matches.
    pub(super) fn fallback_route(&mut self, scope: &Scope<'a>, to: Destination) -> Arc<Route> {
        let policy = match &scope.base {
            Base::Service(policy) => policy.clone(),
            Base::Inbound(typed) => {
                let mut policy = Policy::default();
                let at = super::path_to!["inbound", "policy"];
                self.policy_of(&mut policy, *typed, &at, false);
                policy
            }
        };
        let plain = self.plain_route("default", to, policy);
        match Arc::try_unwrap(plain) {
            Ok(mut route) => {
                route.request_headers = scope.ops.0.clone();
                route.response_headers = scope.ops.1.clone();
                Arc::new(route)
            }
            Err(shared) => shared,
        }
    }

    fn route_policy(
        &mut self,
        route: &schema::Route,
        action: Option<&Action>,
        at: &Path,
        scope: &Scope<'a>,
    ) -> Policy {
        let mut policy = match &scope.base {
            Base::Service(policy) => policy.clone(),
            Base::Inbound(listener) => {
                // A gateway's call to a service is a call to that service. Of several the first one's
                // policy is the base: they are versions of one thing.
                let first = match action {
                    Some(Action::Forward(forward)) if scope.own != Some(forward.to[0]) => {
                        Some(self.clusters[forward.to[0].cluster as usize].name.clone())
                    }
                    _ => None,
                };
                let mut policy =
                    first.map_or_else(Policy::default, |name| self.service_policy(&name, false));
                let told = self.mistakes.len();
                self.policy_of(&mut policy, *listener, &Path::root(), false);
                self.mistakes.truncate(told);
                policy
            }
        };
        self.policy_of(
            &mut policy,
            route.policy.as_ref(),
            &at.join("policy"),
            false,
        );
        policy
    }

    fn matcher(&mut self, typed: Option<&Match>, at: &Path) -> Option<Matcher> {
        let empty = Match::default();
        let typed = typed.unwrap_or(&empty);
        let before = self.mistakes.len();
        let path = self.path_pattern(typed, at);
        if typed.host.is_some() && typed.hosts.is_some() {
            self.mistake(
                Mistake::at_key(at.join("hosts"), "`host` and `hosts` are both given")
                    .help("put all of them under `hosts`"),
            );
        }
        let one = typed.host.iter().map(|host| (host, at.join("host")));
        let several = typed.hosts.iter().flatten().enumerate();
        let several = several.map(|(index, host)| (host, at.join("hosts").join(index)));
        let hosts: Vec<_> = one
            .chain(several)
            .filter_map(|(host, at)| self.pattern(HostPattern::parse(host.as_str()), at))
            .collect();
        let headers: Vec<_> = typed
            .headers
            .iter()
            .flatten()
            .filter_map(|(name, value): (&units::HeaderName, _)| {
                let condition = self.condition(value, &at.join("headers").join(name))?;
                Some(FieldMatch {
                    name: name.0.clone(),
                    condition,
                })
            })
            .collect();
        let query: Vec<_> = typed
            .query
            .iter()
            .flatten()
            .filter_map(|(name, value): (&String, _)| {
                let condition = self.condition(value, &at.join("query").join(name))?;
                Some(FieldMatch {
                    name: name.clone(),
                    condition,
                })
            })
            .collect();
        let methods = typed
            .methods
            .iter()
            .flatten()
            .map(|method| method.0.clone())
            .collect();
        let path = path?;
        (self.mistakes.len() == before).then_some(Matcher {
            hosts,
            path,
            methods,
            headers,
            query,
        })
    }

    fn path_pattern(&mut self, typed: &Match, at: &Path) -> Option<PathPattern> {
        let given = [
            ("path", typed.path.is_some()),
            ("path_prefix", typed.path_prefix.is_some()),
            ("path_regex", typed.path_regex.is_some()),
        ];
        let mut given = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(key, _)| *key);
        let (first, second) = (given.next(), given.next());
        if let (Some(first), Some(second)) = (first, second) {
            let message = format!("`{first}` and `{second}` are both given");
            self.mistake(Mistake::at_key(at.join(second), message).help("keep one of them"));
            return None;
        }
        let Some(key) = first else {
            return Some(PathPattern::Any);
        };
        let text = |path: &Option<units::UrlPath>| {
            path.as_ref()
                .map(|path| path.as_str().to_owned())
                .unwrap_or_default()
        };
        let pattern = match key {
            "path" => {
                let text = text(&typed.path);
                if text.contains(['{', '}']) {
                    PathPattern::template(&text)
                } else {
                    PathPattern::exact(&text)
                }
            }
            "path_prefix" => PathPattern::prefix(&text(&typed.path_prefix)),
            _ => PathPattern::regex(typed.path_regex.as_deref().unwrap_or_default()),
        };
        self.pattern(pattern, at.join(key))
    }

    fn pattern<T>(&mut self, pattern: Result<T, PatternError>, at: Path) -> Option<T> {
        pattern
            .map_err(|error| self.mistake(Mistake::at(at, error.to_string())))
            .ok()
    }

    fn condition(&mut self, typed: &ValueMatch, at: &Path) -> Option<Condition> {
        let condition = match typed {
            ValueMatch::Exact(text) => return Some(Condition::Exact(text.clone())),
            ValueMatch::Condition(condition) => condition,
        };
        match (&condition.present, &condition.regex, &condition.not) {
            (Some(present), None, None) => Some(Condition::Present(*present)),
            (None, Some(regex), None) => self.pattern(Condition::regex(regex), at.join("regex")),
            (None, None, Some(not)) => Some(Condition::Not(not.clone())),
            _ => {
                self.mistake(
                    Mistake::at(
                        at.clone(),
                        "a condition is exactly one of `present`, `regex`, `not`",
                    )
                    .help("write the value itself where it has to be equal"),
                );
                None
            }
        }
    }

    fn action(&mut self, route: &schema::Route, at: &Path, scope: &Scope<'a>) -> Option<Action> {
        let given = [
            ("to", route.to.is_some()),
            ("redirect", route.redirect.is_some()),
            ("respond", route.respond.is_some()),
        ];
        let mut given = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(key, _)| *key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let message = format!("`{first}` and `{second}` are both given");
            self.mistake(
                Mistake::at_key(at.join(second), message).help("a route does one of them"),
            );
            return None;
        }
        if let Some(redirect) = &route.redirect {
            return self.redirect(redirect, route, at);
        }
        if let Some(respond) = &route.respond {
            return self.respond(respond, route, at);
        }
        let (split, to) = match &route.to {
            Some(to) => self.destinations(to, &at.join("to"), scope)?,
            None => match scope.own {
                Some(own) => (only(), [own].into()),
                None => {
                    self.mistake(
                        Mistake::at(at.clone(), "the route leads nowhere: there is no app")
                            .help("add `to: <service>`, `redirect` or `respond`"),
                    );
                    return None;
                }
            },
        };
        let rewrite = route.rewrite.as_ref();
        let prefix = rewrite.and_then(|rewrite| rewrite.path_prefix.as_ref());
        let prefix = match prefix {
            None => None,
            Some(replacement) => Some(self.prefix_rewrite(route, replacement, at)?),
        };
        let host = rewrite
            .and_then(|rewrite| rewrite.host.as_ref())
            .and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        Some(Action::Forward(Forward {
            split,
            to,
            prefix,
            host,
        }))
    }

    fn prefix_rewrite(
        &mut self,
        route: &schema::Route,
        replacement: &units::UrlPath,
        at: &Path,
    ) -> Option<PrefixRewrite> {
        let matched = route
            .matches
            .as_ref()
            .and_then(|matches| matches.path_prefix.as_ref());
        let Some(matched) = matched else {
            self.mistake(
                Mistake::at_key(
                    at.join("rewrite").join("path_prefix"),
                    "there is no matched prefix to replace",
                )
                .help("match by `path_prefix`"),
            );
            return None;
        };
        Some(PrefixRewrite {
            matched: matched.as_str().trim_end_matches('/').len(),
            replacement: replacement.as_str().into(),
        })
    }

    fn destinations(
        &mut self,
        to: &schema::To,
        at: &Path,
        scope: &Scope<'a>,
    ) -> Option<(Split, Box<[Destination]>)> {
        let mut destinations = Vec::new();
        let mut weights = Vec::new();
        for (index, target) in to.0.iter().enumerate() {
            // One target may stand without a list.
            let at = if to.0.len() == 1 {
                at.clone()
            } else {
                at.join(index)
            };
            weights.push(target.weight.unwrap_or(1));
            destinations.extend(self.destination(target, &at, scope));
        }
        match Split::new(&weights) {
            Ok(split) if destinations.len() == weights.len() => Some((split, destinations.into())),
            Ok(_) => None,
            Err(error) => {
                self.mistake(Mistake::at(at.clone(), error.to_string()));
                None
            }
        }
    }

    fn destination(
        &mut self,
        target: &schema::Target,
        at: &Path,
        scope: &Scope<'a>,
    ) -> Option<Destination> {
        let name = match (&target.service, scope.own_name) {
            (Some(name), _) => name.as_str().to_owned(),
            (None, Some(own)) => own.to_owned(),
            (None, None) => {
                let mistake = Mistake::at(at.clone(), "`service` is missing");
                self.mistake(mistake.help("name one of `services`"));
                return None;
            }
        };
        let Some(&cluster) = self.by_name.get(&*name) else {
            self.unknown_service(&name, at.clone());
            return None;
        };
        let Some(version) = &target.version else {
            return Some(Destination { cluster, group: 0 });
        };
        let groups = &self.clusters[cluster as usize].groups;
        let group = groups
            .iter()
            .position(|group| group.version.as_deref() == Some(version));
        let Some(group) = group else {
            let known: Vec<_> = groups
                .iter()
                .filter_map(|group| group.version.as_deref())
                .collect();
            let help = if known.is_empty() {
                format!("add `version: {version}` to endpoints of `{name}`")
            } else {
                format!("its endpoints have {}", known.join(", "))
            };
            let message = format!("no endpoint of `{name}` has version {}", quote(version));
            self.mistake(Mistake::at(at.clone(), message).help(help));
            return None;
        };
        Some(Destination {
            cluster,
            group: group as u32,
        })
    }

    fn redirect(
        &mut self,
        typed: &schema::Redirect,
        route: &schema::Route,
        at: &Path,
    ) -> Option<Action> {
        self.no_rewrite(route, at);
        if typed.scheme.is_none() && typed.host.is_none() && typed.path.is_none() {
            self.mistake(
                Mistake::at(
                    at.join("redirect"),
                    "the redirect leads back to the same place",
                )
                .help("give `scheme`, `host` or `path`"),
            );
            return None;
        }
        // Its number is one of five that the schema has checked.
        let status = StatusCode::from_u16(typed.status.unwrap_or(301)).unwrap_or_default();
        Some(Action::Redirect(Redirect {
            status,
            scheme: typed.scheme.map(|scheme| match scheme {
                schema::RedirectScheme::Http => "http".into(),
                schema::RedirectScheme::Https => "https".into(),
            }),
            host: typed.host.as_ref().map(|host| host.as_str().into()),
            path: typed.path.as_ref().map(|path| path.as_str().into()),
        }))
    }

    fn respond(
        &mut self,
        typed: &schema::Respond,
        route: &schema::Route,
        at: &Path,
    ) -> Option<Action> {
        self.no_rewrite(route, at);
        if typed.body.is_some() && typed.json.is_some() {
            self.mistake(
                Mistake::at_key(
                    at.join("respond").join("json"),
                    "`body` and `json` are both given",
                )
                .help("keep one of them"),
            );
            return None;
        }
        let mut headers = HeaderOps::default();
        let set =
            |headers: &mut HeaderOps, name: HeaderName, value| headers.set.push((name, value));
        let body = match (&typed.body, &typed.json) {
            (Some(text), _) => {
                let text_plain = HeaderValue::from_static("text/plain; charset=utf-8");
                set(&mut headers, CONTENT_TYPE, text_plain);
                Bytes::from(text.clone())
            }
            (_, Some(json)) => {
                set(
                    &mut headers,
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                );
                Bytes::from(json.to_string())
            }
            (None, None) => Bytes::new(),
        };
        for (name, value) in typed.headers.iter().flatten() {
            let (name, value): (&units::HeaderName, &units::HeaderValue) = (name, value);
            set(&mut headers, name.0.clone(), value.0.clone());
        }
        let status = StatusCode::from_u16(typed.status.unwrap_or(200)).unwrap_or_default();
        Some(Action::Respond(Respond {
            status,
            body,
            headers,
        }))
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
