//! Rate limits that a real Redis shares: what it counts for all, and what happens while it is away. Each
//! needs `redis-server`.

mod support;

use std::time::Duration;

use support::client;
use support::redis::Redis;
use support::upstream::Upstream;
use support::{Proxy, eventually};

/// Away or not: no request may wait so long, or the test runs out of its time.
const LONG: &str = "30s";

struct Pair {
    app: Upstream,
    proxies: [Proxy; 2],
}

impl Pair {
    /// Two instances of one service that share a limit of ten requests an hour.
    async fn start(redis: &str) -> Self {
        let app = Upstream::named("ok").await;
        let yaml = yaml(&app, redis);
        let proxies = [Proxy::start(&yaml).await, Proxy::start(&yaml).await];
        Self { app, proxies }
    }

    async fn until_up(&self, up: bool) {
        for proxy in &self.proxies {
            until_up(proxy, up).await;
        }
    }

    /// How many of `count` requests pass, sent to both in turn.
    async fn passed(&self, count: usize) -> usize {
        let mut passed = 0;
        for at in 0..count {
            passed += usize::from(passes(&self.proxies[at % 2]).await);
        }
        passed
    }
}

fn yaml(app: &Upstream, redis: &str) -> String {
    format!(
        "service: {{ name: app, address: \"{}\" }}
redis: {redis}
inbound:
  policy: {{ rate_limit: {{ requests: 10, per: 1h, key: client_ip, scope: redis }} }}
",
        app.address
    )
}

async fn passes(proxy: &Proxy) -> bool {
    let answer = client::get(proxy.inbound(), "/").await;
    assert!(answer.status == 200 || answer.reason() == "rate_limited", "{answer:?}");
    answer.status == 200
}

async fn until_up(proxy: &Proxy, up: bool) {
    eventually(|| async {
        let metrics = client::get(proxy.metrics(), "/metrics").await;
        let mut lines = metrics.text().lines();
        let line = lines.find(|line| line.starts_with("pilotfish_rate_limit_redis_up{"))?;
        line.ends_with(if up { " 1" } else { " 0" }).then_some(())
    })
    .await;
}

async fn fallbacks(proxy: &Proxy) -> f64 {
    proxy.metric("pilotfish_rate_limit_fallback_total{limit=\"inbound\"}").await
}

/// Of which nobody who waits for an answer would be in time.
fn patient(redis: &Redis) -> String {
    format!("{{ address: \"redis://{}\", timeout: {LONG} }}", redis.address)
}

#[tokio::test]
async fn two_instances_share_a_limit() {
    let Some(redis) = Redis::start(&[]).await else { return };
    let pair = Pair::start(&patient(&redis)).await;
    pair.until_up(true).await;
    assert_eq!(pair.passed(30).await, 10);
    assert_eq!(pair.app.seen().len(), 10);
    let keys = redis.ask("KEYS *").await.expect("an answer");
    assert!(keys.contains("pilotfish:app:inbound:10/3600s:127.0.0.1"), "{keys}");
    // Of which one is left when its hour is over.
    let ttl = redis.ask("TTL pilotfish:app:inbound:10/3600s:127.0.0.1").await.expect("an answer");
    let ttl: u64 = ttl.trim().trim_start_matches(':').parse().expect("a number");
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    let refused = client::get(pair.proxies[0].inbound(), "/").await;
    let after: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((330..=360).contains(&after), "{after}");
    assert_eq!(refused.header("ratelimit-remaining"), "0");
    assert_eq!(fallbacks(&pair.proxies[0]).await + fallbacks(&pair.proxies[1]).await, 0.0);
}

#[tokio::test]
async fn while_it_is_gone_each_decides_alone_and_then_together_again() {
    let Some(mut redis) = Redis::start(&[]).await else { return };
    let pair = Pair::start(&patient(&redis)).await;
    pair.until_up(true).await;
    assert_eq!(pair.passed(30).await, 10);

    redis.kill();
    // The first ones may find a connection whose end nobody has noticed yet: they are decided on as well.
    assert_eq!(pair.passed(40).await, 20);
    pair.until_up(false).await;
    for proxy in &pair.proxies {
        assert_eq!(fallbacks(proxy).await, 20.0);
    }

    redis.start_again().await;
    pair.until_up(true).await;
    // It has forgotten all.
    assert_eq!(pair.passed(30).await, 10);
}

#[tokio::test]
async fn one_that_hangs_delays_no_more_than_the_first() {
    let Some(redis) = Redis::start(&[]).await else { return };
    let settings = format!("{{ address: \"redis://{}\", timeout: 500ms }}", redis.address);
    let pair = Pair::start(&settings).await;
    pair.until_up(true).await;
    assert!(pair.passed(2).await > 0);

    redis.hang();
    // Two workers of each may wait once, and not each of a hundred.
    let passed = tokio::time::timeout(Duration::from_secs(15), pair.passed(100)).await;
    assert_eq!(passed.expect("nearly nobody waits"), 20);
    pair.until_up(false).await;

    redis.go_on();
    pair.until_up(true).await;
    // Who was decided on alone has not been counted there, but for questions that waited in its socket.
    let passed = pair.passed(30).await;
    assert!((4..=8).contains(&passed), "{passed}");
}

