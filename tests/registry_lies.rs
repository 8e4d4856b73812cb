//! Registries that answer wrongly: errors, garbage, halves, nothing at all, an index that goes back. What was known
//! stays in force, and is so again when they have come to their senses.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::process::{Process, Start};
use support::upstream::{Upstream, read_head};
use support::{Proxy, client, eventually, within};
use tokio::io::AsyncWriteExt;

/// What the registry does with the next question.
#[derive(Debug, Clone)]
enum Mood {
    /// Answers with this list, once for each index that is asked for; then it waits.
    Tells(String, u64),
    /// Writes this and closes.
    Says(&'static [u8]),
    /// Takes the question and never answers.
    Silent,
    /// As [`Mood::Tells`], but of this service nothing.
    SilentOf(&'static str, String, u64),
}

/// Something that looks like a Consul agent.
struct Agent {
    upstream: Upstream,
    mood: Arc<Mutex<Mood>>,
    /// How often it was asked by somebody who knew nothing yet.
    begun: Arc<AtomicUsize>,
}

impl Agent {
    async fn start(mood: Mood) -> Self {
        let mood = Arc::new(Mutex::new(mood));
        let (shared, begun) = (mood.clone(), Arc::<AtomicUsize>::default());
        let counted = begun.clone();
        let upstream = Upstream::raw(move |mut stream| {
            let (shared, counted) = (shared.clone(), counted.clone());
            async move {
                let head = String::from_utf8_lossy(&read_head(&mut stream).await).into_owned();
                let index = head
                    .split("index=")
                    .nth(1)
                    .and_then(|rest| rest.split(['&', ' ']).next()?.parse::<u64>().ok());
                if index.is_none_or(|index| index == 0) {
                    counted.fetch_add(1, Relaxed);
                }
                loop {
                    let mood = shared.lock().unwrap().clone();
                    match mood {
                        // As a blocking query: what is known already is not told again.
                        Mood::Tells(_, at) if index == Some(at) => {}
                        Mood::Tells(list, at) => {
                            let _ = stream.write_all(told(&list, at).as_bytes()).await;
                            return;
                        }
                        Mood::Says(bytes) => {
                            let _ = stream.write_all(bytes).await;
                            return;
                        }
                        Mood::Silent => {}
                        Mood::SilentOf(service, ..) if head.contains(service) => {}
                        Mood::SilentOf(_, _, at) if index == Some(at) => {}
                        Mood::SilentOf(_, list, at) => {
                            let _ = stream.write_all(told(&list, at).as_bytes()).await;
                            return;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
        .await;
        Self { upstream, mood, begun }
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

fn told(list: &str, index: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nx-consul-index: {index}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{list}",
        list.len()
    )
}

fn list(instances: &[&Upstream]) -> String {
    let entry = |it: &&Upstream| {
        serde_json::json!({
            "Node": { "Address": "127.0.0.1" },
            "Service": { "Address": "127.0.0.1", "Port": it.address.port() },
            "Checks": [{ "Status": "passing" }],
        })
    };
    serde_json::Value::from(instances.iter().map(entry).collect::<Vec<_>>()).to_string()
}

async fn answer(caller: &Proxy) -> String {
    let answer = client::get_from(caller.outbound(), "users", "/").await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.text().to_owned()
}

async fn is_state(caller: &Proxy, state: &str) {
    let series = format!("pilotfish_registry_service_state{{service=\"users\",state=\"{state}\"}}");
    eventually(|| async { (caller.metric(&series).await == 1.0).then_some(()) }).await;
}

#[tokio::test]
async fn nothing_that_an_agent_says_wrongly_empties_anything() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let agent = Agent::start(Mood::Tells(list(&[&one]), 10)).await;
    let caller = Proxy::start(&format!("registry: consul://{}", agent.upstream.address)).await;
    assert_eq!(answer(&caller).await, "one");
    let wrong: &[&[u8]] = &[
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 17\r\n\r\nNo cluster leader",
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-consul-index: 11\r\n\r\n[}]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-consul-index: 11\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-consul-index: 11\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\nx-consul-index: 11\r\n\r\n[{\"Service\":null}]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-consul-index: 11\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\nx-consul-index: 11\r\n\r\n[{\"Node\":",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-consul-index: 11\r\n\r\n2\r\n[]\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"",
    ];
    for said in wrong {
        agent.becomes(Mood::Says(said));
        is_state(&caller, "stale").await;
        assert_eq!(answer(&caller).await, "one", "{}", said.escape_ascii());
        agent.becomes(Mood::Tells(list(&[&one]), 12));
        is_state(&caller, "fresh").await;
    }
    // After all of it a change is seen as ever.
    agent.becomes(Mood::Tells(list(&[&two]), 13));
    eventually(|| async { (answer(&caller).await == "two").then_some(()) }).await;
}

#[tokio::test]
async fn an_index_that_goes_back_begins_anew() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let agent = Agent::start(Mood::Tells(list(&[&one]), 1000)).await;
    let more = "discovery: { removal: off }";
    let caller =
        Proxy::start(&format!("registry: consul://{}\n{more}", agent.upstream.address)).await;
    assert_eq!(answer(&caller).await, "one");
    // Restored from a backup: fewer changes than it once had.
    agent.becomes(Mood::Tells(list(&[&two]), 3));
    eventually(|| async { (answer(&caller).await == "two").then_some(()) }).await;
    agent.becomes(Mood::Tells(list(&[&one]), 4));
    eventually(|| async { (answer(&caller).await == "one").then_some(()) }).await;
}

#[tokio::test]
async fn an_empty_answer_is_believed_of_those_that_do_not_answer_themselves() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let agent = Agent::start(Mood::Tells(list(&[&one, &two]), 1)).await;
    let more = "services: { users: { load_balancer: round_robin } }";
    let caller =
        Proxy::start(&format!("registry: consul://{}\n{more}", agent.upstream.address)).await;
    answer(&caller).await;
    agent.becomes(Mood::Tells("[]".to_owned(), 2));
    let held = "pilotfish_registry_held_endpoints{service=\"users\"}";
    eventually(|| async { (caller.metric(held).await == 2.0).then_some(()) }).await;
    for _ in 0..10 {
        answer(&caller).await;
    }
    let clusters = client::get_from(caller.admin(), "localhost", "/clusters?format=json").await;
    assert!(clusters.text().contains("\"held\": true"), "{}", clusters.text());
    drop(one);
    eventually(|| async { (caller.metric(held).await == 1.0).then_some(()) }).await;
    assert_eq!(answer(&caller).await, "two");
    drop(two);
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.status.as_u16() == 503 && answer.text().contains("no endpoint")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_never_answers_holds_no_request_for_longer_than_it_may() {
    let agent = Agent::start(Mood::Silent).await;
    let more = "discovery: { first_answer: 2s }\nservices: { users: {} }";
    let caller =
        Proxy::start(&format!("registry: consul://{}\n{more}", agent.upstream.address)).await;
    let answer = client::get_from(caller.outbound(), "users", "/").await;
    assert_eq!(answer.status.as_u16(), 503);
    let log = &caller.log(1).await[0];
    assert_eq!(log["response_code_details"], "no_endpoint");
    // The next ones do not wait again: that would take longer than a test may.
    within(async {
        for _ in 0..20 {
            client::get_from(caller.outbound(), "users", "/").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_hangs_does_not_keep_another_one_from_telling() {
    let agent = Agent::start(Mood::Silent).await;
    let app = Upstream::named("users").await;
    let dir = tempfile::tempdir().unwrap();
    let port = app.address.port();
    let _users = Proxy::start(&format!(
        "service: {{ name: users, port: {port} }}\nregistry: directory://{}",
        dir.path().display()
    ))
    .await;
    eventually(|| async { (std::fs::read_dir(dir.path()).ok()?.count() > 0).then_some(()) }).await;
    let caller = Proxy::start(&format!(
        "registry: [ \"consul://{}\", \"directory://{}\" ]\ndiscovery: {{ first_answer: 300ms }}",
        agent.upstream.address,
        dir.path().display()
    ))
    .await;
    // The very first call has the answer that there is when the time is over.
    assert_eq!(answer(&caller).await, "users");
}

#[tokio::test]
async fn a_failure_is_told_once_and_not_for_each_service() {
    let yaml = "registry: consul://127.0.0.1:1\noutbound: { listen: '{outbound}' }\nadmin: { listen: '{admin}', metrics: '{metrics}' }\nservices: { a: {}, b: {}, c: {}, d: {}, e: {} }\n";
    let caller = Process::start(yaml, Start::default()).await;
    eventually(|| async {
        let metrics = client::get_from(caller.admin, "localhost", "/metrics").await;
        let line = metrics.text().lines().find(|line| line.contains("registry_errors_total{"))?;
        let count: f64 = line.rsplit(' ').next()?.parse().ok()?;
        (count >= 15.0).then_some(())
    })
    .await;
    let log = caller.stderr();
    assert_eq!(log.matches("registry: http").count(), 1, "{log}");
}

#[tokio::test]
async fn how_our_app_is_announced_is_no_reason_to_ask_anew() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let agent = Agent::start(Mood::Tells(list(&[&one]), 1)).await;
    let yaml = |advertise: &str| {
        format!(
            "registry: {{ consul: {{ address: \"http://{}\" }}{advertise} }}\ndiscovery: {{ removal: off }}",
            agent.upstream.address
        )
    };
    let caller = Proxy::start(&yaml(", advertise: off")).await;
    assert_eq!(answer(&caller).await, "one");
    caller.write(&yaml(""));
    caller.reload().await.expect("good");
    agent.becomes(Mood::Tells(list(&[&two]), 2));
    eventually(|| async { (answer(&caller).await == "two").then_some(()) }).await;
    assert_eq!(agent.begun.load(Relaxed), 1);
    // Another registry is asked all.
    let other = Agent::start(Mood::Tells(list(&[&one]), 1)).await;
    caller.write(&format!("registry: consul://{}", other.upstream.address));
    caller.reload().await.expect("good");
    eventually(|| async { (answer(&caller).await == "one").then_some(()) }).await;
    assert_eq!((agent.begun.load(Relaxed), other.begun.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn what_the_disk_had_outlives_a_reload_before_any_registry_spoke() {
    let one = Upstream::named("one").await;
    let agent = Agent::start(Mood::Tells(list(&[&one]), 1)).await;
    let state = tempfile::tempdir().unwrap();
    let yaml = |more: &str| {
        format!(
            "registry: {{ consul: {{ address: \"http://{}\"{more} }} }}\nservices: {{ users: {{}} }}\nruntime: {{ workers: 2, state_dir: {} }}",
            agent.upstream.address,
            state.path().display()
        )
    };
    let before = Proxy::start(&yaml("")).await;
    assert_eq!(answer(&before).await, "one");
    before.shutdown();
    before.ended().await;
    agent.becomes(Mood::Silent);
    let caller = Proxy::start(&yaml("")).await;
    caller.write(&yaml(", tag: blue"));
    caller.reload().await.expect("good");
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "one").then_some(())
    })
    .await;
    is_state(&caller, "stale").await;
    // Again, when it has been in force: it is what the disk had still.
    caller.write(&yaml(", tag: green"));
    caller.reload().await.expect("good");
    assert_eq!(answer(&caller).await, "one");
}

/// Of nobody: it is only to be read.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUe4rFB2nI3gVo94/+CbRE2+iaSgEwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMzAwNjEyMThaFw0zNjExMjcwNjEyMTha
MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATUTKrV
QIwZ9STWWrw8GGrASUKLk/L9/ao4chbXPepk1xnRbhpdvvfk76dpUxwfyjwhJ/Eu
3P3j+zCgmnmaRaJyo1MwUTAdBgNVHQ4EFgQUeNpEi79hvBYYLqPnpgCVHN3nSt8w
HwYDVR0jBBgwFoAUeNpEi79hvBYYLqPnpgCVHN3nSt8wDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiEA9LPzXrHohY4g3YkVEWLnquQwephBu7EyL5gU
QUNJ4S4CIHCA+e4NG9Bygg6BETVrNEe2UkE40jpw/92Hy5aI0KWW
-----END CERTIFICATE-----
";

#[tokio::test]
async fn certificates_that_are_mounted_late_are_read_then() {
    let app = Upstream::named("users").await;
    let agent = Upstream::raw(|_| async {}).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let address = agent.address;
    let caller = Proxy::start(&format!(
        "service: {{ name: users, port: {} }}\nregistry: {{ consul: {{ address: \"https://{address}\", ca_file: {} }} }}\nservices: {{ orders: {{}} }}",
        app.address.port(),
        ca.display()
    ))
    .await;
    let errors = |reason: &str| {
        format!(
            "pilotfish_registry_errors_total{{registry=\"consul {address}\",reason=\"{reason}\"}}"
        )
    };
    let fails = async |reason: &str| {
        eventually(|| async { (caller.metric(&errors(reason)).await > 0.0).then_some(()) }).await;
    };
    fails("refused").await;
    let metrics = client::get(caller.metrics(), "/metrics").await;
    let series = format!("pilotfish_registry_registered{{registry=\"consul {address}\"}} 0");
    assert!(metrics.text().contains(&series), "it is to be announced and is not");
    assert_eq!(agent.connections(), 0);
    std::fs::write(ca, CERTIFICATE).unwrap();
    // Now it can be asked, which this one does not bear.
    fails("unreachable").await;
    assert!(agent.connections() > 0);
}

#[tokio::test]
async fn a_token_that_is_a_pipe_holds_nobody_up() {
    let one = Upstream::named("one").await;
    let agent = Agent::start(Mood::Tells(list(&[&one]), 1)).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    rustix::fs::mkfifoat(rustix::fs::CWD, &token, rustix::fs::Mode::RUSR).unwrap();
    let caller = Proxy::start(&format!(
        "registry: {{ consul: {{ address: \"http://{}\", token_file: {} }} }}\nservices: {{ users: {{}} }}",
        agent.upstream.address,
        token.display()
    ))
    .await;
    let refused = format!(
        "pilotfish_registry_errors_total{{registry=\"consul {}\",reason=\"refused\"}}",
        agent.upstream.address
    );
    eventually(|| async { (caller.metric(&refused).await > 0.0).then_some(()) }).await;
    std::fs::remove_file(&token).unwrap();
    std::fs::write(&token, "hush\n").unwrap();
    eventually(|| async {
        let answer = client::get_from(caller.outbound(), "users", "/").await;
        (answer.text() == "one").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_registry_that_hangs_for_one_service_takes_nothing_from_it() {
    let one = Upstream::named("one").await;
    let before = Agent::start(Mood::Tells(list(&[&one]), 1)).await;
    let new = Agent::start(Mood::SilentOf("users", list(&[&one]), 1)).await;
    let yaml = |agent: &Agent| {
        format!(
            "registry: consul://{}\ndiscovery: {{ first_answer: 300ms, debounce: 1ms }}\nservices: {{ users: {{}}, orders: {{}} }}",
            agent.upstream.address
        )
    };
    let caller = Proxy::start(&yaml(&before)).await;
    assert_eq!(answer(&caller).await, "one");
    caller.write(&yaml(&new));
    caller.reload().await.expect("good");
    // What is told of the other is put in force all the while.
    let two = Upstream::named("two").await;
    let began = pilotfish::clock::now();
    let mut index = 1;
    while pilotfish::clock::now() - began < Duration::from_millis(1500) {
        index += 1;
        let now = if index % 2 == 0 { list(&[&one, &two]) } else { list(&[&one]) };
        new.becomes(Mood::SilentOf("users", now, index));
        assert_eq!(answer(&caller).await, "one");
    }
    let stale = "pilotfish_registry_service_state{service=\"users\",state=\"stale\"}";
    eventually(|| async { (caller.metric(stale).await == 1.0).then_some(()) }).await;
}

/// Whether a name that nobody could look up is a service is not known: it is not told to be none.
#[tokio::test]
async fn a_name_that_no_registry_could_look_up_is_told_apart_from_one_that_nobody_has() {
    let agent = Agent::start(Mood::Says(b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nsick")).await;
    let proxy = Proxy::start(&format!(
        "registry: {{ consul: {{ address: \"http://{}\" }}, advertise: off }}\ninbound: off\n\
         outbound: {{ listen: \"127.0.0.1:0\", unknown: reject }}\ndiscovery: {{ first_answer: 100ms }}\n",
        agent.upstream.address
    ))
    .await;
    let answer = client::get_from(proxy.outbound(), "user-service", "/").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, "registry_unavailable"));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("user-service") && text.contains("500"), "{text}");

    *agent.mood.lock().unwrap() = Mood::Tells("[]".to_owned(), 7);
    eventually(async || {
        let answer = client::get_from(proxy.outbound(), "user-service", "/").await;
        (answer.reason() == "unknown_host").then_some(())
    })
    .await;
}

/// Others may go on calling us then, and somebody may look for the reason.
#[tokio::test]
async fn an_end_tells_of_an_announcement_that_could_not_be_taken_back() {
    let app = Upstream::named("app").await;
    let agent = Agent::start(Mood::Tells("[]".to_owned(), 1)).await;
    let yaml = format!(
        "service: {{ name: app, port: {} }}\nregistry: consul://{}\ninbound: {{ listen: '{{inbound}}' }}\n\
         outbound: {{ listen: '{{outbound}}' }}\nadmin: {{ listen: '{{admin}}', metrics: '{{metrics}}' }}\n\
         drain: {{ linger: 0s }}\n",
        app.address.port(),
        agent.upstream.address
    );
    let mut proxy = Process::start(&yaml, Start::default()).await;
    eventually(async || proxy.stderr().contains("registered").then_some(())).await;
    *agent.mood.lock().unwrap() = Mood::Silent;
    proxy.signal(rustix::process::Signal::TERM);
    assert!(proxy.exit().await.success());
    let log = proxy.stderr();
    assert!(log.contains("the announcement may stand until it expires"), "{log}");
}
