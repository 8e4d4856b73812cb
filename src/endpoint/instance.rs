//! One instance of a service, as a configuration or a registry tells of it.

use std::collections::BTreeMap;

use super::Address;

/// Where an instance is and what it may be chosen by. A value: what is learnt of it is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub address: Address,
    /// Share of the traffic relative to the others of its service. 0: it is there and must not be called; only
    /// registries tell of such, and no cluster has one.
    pub weight: u32,
    pub zone: Option<Box<str>>,
    pub version: Option<Box<str>>,
    /// What else it is chosen by.
    pub labels: BTreeMap<Box<str>, Box<str>>,
}

impl Instance {
    /// One that is there and must not be called.
    pub fn out(address: Address) -> Self {
        Self { weight: 0, ..address.into() }
    }

    pub fn is_callable(&self) -> bool {
        self.weight > 0
    }
}

/// Of weight 1, zone and version unknown.
impl From<Address> for Instance {
    fn from(address: Address) -> Self {
        Self { address, weight: 1, zone: None, version: None, labels: BTreeMap::new() }
    }
}
