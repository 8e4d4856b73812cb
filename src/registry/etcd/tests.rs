use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::members::{Members, Said};
use super::wire::{Event, Int, Kept, Line, Lines, Range, Watched, below, encoded};
use crate::registry::{Announcement, Health};

fn key_value(key: &str, revision: i64, value: &Value) -> Value {
    json!({ "key": encoded(key), "mod_revision": revision.to_string(), "value": encoded(&value.to_string()) })
}

fn members(revision: i64, kvs: Vec<Value>) -> Members {
    let range = json!({ "header": { "revision": revision.to_string() }, "kvs": kvs });
    Members::read(serde_json::from_value::<Range>(range).expect("an answer"))
}

fn event(kind: &str, kv: Value) -> Event {
    serde_json::from_value(json!({ "type": kind, "kv": kv })).expect("an event")
}

fn addresses(members: &Members) -> Vec<String> {
    let told = members.instances().expect("instances");
    let called = told.iter().filter(|it| it.is_callable());
    let mut told: Vec<_> = called.map(|it| it.address.to_string()).collect();
    told.sort();
    told
}

fn at(port: u16) -> Value {
    json!({ "address": "10.0.0.1", "port": port })
}

fn ours() -> Announcement {
    Announcement {
        service: "orders".into(),
        id: "orders-1".to_owned(),
        address: None,
        port: 15006,
        metrics_port: Some(15020),
        version: Some("1.4.2".to_owned()),
        zone: Some("z1".to_owned()),
        weight: 5,
        tags: vec!["canary".to_owned()],
        metadata: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let said = json!(Said::of(&ours(), "10.0.0.7".into(), Health::Passing));
    insta::assert_snapshot!(said.to_string());
    let told = members(9, vec![key_value("/p/orders/a", 3, &said)]).instances().expect("one");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].address.to_string(), "10.0.0.7:15006");
    assert_eq!((told[0].weight, told[0].zone.as_deref()), (5, Some("z1")));
    assert_eq!(told[0].version.as_deref(), Some("1.4.2"));
    let labels: Vec<_> = told[0].labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(labels, [("tag.canary", "true"), ("team", "shop")]);
    let said = json!(Said::of(&ours(), "10.0.0.7".into(), Health::Critical));
    let told = members(9, vec![key_value("/p/orders/a", 3, &said)]).instances().expect("one");
    assert!(!told[0].is_callable(), "there, and not to be called");
}

#[test]
fn others_may_write_less_and_more() {
    let minimal = json!({ "address": "users.internal", "port": 80, "weight": 4, "rack": { "a": [1] },
        "metadata": { "version": "2", "zone": "z2", "n": "1" } });
    let odd = json!({ "address": "10.0.0.2", "port": 80, "health": "resting" });
    let told = members(9, vec![key_value("a", 3, &minimal), key_value("b", 3, &odd)]);
    let told = told.instances().expect("one");
    let callable: Vec<_> = told.iter().map(|it| it.is_callable()).collect();
    assert_eq!(callable, [true, false], "what is not known to be well is not called");
    assert_eq!(told[0].address.to_string(), "users.internal:80");
    assert_eq!((told[0].weight, told[0].version.as_deref()), (4, Some("2")));
    assert_eq!(told[0].zone.as_deref(), Some("z2"));
    assert_eq!(told[0].labels.len(), 1);
}

#[test]
fn what_is_no_instance_is_left_out_and_an_error_where_nothing_else_is() {
    let senseless = [
        json!("text"),
        json!({}),
        json!({ "address": "unix:/run/x", "port": 1 }),
        json!({ "address": "10.0.0.1", "port": 0 }),
        json!({ "address": "10.0.0.1", "port": 99_999 }),
        json!({ "address": "0.0.0.0", "port": 80 }),
    ];
    let mut kvs: Vec<_> = senseless
        .iter()
        .enumerate()
        .map(|(at, value)| key_value(&format!("/p/x/{at}"), 3, value))
        .collect();
    kvs.push(json!({ "key": encoded("/p/x/9"), "mod_revision": "3" }));
    kvs.push(json!({ "key": encoded("/p/x/10"), "mod_revision": "3", "value": "not base64" }));
    let key = members(9, kvs.clone()).instances().expect_err("all are senseless");
    assert!(key.starts_with("/p/x/"), "{key}");
    kvs.push(key_value("/p/x/11", 3, &at(80)));
    assert_eq!(addresses(&members(9, kvs)), ["10.0.0.1:80"]);
    assert_eq!(members(9, vec![]).instances(), Ok(vec![]));
}

#[test]
fn an_address_is_told_once_as_the_newest_says_it() {
    let versioned = |version| json!({ "address": "10.0.0.1", "port": 80, "version": version });
    let both = [key_value("a", 7, &versioned("new")), key_value("b", 3, &versioned("old"))];
    for both in [both.to_vec(), both.iter().rev().cloned().collect()] {
        let told = members(9, both).instances().expect("one");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].version.as_deref(), Some("new"));
    }
}

#[test]
fn events_that_are_known_change_nothing() {
    let mut members = members(9, vec![key_value("a", 8, &at(80))]);
    let deleted = json!({ "key": encoded("a"), "mod_revision": "7" });
    members.apply(vec![event("DELETE", deleted), event("PUT", key_value("b", 9, &at(81)))]);
    assert_eq!(addresses(&members), ["10.0.0.1:80"]);
    // Two of one transaction.
    let deleted = json!({ "key": encoded("a"), "mod_revision": "10" });
    members.apply(vec![event("DELETE", deleted), event("", key_value("b", 10, &at(81)))]);
    assert_eq!(addresses(&members), ["10.0.0.1:81"]);
    assert_eq!(members.revision, Int(10));
}

