//! DNS: against a real server, and against what servers answer that are not well. The first need `dnsmasq`.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, NS, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use pilotfish::registry::Reason;
use pilotfish::registry::dns::Dns;
use pilotfish::registry::settings::{self, DnsRecords};
use support::dns::{Dnsmasq, Says, Scripted};
use support::watched::{Watched, on_one_thread};
use support::{Proxy, client, eventually, upstream::Upstream, within};

fn settings(server: SocketAddr, name: &str, records: DnsRecords) -> settings::Dns {
    settings::Dns {
        name: name.to_owned(),
        records,
        server: Some(server),
        min_ttl: Duration::from_millis(50),
        max_ttl: Duration::from_secs(60),
    }
}

fn by_address(server: SocketAddr) -> Rc<Dns> {
    Rc::new(Dns::new(&settings(server, "{service}.test", DnsRecords::Address(8080))))
}

fn by_srv(server: SocketAddr) -> Rc<Dns> {
    Rc::new(Dns::new(&settings(server, "_http._tcp.{service}.test", DnsRecords::Srv)))
}

#[tokio::test]
async fn addresses_of_both_families_are_found_and_change() {
    let records = ["host-record=users.test,127.0.0.1,::1", "host-record=users.test,127.0.0.2"];
    let Some(mut server) = Dnsmasq::start(&records).await else { return };
    on_one_thread(async {
        let registry = by_address(server.address);
        let mut watched = Watched::begin(&registry, "users");
        watched.until(&["127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"]).await;
        let mut nobody = Watched::begin(&registry, "nobody");
        assert_eq!(nobody.next().await, Ok(vec![]), "a name that is not there is an answer");
        server.becomes(&["host-record=users.test,127.0.0.3"]).await;
        watched.until(&["127.0.0.3:8080"]).await;
        server.becomes(&["cname=users.test,other.test", "host-record=other.test,127.0.0.4"]).await;
        watched.until(&["127.0.0.4:8080"]).await;
        server.becomes(&[]).await;
        watched.until(&[]).await;
        server.becomes(&["host-record=users.test,127.0.0.1"]).await;
        watched.until(&["127.0.0.1:8080"]).await;
    })
    .await;
}

