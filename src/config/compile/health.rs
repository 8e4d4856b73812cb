//! Active health checks.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::super::schema::{self, OrOff};
use super::super::units;
use super::{Compiler, Mistake, Path};
use crate::endpoint::{Address, Instance};
use crate::policy::Conditions;
use crate::policy::health::{CheckKind, HealthCheck};

/// The check that the inner one of `layers` asks for. Its mistakes are told by [`Compiler::check_health`].
pub(super) fn health(layers: &[Option<&OrOff<schema::HealthCheck>>]) -> Option<Arc<HealthCheck>> {
    let typed = layers.iter().rev().flatten().next()?.on()?;
    let time = |typed: Option<units::Period>, default| typed.map_or(default, |typed| typed.0);
    Some(Arc::new(HealthCheck {
        kind: kind(typed)?,
        port: typed.port,
        interval: time(typed.interval, Duration::from_secs(10)),
        timeout: time(typed.timeout, Duration::from_secs(5)),
        jitter: typed.jitter.map_or(0.1, |ratio| ratio.0),
        unhealthy_after: typed.unhealthy_after.unwrap_or(3),
        healthy_after: typed.healthy_after.unwrap_or(1),
    }))
}

fn kind(typed: &schema::HealthCheck) -> Option<CheckKind> {
    let host = typed.host.as_ref().and_then(|host| HeaderValue::try_from(host.as_str()).ok());
    if let Some(path) = &typed.http {
        let mut statuses = Conditions::default();
        match &typed.statuses {
            None => statuses.add_statuses(200..=299),
            Some(typed) => typed.iter().for_each(|status| status.add_to(&mut statuses)),
        }
        return Some(CheckKind::Http { path: path.as_str().parse().ok()?, host, statuses });
    }
    if let Some(service) = &typed.grpc {
        return Some(CheckKind::Grpc { service: service.clone(), host });
    }
    typed.tcp.filter(|tcp| *tcp).map(|_| CheckKind::Tcp)
}

impl Compiler<'_> {
    /// Tells what is wrong in a check.
    pub(super) fn check_health(&mut self, typed: Option<&OrOff<schema::HealthCheck>>, at: &Path) {
        const KINDS: &str = "`http: /health`, `tcp: true` or `grpc: \"\"`";
        let Some(OrOff::On(typed)) = typed else { return };
        let given = [
            ("http", typed.http.is_some()),
            ("tcp", typed.tcp.is_some()),
            ("grpc", typed.grpc.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).collect();
        match &given[..] {
            [] => {
                let mistake = Mistake::at_key(at.clone(), "the check does not say how to ask");
                self.mistake(mistake.help(format!("add one of {KINDS}")).unless_wrong(at.clone()));
            }
            [("tcp", _)] if typed.tcp == Some(false) => {
                let mistake = Mistake::at(at.join("tcp"), "nothing is asked by this check");
                self.mistake(mistake.help("write `tcp: true`, or `health_check: off`"));
            }
            [_] => {}
            [(first, _), (second, _), ..] => {
                let message = format!("`{first}` and `{second}` are two checks");
                let mistake = Mistake::at_key(at.join(*second), message);
                self.mistake(mistake.help("keep one of them"));
            }
        }
        if typed.http.is_none() && typed.statuses.is_some() {
            let mistake = Mistake::at_key(at.join("statuses"), "only `http` has statuses");
            self.mistake(mistake.help("remove it").unless_wrong(at.clone()));
        }
        let mut all = Conditions::default();
        typed.statuses.iter().flatten().for_each(|status| status.add_to(&mut all));
        if typed.statuses.is_some() && !all.is_statuses() {
            let mistake = Mistake::at(at.join("statuses"), "here stand statuses alone");
            let mistake = mistake.help("list some, as `[2xx, 404]`");
            self.mistake(mistake.unless_wrong(at.join("statuses")));
        }
    }

    /// Tells that the check of a service, its own or that of `defaults`, has no port to go to.
    pub(super) fn check_health_port(
        &mut self,
        check: Option<&HealthCheck>,
        own: Option<&OrOff<schema::HealthCheck>>,
        instances: &[Instance],
        at: &Path,
    ) {
        let is_socket = |instance: &Instance| matches!(instance.address, Address::Unix(_));
        if check.is_none_or(|check| check.port.is_none()) || !instances.iter().any(is_socket) {
            return;
        }
        let mistake = match own {
            Some(_) => {
                let at = at.join("health_check").join("port");
                Mistake::at_key(at, "a Unix socket has no port").help("remove it")
            }
            None => {
                let message = "`defaults` has it checked at a port, and a Unix socket has none";
                Mistake::at_key(at.clone(), message).help("give it a `health_check` of its own")
            }
        };
        self.mistake(mistake);
    }
}