#[test]
fn what_came_went_or_was_written_again_is_seen() {
    let before = members(9, vec![key_value("a", 8, &at(80)), key_value("b", 9, &at(81))]);
    let same = vec![key_value("a", 8, &at(80)), key_value("b", 9, &at(81))];
    assert!(!members(12, same.clone()).has_changed_since(&before), "others have");
    let one = key_value("b", 10, &at(81));
    for other in [
        same[..1].to_vec(),
        [same.clone(), vec![key_value("c", 10, &at(82))]].concat(),
        vec![same[0].clone(), one],
    ] {
        assert!(members(10, other).has_changed_since(&before));
    }
}

#[test]
fn a_range_ends_after_all_keys_below() {
    assert_eq!(below("/p/a/"), json!({ "key": encoded("/p/a/"), "range_end": encoded("/p/a0") }));
}

#[test]
fn what_the_server_writes_is_read() {
    let header = r#""header":{"cluster_id":"6001611773266757492","member_id":"1","revision":"4","raft_term":"2"}"#;
    let watched = |rest: &str| {
        let line = format!("{{\"result\":{{{header}{rest}}}}}");
        let line: Line<Watched> = serde_json::from_str(&line).expect("a line");
        line.result.expect("a result")
    };
    assert!(watched(r#","created":true"#).events.is_empty());
    let compacted = watched(r#","canceled":true,"compact_revision":"4""#);
    assert!(compacted.canceled && compacted.compact_revision == Int(4));
    let refused = watched(
        r#","watch_id":"-1","created":true,"canceled":true,"cancel_reason":"rpc error: code = PermissionDenied""#,
    );
    assert!(refused.cancel_reason.contains("PermissionDenied"));
    let kept = format!("{{\"result\":{{{header},\"ID\":\"77\",\"TTL\":\"5\"}}}}");
    let kept: Line<Kept> = serde_json::from_str(&kept).expect("a line");
    assert_eq!(kept.result.expect("a result").ttl, Int(5));
    let gone = format!("{{\"result\":{{{header},\"ID\":\"77\"}}}}");
    let gone: Line<Kept> = serde_json::from_str(&gone).expect("a line");
    assert_eq!(gone.result.expect("a result").ttl, Int(0));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, bool),
    Delete(u8),
    /// All events that were not told yet are told, in pieces of so many revisions.
    Told(usize),
    /// All is read beside the watch.
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5_u8, prop::bool::weighted(0.8)).prop_map(|(key, well)| Step::Put(key, well)),
        3 => (0..5_u8).prop_map(Step::Delete),
        3 => (1..4_usize).prop_map(Step::Told),
        1 => Just(Step::Read),
    ];
    vec(step, 1..60)
}

proptest! {
    /// After all events were told, in whatever pieces and with whatever reading between them, what is known is
    /// what is there.
    #[test]
    fn events_lead_to_what_is_there(steps in steps()) {
        let mut store = BTreeMap::<u8, (i64, bool)>::new();
        let (mut revision, mut waiting) = (1, Vec::new());
        let mut known = members(revision, vec![]);
        let value = |key: u8, well: bool| json!({ "address": "10.0.0.1", "port": 80 + u16::from(key),
            "health": if well { "passing" } else { "critical" } });
        for step in steps {
            match step {
                Step::Put(key, well) => {
                    revision += 1;
                    store.insert(key, (revision, well));
                    waiting.push(("", key_value(&key.to_string(), revision, &value(key, well))));
                }
                Step::Delete(key) => if store.remove(&key).is_some() {
                    revision += 1;
                    let kv = json!({ "key": encoded(&key.to_string()), "mod_revision": revision.to_string() });
                    waiting.push(("DELETE", kv));
                },
                Step::Read => {
                    let all = store.iter().map(|(key, (changed, well))| {
                        key_value(&key.to_string(), *changed, &value(*key, *well))
                    });
                    known = members(revision, all.collect());
                }
                Step::Told(pieces) => {
                    for piece in waiting.chunks(pieces) {
                        let piece = piece.iter().map(|(kind, kv)| event(kind, kv.clone()));
                        known.apply(piece.collect());
                    }
                    waiting.clear();
                    let expected: Vec<_> = store.iter().filter(|(_, (_, well))| *well)
                        .map(|(key, _)| format!("10.0.0.1:{}", 80 + u16::from(*key))).collect();
                    prop_assert_eq!(addresses(&known), expected);
                }
            }
        }
    }

    /// Lines come whole, however they were cut.
    #[test]
    fn lines_come_whole(text in "[a-c\n]{0,200}", pieces in vec(1..20_usize, 1..50)) {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        let mut rest = text.as_bytes();
        for length in pieces.iter().cycle() {
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            lines.push(piece);
            while let Some(line) = lines.next() {
                told.push(String::from_utf8(line).expect("text"));
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let mut expected: Vec<_> = text.split('\n').map(str::to_owned).collect();
        let begun = expected.pop().expect("what follows the last end of a line");
        prop_assert_eq!(told, expected);
        prop_assert_eq!(lines.len(), begun.len());
    }

    /// Whatever comes, it is read or refused.
    #[test]
    fn garbage_is_no_panic(text in ".{0,200}", value in ".{0,100}", base64 in "[A-Za-z0-9+/=]{0,50}") {
        let _ = serde_json::from_str::<Line<Watched>>(&text);
        let _ = serde_json::from_str::<Range>(&text);
        let raw = json!({ "key": text, "value": base64 });
        let _ = members(3, vec![raw, key_value("k", 3, &json!(value))]).instances();
    }
}
