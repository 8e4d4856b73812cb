//! What a scalar of the configuration can mean: `250ms`, `64KiB`, `20%`, `10.0.0.1:3001`.
//!
//! Each unit is a newtype that reads itself from text. Its error says what is wrong and what would
//! be right, because it is shown to whoever typed the file. The same type describes itself in the
//! JSON Schema: a `format` of ours, which [`FORMATS`] turns back into the parser, and a `pattern`
//! that editors understand.

use std::fmt;
use std::str::FromStr;

mod amount;
mod condition;
mod delay;
mod http;
mod net;
mod registry;

pub use self::amount::{Duration, Factor, Number, Period, Ratio, Size};
pub use self::condition::Condition;
pub use self::delay::HedgeDelay;
pub use self::http::{CookieName, HeaderName, HeaderValue, Host, HostPattern, Method, UrlPath};
pub use self::net::{Address, Cidr, Listen, LogPath, Name, Port, RedisAddress};
pub use self::registry::{HttpUrl, RegistryUrl};

/// Why a text is not the unit that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct Invalid {
    /// What is wrong, naming the text.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl Invalid {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// A type that one YAML scalar spells.
pub trait Unit: FromStr<Err = Invalid> + fmt::Display {
    /// The `format` keyword of its JSON Schema.
    const FORMAT: &'static str;
    /// What the user calls it, with an example: "a duration like `10s`".
    const NOUN: &'static str;
    /// An ECMA 262 regex for editors. It may be laxer than `from_str`, never stricter.
    const PATTERN: &'static str;
    /// The JSON type that it may have beside a string, for editors.
    const OR_TYPE: Option<&'static str> = None;
}

/// A [`Unit`] as a value: what the checker knows of it.
#[derive(Clone, Copy)]
pub struct Format {
    /// The `format` keyword.
    pub id: &'static str,
    /// See [`Unit::NOUN`].
    pub noun: &'static str,
    /// The one spelling of this value (lower case for names), or why it is none.
    pub canonical: fn(&str) -> Result<String, Invalid>,
}

const fn format<T: Unit>() -> Format {
    Format {
        id: T::FORMAT,
        noun: T::NOUN,
        canonical: |text| text.parse::<T>().map(|value| value.to_string()),
    }
}

/// Every unit, by the `format` of its schema.
pub const FORMATS: &[Format] = &[
    format::<Duration>(),
    format::<Period>(),
    format::<HedgeDelay>(),
    format::<Size>(),
    format::<Ratio>(),
    format::<Factor>(),
    format::<Number>(),
    format::<Address>(),
    format::<Listen>(),
    format::<Cidr>(),
    format::<Name>(),
    format::<Port>(),
    format::<LogPath>(),
    format::<RedisAddress>(),
    format::<HttpUrl>(),
    format::<RegistryUrl>(),
    format::<HeaderName>(),
    format::<CookieName>(),
    format::<HeaderValue>(),
    format::<Method>(),
    format::<Host>(),
    format::<HostPattern>(),
    format::<UrlPath>(),
    format::<Condition>(),
];

/// Reads any scalar as text, because YAML makes a number of `0.2` and of `15006`.
pub(super) fn deserialize<'de, T: Unit, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Scalar<T>(std::marker::PhantomData<T>);

    impl<T: Unit> serde::de::Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::NOUN)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }
    }

    deserializer.deserialize_any(Scalar(std::marker::PhantomData))
}

pub(super) fn json_schema<T: Unit>() -> schemars::Schema {
    let types: Vec<&str> = std::iter::once("string").chain(T::OR_TYPE).collect();
    let kind = match types.as_slice() {
        [one] => serde_json::json!(one),
        several => serde_json::json!(several),
    };
    schemars::json_schema!({
        "type": kind,
        "format": T::FORMAT,
        "pattern": T::PATTERN,
        "description": T::NOUN,
    })
}

/// serde and schemars for a [`Unit`], through its `FromStr` and `Display`.
macro_rules! unit {
    ($type:ident) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                crate::config::units::deserialize(d)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::config::units::json_schema::<Self>()
            }
        }
    };
}
use unit;

#[cfg(test)]
mod tests;
