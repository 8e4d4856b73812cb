//! What holds of every configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{PASSTHROUGH, Snapshot};
use super::{compiled, right};
use crate::config::json_schema;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever fits the schema compiles or has a mistake that can be shown; nothing panics. What is
    /// compiled again keeps all of its state.
    #[test]
    fn any_configuration(seed in any::<u64>()) {
        let schema = json_schema();
        let mut writer = Writer { random: fastrand::Rng::with_seed(seed), schema: &schema };
        let text = writer.value(&schema, 0).to_string();
        match compiled(&text, None) {
            Ok(first) => {
                let again = right(&text, Some(&first));
                prop_assert_eq!(states(&first), states(&again));
                prop_assert_eq!(budgets(&first), budgets(&again));
                prop_assert_eq!(limits(&first), limits(&again));
                let redis = |snapshot: &Snapshot| snapshot.redis.as_ref().map(Arc::as_ptr);
                prop_assert_eq!(redis(&first), redis(&again));
            }
            Err(wrong) => {
                let (mistakes, source) = *wrong;
                prop_assert!(!mistakes.is_empty(), "{}", text);
                for mistake in mistakes {
                    let span = mistake.span_in(&source);
                    prop_assert!(span.start <= span.end && span.end <= text.len());
                }
            }
        }
    }

    /// An endpoint that is in both configurations keeps its state, one that is new has a new one.
    #[test]
    fn states_are_kept_by_service_and_address(before in setup(), after in setup()) {
        let first = right(&yaml(&before), None);
        let second = right(&yaml(&after), Some(&first));
        let (old, new) = (states(&first), states(&second));
        for (key, state) in &new {
            prop_assert_eq!(old.get(key).is_some_and(|old| old == state), old.contains_key(key), "{:?}", key);
        }
        let distinct: BTreeSet<_> = new.values().collect();
        prop_assert_eq!(distinct.len(), new.len());
        let old = budgets(&first);
        for (key, budget) in budgets(&second) {
            prop_assert_eq!(old.get(&key).is_some_and(|old| *old == budget), old.contains_key(&key));
        }
    }
}

/// Addresses of the shared states, by whose they are.
fn states(snapshot: &Snapshot) -> BTreeMap<(String, String), usize> {
    let clusters = snapshot.clusters.iter().enumerate();
    clusters
        .flat_map(|(index, cluster)| {
            let owner = owner(snapshot, index);
            let endpoints = cluster.groups.iter().take(1).flat_map(|group| &group.endpoints);
            endpoints.map(move |endpoint| {
                let state = Arc::as_ptr(&endpoint.state) as usize;
                ((owner.clone(), endpoint.label.to_string()), state)
            })
        })
        .collect()
}

/// Addresses of the buckets, none of which two limits share.
fn limits(snapshot: &Snapshot) -> Vec<(String, usize)> {
    let limits = snapshot.rate_limits.iter();
    let all: Vec<_> =
        limits.map(|l| (l.name.to_string(), Arc::as_ptr(&l.state) as usize)).collect();
    let distinct: BTreeSet<_> = all.iter().map(|(_, state)| *state).collect();
    assert_eq!(distinct.len(), all.len());
    all
}

/// And of the bulkheads.
fn budgets(snapshot: &Snapshot) -> BTreeMap<String, [usize; 2]> {
    let clusters = snapshot.clusters.iter().enumerate();
    clusters
        .map(|(index, cluster)| {
            let bulkhead = Arc::as_ptr(&cluster.bulkhead) as usize;
            (owner(snapshot, index), [Arc::as_ptr(&cluster.budget) as usize, bulkhead])
        })
        .collect()
}

fn owner(snapshot: &Snapshot, index: usize) -> String {
    let app = snapshot.inbound.app.map(|app| app.cluster as usize);
    let name = &snapshot.clusters[index].name;
    if Some(index) == app { "the app".to_owned() } else { format!("service {name}") }
}

type Setup = (u8, BTreeMap<&'static str, BTreeSet<u8>>);

/// The last byte of the app's and of each service's addresses. The app is called as one of the services.
fn setup() -> impl Strategy<Value = Setup> {
    let name = prop::sample::select(vec!["users", "orders", "carts"]);
    let services =
        prop::collection::btree_map(name, prop::collection::btree_set(1u8..6, 0..5), 0..4);
    (1u8..6, services)
}

fn yaml((app, services): &Setup) -> String {
    let service = |addresses: &BTreeSet<u8>| {
        let endpoints: Vec<_> = addresses.iter().map(|last| format!("10.0.0.{last}:80")).collect();
        json!({ "endpoints": endpoints })
    };
    let services: Map<_, _> =
        services.iter().map(|(name, of)| ((*name).to_owned(), service(of))).collect();
    json!({ "service": { "name": "users", "address": format!("10.0.0.{app}:80") }, "services": services })
        .to_string()
}

/// Writes a random value that fits a schema, from few words, so that references often meet.
struct Writer<'a> {
    random: fastrand::Rng,
    schema: &'a Value,
}

