use serde_json::{Value, json};

use super::*;

fn wish() -> Wish {
    Wish { port: None, zone: None, family: Family::V4 }
}

fn slice(family: &str, ports: Value, endpoints: Value) -> Slice {
    let whole = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": { "name": "users-x", "labels": { "kubernetes.io/service-name": "users" } },
        "ports": ports, "endpoints": endpoints,
    });
    Slice::of(serde_json::from_value(whole).expect("a slice")).expect("of a service")
}

fn http() -> Value {
    json!([{ "name": "http", "port": 8080, "protocol": "TCP" }])
}

/// A pod at `10.0.0.<number>`.
fn pod(number: u8, conditions: Value) -> Value {
    json!({
        "addresses": [format!("10.0.0.{number}")], "conditions": conditions,
        "nodeName": "node-1", "zone": "a",
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("users-{number}"), "uid": format!("u{number}") },
    })
}

fn shown(slices: &[&Slice], wish: &Wish) -> Vec<String> {
    let mut told: Vec<_> = instances(slices, wish)
        .expect("instances")
        .iter()
        .map(|it| format!("{}{}", it.address, if it.is_callable() { "" } else { " out" }))
        .collect();
    told.sort();
    told
}

#[test]
fn an_instance_is_what_the_slice_says_of_its_pod() {
    let users = slice("IPv4", http(), json!([pod(1, json!({ "ready": true }))]));
    let told = instances(&[&users], &wish()).expect("one").remove(0);
    assert_eq!(told.address.to_string(), "10.0.0.1:8080");
    assert_eq!((told.weight, told.zone.as_deref()), (1, Some("a")));
    let labels: Vec<_> = told.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["node=node-1", "pod=users-1"]);
}

#[test]
fn who_is_not_ready_is_there_and_not_called() {
    let endpoints = json!([
        pod(1, json!({ "ready": true, "serving": true, "terminating": false })),
        pod(2, json!({ "ready": false, "serving": false, "terminating": false })),
        pod(3, json!({ "ready": false, "serving": true, "terminating": true })),
        // What is not said counts as ready.
        pod(4, Value::Null),
        pod(5, json!({})),
    ]);
    let users = slice("IPv4", http(), endpoints);
    let expected = [
        "10.0.0.1:8080",
        "10.0.0.2:8080 out",
        "10.0.0.3:8080 out",
        "10.0.0.4:8080",
        "10.0.0.5:8080",
    ];
    assert_eq!(shown(&[&users], &wish()), expected);
}

#[test]
fn where_none_is_ready_those_that_end_and_still_answer_are_called() {
    let endpoints = json!([
        pod(1, json!({ "ready": false, "serving": true, "terminating": true })),
        pod(2, json!({ "ready": false, "serving": false, "terminating": true })),
        pod(3, json!({ "ready": false })),
    ]);
    let users = slice("IPv4", http(), endpoints);
    let expected = ["10.0.0.1:8080", "10.0.0.2:8080 out", "10.0.0.3:8080 out"];
    assert_eq!(shown(&[&users], &wish()), expected);
}

#[test]
fn several_slices_are_one_and_a_pod_is_there_once() {
    let ready = || json!({ "ready": true });
    let first = slice("IPv4", http(), json!([pod(1, ready()), pod(2, json!({ "ready": false }))]));
    // It moves from a slice to another, which already knows it to be ready.
    let second = slice("IPv4", http(), json!([pod(2, ready()), pod(3, ready())]));
    let mut six = pod(1, ready());
    six["addresses"] = json!(["fd00::1"]);
    let mut other = pod(4, ready());
    other["addresses"] = json!(["fd00::4"]);
    let sixes = slice("IPv6", http(), json!([six, other]));
    let all = [&sixes, &first, &second];
    let expected = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080", "[fd00::4]:8080"];
    assert_eq!(shown(&all, &wish()), expected);
    let by_six = Wish { family: Family::V6, ..wish() };
    let expected = ["10.0.0.2:8080", "10.0.0.3:8080", "[fd00::1]:8080", "[fd00::4]:8080"];
    assert_eq!(shown(&all, &by_six), expected);
}

