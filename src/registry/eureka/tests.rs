use std::collections::{BTreeMap, VecDeque};

use crate::endpoint::Instance;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::announce;
use super::answer::{Answer, One, Status};
use super::mirror::Mirror;
use crate::registry::{Announcement, Health, settings};

fn answer(value: Value) -> Answer {
    serde_json::from_value(value).expect("an answer")
}

/// What a mirror that follows `app` makes of a whole answer.
fn told(app: &str, value: Value) -> Vec<String> {
    let mut mirror = Mirror::default();
    mirror.follow(app);
    mirror.replace(answer(value).applications.application.0);
    shown(&mirror, app)
}

/// What is said of us, with the address that was given.
fn body(ours: &Announcement, health: Health) -> Value {
    let host = ours.address.as_deref().expect("it is given");
    announce::body(ours, health, &settings(), host, host.parse().ok())
}

fn shown(mirror: &Mirror, app: &str) -> Vec<String> {
    let instances = mirror.instances(app).expect("it was read");
    let mut shown: Vec<_> = instances
        .into_iter()
        .filter(Instance::is_callable)
        .map(|it| {
            let mut text = format!("{} *{}", it.address, it.weight);
            for (key, value) in [("zone", it.zone), ("version", it.version)] {
                if let Some(value) = value {
                    text.push_str(&format!(" {key}={value}"));
                }
            }
            for (key, value) in it.labels {
                text.push_str(&format!(" {key}:{value}"));
            }
            text
        })
        .collect();
    shown.sort();
    shown
}

/// As Spring's server writes it, all its fields.
fn record(id: &str, status: &str, port: u16) -> Value {
    json!({
        "instanceId": id, "hostName": "10.0.0.1", "app": "USERS", "ipAddr": "10.9.9.9", "status": status,
        "overriddenStatus": "UNKNOWN", "port": { "$": port, "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" }, "countryId": 1,
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": 1_795_447_703_124_u64,
            "lastRenewalTimestamp": 1_795_447_703_124_u64, "evictionTimestamp": 0, "serviceUpTimestamp": 1_795_447_701_340_u64 },
        "metadata": { "version": "1.2", "zone": "z1", "weight": "3", "management.port": "8081" },
        "homePageUrl": "http://10.0.0.1:8080/", "vipAddress": "users", "secureVipAddress": "users",
        "isCoordinatingDiscoveryServer": "false", "lastUpdatedTimestamp": "1795447703124",
        "lastDirtyTimestamp": "1795447703123", "actionType": "ADDED"
    })
}

fn whole(instances: Value) -> Value {
    json!({ "applications": { "versions__delta": "1", "apps__hashcode": "UP_1_",
        "application": [{ "name": "USERS", "instance": instances }] } })
}

#[test]
fn only_who_is_up_is_to_be_called_and_told_with_all_that_is_known_of_it() {
    let others = ["DOWN", "OUT_OF_SERVICE", "STARTING", "UNKNOWN", "SLEEPING"];
    let mut all = vec![record("a", "UP", 80)];
    all.extend(others.iter().zip(81..).map(|(status, port)| record(status, status, port)));
    let expected = ["10.0.0.1:80 *3 zone=z1 version=1.2 management.port:8081"];
    assert_eq!(told("users", whole(all.into())), expected);
}

#[test]
fn one_may_stand_for_a_list_and_text_for_a_number() {
    let mut one = record("a", "UP", 80);
    one["port"] = json!({ "$": "8080", "@enabled": true });
    one["securePort"] = Value::Null;
    one["metadata"] =
        json!({ "@class": "java.util.Collections$EmptyMap", "weight": 2, "team": ["x"], "n": 1.5 });
    let one = json!({ "applications": { "apps__hashcode": "UP_1_",
        "application": { "name": "USERS", "instance": one } } });
    assert_eq!(told("users", one), ["10.0.0.1:8080 *2 n:1.5 team:"]);
}

