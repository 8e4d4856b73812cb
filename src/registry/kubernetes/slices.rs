//! What follows of the EndpointSlices of a service.

use std::collections::HashSet;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::endpoint::Instance;
use crate::registry::{Error, Reason, place};

/// What a slice has the name of its service in.
pub const SERVICE: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
    Name,
}

impl Family {
    /// The one that this host has a way for; IPv4 where it has both.
    pub fn preferred() -> Self {
        let to_anywhere = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            // A documentation address (RFC 5737). Of UDP this sends nothing.
            socket.connect("192.0.2.1:9")
        };
        if to_anywhere().is_ok() { Self::V4 } else { Self::V6 }
    }
}

/// What is wished of the instances of services.
#[derive(Debug, Clone)]
pub struct Wish {
    /// A name or a number; none: the only one, or `http`, or the first.
    pub port: Option<String>,
    /// Ours, for hints.
    pub zone: Option<String>,
    /// Of two addresses of one pod.
    pub family: Family,
}

/// As much of one slice as is needed.
#[derive(Debug, Clone)]
pub struct Slice {
    pub service: Box<str>,
    family: Family,
    ports: Vec<EndpointPort>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    host: Box<str>,
    state: State,
    zone: Option<Box<str>>,
    /// Zones that it is meant for.
    hints: Vec<Box<str>>,
    /// Kind, name and uid of what is behind it.
    target: Option<Box<str>>,
    pod: Option<Box<str>>,
    node: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    /// It ends, and still answers.
    Draining,
    NotReady,
}

impl Slice {
    /// None where it is of no service.
    pub fn of(slice: EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE)?.as_str().into();
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => Family::Name,
        };
        let entries = slice.endpoints.into_iter().filter_map(Entry::of).collect();
        Some(Self { service, family, ports: slice.ports.unwrap_or_default(), entries })
    }

    fn port(&self, wish: &Wish) -> Option<u16> {
        let is_tcp = |port: &&EndpointPort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let mut all = self.ports.iter().filter(is_tcp);
        let is_named =
            |port: &&EndpointPort, name: &str| port.name.as_deref().unwrap_or_default() == name;
        let chosen = match &wish.port {
            Some(wished) => {
                let number = wished.parse::<i32>().ok();
                all.find(|port| is_named(port, wished) || number.is_some() && port.port == number)
            }
            None => all.clone().find(|port| is_named(port, "http")).or_else(|| all.next()),
        };
        chosen?.port?.try_into().ok()
    }
}

impl Entry {
    /// None where there is no address. Of several, all lead to the same (and kube-proxy takes the first).
    fn of(endpoint: Endpoint) -> Option<Self> {
        let host = endpoint.addresses.first()?.as_str().into();
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let serves = conditions.serving.unwrap_or(ready);
        let state = match (ready, serves && conditions.terminating.unwrap_or(false)) {
            (true, _) => State::Ready,
            (false, true) => State::Draining,
            (false, false) => State::NotReady,
        };
        let zones = endpoint.hints.and_then(|hints| hints.for_zones).unwrap_or_default();
        let boxed = |text: Option<String>| text.map(Into::into);
        let target = endpoint.target_ref;
        let id = target.as_ref().map(|target| {
            let text = |it: &Option<String>| it.clone().unwrap_or_default();
            format!("{}/{}/{}", text(&target.kind), text(&target.name), text(&target.uid)).into()
        });
        let is_pod = target.as_ref().is_some_and(|target| target.kind.as_deref() == Some("Pod"));
        Some(Self {
            host,
            state,
            zone: boxed(endpoint.zone),
            hints: zones.into_iter().map(|zone| zone.name.into()).collect(),
            target: id,
            pod: target.filter(|_| is_pod).and_then(|target| boxed(target.name)),
            node: boxed(endpoint.node_name),
        })
    }
}

/// The instances of a service that has these slices, each once. Those that must not be called have a weight of 0: not
/// ready, or meant for other zones than ours.
///
/// # Errors
/// No slice has the wished port.
pub fn instances<'a>(slices: &[&'a Slice], wish: &Wish) -> Result<Vec<Instance>, Error> {
    let with_ports = slices.iter().filter_map(|slice| Some((slice, slice.port(wish)?)));
    let ported: Vec<_> = with_ports.collect();
    if ported.is_empty() && slices.iter().any(|slice| !slice.entries.is_empty()) {
        return Err(without_port(slices, wish));
    }
    let of_one = |(slice, port): &(&&'a Slice, u16)| {
        let (family, port) = (slice.family, *port);
        slice.entries.iter().map(move |entry| (family, entry, port))
    };
    let mut all: Vec<_> = ported.iter().flat_map(of_one).collect();
    // A pod that has an address of each family stands in a slice of each, and one that moves from slice to slice
    // in both for a while.
    all.sort_by_key(|(family, entry, _)| (*family != wish.family, *family, entry.state));
    let mut targets = HashSet::new();
    all.retain(|(_, entry, _)| match &entry.target {
        Some(target) => targets.insert(target),
        None => true,
    });
    let all: Vec<_> = all.into_iter().map(|(_, entry, port)| (entry, port)).collect();
    let called = called(&all, wish.zone.as_deref());
    let instance = |(entry, port): &(&Entry, u16)| {
        let address = place::address(&entry.host, *port)?;
        if !called(entry) {
            return Some(Instance::out(address));
        }
        let labels = [("pod", &entry.pod), ("node", &entry.node)];
        let labels =
            labels.into_iter().filter_map(|(key, value)| Some((key.into(), value.clone()?)));
        let (zone, labels) = (entry.zone.clone(), labels.collect());
        Some(Instance { zone, labels, ..address.into() })
    };
    Ok(all.iter().filter_map(instance).collect())
}

/// Whom to call: those that are ready, or where none is, those that end and still answer; and of them those that are
/// meant for our zone, where all say what they are meant for and any of them is (KEP-2433, as kube-proxy has it).
fn called<'a>(
    all: &[(&'a Entry, u16)],
    zone: Option<&'a str>,
) -> impl Fn(&Entry) -> bool + use<'a> {
    let is_ready = all.iter().any(|(entry, _)| entry.state == State::Ready);
    let wanted = if is_ready { State::Ready } else { State::Draining };
    let may = || all.iter().map(|(entry, _)| entry).filter(|entry| entry.state == wanted);
    let is_meant = |entry: &Entry, zone: &str| entry.hints.iter().any(|hint| **hint == *zone);
    let zone = zone.filter(|zone| {
        may().all(|entry| !entry.hints.is_empty()) && may().any(|entry| is_meant(entry, zone))
    });
    move |entry| entry.state == wanted && zone.is_none_or(|zone| is_meant(entry, zone))
}

fn without_port(slices: &[&Slice], wish: &Wish) -> Error {
    let shown = |port: &EndpointPort| {
        let number = port.port.map_or("none".to_owned(), |number| number.to_string());
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.name.as_deref().unwrap_or_default() {
            "" => format!("{number}/{protocol}"),
            name => format!("`{name}` ({number}/{protocol})"),
        }
    };
    let mut ports: Vec<_> = slices.iter().flat_map(|slice| slice.ports.iter().map(shown)).collect();
    ports.sort();
    ports.dedup();
    let wished = wish.port.as_ref().map_or("of TCP".to_owned(), |port| format!("`{port}`"));
    let has = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
    let detail =
        format!("the service has no port {wished}; its pods have {has}; correct `kubernetes.port`");
    Error::new(Reason::Refused, detail)
}

#[cfg(test)]
mod tests;
