//! Bulkheads, the limit that is found out, and what is refused while the proxy has too little.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use support::client::{self, Answer, Raw};
use support::upstream::{Upstream, body, read_head};
use support::{Proxy, eventually};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// An upstream that answers a request when it is told to, with its path.
struct Gated {
    upstream: Upstream,
    permits: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gated {
    async fn start() -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let (inside, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let shared = (permits.clone(), inside.clone(), most.clone());
        let upstream = Upstream::http(move |seen| {
            let (permits, inside, most) = shared.clone();
            async move {
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                permits.acquire().await.expect("open").forget();
                inside.fetch_sub(1, SeqCst);
                Response::new(body(seen.uri.path().to_owned()))
            }
        })
        .await;
        Self { upstream, permits, inside, most }
    }

    fn answer(&self, count: usize) {
        self.permits.add_permits(count);
    }

    async fn has(&self, count: usize) {
        eventually(|| async { (self.inside.load(SeqCst) == count).then_some(()) }).await;
    }

    fn paths(&self) -> Vec<String> {
        self.upstream.seen().iter().map(|seen| seen.uri.path().to_owned()).collect()
    }
}

fn yaml(endpoints: &[&Upstream], policy: &str) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    let endpoints = endpoints.join(", ");
    format!("services: {{ s: {{ endpoints: [{endpoints}], policy: {{ {policy} }} }} }}\n")
}

async fn before(upstream: &Upstream, policy: &str) -> Proxy {
    Proxy::start(&yaml(&[upstream], policy)).await
}

fn ask(proxy: &Proxy, path: &'static str) -> JoinHandle<Answer> {
    let address = proxy.outbound();
    tokio::spawn(async move { client::get_from(address, "s", path).await })
}

fn gauge(name: &str, kind: &str) -> String {
    format!("pilotfish_bulkhead_{name}{{direction=\"outbound\",service=\"s\",kind=\"{kind}\"}}")
}

async fn metric_is(proxy: &Proxy, series: &str, value: f64) {
    eventually(|| async { (proxy.metric(series).await == value).then_some(()) }).await;
}

async fn queued(proxy: &Proxy, count: usize) {
    metric_is(proxy, &gauge("queued", "requests"), count as f64).await;
}

#[tokio::test]
async fn requests_over_the_limit_wait_in_the_order_in_which_they_came() {
    let app = Gated::start().await;
    let proxy = before(&app.upstream, "bulkhead: { max_requests: 1, queue_timeout: 20s }").await;
    let mut asked = vec![ask(&proxy, "/0")];
    app.has(1).await;
    for (place, path) in ["/1", "/2", "/3"].into_iter().enumerate() {
        asked.push(ask(&proxy, path));
        queued(&proxy, place + 1).await;
    }
    assert_eq!(proxy.metric(&gauge("in_use", "requests")).await, 1.0);
    assert_eq!(proxy.metric(&gauge("limit", "requests")).await, 1.0);
    app.answer(4);
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(app.paths(), ["/0", "/1", "/2", "/3"]);
    assert_eq!(app.most.load(SeqCst), 1);
    metric_is(&proxy, &gauge("in_use", "requests"), 0.0).await;
}

