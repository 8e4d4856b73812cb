//! Another configuration while traffic flows: all of it or nothing.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Control;
use crate::clock::{self, Instant};
use crate::config::compile::compile;
use crate::config::load;
use crate::config::snapshot::{Cluster, Listener, Snapshot};
use crate::drain::Phase;
use crate::endpoint::Instance;
use crate::telemetry::metrics;
use crate::worker::Command;

impl Control {
    /// Reads the configuration again: all of it or nothing.
    ///
    /// # Errors
    /// Why the old one stays.
    pub fn reload(&self) -> Result<String, String> {
        // A bug must not take the admin server and the drain with it.
        let result = catch_unwind(AssertUnwindSafe(|| self.try_reload())).unwrap_or_else(|_| {
            Err("an error inside the proxy while it read the configuration; its log has it"
                .to_owned())
        });
        self.metrics.config_read(result.is_ok(), clock::wall());
        match &result {
            Ok(text) => {
                tracing::info!("{text}");
                *self.refused.borrow_mut() = None;
            }
            Err(text) => {
                for line in text.lines() {
                    tracing::error!("configuration refused: {line}");
                }
                *self.refused.borrow_mut() = Some(text.clone());
            }
        }
        result
    }

    /// Reads the file after a change of it. What is in force already, because someone asked for it
    /// meanwhile, is not read into force again.
    pub(super) fn reload_if_new(&self) {
        let path = self.origin.path();
        let now = path.and_then(|path| load::read(path).ok());
        if now.as_ref() != Some(&*self.read.borrow()) || self.refused.borrow().is_some() {
            // Told to log, metrics and `/ready`.
            let _ = self.reload();
        }
    }

    fn try_reload(&self) -> Result<String, String> {
        if *self.phase.borrow() != Phase::Running {
            return Err("the proxy is draining; it ends with the configuration it has".to_owned());
        }
        let before = self.live.current();
        let generation = self.generation.get() + 1;
        let loaded = self
            .origin
            .load(&self.discovery.demanded(), Some(&before), generation, false)
            .map_err(|refused| refused.lines.join("\n"))?;
        let snapshot = Arc::new(loaded.snapshot);
        let known: HashSet<Listener> = before.listeners.iter().copied().collect();
        let added: Vec<_> =
            snapshot.listeners.iter().filter(|l| !known.contains(l)).copied().collect();
        let sockets = self.bind(&added).map_err(|error| error.to_string())?;
        let new_log = self.log.borrow().settings != snapshot.access_log;
        let sink = if new_log {
            Some(self.open_log(snapshot.access_log.as_ref()).map_err(|error| error.to_string())?)
        } else {
            None
        };

        // From here on nothing can fail.
        self.generation.set(generation);
        snapshot.apply(clock::now());
        self.live.publish(snapshot.clone());
        *self.config.borrow_mut() = loaded.config;
        if let Some(sink) = sink {
            for worker in &self.workers {
                let _ = worker.send(Command::Log(sink.clone()));
            }
        }
        self.listen(sockets);
        let wanted: HashSet<Listener> = snapshot.listeners.iter().copied().collect();
        self.unlisten(|listener| !wanted.contains(listener));
        retire(&before, &snapshot);
        self.published(&snapshot);
        *self.read.borrow_mut() = loaded.text;
        Ok(format!("configuration {generation} in force{}", self.needs_restart(&before, &snapshot)))
    }

    /// Compiles what was read last once more, for services that are followed because they are called.
    ///
    /// # Errors
    /// It does not compile with them.
    pub(super) fn compile_again(&self) -> Result<(), String> {
        let before = self.live.current();
        let generation = self.generation.get() + 1;
        let demanded = self.discovery.demanded();
        let compiled = compile(&self.config.borrow(), &demanded, Some(&before), generation);
        let snapshot = Arc::new(compiled.map_err(|mistakes| match mistakes.first() {
            Some(mistake) => mistake.message.clone(),
            None => "it does not compile".to_owned(),
        })?);
        self.generation.set(generation);
        snapshot.apply(clock::now());
        self.live.publish(snapshot.clone());
        retire(&before, &snapshot);
        self.published(&snapshot);
        Ok(())
    }

    /// Puts other instances of some services in force, by the places of their clusters in `before`; `own`: how many
    /// our own service has.
    pub(super) fn put_in_force_endpoints(
        &self,
        before: &Snapshot,
        changes: Vec<(usize, Vec<Instance>)>,
        own: Option<usize>,
        now: Instant,
    ) {
        let places: Vec<usize> = changes.iter().map(|(place, _)| *place).collect();
        let instances = own.map_or(before.instances, |count| count.max(1) as u32);
        let snapshot = Arc::new(Snapshot { instances, ..before.with(changes) });
        places.iter().for_each(|place| snapshot.clusters[*place].apply(now));
        self.live.publish(snapshot.clone());
        for place in &places {
            retire_of(&before.clusters[*place], &snapshot.clusters[*place]);
        }
        self.checks.follow(&snapshot);
        for worker in &self.workers {
            let _ = worker.send(Command::Refresh);
        }
    }

    /// What of a new configuration waits for the next start.
    fn needs_restart(&self, before: &Snapshot, now: &Snapshot) -> &'static str {
        if before.admin != now.admin || before.metrics != now.metrics {
            return "; the addresses under admin change at the next start";
        }
        let workers = now.source.pointer("/runtime/workers").and_then(|count| count.as_u64());
        match workers {
            Some(count) if count as usize != self.workers.len() => {
                "; runtime.workers changes at the next start"
            }
            _ => "",
        }
    }

    pub(super) fn published(&self, snapshot: &Snapshot) {
        let own = &snapshot.service;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.metrics.set_service_info(&own.name, &text(&own.version), &text(&own.zone));
        let mut live = metrics::Live::default();
        live.services.extend(snapshot.clusters.iter().map(|cluster| cluster.name.as_ref().into()));
        live.limits.extend(snapshot.rate_limits.iter().map(|limit| limit.name.as_ref().into()));
        snapshot.for_each_route(|route| {
            live.routes.insert(route.pattern.as_ref().into());
        });
        self.metrics.retain(live);
        self.checks.follow(snapshot);
        self.discovery.follow(snapshot);
        self.announce(snapshot);
        for worker in &self.workers {
            let _ = worker.send(Command::Refresh);
        }
    }
}

/// Marks what `before` had and `now` has no more.
fn retire(before: &Snapshot, now: &Snapshot) {
    retire_all(&before.clusters, &now.clusters);
}

fn retire_of(before: &Arc<Cluster>, now: &Arc<Cluster>) {
    retire_all(std::slice::from_ref(before), std::slice::from_ref(now));
}

fn retire_all(before: &[Arc<Cluster>], now: &[Arc<Cluster>]) {
    let states = |clusters: &[Arc<Cluster>]| {
        let endpoints = clusters.iter().flat_map(|cluster| cluster.endpoints());
        endpoints.map(|endpoint| endpoint.state.clone()).collect::<Vec<_>>()
    };
    let kept: HashSet<_> = states(now).iter().map(Arc::as_ptr).collect();
    for state in states(before) {
        if !kept.contains(&Arc::as_ptr(&state)) {
            state.retire();
        }
    }
}
