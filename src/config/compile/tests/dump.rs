//! A snapshot as a text that can be read and compared.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use crate::balance::Availability;
use crate::config::snapshot::{
    Action, Cluster, Destination, Forward, ListenerKind, OutboundService, Route, Snapshot,
};
use crate::endpoint::Endpoint;
use crate::policy::outlier::OutlierConfig;
use crate::policy::shed::ShedLimits;
use crate::policy::{BulkheadLimits, Conditions, Deadline, Policy, PriorityOf};
use crate::registry::settings::{Directory, Kind, Settings};
use crate::route::{Condition, FieldMatch, HostPattern, Matcher, PathPattern};

pub fn dump(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let own = &snapshot.service;
    line(&mut out, format!("service {} version {:?} zone {:?}", own.name, own.version, own.zone));
    for listener in snapshot.listeners.iter() {
        line(&mut out, format!("listen {:?} {}", listener.kind, listener.address));
    }
    line(&mut out, format!("admin {:?} metrics {:?}", snapshot.admin, snapshot.metrics));
    line(&mut out, format!("{:?}", snapshot.limits));
    line(&mut out, format!("{:?}", snapshot.drain));
    line(&mut out, format!("{:?}", snapshot.access_log));
    line(&mut out, format!("trace_sample {}", snapshot.trace_sample));
    if snapshot.shed != Some(ShedLimits::default()) {
        line(&mut out, format!("shed {:?}", snapshot.shed));
    }
    let by_default =
        |it: &Settings| matches!(&it.kind, Kind::Directory(Directory { path: None, .. }));
    for registry in snapshot.registries.iter().filter(|it| !by_default(it)) {
        line(&mut out, format!("registry {registry:?}"));
    }
    if snapshot.registries.iter().any(|it| !by_default(it)) {
        line(&mut out, format!("{:?}", snapshot.discovery));
    }
    clusters(&mut out, snapshot);
    let inbound = &snapshot.inbound;
    if snapshot.listeners.iter().any(|l| l.kind == ListenerKind::Inbound) {
        line(
            &mut out,
            format!("\ninbound {:?} app {:?}", inbound.protocol, place(snapshot, inbound.app)),
        );
        line(&mut out, format!("  trusted_proxies {:?}", inbound.trusted_proxies));
        for (matcher, target) in inbound.router.iter() {
            route(&mut out, snapshot, Some(matcher), target);
        }
        if let Some(fallback) = &inbound.fallback {
            route(&mut out, snapshot, None, fallback);
        }
    }
    line(&mut out, format!("\noutbound unknown {:?}", snapshot.outbound.unknown));
    outbound(&mut out, snapshot);
    route(&mut out, snapshot, None, &snapshot.outbound.unknown_route);
    out
}

fn line(out: &mut String, text: impl AsRef<str>) {
    let _ = writeln!(out, "{}", text.as_ref());
}

fn clusters(out: &mut String, snapshot: &Snapshot) {
    for (index, cluster) in snapshot.clusters.iter().enumerate() {
        line(
            out,
            format!(
                "\ncluster {index} {} {:?} {:?}",
                cluster.name, cluster.protocol, cluster.budget_limits
            ),
        );
        let usual = [BulkheadLimits::default(), BulkheadLimits::UNLIMITED];
        if !usual.contains(&cluster.bulkhead_limits) {
            line(out, format!("  {:?}", cluster.bulkhead_limits));
        }
        guards(out, cluster);
        for group in cluster.groups.iter() {
            let kind = group.balancer.kind();
            line(out, format!("  group {} of {} {kind:?}", group.slot, group.selector));
            option(out, "key", &group.balancer.key());
            option(out, "bounded load", &group.balancer.plan().bounded_load);
            option(out, "slots", &group.balancer.plan().table_size);
            option(out, "cookie", &group.balancer.cookie());
            let local = (0..group.endpoints.len()).map(|index| group.balancer.is_local(index));
            option(out, "local", &local.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()));
            for endpoint in &group.endpoints {
                let _ = write!(out, "    {} weight {}", endpoint.label, endpoint.weight);
                for (key, value) in [("zone", &endpoint.zone), ("version", &endpoint.version)] {
                    let _ = value.iter().try_for_each(|value| write!(out, " {key} {value}"));
                }
                for (name, value) in &endpoint.labels {
                    let _ = write!(out, " {name}={value}");
                }
                out.push('\n');
            }
        }
    }
}

fn guards(out: &mut String, cluster: &Cluster) {
    if cluster.availability != Availability::default() {
        line(out, format!("  {:?}", cluster.availability));
    }
    let of_endpoint = |endpoint: &Arc<Endpoint>| endpoint.breaker.clone();
    let of_endpoint = cluster.endpoints().first().and_then(of_endpoint);
    for (name, breaker) in [("service", cluster.breaker.clone()), ("endpoint", of_endpoint)] {
        let Some(breaker) = breaker else { continue };
        let mut text = format!("{:?}", breaker.config);
        if let Some(at) = text.find("failures: Conditions") {
            let usual = breaker.config.failures == Conditions::failures();
            text.replace_range(at.., if usual { "usual failures }" } else { "own failures }" });
        }
        line(out, format!("  breaker of {name} {text}"));
    }
    if let Some(health) = &cluster.health {
        let mut text = format!("{health:?}");
        if let (Some(from), Some(to)) = (text.find("statuses: "), text.find(" }, port")) {
            text.replace_range(from..to, "statuses");
        }
        line(out, format!("  {text}"));
    }
    let outliers = cluster.outliers.as_ref().map(|outliers| outliers.config.clone());
    if outliers.as_ref().is_some_and(|config| *config != OutlierConfig::default()) {
        line(out, format!("  {outliers:?}"));
    }
    if outliers.is_none() && !cluster.endpoints().is_empty() {
        line(out, "  no outlier detection");
    }
}

