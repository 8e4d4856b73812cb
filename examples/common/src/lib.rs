//! What the three example services share: a database, events, and how a service answers. None of it is about other
//! services: finding them, calling them again, measuring them is what their sidecars do.

pub mod database;
pub mod events;
pub mod web;

/// An error that ends a program.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The value of the environment variable `name`, if it has one.
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A new id. Those made later sort after those made before (UUID version 7, RFC 9562 5.7).
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
