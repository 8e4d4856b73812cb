//! What the admin server shows of the proxy, and asks of it.

use std::collections::HashSet;
use std::rc::Rc;

use super::{Control, outliers};
use crate::admin::Handles;
use crate::app::Ask;
use crate::clock;
use crate::drain::Phase;

impl Control {
    pub(super) fn handles(self: Rc<Self>) -> Handles {
        let of = || self.clone();
        let (a, b, c, d, e, f, g, h, i) = (of(), of(), of(), of(), of(), of(), of(), of(), of());
        Handles {
            metrics: Box::new(move || a.metrics.encode()),
            config_dump: Box::new(move || b.live.current().source.as_ref().clone()),
            clusters: Box::new(move || c.clusters()),
            ready: Box::new(move || d.ready()),
            reload: Box::new(move || {
                let control = e.clone();
                Box::pin(async move { control.reload() })
            }),
            drain: Box::new(move || {
                let control = f.clone();
                tokio::task::spawn_local(async move { control.drain().await });
            }),
            quit: Box::new(move || drop(g.asks.send(Ask::Shutdown))),
            log_level: Box::new(move || h.level.as_ref().map_or_else(String::new, |l| (l.get)())),
            set_log_level: Box::new(move |text| match &i.level {
                Some(level) => (level.set)(text),
                None => Err("the level of this process is fixed".to_owned()),
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn ready(&self) -> Result<String, String> {
        if *self.phase.borrow() != Phase::Running {
            return Err("draining".to_owned());
        }
        self.app_is_ready()?;
        Ok(match &*self.refused.borrow() {
            None => "ready\n".to_owned(),
            Some(why) => {
                format!("ready, with the configuration before; the last one was refused:\n{why}\n")
            }
        })
    }

    fn clusters(&self) -> serde_json::Value {
        let now = clock::now();
        let snapshot = self.live.current();
        let clusters = snapshot.clusters.iter().map(|cluster| {
            let discovered = cluster.discovered.as_ref();
            let standing = discovered.and_then(|_| self.discovery.standings.service(&cluster.name));
            let held: HashSet<&str> =
                standing.iter().flat_map(|it| it.held.iter().map(|held| &**held)).collect();
            let endpoints: Vec<_> = cluster
                .endpoints()
                .iter()
                .map(|endpoint| {
                    serde_json::json!({
                        "address": endpoint.label,
                        "weight": endpoint.weight,
                        "zone": endpoint.zone,
                        "version": endpoint.version,
                        "labels": endpoint.labels,
                        "in_flight": endpoint.state.in_flight(),
                        "state": outliers::state(endpoint, now),
                        "full": endpoint.state.is_full(),
                        "held": held.contains(&*endpoint.label),
                        "latency_ms": endpoint.state.latency(now).map(|l| l.as_secs_f64() * 1e3),
                    })
                })
                .collect();
            let registry = standing.as_ref().map(|standing| {
                serde_json::json!({
                    "source": standing.source,
                    "state": standing.state.as_str(),
                    "age_seconds": standing.age(now).as_secs_f64(),
                    "error": standing.failure,
                })
            });
            let breaker = cluster.breaker.as_ref().map(|it| it.state().as_str());
            serde_json::json!({
                "name": cluster.name,
                "registry": registry,
                "breaker": breaker,
                "endpoints": endpoints,
            })
        });
        clusters.collect()
    }
}