fn outbound(out: &mut String, snapshot: &Snapshot) {
    let mut hosts: BTreeMap<u32, (Vec<&str>, &OutboundService)> = BTreeMap::new();
    for (host, service) in &snapshot.outbound.hosts {
        let entry = hosts.entry(service.cluster);
        entry.or_insert((vec![], service)).0.push(host);
    }
    for (_, (mut hosts, service)) in hosts {
        hosts.sort_unstable();
        line(out, format!("  hosts {}", hosts.join(" ")));
        for (matcher, target) in service.router.iter() {
            route(out, snapshot, Some(matcher), target);
        }
        route(out, snapshot, None, &service.fallback);
    }
    let ports: BTreeMap<_, _> = snapshot.outbound.ports.iter().collect();
    for (address, port) in ports {
        let to = place(snapshot, Some(port.destination));
        line(out, format!("  port {address} {:?} to {to:?}", port.detect));
    }
}

fn place(snapshot: &Snapshot, to: Option<Destination>) -> Option<String> {
    let to = to?;
    let selector = &snapshot.group(to).selector;
    Some(format!("{}:{}@{selector}", to.cluster, snapshot.cluster(to).name))
}

fn route(out: &mut String, snapshot: &Snapshot, matcher: Option<&Matcher>, route: &Route) {
    let matched = matcher.map_or("else".to_owned(), matched);
    line(out, format!("  route {} {} [{}]: {matched}", route.slot, route.name, route.pattern));
    match &route.action {
        Action::Forward(forward) => {
            let shares = shares(forward);
            let to = forward.to.all().iter().zip(shares).filter_map(|(to, share)| {
                Some(format!(" {} {share}%", place(snapshot, Some(*to))?))
            });
            line(out, format!("    to{}", to.collect::<String>()));
            option(out, "sticky", &forward.to.key());
            let rewrite = forward.rewrite.as_deref().cloned().unwrap_or_default();
            option(out, "prefix", &rewrite.prefix);
            option(out, "host", &rewrite.host);
        }
        Action::Redirect(redirect) => line(out, format!("    {redirect:?}")),
        Action::Respond(respond) => line(out, format!("    {respond:?}")),
    }
    if *route.policy != Policy::default() {
        let policy = &route.policy;
        let timeouts = format!("{:?}", policy.timeouts).replace("mode: Enforce, ", "");
        let (resends, max_body) = (policy.retry.max, policy.max_body);
        line(out, format!("    {timeouts} max_resends {resends} max_body {max_body:?}"));
        if policy.deadline != Deadline::default() {
            line(out, format!("    {:?}", policy.deadline));
        }
        option(out, "hedge", &policy.hedge);
        if policy.priority != PriorityOf::default() {
            line(out, format!("    {:?}", policy.priority));
        }
        option(out, "fault", &policy.fault);
        option(out, "fallback", &policy.fallback);
        option(out, "mirror", &policy.mirror);
    }
    for limit in route.policy.rate_limits.iter().flat_map(|limits| limits.iter()) {
        let headers = if limit.headers { " headers" } else { "" };
        line(
            out,
            format!(
                "    rate_limit {} {}: {} burst {} {:?} {:?}{headers} {}",
                limit.slot,
                limit.name,
                limit.spec,
                limit.spec.burst,
                limit.spec.scope,
                limit.mode,
                limit.prefix
            )
            .trim_end(),
        );
    }
    for (name, ops) in [("request", &route.request_headers), ("response", &route.response_headers)]
    {
        option(out, name, ops);
    }
}

/// To the next tenth.
fn shares(forward: &Forward) -> Vec<usize> {
    const PICKS: usize = 10_000;
    let mut random = fastrand::Rng::with_seed(1);
    let mut counts = vec![0; forward.to.all().len()];
    for _ in 0..PICKS {
        let picked = forward.to.pick(&mut random, None);
        let at = forward.to.all().iter().position(|to| *to == picked);
        counts[at.unwrap_or_default()] += 1;
    }
    let tenth = |count: usize| (count * 10 + PICKS / 2) / PICKS * 10;
    counts.into_iter().map(tenth).collect()
}

fn option(out: &mut String, name: &str, value: &Option<impl Debug>) {
    if let Some(value) = value {
        line(out, format!("    {name} {value:?}"));
    }
}

fn matched(matcher: &Matcher) -> String {
    let mut text = match &matcher.path {
        PathPattern::Any => "any path".to_owned(),
        PathPattern::Exact(path) => format!("path {path}"),
        PathPattern::Prefix(path) => format!("prefix {path}"),
        PathPattern::Template(_) => format!("template {}", matcher.path.pattern()),
        PathPattern::Regex(regex) => format!("regex {}", regex.as_str()),
    };
    for host in &matcher.hosts {
        let _ = match host {
            HostPattern::Exact(host) => write!(text, ", host {host}"),
            HostPattern::Suffix(suffix) => write!(text, ", host *{suffix}"),
        };
    }
    for method in &matcher.methods {
        let _ = write!(text, ", {method}");
    }
    matcher.headers.iter().for_each(|field| condition(&mut text, "header", field));
    matcher.query.iter().for_each(|field| condition(&mut text, "query", field));
    text
}

fn condition<N: std::fmt::Display>(text: &mut String, of: &str, field: &FieldMatch<N>) {
    let _ = write!(text, ", {of} {} ", field.name);
    let _ = match &field.condition {
        Condition::Exact(value) => write!(text, "is {value}"),
        Condition::Regex(regex) => write!(text, "matches {}", regex.as_str()),
        Condition::Present(present) => write!(text, "present {present}"),
        Condition::Not(value) => write!(text, "is not {value}"),
    };
}