#[tokio::test]
async fn one_that_takes_connections_and_says_nothing_is_never_waited_for() {
    let silent = Upstream::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let settings = format!("{{ address: \"redis://{}\", timeout: {LONG} }}", silent.address);
    let pair = Pair::start(&settings).await;
    eventually(|| async { (silent.connections() >= 4).then_some(()) }).await;
    assert_eq!(pair.passed(40).await, 20);
    pair.until_up(false).await;
}

#[tokio::test]
async fn what_is_no_redis_is_no_help_and_no_harm() {
    let http = Upstream::canned(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let settings = format!("{{ address: \"redis://{}\", timeout: {LONG} }}", http.address);
    let pair = Pair::start(&settings).await;
    assert_eq!(pair.passed(40).await, 20);
    pair.until_up(false).await;
}

#[tokio::test]
async fn it_may_forget_the_script() {
    let Some(redis) = Redis::start(&[]).await else { return };
    let pair = Pair::start(&patient(&redis)).await;
    pair.until_up(true).await;
    assert_eq!(pair.passed(4).await, 4);
    assert_eq!(redis.ask("SCRIPT FLUSH").await.as_deref(), Some("+OK\r\n"));
    assert_eq!(pair.passed(30).await, 6);
    assert_eq!(fallbacks(&pair.proxies[0]).await + fallbacks(&pair.proxies[1]).await, 0.0);
}

#[tokio::test]
async fn it_may_ask_for_a_password() {
    let Some(redis) = Redis::start(&["--requirepass", "hunter2"]).await else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong\n").expect("a file");
    let settings = format!(
        "{{ address: \"redis://{}\", timeout: {LONG}, password_file: {}, database: 3 }}",
        redis.address,
        file.display()
    );
    let pair = Pair::start(&settings).await;
    pair.until_up(false).await;
    assert_eq!(pair.passed(30).await, 20);
    // Read again for the next connection.
    std::fs::write(&file, "hunter2\n").expect("a file");
    pair.until_up(true).await;
    assert_eq!(pair.passed(30).await, 10);
    let shown = client::get(pair.proxies[0].admin(), "/config_dump").await;
    assert!(!shown.text().contains("hunter2"));
}

#[tokio::test]
async fn by_a_unix_socket() {
    let options = &["--unixsocket", "redis.sock"];
    let Some(redis) = Redis::start(options).await else { return };
    let socket = redis.socket();
    let pair =
        Pair::start(&format!("{{ address: \"unix:{}\", timeout: {LONG} }}", socket.display()))
            .await;
    pair.until_up(true).await;
    assert_eq!(pair.passed(30).await, 10);
}

#[tokio::test]
async fn one_that_refuses_to_write_is_away() {
    let Some(redis) = Redis::start(&[]).await else { return };
    let pair = Pair::start(&patient(&redis)).await;
    pair.until_up(true).await;
    // A replica of nothing takes no writes.
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1").await.as_deref(), Some("+OK\r\n"));
    assert_eq!(pair.passed(40).await, 20);
    pair.until_up(false).await;
    assert_eq!(redis.ask("REPLICAOF NO ONE").await.as_deref(), Some("+OK\r\n"));
    pair.until_up(true).await;
}

#[tokio::test]
async fn a_reload_can_name_another_and_none() {
    let Some(redis) = Redis::start(&[]).await else { return };
    let Some(other) = Redis::start(&[]).await else { return };
    let app = Upstream::named("ok").await;
    let proxy = Proxy::start(&yaml(&app, &patient(&redis))).await;
    until_up(&proxy, true).await;
    for _ in 0..10 {
        assert!(passes(&proxy).await);
    }
    assert!(!passes(&proxy).await);
    // The same one, in other words.
    proxy.write(&yaml(&app, &patient(&redis).replace(LONG, "30000ms")));
    proxy.reload().await.expect("it is right");
    assert!(!passes(&proxy).await);
    assert_eq!(fallbacks(&proxy).await, 0.0);

    proxy.write(&yaml(&app, &patient(&other)));
    proxy.reload().await.expect("it is right");
    eventually(|| async {
        let up = format!("pilotfish_rate_limit_redis_up{{redis=\"{}\"}}", other.address);
        (proxy.metric(&up).await == 1.0).then_some(())
    })
    .await;
    assert!(passes(&proxy).await);
    assert!(other.ask("KEYS *").await.expect("an answer").contains("app:inbound"));

    proxy.write(&yaml(&app, &patient(&other)).replace(", scope: redis", ""));
    proxy.reload().await.expect("it is right");
    eventually(|| async {
        let clients = other.ask("CLIENT LIST").await?;
        (clients.lines().filter(|line| line.starts_with("id=")).count() <= 1).then_some(())
    })
    .await;
}
