//! The endpoints of a service and what is made of them: anew whenever others are told of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::snapshot::{Group, Selector};
use crate::balance::{Balancer, Plan, Table};
use crate::endpoint::{Endpoint, Instance, Load, State};
use crate::policy::breaker::{BreakerConfig, SharedBreaker};

/// What is made of the endpoints of one service.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    pub plan: Plan,
    /// Of each endpoint, where they have one.
    pub breaker: Option<Arc<BreakerConfig>>,
}

/// What lives on of the groups that there were.
#[derive(Default)]
pub struct Before {
    /// By the text of the address.
    endpoints: HashMap<Box<str>, Arc<Endpoint>>,
    /// What is in flight, and what is costly to make, of each group that has it.
    loads: BTreeMap<Selector, Arc<Load>>,
    tables: BTreeMap<Selector, Table>,
}

impl Before {
    pub fn of(groups: &[Group]) -> Self {
        let endpoints = groups.first().map_or(&[][..], |all| &all.endpoints);
        let endpoints = endpoints.iter().map(|it| (it.label.clone(), it.clone()));
        let loads = groups.iter().filter_map(|it| Some((it.selector.clone(), it.load.clone()?)));
        let tables = groups
            .iter()
            .filter_map(|it| Some((it.selector.clone(), it.balancer.table()?.clone())));
        Self { endpoints: endpoints.collect(), loads: loads.collect(), tables: tables.collect() }
    }
}

impl Membership {
    /// The groups of `wanted`, each with its slot, the first of which takes all. No address is there twice among
    /// `instances`.
    pub fn groups(
        &self,
        instances: Vec<Instance>,
        wanted: impl IntoIterator<Item = (u32, Selector)>,
        before: &Before,
    ) -> Vec<Group> {
        let with_load = |(slot, selector): (u32, Selector)| {
            let load = || before.loads.get(&selector).cloned().unwrap_or_default();
            let load = self.plan.bounded_load.map(|_| load());
            (slot, selector, load)
        };
        let wanted: Vec<_> = wanted.into_iter().map(with_load).collect();
        let endpoint = |instance| {
            let endpoint = self.endpoint(instance, before);
            let ours = wanted.iter().filter(|(_, selector, _)| selector.takes(&endpoint));
            let loads: Vec<_> = ours.filter_map(|(_, _, load)| load.clone()).collect();
            let loads = (!loads.is_empty()).then(|| loads.into());
            Arc::new(Endpoint { loads, ..endpoint })
        };
        let endpoints: Vec<_> = instances.into_iter().map(endpoint).collect();
        let group = |(slot, selector, load): (u32, Selector, Option<Arc<Load>>)| {
            let taken = endpoints.iter().filter(|endpoint| selector.takes(endpoint));
            let endpoints: Box<[_]> = taken.cloned().collect();
            let table = before.tables.get(&selector);
            let balancer = Balancer::of(&self.plan, &endpoints, load.as_ref(), table);
            Group { slot, selector, endpoints, balancer, load }
        };
        wanted.into_iter().map(group).collect()
    }

    /// With the state and the breaker that it had, where the breaker is the same still.
    fn endpoint(&self, instance: Instance, before: &Before) -> Endpoint {
        let endpoint = Endpoint::new(instance, Arc::default());
        let kept = before.endpoints.get(&endpoint.label);
        let state = match kept {
            Some(kept) => kept.state.clone(),
            // The first ones of a service are not new beside each other.
            None if before.endpoints.is_empty() => endpoint.state,
            None => Arc::new(State::arriving()),
        };
        let breaker = self
            .breaker
            .as_ref()
            .map(|config| SharedBreaker::kept(kept.and_then(|kept| kept.breaker.as_ref()), config));
        Endpoint { state, breaker, ..endpoint }
    }
}
