//! What refers to nothing else: the values as they were typed, or their defaults.

use std::time::Duration;

use serde_json::Value;

use super::super::schema::{self, AccessLog, LogFormat, Telemetry};
use super::super::snapshot::{self, Drain, Limits};
use super::super::units::{self, LogPath};
use crate::telemetry::access_log::Format;
use crate::telemetry::log_writer::Target;
use crate::upstream::PoolLimits;

pub(super) fn limits(typed: Option<&schema::Limits>) -> Limits {
    let typed = typed.cloned().unwrap_or_default();
    let seconds = Duration::from_secs;
    let duration = |typed: Option<units::Duration>, default| typed.map_or(default, |d| d.0);
    let max_head = typed.max_head.map_or(64 * 1024, |size| size.0 as usize);
    Limits {
        max_connections: typed.max_connections.unwrap_or(10_000) as usize,
        max_requests: typed.max_requests.unwrap_or(10_000) as usize,
        max_head,
        max_headers: typed.max_headers.unwrap_or(100) as usize,
        header_timeout: duration(typed.header_timeout, seconds(10)),
        idle_timeout: duration(typed.idle_timeout, seconds(3600)),
        detect_timeout: duration(typed.detect_timeout, seconds(5)),
        write_timeout: duration(typed.write_timeout, seconds(300)),
        pool: PoolLimits {
            idle: duration(typed.pool_idle_timeout, seconds(3)),
            max_idle_per_endpoint: typed.max_idle_per_endpoint.unwrap_or(100) as usize,
            max_streams: 100,
            max_head,
        },
    }
}

pub(super) fn drain(typed: Option<&schema::Drain>) -> Drain {
    let typed = typed.cloned().unwrap_or_default();
    Drain {
        linger: typed.linger.map_or(Duration::from_secs(5), |d| d.0),
        timeout: typed.timeout.map_or(Duration::from_secs(30), |d| d.0),
    }
}

pub(super) fn access_log(typed: Option<&Telemetry>) -> Option<snapshot::AccessLog> {
    let to = match typed.and_then(|typed| typed.access_log.as_ref()) {
        None => AccessLog::Format(LogFormat::Text).to(),
        Some(typed) => typed.on()?.to(),
    };
    Some(snapshot::AccessLog {
        format: match to.format {
            Some(LogFormat::Json) => Format::Json,
            Some(LogFormat::Text) | None => Format::Text,
        },
        target: match to.path {
            Some(LogPath::File(path)) => Target::File(path),
            Some(LogPath::Stdout) | None => Target::Stdout,
        },
    })
}

/// The configuration as it may be shown: without what opens doors elsewhere.
pub(super) fn masked(mut shown: Value) -> Value {
    fn is_secret(key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey"]
            .iter()
            .any(|part| key.contains(part))
    }
    let is_by = |key: &str| ["key", "sticky"].contains(&key);
    match &mut shown {
        Value::Object(entries) => {
            for (key, value) in entries {
                *value = match value.take() {
                    Value::String(_) if is_secret(key) => "<masked>".into(),
                    // By what requests are told apart: the name of a cookie is none of its values.
                    Value::Object(by) if is_by(key) && by.keys().eq(["cookie"]) => by.into(),
                    value => masked(value),
                };
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = masked(item.take());
            }
        }
        _ => {}
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let shown = masked(serde_json::json!({
            "key": { "cookie": "session" },
            "sticky": { "token": "x" },
            "routes": [{ "request_headers": { "set": { "Authorization": "Bearer x", "a": "b" } } }],
        }));
        let headers = &shown["routes"][0]["request_headers"]["set"];
        assert_eq!(headers["Authorization"], "<masked>");
        assert_eq!(headers["a"], "b");
        assert_eq!(shown["key"]["cookie"], "session");
        assert_eq!(shown["sticky"]["token"], "<masked>");
    }
}
