//! What stands in a file of the directory: a list with one target, as Prometheus reads it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::compile::address;
use crate::config::units;
use crate::endpoint::Instance;
use crate::registry::place::authority;
use crate::registry::{Announcement, Health};

pub struct File {
    pub instance: Instance,
    pub health: Health,
    pub ttl: Duration,
}

/// One entry of a `file_sd` list.
#[derive(Serialize, Deserialize)]
struct Target {
    /// Where Prometheus scrapes; empty where there are no metrics.
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

const ADDRESS: &str = "__pilotfish_address";
const HEALTH: &str = "__pilotfish_health";
const TTL: &str = "__pilotfish_ttl_ms";
const WEIGHT: &str = "__pilotfish_weight";
/// The labels of the instance, as JSON: their names need not be such that Prometheus takes.
const LABELS: &str = "__pilotfish_labels";
const CRITICAL: &str = "critical";

impl File {
    /// # Errors
    /// It is no file of ours.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        let garbage = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let [target]: [Target; 1] = serde_json::from_slice(text)?;
        let mut labels = target.labels;
        let address_of = labels.get(ADDRESS).ok_or_else(|| garbage("it has no address"))?;
        let parsed = address_of.parse::<units::Address>().map_err(io::Error::other)?;
        let ttl = labels.get(TTL).and_then(|ttl| ttl.parse().ok());
        let ttl = ttl.ok_or_else(|| garbage("it does not say how long it counts"))?;
        let health = match labels.get(HEALTH).map(String::as_str) {
            Some(CRITICAL) => Health::Critical,
            _ => Health::Passing,
        };
        let weight = labels.get(WEIGHT).and_then(|weight| weight.parse().ok()).unwrap_or(1);
        let mut take = |key: &str| labels.remove(key).map(Into::into);
        let (zone, version) = (take("zone"), take("version"));
        let labels = labels.get(LABELS).map(|labels| serde_json::from_str(labels));
        let labels = labels.transpose()?.unwrap_or_default();
        let instance = Instance { address: address(&parsed), weight, zone, version, labels };
        Ok(Self { instance, health, ttl: Duration::from_millis(ttl) })
    }

    /// What is written for `ours`, which is at `address`.
    pub fn text(ours: &Announcement, address: &str, health: Health, ttl: Duration) -> String {
        let with = |port| authority(address, port);
        let mut labels = BTreeMap::from([
            ("job".to_owned(), ours.service.to_string()),
            ("service_id".to_owned(), ours.id.clone()),
            (ADDRESS.to_owned(), with(ours.port)),
            (TTL.to_owned(), ttl.as_millis().to_string()),
            (WEIGHT.to_owned(), ours.weight.to_string()),
        ]);
        if health == Health::Critical {
            labels.insert(HEALTH.to_owned(), CRITICAL.to_owned());
        }
        let known = [("zone", &ours.zone), ("version", &ours.version)];
        let known =
            known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        labels.extend(known);
        let of_instance: BTreeMap<_, _> = ours.labels().collect();
        if !of_instance.is_empty() {
            labels.insert(LABELS.to_owned(), json!(of_instance).to_string());
        }
        let targets = ours.metrics_port.map(with).into_iter().collect();
        // Of text alone, so it can be written.
        let text = serde_json::to_string_pretty(&[Target { targets, labels }]).unwrap_or_default();
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Announcement {
        Announcement {
            service: "users".into(),
            id: "users-a-15006".to_owned(),
            address: None,
            port: 15006,
            metrics_port: Some(15020),
            version: Some("v1".to_owned()),
            zone: Some("a".to_owned()),
            weight: 3,
            tags: vec!["blue".to_owned()],
            metadata: [("team".to_owned(), "shop".to_owned())].into(),
        }
    }

    /// What Prometheus 2 takes as the name of a label; of a file with any other it takes nothing.
    fn is_label_name(name: &str) -> bool {
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.chars().all(is_good) && !name.starts_with(|c: char| c.is_ascii_digit())
    }

    #[test]
    fn what_is_written_is_read() {
        for health in [Health::Passing, Health::Critical] {
            let text = File::text(&ours(), "10.0.0.7", health, Duration::from_secs(10));
            let file = File::parse(text.as_bytes()).unwrap();
            assert_eq!(file.health, health);
            assert_eq!(file.ttl, Duration::from_secs(10));
            assert_eq!(file.instance.address.to_string(), "10.0.0.7:15006");
            assert_eq!(file.instance.weight, 3);
            assert_eq!(file.instance.zone.as_deref(), Some("a"));
            assert_eq!(file.instance.version.as_deref(), Some("v1"));
            let labels: Vec<_> =
                file.instance.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            assert_eq!(labels, ["tag.blue=true", "team=shop"]);
        }
    }

    #[test]
    fn prometheus_finds_its_target_in_it() {
        let text = File::text(&ours(), "fd00::7", Health::Passing, Duration::from_secs(10));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list[0]["targets"], serde_json::json!(["[fd00::7]:15020"]));
        assert_eq!(list[0]["labels"]["job"], "users");
        let odd = Announcement {
            metadata: [("kubernetes.io/team-name".to_owned(), "1 \"a\"".to_owned())].into(),
            ..ours()
        };
        let text = File::text(&odd, "fd00::7", Health::Critical, Duration::from_secs(10));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, value) in list[0]["labels"].as_object().unwrap() {
            assert!(is_label_name(name) && value.is_string(), "{name}: {value}");
        }
        let labels = File::parse(text.as_bytes()).unwrap().instance.labels;
        assert_eq!(labels.get("kubernetes.io/team-name").map(|it| &**it), Some("1 \"a\""));
        let without = Announcement { metrics_port: None, ..ours() };
        let text = File::text(&without, "10.0.0.7", Health::Passing, Duration::from_secs(10));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list[0]["targets"], serde_json::json!([]));
    }

    #[test]
    fn garbage_is_no_instance() {
        let whole = File::text(&ours(), "10.0.0.7", Health::Passing, Duration::from_secs(10));
        for length in 0..whole.trim_end().len() {
            assert!(File::parse(&whole.as_bytes()[..length]).is_err(), "{length}");
        }
        for text in ["[]", "{}", "[{}]", r#"[{"targets":[],"labels":{}}]"#] {
            assert!(File::parse(text.as_bytes()).is_err(), "{text}");
        }
        let odd = whole.replace("\"{\\\"", "\"[\\\"");
        assert!(odd != whole && File::parse(odd.as_bytes()).is_err(), "{odd}");
    }
}
