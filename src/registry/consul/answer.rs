//! What `/v1/health/service` answers.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::endpoint::Instance;
use crate::registry::{Error, Reason, place};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default)]
    address: String,
    /// Consul takes whatever number it is given.
    port: i64,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default = "one")]
    passing: u32,
    #[serde(default = "one")]
    warning: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

/// All that there are. One of whose checks any is critical, maintenance among them, is not to be called. An entry that
/// cannot be called by anybody is left out: whoever wrote it, it is one of many.
///
/// # Errors
/// No entry of several makes sense.
pub fn instances(entries: &[Entry]) -> Result<Vec<Instance>, Error> {
    let mut instances = Vec::with_capacity(entries.len());
    let mut senseless = None;
    for entry in entries {
        let checks = entry.checks.iter().flatten();
        let worst = checks.map(|check| check.status.as_str()).max_by_key(|status| match *status {
            "passing" => 0,
            "warning" => 1,
            _ => 2,
        });
        let weights = entry.service.weights.as_ref();
        let weight = match worst.unwrap_or("passing") {
            "passing" => weights.map_or(1, |weights| weights.passing),
            "warning" => weights.map_or(1, |weights| weights.warning),
            _ => 0,
        };
        match instance(entry, weight) {
            Some(instance) => instances.push(instance),
            // Without a port it says itself that it cannot be called.
            None if entry.service.port == 0 => {}
            None => senseless = Some(entry),
        }
    }
    match senseless {
        Some(entry) if instances.is_empty() => {
            let (address, port) = (&entry.service.address, entry.service.port);
            let detail = format!("nobody can be called at `{address}`, port {port}");
            Err(Error::new(Reason::Garbage, detail))
        }
        _ => Ok(instances),
    }
}

/// None where there is no way to call it.
fn instance(entry: &Entry, weight: u32) -> Option<Instance> {
    let Entry { node, service, .. } = entry;
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let address = place::address(host, service.port.try_into().ok()?)?;
    let mut meta = service.meta.clone().unwrap_or_default();
    let mut take = |key: &str| meta.remove(key).filter(|it| !it.is_empty()).map(Into::into);
    let (zone, version) = (take("zone"), take("version"));
    let tags = service.tags.iter().flatten().map(|tag| (format!("tag.{tag}"), "true".to_owned()));
    let labels = meta.into_iter().chain(tags).map(|(key, value)| (key.into(), value.into()));
    Some(Instance { address, weight, zone, version, labels: labels.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<Vec<Instance>, Error> {
        instances(&serde_json::from_str::<Vec<Entry>>(text).expect("of the right form"))
    }

    fn entry(address: &str, status: &str, more: &str) -> String {
        format!(
            r#"{{"Node":{{"Node":"n","Address":"10.9.9.9"}},
                "Service":{{"ID":"i","Service":"users","Address":"{address}","Port":80{more}}},
                "Checks":[{{"Status":"passing"}},{{"Status":"{status}"}}]}}"#
        )
    }

    #[test]
    fn an_instance_has_its_own_address_or_that_of_its_node() {
        let text = format!("[{},{}]", entry("10.0.0.1", "passing", ""), entry("", "passing", ""));
        let addresses: Vec<_> =
            told(&text).unwrap().iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.9.9.9:80"]);
        let six = told(&format!("[{}]", entry("fd00::1", "passing", ""))).unwrap();
        assert_eq!(six[0].address.to_string(), "[fd00::1]:80");
        let name = told(&format!("[{}]", entry("users.internal", "passing", ""))).unwrap();
        assert_eq!(name[0].address.to_string(), "users.internal:80");
    }

    #[test]
    fn the_worst_check_tells_whether_it_may_be_called() {
        let weights = r#","Weights":{"Passing":10,"Warning":2}"#;
        let weight = |status| {
            let all = told(&format!("[{}]", entry("10.0.0.1", status, weights))).unwrap();
            all.first().map(|it| it.weight)
        };
        assert_eq!(weight("passing"), Some(10));
        assert_eq!(weight("warning"), Some(2));
        assert_eq!(weight("critical"), Some(0));
        assert_eq!(weight("maintenance"), Some(0));
    }

    #[test]
    fn metadata_and_tags_are_what_it_is_chosen_by() {
        let more = r#","Tags":["blue"],"Meta":{"zone":"a","version":"v1","team":"shop"}"#;
        let one = &told(&format!("[{}]", entry("10.0.0.1", "passing", more))).unwrap()[0];
        assert_eq!((one.zone.as_deref(), one.version.as_deref()), (Some("a"), Some("v1")));
        let labels: Vec<_> = one.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(labels, ["tag.blue=true", "team=shop"]);
    }

    #[test]
    fn null_is_nothing_and_what_cannot_be_called_is_left_out() {
        let null = r#","Tags":null,"Meta":null,"Weights":null"#;
        assert_eq!(told(&format!("[{}]", entry("10.0.0.1", "passing", null))).unwrap().len(), 1);
        let text = format!("[{}]", entry("10.0.0.1", "passing", ""));
        assert!(told(&text.replace("\"Port\":80", "\"Port\":0")).unwrap().is_empty());
        for nowhere in ["a b", "http://users", "0.0.0.0"] {
            let strange = entry(nowhere, "passing", "");
            let alone = told(&format!("[{strange}]")).unwrap_err();
            assert_eq!(alone.reason, Reason::Garbage);
            assert!(alone.detail.contains(nowhere), "{alone}");
            let negative = entry("10.0.0.1", "passing", "").replace("\"Port\":80", "\"Port\":-1");
            let good = entry("10.0.0.1", "passing", "");
            assert_eq!(told(&format!("[{negative},{good}]")).unwrap().len(), 1);
            let unported = entry("10.0.0.1", "passing", "").replace("\"Port\":80", "\"Port\":0");
            let beside = told(&format!("[{strange},{unported}]"));
            assert_eq!(beside.unwrap_err().reason, Reason::Garbage, "{nowhere}");
            let good = entry("10.0.0.1", "passing", "");
            assert_eq!(told(&format!("[{strange},{good}]")).unwrap().len(), 1, "{nowhere}");
        }
    }
}
