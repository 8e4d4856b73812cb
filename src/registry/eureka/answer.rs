//! What Eureka answers, as JSON: what a server makes of XML, and what it writes itself.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::endpoint::Instance;
use crate::registry::place;

/// Of `/apps` and `/apps/delta`.
#[derive(Debug, serde::Deserialize)]
pub struct Answer {
    pub applications: Applications,
}

/// Of `/apps/APP`.
#[derive(Debug, serde::Deserialize)]
pub struct One {
    pub application: Application,
}

#[derive(Debug, serde::Deserialize)]
pub struct Applications {
    /// How many instances there are of each status, all changes made: `DOWN_1_UP_5_`.
    #[serde(rename = "apps__hashcode", default)]
    pub hash: Option<Text>,
    #[serde(default)]
    pub application: List<Application>,
}

#[derive(Debug, serde::Deserialize)]
pub struct Application {
    /// In upper case.
    #[serde(default)]
    pub name: Text,
    #[serde(default)]
    pub instance: List<Record>,
}

/// An instance. Whatever it lacks, others are not to be lost for it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    pub instance_id: Text,
    pub host_name: Text,
    pub ip_addr: Text,
    pub status: Text,
    pub port: Option<Port>,
    pub secure_port: Option<Port>,
    pub metadata: Metadata,
    pub last_dirty_timestamp: Text,
    /// Only of a delta.
    pub action_type: Text,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Port {
    #[serde(rename = "$")]
    number: Text,
    #[serde(rename = "@enabled")]
    enabled: Text,
}

impl Port {
    fn enabled(&self) -> Option<u16> {
        let on = self.enabled.0.eq_ignore_ascii_case("true");
        self.number.0.parse().ok().filter(|port| on && *port > 0)
    }
}

/// What is asked of a status: who is called is [`Status::Up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    // In the order of their names, in which they stand in a hash.
    Down,
    OutOfService,
    Starting,
    Unknown,
    Up,
}

impl Status {
    pub const ALL: [Self; 5] =
        [Self::Down, Self::OutOfService, Self::Starting, Self::Unknown, Self::Up];

    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Starting => "STARTING",
            Self::Unknown => "UNKNOWN",
            Self::Up => "UP",
        }
    }
}

impl Record {
    /// Which one it is among those of its application. Old clients say no id: their host stands for it.
    pub fn id(&self) -> &str {
        if self.instance_id.0.is_empty() { &self.host_name.0 } else { &self.instance_id.0 }
    }

    pub fn status(&self) -> Status {
        let named = |status: &Status| status.name().eq_ignore_ascii_case(&self.status.0);
        Status::ALL.into_iter().find(named).unwrap_or(Status::Unknown)
    }

    /// When it last changed, as it says itself.
    pub fn changed(&self) -> u64 {
        self.last_dirty_timestamp.0.parse().unwrap_or(0)
    }

    /// None where there is no way to call it.
    pub fn instance(self) -> Option<Instance> {
        let up = self.status() == Status::Up;
        // As Eureka's own clients do: who wants to be called by an IP address says it as host.
        let host = if self.host_name.0.is_empty() { self.ip_addr.0 } else { self.host_name.0 };
        let open = |port: Option<Port>| port.and_then(|port| port.enabled());
        let (port, secure) = match (open(self.port), open(self.secure_port)) {
            (Some(port), _) => (port, false),
            (None, Some(port)) => (port, true),
            (None, None) => return None,
        };
        let address = place::address(&host, port)?;
        let mut labels = self.metadata.0;
        let mut taken = |key: &str| labels.remove(key).filter(|value| !str::is_empty(value));
        let (zone, version) = (taken("zone"), taken("version"));
        let weight = taken("weight").and_then(|weight| weight.parse().ok()).unwrap_or(1_u32);
        if secure {
            labels.insert("secure".into(), "true".into());
        }
        Some(Instance { address, weight: if up { weight } else { 0 }, zone, version, labels })
    }
}

/// Text, that may also stand there as a number or a truth: who turns XML into JSON does not know types.
/// Empty if it is none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Text, E> {
        Ok(Text(text))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Text, E> {
        Ok(Text(truth.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

/// A list, that stands there as an object if it has one entry, and as nothing if it has none.
#[derive(Debug)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or its only entry")
    }

    fn visit_unit<E: Error>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        Ok(List(vec![T::deserialize(MapAccessDeserializer::new(map))?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(List(all))
    }
}

/// Metadata, without what tells of Java (`@class`).
#[derive(Debug, Default)]
pub struct Metadata(pub BTreeMap<Box<str>, Box<str>>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all = Option::<BTreeMap<String, Text>>::deserialize(from)?.unwrap_or_default();
        let ours = all.into_iter().filter(|(key, _)| !key.starts_with('@'));
        Ok(Self(ours.map(|(key, value)| (key.into(), value.0.into())).collect()))
    }
}
