//! Our own app, as Eureka is told of it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::Status;
use crate::config::units::HttpUrl;
use crate::registry::http::escaped;
use crate::registry::place::authority;
use crate::registry::settings::Eureka;
use crate::registry::{Announcement, Health};

/// What is POSTed. `host` is where others reach us; `ip` the address of that, if it is known.
pub fn body(
    ours: &Announcement,
    health: Health,
    settings: &Eureka,
    host: &str,
    ip: Option<IpAddr>,
) -> Value {
    let ip = ip.map_or(host.to_owned(), |ip| ip.to_string());
    let mut instance = json!({
        "instanceId": id(ours),
        "app": app(ours),
        "hostName": host,
        "ipAddr": ip,
        "vipAddress": ours.service,
        "secureVipAddress": ours.service,
        "status": status(health).name(),
        "port": { "$": ours.port, "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "homePageUrl": url(host, ours.port, "/"),
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": {
            "renewalIntervalInSecs": seconds(settings.renew),
            "durationInSecs": seconds(settings.ttl),
        },
        "metadata": metadata(ours),
    });
    if let Some(port) = ours.metrics_port {
        instance["healthCheckUrl"] = url(host, port, "/ready").into();
        instance["statusPageUrl"] = url(host, port, "/metrics").into();
    }
    // No `lastDirtyTimestamp`: the server takes its own time then. Of ours it would believe nothing any more
    // after our clock went back.
    json!({ "instance": instance })
}

/// Whether `found`, which the server has of us, is what `body` would tell it.
pub fn stands(found: &Value, body: &Value) -> bool {
    let Some(told) = body["instance"].as_object() else { return false };
    told.iter().all(|(key, told)| match (key.as_str(), &found[key]) {
        ("leaseInfo", found) => {
            let told = told.as_object();
            told.is_some_and(|told| told.iter().all(|(key, told)| found[key] == *told))
        }
        // Who took us out is not to be told otherwise.
        ("status", status) => status == told || found["overriddenStatus"] != "UNKNOWN",
        (_, found) => found == told,
    })
}

/// Where all of our application are.
pub fn path(ours: &Announcement) -> String {
    format!("/apps/{}", escaped(&app(ours)))
}

/// Where we are.
pub fn our_path(ours: &Announcement) -> String {
    format!("{}/{}", path(ours), id(ours))
}

fn app(ours: &Announcement) -> String {
    ours.service.to_uppercase()
}

/// Our id in the paths of Eureka. Its server takes no escaped `/`, `;` or `%` in them.
fn id(ours: &Announcement) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | ':');
    ours.id.chars().map(|c| if bare(c) { c } else { '_' }).collect()
}

/// Not `OUT_OF_SERVICE`: that is what an operator says, who is not to be overruled when the app is well again.
fn status(health: Health) -> Status {
    match health {
        Health::Passing => Status::Up,
        Health::Critical => Status::Down,
    }
}

fn metadata(ours: &Announcement) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |key: String, value: &str| all.insert(key, value.into());
    for (key, value) in &ours.metadata {
        put(key.clone(), value);
    }
    for tag in &ours.tags {
        put(format!("tag.{tag}"), "true");
    }
    put("id".to_owned(), &ours.id);
    put("weight".to_owned(), &ours.weight.to_string());
    for (key, value) in [("version", &ours.version), ("zone", &ours.zone)] {
        if let Some(value) = value {
            put(key.to_owned(), value);
        }
    }
    all
}

fn url(host: &str, port: u16, path: &str) -> String {
    format!("http://{}{path}", authority(host, port))
}

/// Whole ones, at least one.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs_f64().ceil().max(1.0) as u64
}

/// What to do about an address that leads to something else.
pub fn hint(base: &HttpUrl) -> &'static str {
    match base.path.as_str() {
        "" => "; the address of most Eureka servers ends with `/eureka`",
        _ => "; is that the address of Eureka?",
    }
}