impl Writer<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        let schema = match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => self.schema.pointer(&reference[1..]).expect("a definition"),
            None => schema,
        };
        if let Some(fixed) = schema.get("const") {
            return fixed.clone();
        }
        for key in ["anyOf", "oneOf", "enum"] {
            if let Some(choices) = schema.get(key).and_then(Value::as_array) {
                let choice = self.any(choices);
                return if key == "enum" { choice } else { self.value(&choice, depth) };
            }
        }
        let kinds = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.clone(),
            Some(kind) => vec![kind.clone()],
            None => return json!({ "any": [1, "thing"] }),
        };
        match self.any(&kinds).as_str() {
            Some("object") => self.object(schema, depth),
            Some("array") => {
                let items = self.random.usize(0..4);
                (0..items).map(|_| self.value(&schema["items"], depth + 1)).collect()
            }
            Some("string") => self.text(schema.get("format").and_then(Value::as_str)).into(),
            Some("integer" | "number") => match self.random.u8(0..4) {
                0 => schema.get("minimum").cloned().unwrap_or(0.into()),
                1 => schema.get("maximum").cloned().unwrap_or(1.into()),
                _ => 200.into(),
            },
            Some("boolean") => self.random.bool().into(),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required = schema.get("required").and_then(Value::as_array);
        for (key, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let needed = required.is_some_and(|keys| keys.iter().any(|k| k == key));
            // Of the sections at the top most, of what is deep in them less.
            if needed || self.random.usize(0..4 + depth) < 3 {
                object.insert(key.clone(), self.value(of, depth + 1));
            }
        }
        if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
            for _ in 0..self.random.usize(0..4) {
                let key = match schema.get("propertyNames") {
                    Some(names) => self.value(names, depth),
                    None => "q".into(),
                };
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                object.insert(key, self.value(of, depth + 1));
            }
        }
        object.into()
    }

    fn text(&mut self, format: Option<&str>) -> String {
        let words: &[&str] = match format {
            Some("pilotfish-name") => &["users", "orders", "a", PASSTHROUGH],
            Some("pilotfish-address") => {
                &["10.0.0.1:80", "[::1]:80", "users:3306", "unix:/a", "localhost:15001"]
            }
            Some("pilotfish-http-url") => &["http://127.0.0.1:8500", "https://c/x", "c:1"],
            Some("pilotfish-registry-url") => {
                &["consul://c", "eureka://e/v2", "kubernetes://", "directory:///run/x", "x://"]
            }
            Some("pilotfish-redis-address") => &["redis://10.0.0.1:6379", "cache", "unix:/r"],
            Some("pilotfish-listen") => &["1", "0", "127.0.0.1:15001", "[::]:80", "0.0.0.0:80"],
            Some("pilotfish-port") => &["1", "80", "15001"],
            Some("pilotfish-duration") => &["0s", "1ms", "1m30s", "365d"],
            Some("pilotfish-period") => &["1ms", "1m30s", "365d"],
            Some("pilotfish-hedge-delay") => &["100ms", "p95", "0s"],
            Some("pilotfish-size") => &["0", "64KiB", "1GiB"],
            Some("pilotfish-ratio") => &["0", "20%", "1"],
            Some("pilotfish-factor") => &["125%", "1.5"],
            Some("pilotfish-number") => &["1.9", "2"],
            Some("pilotfish-cookie-name") => &["session", "a"],
            Some("pilotfish-cidr") => &["10.0.0.0/8", "::1"],
            Some("pilotfish-log-path") => &["stdout", "/tmp/log"],
            Some("pilotfish-method") => &["GET", "POST"],
            Some("pilotfish-header-name") => &["x-a", "host", "te", "X-B"],
            Some("pilotfish-host") => &["users", "a.b", "a:80", "[::1]"],
            Some("pilotfish-host-pattern") => &["users", "*.a", "*", "[::1]", "a:80"],
            Some("pilotfish-condition") => &["503", "5xx", "reset", "unavailable"],
            Some("pilotfish-path") => &["/", "/a", "/a/{b}", "/%61/../b", "/a/{b", "/a/"],
            Some(format) if !format.starts_with("pilotfish-header") => {
                panic!("new format {format}")
            }
            _ => &["v1", "v2", "", "a", "("],
        };
        words[self.random.usize(..words.len())].to_owned()
    }

    fn any(&mut self, of: &[Value]) -> Value {
        of[self.random.usize(..of.len())].clone()
    }
}