#[test]
fn nothing_may_stand_for_an_empty_list() {
    let none: [&[u8]; 3] = [
        br#"{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}"#,
        br#"{"applications":{"versions__delta":1,"apps__hashcode":""}}"#,
        br#"{"applications":{"apps__hashcode":"","application":null}}"#,
    ];
    for text in none {
        let Answer { applications } = serde_json::from_slice(text).expect("an answer");
        assert!(applications.application.0.is_empty());
        assert_eq!(applications.hash.expect("a hash").0, "");
    }
    assert!(serde_json::from_slice::<Answer>(br#"{"timestamp":"2026","status":404}"#).is_err());
}

#[test]
fn ports_are_the_open_one_or_else_the_secure_one() {
    let port = |number, on| json!({ "$": number, "@enabled": on });
    for (plain, secure, expected) in [
        (port(80, "true"), port(443, "true"), Some("10.0.0.1:80 *1")),
        (port(80, "false"), port(443, "true"), Some("10.0.0.1:443 *1 secure:true")),
        (port(80, "false"), port(443, "false"), None),
        (port(0, "true"), port(443, "false"), None),
        (port(99_999, "true"), Value::Null, None),
        (Value::Null, Value::Null, None),
    ] {
        let mut one = record("a", "UP", 80);
        one["port"] = plain.clone();
        one["securePort"] = secure.clone();
        one["metadata"] = json!({});
        let told = told("users", whole(json!([one])));
        assert_eq!(told.first().map(String::as_str), expected, "{plain} {secure}");
    }
}

#[test]
fn the_host_is_called_and_the_ip_address_where_there_is_none() {
    for (host, expected) in [
        (json!("users-1.internal"), Some("users-1.internal:80 *1")),
        (json!("fd00::1"), Some("[fd00::1]:80 *1")),
        (json!(""), Some("10.9.9.9:80 *1")),
        (Value::Null, Some("10.9.9.9:80 *1")),
        (json!("unix:/run/docker.sock"), None),
        (json!("0.0.0.0"), None),
    ] {
        let mut one = record("a", "UP", 80);
        one["hostName"] = host.clone();
        one["metadata"] = Value::Null;
        let told = told("users", whole(json!([one])));
        assert_eq!(told.first().map(String::as_str), expected, "{host}");
    }
}

#[test]
fn an_address_is_told_once_as_its_newest_instance_says_it() {
    let (mut old, mut new) = (record("z", "UP", 80), record("a", "UP", 80));
    old["metadata"] = json!({ "version": "1" });
    new["metadata"] = json!({ "version": "2" });
    old["lastDirtyTimestamp"] = json!(1000);
    new["lastDirtyTimestamp"] = json!("2000");
    for both in [json!([old, new]), json!([new, old])] {
        assert_eq!(told("users", whole(both)), ["10.0.0.1:80 *1 version=2"]);
    }
}

#[test]
fn what_is_not_followed_counts_and_is_not_kept() {
    let mut mirror = Mirror::default();
    mirror.follow("orders");
    mirror.replace(answer(whole(json!([record("a", "UP", 80)]))).applications.application.0);
    assert_eq!(mirror.hash(), "UP_1_");
    assert_eq!(mirror.instances("orders"), Some(vec![]));
    assert_eq!(mirror.instances("users"), None);
    mirror.follow("users");
    assert_eq!(mirror.unread(), ["users".into()]);
    assert_eq!(mirror.instances("users"), None, "it would seem that there is none");
    let one = json!({ "application": { "name": "USERS", "instance": [record("a", "UP", 80)] } });
    let one: One = serde_json::from_value(one).expect("an answer");
    mirror.read("users", Some(one.application));
    assert_eq!(shown(&mirror, "users").len(), 1);
    assert_eq!(mirror.hash(), "UP_1_");
    mirror.read("orders", None);
    assert_eq!(mirror.instances("orders"), Some(vec![]));
    mirror.follow("users");
    mirror.unfollow("users");
    assert!(mirror.instances("users").is_some(), "one more follows it");
    mirror.unfollow("users");
    mirror.unfollow("orders");
    assert!(!mirror.is_followed());
}

#[test]
fn counts_are_in_the_order_of_names() {
    let mut sorted = Status::ALL;
    sorted.sort_by_key(|status| status.name());
    assert_eq!(sorted, Status::ALL);
    let mut mirror = Mirror::default();
    let all = ["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "SLEEPING", "UP"];
    let all: Vec<_> =
        all.iter().zip(1..).map(|(status, port)| record(&port.to_string(), status, port)).collect();
    mirror.replace(answer(whole(all.into())).applications.application.0);
    assert_eq!(mirror.hash(), "DOWN_1_OUT_OF_SERVICE_1_STARTING_1_UNKNOWN_1_UP_2_");
}

/// A server: what it has, and its last changes.
#[derive(Default)]
struct Model {
    instances: BTreeMap<(u8, u8), &'static str>,
    changes: VecDeque<((u8, u8), &'static str, &'static str)>,
}

const APPS: [&str; 3] = ["users", "orders", "prices"];

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, &'static str),
    Remove(u8, u8),
    /// The server keeps no more than so many changes from now on.
    Forget(usize),
    Poll,
    Follow(u8),
    Unfollow(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status = prop::sample::select(vec!["UP", "UP", "DOWN", "OUT_OF_SERVICE"]);
    let step = prop_oneof![
        5 => (0..3_u8, 0..6_u8, status).prop_map(|(app, id, status)| Step::Put(app, id, status)),
        3 => (0..3_u8, 0..6_u8).prop_map(|(app, id)| Step::Remove(app, id)),
        1 => (0..3_usize).prop_map(Step::Forget),
        4 => Just(Step::Poll),
        2 => (0..3_u8).prop_map(Step::Follow),
        1 => (0..3_u8).prop_map(Step::Unfollow),
    ];
    vec(step, 1..60)
}

impl Model {
    fn record(&self, (app, id): (u8, u8), status: &str, action: &str) -> Value {
        let mut record = record(&id.to_string(), status, u16::from(app) * 10 + u16::from(id) + 1);
        record["actionType"] = action.into();
        record
    }

    fn hash(&self) -> String {
        let mut counts = BTreeMap::<_, usize>::new();
        for status in self.instances.values() {
            *counts.entry(*status).or_default() += 1;
        }
        counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    fn all(&self) -> Answer {
        let of = |app: u8| {
            let ours = self.instances.iter().filter(move |((of, _), _)| *of == app);
            ours.map(|(key, status)| self.record(*key, status, "ADDED")).collect::<Vec<_>>()
        };
        self.answer((0..3).map(|app| (app, of(app))).collect())
    }

    fn delta(&self) -> Answer {
        let changes = self.changes.iter();
        self.answer(
            changes
                .map(|(key, status, action)| (key.0, vec![self.record(*key, status, action)]))
                .collect(),
        )
    }

    fn answer(&self, all: Vec<(u8, Vec<Value>)>) -> Answer {
        let all: Vec<_> = all
            .into_iter()
            .map(|(app, instances)| {
                json!({ "name": APPS[usize::from(app)].to_uppercase(), "instance": instances })
            })
            .collect();
        answer(json!({ "applications": { "apps__hashcode": self.hash(), "application": all } }))
    }

    fn up(&self, app: u8) -> Vec<String> {
        let ours = self.instances.iter().filter(|((of, _), status)| *of == app && **status == "UP");
        let mut ports: Vec<_> = ours
            .map(|((app, id), _)| format!("10.0.0.1:{}", u16::from(*app) * 10 + u16::from(*id) + 1))
            .collect();
        ports.sort();
        ports
    }
}

proptest! {
    /// Changes lead where reading all leads: whenever the check is passed and no change was lost, each service
    /// that is followed has what the server has.
    #[test]
    fn changes_lead_to_the_same_as_all(steps in steps()) {
        let (mut server, mut mirror) = (Model::default(), Mirror::default());
        let mut followed = [0_usize; 3];
        let (mut lost, mut began) = (false, false);
        for step in steps {
            match step {
                Step::Put(app, id, status) => {
                    server.instances.insert((app, id), status);
                    server.changes.push_back(((app, id), status, "MODIFIED"));
                }
                Step::Remove(app, id) => {
                    if let Some(status) = server.instances.remove(&(app, id)) {
                        server.changes.push_back(((app, id), status, "DELETED"));
                    }
                }
                Step::Forget(left) => while server.changes.len() > left {
                    server.changes.pop_front();
                    lost = true;
                },
                Step::Follow(app) => {
                    mirror.follow(APPS[usize::from(app)]);
                    followed[usize::from(app)] += 1;
                }
                Step::Unfollow(app) => if followed[usize::from(app)] > 0 {
                    mirror.unfollow(APPS[usize::from(app)]);
                    followed[usize::from(app)] -= 1;
                },
                Step::Poll => {
                    let matched = began && mirror.apply(server.delta().applications);
                    prop_assert!(matched || lost || !began, "the check fails though no change was lost");
                    if !matched || lost {
                        mirror.replace(server.all().applications.application.0);
                    }
                    for app in mirror.unread() {
                        let at = APPS.iter().position(|name| **name == *app).expect("ours");
                        let one = server.all().applications.application.0.swap_remove(at);
                        mirror.read(&app, Some(one));
                    }
                    (lost, began) = (false, true);
                    prop_assert_eq!(mirror.hash(), server.hash());
                    for (app, by) in followed.iter().enumerate() {
                        if *by > 0 {
                            let told = mirror.instances(APPS[app]).expect("it was read");
                            let up = told.iter().filter(|it| it.is_callable());
                            let mut told: Vec<_> = up.map(|it| it.address.to_string()).collect();
                            told.sort();
                            prop_assert_eq!(told, server.up(app as u8));
                        }
                    }
                }
            }
        }
    }

    /// Whatever comes, it is read or refused.
    #[test]
    fn garbage_is_no_panic(text in ".{0,200}", cut in 0..2000_usize) {
        let _ = serde_json::from_str::<Answer>(&text);
        let whole = whole(json!([record("a", "UP", 80)])).to_string();
        let half: String = whole.chars().take(cut).collect();
        prop_assert_eq!(serde_json::from_str::<Answer>(&half).is_ok(), cut >= whole.len());
    }
}

fn ours() -> Announcement {
    Announcement {
        service: "Order-service".into(),
        id: "order-service:10.0.0.7:15006".to_owned(),
        address: Some("10.0.0.7".into()),
        port: 15006,
        metrics_port: Some(15020),
        version: Some("1.4.2".to_owned()),
        zone: Some("eu-west-1a".to_owned()),
        weight: 5,
        tags: vec!["canary".to_owned()],
        metadata: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
    }
}

fn settings() -> settings::Eureka {
    settings::Eureka {
        addresses: vec!["http://127.0.0.1:8761/eureka".parse().expect("a URL")],
        username: None,
        password_file: None,
        ca_file: None,
        poll: std::time::Duration::from_secs(10),
        renew: std::time::Duration::from_millis(1500),
        ttl: std::time::Duration::from_secs(90),
    }
}

#[test]
fn our_app_is_told_as_others_are() {
    let body = body(&ours(), Health::Passing);
    insta::assert_snapshot!(serde_json::to_string_pretty(&body).expect("JSON"));
    assert_eq!(announce::our_path(&ours()), "/apps/ORDER-SERVICE/order-service:10.0.0.7:15006");
    let body = json!({ "applications": { "apps__hashcode": "UP_1_",
        "application": [{ "name": "ORDER-SERVICE", "instance": body["instance"] }] } });
    assert_eq!(
        told("order-service", body),
        [
            "10.0.0.7:15006 *5 zone=eu-west-1a version=1.4.2 id:order-service:10.0.0.7:15006 tag.canary:true team:shop"
        ]
    );
}

#[test]
fn what_the_server_has_of_us_is_compared_with_what_we_would_say() {
    let body = body(&ours(), Health::Passing);
    let mut found = body["instance"].clone();
    // What a server adds.
    found["overriddenStatus"] = "UNKNOWN".into();
    found["countryId"] = 1.into();
    found["leaseInfo"]["registrationTimestamp"] = 1_795_447_703_124_u64.into();
    assert!(announce::stands(&found, &body));
    for (pointer, other) in [
        ("/hostName", json!("10.0.0.8")),
        ("/port/$", json!(15007)),
        ("/metadata/version", json!("1.4.1")),
        ("/leaseInfo/durationInSecs", json!(30)),
        ("/status", json!("STARTING")),
    ] {
        let mut found = found.clone();
        *found.pointer_mut(pointer).expect("a field") = other;
        assert!(!announce::stands(&found, &body), "{pointer}");
    }
    found["status"] = "OUT_OF_SERVICE".into();
    found["overriddenStatus"] = "OUT_OF_SERVICE".into();
    assert!(announce::stands(&found, &body));
    assert!(!announce::stands(&Value::Null, &body));
}

#[test]
fn an_id_is_one_segment_of_a_path() {
    let odd = Announcement { id: "a/b;c%2F d:80".to_owned(), ..ours() };
    assert_eq!(announce::our_path(&odd), "/apps/ORDER-SERVICE/a_b_c_2F_d:80");
    let body = body(&odd, Health::Passing);
    assert_eq!(body["instance"]["instanceId"], "a_b_c_2F_d:80");
    assert_eq!(body["instance"]["metadata"]["id"], "a/b;c%2F d:80");
}

#[test]
fn one_that_is_not_well_is_down() {
    let body = body(&ours(), Health::Critical);
    assert_eq!(body["instance"]["status"], "DOWN");
}

#[test]
fn a_name_as_address_has_the_ip_address_beside_it() {
    let named =
        Announcement { address: Some("orders.internal".into()), metrics_port: None, ..ours() };
    let ip = "10.0.0.7".parse().ok();
    let told = announce::body(&named, Health::Passing, &settings(), "orders.internal", ip);
    assert_eq!(told["instance"]["hostName"], "orders.internal");
    assert_eq!(told["instance"]["ipAddr"], "10.0.0.7");
    assert_eq!(told["instance"]["homePageUrl"], "http://orders.internal:15006/");
    assert_eq!(told["instance"].get("healthCheckUrl"), None);
    let six = Announcement { address: Some("fd00::1".into()), ..ours() };
    let told = body(&six, Health::Passing);
    assert_eq!(told["instance"]["healthCheckUrl"], "http://[fd00::1]:15020/ready");
}
