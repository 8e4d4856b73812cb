//! Who is in the shop: the services, how many instances each has, and on which ports.

use std::collections::HashSet;
use std::fmt;

use crate::ports::{self, EACH, Ports, Wanted};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    User,
    Order,
    Inventory,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::User, Self::Order, Self::Inventory];

    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user-service",
            Self::Order => "order-service",
            Self::Inventory => "inventory-service",
        }
    }

    /// Whether it sends or takes events.
    pub const fn has_events(self) -> bool {
        !matches!(self, Self::User)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One instance of a service, on ports of its own.
#[derive(Debug, Clone)]
pub struct Place {
    pub service: Service,
    /// As in `user-service-1`.
    pub name: String,
    pub ports: Ports,
}

/// Where all are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The public port, and the gateway's own.
    pub port: u16,
    pub gateway: Ports,
    pub instances: Vec<Place>,
}

/// Two instances of what is to survive the loss of one.
pub const TWO: [Service; 5] =
    [Service::User, Service::User, Service::Order, Service::Order, Service::Inventory];

impl Places {
    /// `port` and `base`: 0 is any that is free.
    pub fn choose(port: u16, base: u16, services: &[Service]) -> Result<Self, String> {
        loop {
            let places = Self::draw(port, base, services)?;
            match places.twice() {
                None => return Ok(places),
                // Each instance's are drawn for itself.
                Some(_) if port == 0 || base == 0 => {}
                Some(twice) => {
                    return Err(format!(
                        "--port {port} is one of those from --base-port {base} ({twice}); choose another one"
                    ));
                }
            }
        }
    }

    /// What a port would be for that has another purpose already.
    fn twice(&self) -> Option<String> {
        let mut seen = HashSet::new();
        self.wanted().into_iter().find(|it| !seen.insert(it.port)).map(|it| it.purpose)
    }

    fn draw(port: u16, base: u16, services: &[Service]) -> Result<Self, String> {
        let block = |place| match base {
            0 => ports::free::<EACH>().map(Ports::from),
            base => ports::block(base, place),
        };
        let port = match port {
            0 => ports::free::<1>()?[0],
            port => port,
        };
        let mut instances: Vec<Place> = Vec::new();
        for (place, service) in (1..).zip(services) {
            let number = 1 + instances.iter().filter(|it| it.service == *service).count();
            let name = format!("{service}-{number}");
            instances.push(Place { service: *service, name, ports: block(place)? });
        }
        Ok(Self { port, gateway: block(0)?, instances })
    }

    /// All ports that the shop may use, with what for.
    pub fn wanted(&self) -> Vec<Wanted> {
        let base = |port, purpose| Wanted { port, purpose, option: "--base-port" };
        let gateway = "the gateway".to_owned();
        let mut wanted = vec![
            Wanted { port: self.port, purpose: gateway, option: "--port" },
            base(self.gateway.admin, "admin of the gateway".to_owned()),
            base(self.gateway.metrics, "metrics of the gateway".to_owned()),
        ];
        for Place { name, ports, .. } in &self.instances {
            wanted.extend(ports.named().map(|(port, what)| base(port, format!("{what}{name}"))));
        }
        wanted
    }

    /// How many there are of each, in words.
    pub fn counts(&self) -> String {
        let count = |service| format!("{service} x{}", self.of(service).count());
        Service::ALL.map(count).join(", ")
    }

    pub fn of(&self, service: Service) -> impl Iterator<Item = &Place> {
        self.instances.iter().filter(move |place| place.service == service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_for_two() {
        for _ in 0..200 {
            assert_eq!(Places::choose(0, 0, &TWO).expect("ports").twice(), None);
        }
        let error = Places::choose(23013, 23000, &TWO).expect_err("one of them");
        assert!(error.contains("admin of the sidecar of user-service-1"), "{error}");
    }

    #[test]
    fn the_ports_are_the_same_every_time() {
        let places = Places::choose(8080, 23000, &TWO).expect("room");
        let names: Vec<_> =
            places.instances.iter().map(|it| (it.name.as_str(), it.ports.app)).collect();
        assert_eq!(
            names,
            [
                ("user-service-1", 23010),
                ("user-service-2", 23020),
                ("order-service-1", 23030),
                ("order-service-2", 23040),
                ("inventory-service-1", 23050)
            ]
        );
        assert_eq!((places.port, places.gateway.admin), (8080, 23003));
    }

    #[test]
    fn what_is_wanted_says_what_for() {
        let places = Places::choose(8080, 23000, &[Service::User]).expect("room");
        let wanted = places.wanted();
        let at = |port| &wanted.iter().find(|it| it.port == port).expect("wanted").purpose;
        assert_eq!(at(23011), "inbound of the sidecar of user-service-1");
        assert_eq!(at(23010), "user-service-1");
        assert_eq!(at(8080), "the gateway");
    }
}
