//! The services that we call.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HealthCheck, LoadBalancer, Map, OrOff, Policy, Protocol, Route, ZoneAware, shorthand};
use crate::config::units::{Address, Host, Name};

/// The services that we call, by name, and what holds for all of them. In YAML `defaults` is a key
/// among the names, so no service can be called that.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Services {
    /// For all services that do not say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<ServiceDefaults>,
    /// Each by its name, in lower case.
    #[serde(flatten)]
    pub by_name: BTreeMap<Name, Service>,
}

const DEFAULTS: &str = "defaults";

impl<'de> Deserialize<'de> for Services {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Services;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of services")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> Result<Services, A::Error> {
                let mut services = Services::default();
                while let Some(key) = entries.next_key::<String>()? {
                    if key == DEFAULTS {
                        services.defaults = entries.next_value()?;
                    } else {
                        let name = key.parse().map_err(serde::de::Error::custom)?;
                        services.by_name.insert(name, entries.next_value()?);
                    }
                }
                Ok(services)
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

impl JsonSchema for Services {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Services".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = Map::<Name, Service>::json_schema(generator);
        let defaults = generator.subschema_for::<Option<ServiceDefaults>>();
        schema.insert("properties".to_owned(), serde_json::json!({ DEFAULTS: defaults }));
        schema
    }
}

/// For all services that do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceDefaults {
    /// The policy of their requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How an endpoint is chosen. Default: `peak_ewma`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Endpoints of our own zone (`service.zone`) first, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<OrOff<ZoneAware>>,
    /// How its endpoints are asked whether they are well, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<OrOff<HealthCheck>>,
    /// What they speak. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// A service that we call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Where it runs: addresses, or maps with more about each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// Other names under which our app calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<Host>>,
    /// What it speaks. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How an endpoint is chosen. Default: `peak_ewma`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Endpoints of our own zone (`service.zone`) first, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<OrOff<ZoneAware>>,
    /// How its endpoints are asked whether they are well, or `off`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<OrOff<HealthCheck>>,
    /// The policy of its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What happens to which request; the most specific route that matches is taken. A `to` may
    /// leave out the service, which is then this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
}

/// Where a service runs. In YAML the address can stand for all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its share of the requests, relative to the others. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The zone in which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its version, which routes can choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What else routes can choose by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self { address, weight: None, zone: None, version: None, labels: None }
    }
}

shorthand! {
    Endpoint from Address as address;
    /// Where a service runs.
    struct EndpointMap {
        /// Where it is.
        address: Address,
        /// Its share of the requests, relative to the others. Default: 1.
        #[schemars(range(max = 1_000_000))]
        weight: Option<u32>,
        /// The zone in which it runs.
        zone: Option<String>,
        /// Its version, which routes can choose.
        version: Option<String>,
        /// What else routes can choose by.
        labels: Option<BTreeMap<String, String>>,
    }
}