#[tokio::test]
async fn beyond_the_queue_and_its_time_it_is_503_with_a_reason() {
    for (policy, reason) in [
        ("max_pending: 0", "overflow_requests"),
        ("max_pending: 1, queue_timeout: 20s", "overflow_pending"),
        ("queue_timeout: 30ms", "queue_timeout"),
    ] {
        let app = Gated::start().await;
        let policy = format!("bulkhead: {{ max_requests: 1, {policy} }}");
        let proxy = before(&app.upstream, &policy).await;
        let first = ask(&proxy, "/first");
        app.has(1).await;
        let waiting = (reason == "overflow_pending").then(|| ask(&proxy, "/waiting"));
        if waiting.is_some() {
            queued(&proxy, 1).await;
        }
        let refused = client::get_from(proxy.outbound(), "s", "/refused").await;
        assert_eq!((refused.status.as_u16(), refused.reason()), (503, reason));
        let overflow =
            format!("pilotfish_bulkhead_overflow_total{{service=\"s\",reason=\"{reason}\"}}");
        assert_eq!(proxy.metric(&overflow).await, 1.0);
        app.answer(2);
        assert_eq!(first.await.unwrap().status, 200);
        if let Some(waiting) = waiting {
            assert_eq!(waiting.await.unwrap().status, 200);
        }
        let log = proxy.log(2).await;
        let line = log.iter().find(|line| line["path"] == "/refused").expect("its line");
        assert_eq!(line["response_flags"], "UO");
        assert_eq!(line["response_code_details"], reason);
        assert!(!app.paths().contains(&"/refused".to_owned()));
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_its_own_timeout() {
    let app = Gated::start().await;
    let proxy = Proxy::start(&format!(
        "services:
  s:
    endpoints: [\"{}\"]
    policy: {{ timeout: 50ms, bulkhead: {{ max_requests: 1, queue_timeout: 1h }} }}
    routes: [ {{ match: {{ path: /first }}, policy: {{ timeout: off }} }} ]
",
        app.upstream.address
    ))
    .await;
    let first = ask(&proxy, "/first");
    app.has(1).await;
    let late = client::get_from(proxy.outbound(), "s", "/late").await;
    assert_eq!((late.status.as_u16(), late.reason()), (503, "queue_timeout"));
    app.answer(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn who_goes_away_gives_its_place_to_the_next() {
    let app = Gated::start().await;
    let proxy = before(&app.upstream, "bulkhead: { max_requests: 1, queue_timeout: 20s }").await;
    let head = "GET /gone HTTP/1.1\r\nhost: s\r\n\r\n";
    let mut holder = Raw::connect(proxy.outbound()).await;
    holder.send(head).await;
    app.has(1).await;
    let mut waiting = Raw::connect(proxy.outbound()).await;
    waiting.send(head).await;
    queued(&proxy, 1).await;
    let last = ask(&proxy, "/last");
    queued(&proxy, 2).await;
    // One that waits leaves the queue.
    drop(waiting);
    queued(&proxy, 1).await;
    // One that has a slot gives it back, though the upstream never answers it.
    drop(holder);
    queued(&proxy, 0).await;
    app.answer(2);
    assert_eq!(last.await.unwrap().text(), "/last");
    metric_is(&proxy, &gauge("in_use", "requests"), 0.0).await;
}

#[tokio::test]
async fn a_reload_keeps_what_is_in_use_and_lets_in_who_may() {
    let app = Gated::start().await;
    let policy = |max| format!("bulkhead: {{ max_requests: {max}, queue_timeout: 20s }}");
    let proxy = before(&app.upstream, &policy(1)).await;
    let first = ask(&proxy, "/first");
    app.has(1).await;
    let second = ask(&proxy, "/second");
    queued(&proxy, 1).await;
    proxy.write(&yaml(&[&app.upstream], &policy(2)));
    proxy.reload().await.expect("a reload");
    app.has(2).await;
    assert_eq!(proxy.metric(&gauge("in_use", "requests")).await, 2.0);
    // One that is refused changes nothing.
    proxy.write("services: 7");
    proxy.reload().await.expect_err("it is wrong");
    assert_eq!(proxy.metric(&gauge("limit", "requests")).await, 2.0);
    proxy.write(&yaml(&[&app.upstream], "bulkhead: off"));
    proxy.reload().await.expect("a reload");
    let third = ask(&proxy, "/third");
    app.has(3).await;
    app.answer(3);
    for asked in [first, second, third] {
        assert_eq!(asked.await.unwrap().status, 200);
    }
    assert_eq!(proxy.metric(&gauge("limit", "requests")).await, 0.0, "there is none");
}

#[tokio::test]
async fn an_endpoint_that_is_full_is_passed_over_and_waited_for_where_all_are() {
    let (a, b) = (Gated::start().await, Gated::start().await);
    let policy = "bulkhead: { queue_timeout: 20s, endpoint: { max_requests: 1, max_pending: 1 } }";
    let proxy = Proxy::start(&yaml(&[&a.upstream, &b.upstream], policy)).await;
    let mut asked = vec![ask(&proxy, "/1")];
    eventually(|| async { (a.inside.load(SeqCst) + b.inside.load(SeqCst) == 1).then_some(()) })
        .await;
    asked.push(ask(&proxy, "/2"));
    a.has(1).await;
    b.has(1).await;
    // One may wait for each.
    let more: Vec<_> = (0..8).map(|_| ask(&proxy, "/more")).collect();
    eventually(|| async {
        (more.iter().filter(|one| one.is_finished()).count() >= 6).then_some(())
    })
    .await;
    a.answer(8);
    b.answer(8);
    let mut refused = 0;
    for answer in more {
        let answer = answer.await.unwrap();
        if answer.status == 503 {
            assert_eq!(answer.reason(), "overflow_endpoint");
            refused += 1;
        }
    }
    assert!(refused >= 6, "{refused}");
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!((a.most.load(SeqCst), b.most.load(SeqCst)), (1, 1));
}

/// An upstream that counts the connections that are open at the same time.
async fn counting() -> (Upstream, Arc<AtomicUsize>) {
    let (open, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let shared = (open, most.clone());
    let upstream = Upstream::raw(move |mut stream| {
        let (open, most) = shared.clone();
        async move {
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            while !read_head(&mut stream).await.is_empty() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
            open.fetch_sub(1, SeqCst);
        }
    })
    .await;
    (upstream, most)
}

#[tokio::test]
async fn an_idle_connection_of_one_worker_makes_room_for_another_worker() {
    let (app, most) = counting().await;
    let policy = "bulkhead: { max_connections: 1, queue_timeout: 20s }";
    let proxy = before(&app, policy).await;
    // Clients that stay, so that both workers have some.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(client::http1::<Empty<Bytes>>(proxy.outbound()).await);
    }
    for round in 0..6 {
        for sender in &mut clients {
            let request = Request::get("/").header("host", "s").body(Empty::new()).unwrap();
            let answer = client::read(sender.send_request(request).await.unwrap()).await.unwrap();
            assert_eq!(answer.status, 200, "round {round}");
        }
    }
    // What the other side sees of a close comes later than the next connection may.
    assert!(most.load(SeqCst) <= 2, "{}", most.load(SeqCst));
    assert!(proxy.metric(&gauge("in_use", "connections")).await <= 1.0);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused_or_waits() {
    let app = Gated::start().await;
    for (policy, status) in [("max_pending: 0", 503), ("queue_timeout: 20s", 200)] {
        let policy = format!("bulkhead: {{ max_connections: 1, {policy} }}");
        let proxy = before(&app.upstream, &policy).await;
        let first = ask(&proxy, "/first");
        app.has(1).await;
        let second = ask(&proxy, "/second");
        if status == 200 {
            metric_is(&proxy, &gauge("queued", "connections"), 1.0).await;
            app.answer(2);
        }
        let second = second.await.unwrap();
        assert_eq!(second.status.as_u16(), status, "{policy}");
        if status == 503 {
            assert_eq!(second.reason(), "overflow_connections");
            app.answer(1);
        }
        assert_eq!(first.await.unwrap().status, 200);
    }
    assert_eq!(app.most.load(SeqCst), 1);
}

#[tokio::test]
async fn the_app_has_a_bulkhead_where_one_is_typed() {
    let app = Gated::start().await;
    let with = |policy: &str| {
        format!(
            "service: {{ name: s, port: {} }}\ninbound:\n  policy: {{ {policy} }}\n",
            app.upstream.address.port()
        )
    };
    let proxy = Proxy::start(&with("bulkhead: { max_requests: 1, max_pending: 0 }")).await;
    let address = proxy.inbound();
    let first = tokio::spawn(async move { client::get(address, "/").await });
    app.has(1).await;
    let refused = client::get(address, "/").await;
    assert_eq!((refused.status.as_u16(), refused.reason()), (503, "overflow_requests"));
    app.answer(1);
    assert_eq!(first.await.unwrap().status, 200);
    let limit = "pilotfish_bulkhead_limit{direction=\"inbound\",service=\"s\",kind=\"requests\"}";
    assert_eq!(proxy.metric(limit).await, 1.0);
}

#[tokio::test]
async fn a_limit_is_found_out_by_latency() {
    let app = Upstream::named("app").await;
    let policy = "adaptive_concurrency: { min_limit: 2, max_limit: 40, update_interval: 1ms, min_rtt: { samples: 5 } }";
    let proxy = before(&app, policy).await;
    let series = |name| {
        format!("pilotfish_adaptive_concurrency_{name}{{direction=\"outbound\",service=\"s\"}}")
    };
    assert_eq!(proxy.metric(&series("limit")).await, 2.0);
    assert_eq!(proxy.metric(&series("min_rtt_seconds")).await, 0.0);
    let found = eventually(|| async {
        assert_eq!(client::get_from(proxy.outbound(), "s", "/").await.status, 200);
        let limit = proxy.metric(&series("limit")).await;
        (limit > 2.0).then_some(limit)
    })
    .await;
    assert!((3.0..=40.0).contains(&found), "{found}");
    assert!(proxy.metric(&series("min_rtt_seconds")).await > 0.0);
    proxy.write(&yaml(&[&app], &format!("{policy}, timeout: 9s")));
    proxy.reload().await.expect("a reload");
    assert!(proxy.metric(&series("min_rtt_seconds")).await > 0.0, "it is kept");
    proxy.write(&yaml(&[&app], "timeout: 9s"));
    proxy.reload().await.expect("a reload");
    assert_eq!(proxy.metric(&gauge("limit", "requests")).await, 1024.0);
}

fn shedding(app: &Upstream, overload: &str) -> String {
    format!(
        "service: {{ name: s, port: {} }}
inbound:
  policy: {{ priority: {{ header: x-priority }} }}
  routes:
    - {{ match: {{ path: /health }}, policy: {{ priority: critical }} }}
    - {{ match: {{ path: /batch }}, policy: {{ priority: sheddable }} }}
overload: {overload}
",
        app.address.port()
    )
}

#[tokio::test]
async fn without_memory_only_what_is_critical_passes() {
    let app = Upstream::named("app").await;
    let proxy = Proxy::start(&shedding(&app, "{ memory: { limit: 64KiB } }")).await;
    let shed = eventually(|| async {
        let answer = client::get(proxy.inbound(), "/").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(shed.reason(), "overload_shed");
    assert_eq!(shed.header("retry-after"), "1");
    assert_eq!(client::get(proxy.inbound(), "/health").await.status, 200);
    let asked = |priority: &str, path: &str| {
        let request = Request::get(path).header("host", "s").header("x-priority", priority);
        client::send(proxy.inbound(), request.body(Empty::<Bytes>::new()).unwrap())
    };
    assert_eq!(asked("critical", "/").await.status, 200);
    assert_eq!(asked("default", "/").await.status, 503);
    let grpc_health = asked("sheddable", "/grpc.health.v1.Health/Check").await;
    assert_eq!(grpc_health.status, 200);
    // What is asked of the proxy itself has nothing to do with it.
    assert_eq!(client::get(proxy.metrics(), "/ready").await.status, 200);
    assert_eq!(client::get_from(proxy.admin(), "localhost", "/live").await.status, 200);
    let counted = "pilotfish_shed_total{priority=\"default\",signal=\"memory\"}";
    assert!(proxy.metric(counted).await >= 2.0);
    let log = proxy.log(2).await;
    let line = log.iter().find(|line| line["response_code"] == 503).expect("its line");
    assert_eq!(line["response_flags"], "UO");
    assert_eq!(line["response_code_details"], "overload_shed");

    proxy.write(&shedding(&app, "off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(client::get(proxy.inbound(), "/").await.status, 200);
}

#[tokio::test]
async fn what_matters_less_is_refused_first() {
    let app = Upstream::named("app").await;
    // Every process has some; none has all.
    let overload = "{ event_loop_lag: off, memory: off, descriptors: { sheddable: 0% } }";
    let proxy = Proxy::start(&shedding(&app, overload)).await;
    eventually(|| async {
        (client::get(proxy.inbound(), "/batch").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(client::get(proxy.inbound(), "/").await.status, 200);
    let counted = "pilotfish_shed_total{priority=\"sheddable\",signal=\"descriptors\"}";
    assert!(proxy.metric(counted).await >= 1.0);
}

#[tokio::test]
async fn a_worker_that_is_late_sheds() {
    let app = Upstream::named("app").await;
    // No timer is that exact.
    let overload = "{ event_loop_lag: { sheddable: 1us, default: 1h } }";
    let proxy = Proxy::start(&shedding(&app, overload)).await;
    assert_eq!(client::get(proxy.inbound(), "/batch").await.status, 200, "nothing is measured yet");
    eventually(|| async {
        (client::get(proxy.inbound(), "/batch").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(client::get(proxy.inbound(), "/").await.status, 200);
}