#[test]
fn the_port_is_the_wished_one_or_the_likely_one() {
    let ready = || json!([pod(1, json!({ "ready": true }))]);
    let chosen = |ports: Value, wished: Option<&str>| {
        let users = slice("IPv4", ports, ready());
        let wish = Wish { port: wished.map(Into::into), ..wish() };
        let told = instances(&[&users], &wish);
        told.map(|told| told[0].address.to_string()).map_err(|error| error.detail)
    };
    let two = || json!([{ "name": "metrics", "port": 9 }, { "name": "http", "port": 80, "protocol": "TCP" }]);
    let odd = || json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "a", "port": 1 }, { "name": "b", "port": 2 }]);
    assert_eq!(chosen(two(), None).as_deref(), Ok("10.0.0.1:80"));
    assert_eq!(chosen(odd(), None).as_deref(), Ok("10.0.0.1:1"));
    assert_eq!(chosen(json!([{ "port": 7 }]), None).as_deref(), Ok("10.0.0.1:7"));
    assert_eq!(chosen(two(), Some("metrics")).as_deref(), Ok("10.0.0.1:9"));
    assert_eq!(chosen(odd(), Some("2")).as_deref(), Ok("10.0.0.1:2"));
    let why = chosen(odd(), Some("grpc")).expect_err("there is none");
    assert!(
        why.contains("no port `grpc`; its pods have `a` (1/TCP), `b` (2/TCP), `dns` (53/UDP)"),
        "{why}"
    );
    assert!(chosen(odd(), Some("dns")).is_err(), "not of UDP");
    assert!(chosen(json!([]), None).is_err());
    assert!(chosen(Value::Null, None).is_err());
    let nobody = slice("IPv4", Value::Null, json!([]));
    assert_eq!(
        instances(&[&nobody], &wish()).map(|told| told.len()),
        Ok(0),
        "nobody needs no port"
    );
}

#[test]
fn hints_count_where_all_have_them_and_our_zone_is_among_them() {
    let with = |zones: [Option<&str>; 3]| {
        let endpoints: Vec<Value> = (1..)
            .zip(zones)
            .map(|(number, zone)| {
                let mut pod = pod(number, json!({ "ready": true }));
                if let Some(zone) = zone {
                    pod["hints"] = json!({ "forZones": [{ "name": zone }] });
                }
                pod
            })
            .collect();
        slice("IPv4", http(), json!(endpoints))
    };
    let called = |slice: &Slice, zone: Option<&str>| {
        let wish = Wish { zone: zone.map(Into::into), ..wish() };
        let told = instances(&[slice], &wish).expect("instances");
        told.iter().filter(|it| it.is_callable()).count()
    };
    let all = with([Some("a"), Some("a"), Some("b")]);
    assert_eq!(called(&all, Some("a")), 2);
    assert_eq!(called(&all, Some("b")), 1);
    assert_eq!(called(&all, Some("c")), 3, "nobody is meant for our zone");
    assert_eq!(called(&all, None), 3, "we have no zone");
    assert_eq!(called(&with([Some("a"), None, Some("b")]), Some("a")), 3, "one says nothing");
}

#[test]
fn slices_of_no_service_and_names_are_taken_as_they_are() {
    let of_none = json!({ "addressType": "IPv4", "metadata": { "name": "x" }, "endpoints": [] });
    assert!(Slice::of(serde_json::from_value(of_none).expect("a slice")).is_none());
    let named =
        slice("FQDN", http(), json!([{ "addresses": ["users.internal"] }, { "addresses": [] }]));
    assert_eq!(shown(&[&named], &wish()), ["users.internal:8080"]);
}
