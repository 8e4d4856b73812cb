//! The JSON Schema of the configuration, for editors and for [`super::check`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The schema (draft 2020-12), as `pilotfish schema` prints it.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(super::schema::Config).to_value();
    tidy(&mut schema);
    schema
}

/// schemars notes the Rust type of a number as its `format`, which no editor knows.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let rust_type = object.get("format").and_then(Value::as_str).map(str::to_owned);
            match rust_type.as_deref() {
                Some("uint8" | "uint16") => drop(object.remove("format")),
                Some("uint32") => {
                    object.remove("format");
                    object.entry("maximum").or_insert_with(|| u32::MAX.into());
                }
                _ => {}
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A map whose keys are a unit, such as header names. In its schema the keys have their format too.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
#[serde(bound(deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"))]
pub struct Map<K, V>(pub BTreeMap<K, V>);

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K, V> Deref for Map<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.0
    }
}

impl<K, V> DerefMut for Map<K, V> {
    fn deref_mut(&mut self) -> &mut BTreeMap<K, V> {
        &mut self.0
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<K: JsonSchema, V: JsonSchema> JsonSchema for Map<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}_to_{}", K::schema_name(), V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "propertyNames": generator.subschema_for::<K>(),
            "additionalProperties": generator.subschema_for::<V>(),
        })
    }
}

/// A value, or `off`. YAML 1.1 reads `off` as `false`, so that is taken for `off` as well.
#[derive(Clone, Debug, PartialEq)]
pub enum OrOff<T> {
    /// Switched off.
    Off,
    /// Switched on, and how.
    On(T),
}

impl<T> OrOff<T> {
    /// The value, unless it is off.
    pub fn on(&self) -> Option<&T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}_or_off", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [
                { "description": "Switched off.", "enum": ["off", false] },
                generator.subschema_for::<T>(),
            ],
        })
    }
}

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::On(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Off(Off),
            On(T),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Off(Off) => Self::Off,
            Either::On(value) => Self::On(value),
        })
    }
}

struct Off;

impl<'de> Deserialize<'de> for Off {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Off;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Off, E> {
                if value { Err(E::custom("`true` is not `off`")) } else { Ok(Off) }
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Off, E> {
                if value == "off" { Ok(Off) } else { Err(E::custom("not `off`")) }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