#[tokio::test]
async fn services_tell_hosts_ports_and_weights() {
    let hosts = ["host-record=one.test,127.0.0.1", "host-record=two.test,127.0.0.2,::1"];
    let srv = "srv-host=_http._tcp.users.test";
    let with = |lines: &[String]| {
        let hosts = hosts.iter().map(ToString::to_string);
        hosts.chain(lines.iter().cloned()).collect::<Vec<_>>()
    };
    let lines = with(&[
        format!("{srv},one.test,3001,10,30"),
        format!("{srv},two.test,3002,10,0"),
        // For when the others cannot be reached.
        format!("{srv},spare.test,3003,20,50"),
    ]);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let Some(mut server) = Dnsmasq::start(&lines).await else { return };
    on_one_thread(async {
        let registry = by_srv(server.address);
        let mut watched = Watched::begin(&registry, "users");
        let told = watched.until(&["127.0.0.1:3001", "127.0.0.2:3002", "[::1]:3002"]).await;
        let mut weights: Vec<_> = told.iter().map(|it| it.weight).collect();
        weights.sort_unstable();
        assert_eq!(weights, [1, 1, 30]);
        // A host without any address is left out.
        let lines = with(&[
            format!("{srv},two.test,3002,10,1"),
            format!("{srv},nowhere.test,3009,10,1"),
            format!("{srv},one.test,3011,10,1"),
        ]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        server.becomes(&lines).await;
        watched.until(&["127.0.0.1:3011", "127.0.0.2:3002", "[::1]:3002"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_away_or_hangs_is_told_and_comes_back() {
    let records = ["host-record=users.test,127.0.0.1"];
    let Some(mut server) = Dnsmasq::start(&records).await else { return };
    on_one_thread(async {
        let registry = by_address(server.address);
        let mut watched = Watched::begin(&registry, "users");
        watched.until(&["127.0.0.1:8080"]).await;
        server.hang();
        let error = watched.failure().await;
        assert_eq!(error.reason, Reason::Timeout, "{error}");
        assert!(error.detail.contains("users.test."), "{error}");
        server.go_on();
        watched.until(&["127.0.0.1:8080"]).await;
        server.kill();
        watched.failure().await;
        server.becomes(&["host-record=users.test,127.0.0.2"]).await;
        watched.until(&["127.0.0.2:8080"]).await;
    })
    .await;
}

/// The app of `port` behind no sidecar, called by name through one that goes by DNS.
#[tokio::test]
async fn a_sidecar_calls_what_dns_names_and_keeps_it_while_dns_is_away() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let srv = |app: &Upstream| {
        format!("srv-host=_http._tcp.users.test,local.test,{}", app.address.port())
    };
    let host = "host-record=local.test,127.0.0.1".to_owned();
    let lines = |apps: &[&Upstream]| {
        apps.iter().map(|app| srv(app)).chain([host.clone()]).collect::<Vec<_>>()
    };
    async fn becomes(server: &mut Dnsmasq, lines: Vec<String>) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        server.becomes(&lines).await;
    }
    let Some(mut server) = Dnsmasq::start(&[]).await else { return };
    becomes(&mut server, lines(&[&one])).await;
    let caller = Proxy::start(&format!(
        "registry: {{ dns: {{ name: \"_http._tcp.{{service}}.test\", server: \"{}\" }} }}\nservices: {{ users: {{ load_balancer: round_robin }} }}",
        server.address
    ))
    .await;
    let answers = async || {
        let mut answers = BTreeSet::new();
        for _ in 0..6 {
            let answer = client::get_from(caller.outbound(), "users", "/").await;
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
            answers.insert(answer.text().to_owned());
        }
        answers.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(answers().await, ["one"]);
    becomes(&mut server, lines(&[&one, &two])).await;
    eventually(|| async { (answers().await == ["one", "two"]).then_some(()) }).await;
    server.kill();
    let state = "pilotfish_registry_service_state{service=\"users\",state=\"stale\"}";
    eventually(|| async { (caller.metric(state).await == 1.0).then_some(()) }).await;
    assert_eq!(answers().await, ["one", "two"]);
    // It comes back and knows nobody: those that answer are held.
    becomes(&mut server, lines(&[])).await;
    let held = "pilotfish_registry_held_endpoints{service=\"users\"}";
    eventually(|| async { (caller.metric(held).await == 2.0).then_some(()) }).await;
    assert_eq!(answers().await, ["one", "two"]);
    drop(one);
    eventually(|| async { (caller.metric(held).await == 1.0).then_some(()) }).await;
    assert_eq!(answers().await, ["two"]);
    becomes(&mut server, lines(&[&two])).await;
    eventually(|| async { (caller.metric(held).await == 0.0).then_some(()) }).await;
    assert_eq!(answers().await, ["two"]);
    assert_eq!(
        caller.metric("pilotfish_registry_up{registry=\"dns _http._tcp.{service}.test\"}").await,
        1.0
    );
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn address(query: &Query, ttl: u32, text: &str) -> Record {
    Record::from_rdata(query.name().clone(), ttl, RData::from(text.parse::<IpAddr>().expect("one")))
}

/// An answer with these IPv4 addresses, and none of IPv6.
fn addresses(query: &Query, mut reply: Message, ttl: u32, all: &[&str]) -> Says {
    if query.query_type() == RecordType::A {
        reply.add_answers(all.iter().map(|text| address(query, ttl, text)));
    }
    Says::Message(Box::new(reply))
}

fn with_code(mut reply: Message, code: ResponseCode) -> Says {
    reply.metadata.response_code = code;
    Says::Message(Box::new(reply))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Code(ResponseCode),
    Garbage,
    OfAnother,
    Cut,
    Silent,
    Refers,
    SixFails,
    Empty,
    Nonexistent,
}

/// A server of a mood, which the test changes.
async fn moody() -> (Scripted, Arc<Mutex<Mood>>) {
    let mood = Arc::new(Mutex::new(Mood::Well));
    let told = mood.clone();
    let server = Scripted::start(move |query, mut reply, _| match *told.lock().unwrap() {
        Mood::Well => addresses(query, reply, 0, &["127.0.0.1"]),
        Mood::Code(code) => with_code(reply, code),
        Mood::Garbage => Says::Bytes(b"\x00\x01garbage".to_vec()),
        Mood::OfAnother => {
            reply.metadata.id = reply.id.wrapping_add(1);
            Says::Message(Box::new(reply))
        }
        Mood::Cut => {
            let bytes = reply.to_vec().unwrap();
            Says::Bytes(bytes[..bytes.len() - 3].to_vec())
        }
        Mood::Silent => Says::Nothing,
        Mood::Refers => {
            let to = RData::NS(NS(name("elsewhere.test.")));
            reply.add_authority(Record::from_rdata(name("test."), 60, to));
            Says::Message(Box::new(reply))
        }
        Mood::SixFails if query.query_type() == RecordType::AAAA => {
            with_code(reply, ResponseCode::ServFail)
        }
        Mood::SixFails | Mood::Empty => addresses(query, reply, 0, &[]),
        Mood::Nonexistent => with_code(reply, ResponseCode::NXDomain),
    })
    .await;
    (server, mood)
}

#[tokio::test]
async fn nothing_that_a_server_says_wrongly_empties_anything() {
    let wrong = [
        Mood::Code(ResponseCode::ServFail),
        Mood::Code(ResponseCode::Refused),
        Mood::Code(ResponseCode::NotImp),
        Mood::Code(ResponseCode::FormErr),
        Mood::Garbage,
        Mood::OfAnother,
        Mood::Cut,
        Mood::Silent,
        Mood::Refers,
        // An error of one family is no empty answer of the other.
        Mood::SixFails,
    ];
    on_one_thread(async {
        let mut all = tokio::task::JoinSet::new();
        for wrong in wrong {
            all.spawn_local(async move {
                let (server, mood) = moody().await;
                let registry = by_address(server.address);
                let mut watched = Watched::begin(&registry, "users");
                watched.until(&["127.0.0.1:8080"]).await;
                *mood.lock().unwrap() = wrong;
                within(async {
                    while let Ok(told) = watched.next().await {
                        assert_eq!(told.len(), 1, "{wrong:?}");
                    }
                })
                .await;
                *mood.lock().unwrap() = Mood::Well;
                watched.until(&["127.0.0.1:8080"]).await;
            });
        }
        while let Some(done) = all.join_next().await {
            done.expect("it holds");
        }
    })
    .await;
}

#[tokio::test]
async fn that_a_name_is_not_there_is_an_answer() {
    let (server, mood) = moody().await;
    on_one_thread(async {
        let registry = by_address(server.address);
        let mut watched = Watched::begin(&registry, "users");
        for empty in [Mood::Empty, Mood::Nonexistent] {
            *mood.lock().unwrap() = Mood::Well;
            watched.until(&["127.0.0.1:8080"]).await;
            *mood.lock().unwrap() = empty;
            watched.until(&[]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_name_is_asked_for_more_often_than_it_may_be() {
    let server =
        Scripted::start(|query, reply, _| addresses(query, reply, 0, &["127.0.0.1"])).await;
    on_one_thread(async {
        let slow = settings::Dns {
            min_ttl: Duration::from_millis(250),
            ..settings(server.address, "{service}.test", DnsRecords::Address(80))
        };
        let mut watched = Watched::begin(&Rc::new(Dns::new(&slow)), "users");
        let began = pilotfish::clock::now();
        for _ in 0..5 {
            watched.next().await.expect("an answer");
        }
        let took = pilotfish::clock::now() - began;
        assert!(took >= Duration::from_secs(1), "TTL 0, and asked again within {took:?}");
        assert_eq!(server.asked(), 10, "once for each family");
    })
    .await;
}

#[tokio::test]
async fn an_answer_counts_for_the_shortest_of_its_times() {
    let server = Scripted::start(|query, mut reply, _| {
        if query.query_type() == RecordType::A {
            let alias = RData::CNAME(CNAME(name("other.test.")));
            reply.add_answer(Record::from_rdata(query.name().clone(), 1, alias));
            let found = RData::from("127.0.0.1".parse::<IpAddr>().unwrap());
            reply.add_answer(Record::from_rdata(name("other.test."), 3600, found));
        } else {
            let (soa, mailbox) = (name("ns.test."), name("who.test."));
            let soa = RData::SOA(SOA::new(soa, mailbox, 1, 60, 60, 60, 3600));
            reply.add_authority(Record::from_rdata(name("test."), 3600, soa));
        }
        Says::Message(Box::new(reply))
    })
    .await;
    on_one_thread(async {
        let registry = by_address(server.address);
        let mut watched = Watched::begin(&registry, "users");
        let began = pilotfish::clock::now();
        for _ in 0..2 {
            assert_eq!(watched.next().await.expect("an answer").len(), 1);
        }
        let took = pilotfish::clock::now() - began;
        assert!(took >= Duration::from_secs(1), "it counts for a second, not {took:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_too_long_for_a_packet_is_asked_for_by_tcp() {
    const MANY: u16 = 1000;
    let server = Scripted::start(|query, mut reply, is_tcp| {
        if query.query_type() == RecordType::SRV {
            if !is_tcp {
                reply.metadata.truncation = true;
                return Says::Message(Box::new(reply));
            }
            for port in 1..=MANY {
                let srv = SRV::new(0, 1, port, name("host.test."));
                reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::SRV(srv)));
            }
            return Says::Message(Box::new(reply));
        }
        addresses(query, reply, 60, &["127.0.0.1"])
    })
    .await;
    on_one_thread(async {
        let mut watched = Watched::begin(&by_srv(server.address), "users");
        assert_eq!(watched.next().await.expect("an answer").len(), usize::from(MANY));
        assert_eq!(server.asked(), 4, "a host that many stand at is asked for once");
    })
    .await;
}
