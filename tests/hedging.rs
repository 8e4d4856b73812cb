//! Requests that are sent to a second endpoint because the first one is slow.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Frame;
use pilotfish::clock;
use support::client::{self, Answer};
use support::upstream::{Body, Seen, Upstream, body, frames, read_head};
use support::{Proxy, eventually, within};
use tokio::io::AsyncReadExt;

/// What a hung endpoint is waited for where nothing else ends it.
const LONG: Duration = Duration::from_secs(10);

/// Takes requests and never answers. Tells of each connection when it is closed.
struct Hung {
    upstream: Upstream,
    requests: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Hung {
    async fn start() -> Self {
        let (requests, closed) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (counted, gone) = (requests.clone(), closed.clone());
        let upstream = Upstream::raw(move |mut stream| {
            let (counted, gone) = (counted.clone(), gone.clone());
            async move {
                if !read_head(&mut stream).await.is_empty() {
                    counted.fetch_add(1, SeqCst);
                }
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                gone.fetch_add(1, SeqCst);
            }
        })
        .await;
        Self { upstream, requests, closed }
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// Answers `answer` once it was asked, and `after` has passed.
async fn slow(
    after: Duration,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> Upstream {
    Upstream::http(move |_| {
        let answer = answer.clone();
        async move {
            tokio::time::sleep(after).await;
            answer()
        }
    })
    .await
}

fn status(status: u16, text: &'static str) -> impl Fn() -> Response<Body> + Clone + Send + Sync {
    move || Response::builder().status(status).body(body(text)).expect("a response")
}

fn yaml(endpoints: &[&Upstream], policy: &str) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "services:
  s:
    endpoints: [{endpoints}]
    load_balancer: round_robin
    policy: {{ {policy} }}
runtime: {{ workers: 1 }}
"
    )
}

async fn before(endpoints: &[&Upstream], policy: &str) -> Proxy {
    Proxy::start(&yaml(endpoints, policy)).await
}

async fn send(proxy: &Proxy, method: &str, fields: &[(&'static str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri("/").header("host", "s");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::send(proxy.outbound(), request.body(body("")).expect("a request")).await
}

async fn hedges(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("pilotfish_hedges_total{{service=\"s\",result=\"{result}\"}}")).await
}

async fn skipped(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("pilotfish_hedge_skipped_total{{reason=\"{reason}\"}}")).await
}

/// What is in flight to the endpoints of the service.
async fn in_flight(proxy: &Proxy) -> Vec<u64> {
    let answer = client::send(
        proxy.admin(),
        Request::get("/clusters?format=json").header("host", "localhost").body(body("")).unwrap(),
    )
    .await;
    let clusters: serde_json::Value = serde_json::from_str(answer.text()).expect("JSON");
    let mut all = Vec::new();
    collect(&clusters, &mut all);
    all
}

fn collect(value: &serde_json::Value, into: &mut Vec<u64>) {
    match value {
        serde_json::Value::Object(map) => {
            into.extend(map.get("in_flight").and_then(serde_json::Value::as_u64));
            map.values().for_each(|value| collect(value, into));
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}

async fn none_in_flight(proxy: &Proxy) {
    eventually(|| async {
        let all = in_flight(proxy).await;
        (!all.is_empty() && all.iter().all(|count| *count == 0)).then_some(())
    })
    .await;
}

fn attempts(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.header("x-pilotfish-attempt")).collect()
}

#[tokio::test]
async fn one_that_hangs_among_three_keeps_nobody_waiting() {
    let hung = Hung::start().await;
    let (a, b) = (Upstream::named("good").await, Upstream::named("good").await);
    let proxy = before(&[&hung.upstream, &a, &b], "hedge: { after: 30ms }").await;
    let mut took = Vec::new();
    for _ in 0..30 {
        let began = clock::now();
        let answer = send(&proxy, "GET", &[]).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "good"));
        took.push(clock::now() - began);
    }
    took.sort_unstable();
    assert!(took[29] < LONG, "the slowest took {:?}", took[29]);
    let begun = hung.requests();
    assert!(begun >= 10, "a third or more begin there");
    let (sent, won) = (hedges(&proxy, "sent").await, hedges(&proxy, "won").await);
    assert_eq!((sent, won), (begun as f64, begun as f64));
    // Each loser was cancelled: over HTTP/1 by closing its connection.
    eventually(|| async { (hung.closed.load(SeqCst) == begun).then_some(()) }).await;
    none_in_flight(&proxy).await;

    let second: Vec<_> = [a.seen(), b.seen()].concat();
    assert_eq!(attempts(&second).iter().filter(|attempt| **attempt == "2").count(), begun);
    let lines = proxy.log(30).await;
    let won = lines.iter().filter(|line| line["hedge"] == "won");
    let good = [a.address.to_string(), b.address.to_string()];
    for line in won.clone() {
        assert_eq!(line["attempts"], 2);
        assert!(good.contains(&line["upstream_host"].as_str().unwrap().to_owned()));
    }
    assert_eq!(won.count(), begun);
}

#[tokio::test]
async fn one_that_hangs_looks_slow_and_is_asked_no_more() {
    let hung = Hung::start().await;
    let (a, b) = (Upstream::named("good").await, Upstream::named("good").await);
    let yaml = yaml(&[&hung.upstream, &a, &b], "hedge: { after: 30ms }");
    let proxy = Proxy::start(&yaml.replace("round_robin", "peak_ewma")).await;
    for _ in 0..60 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "good");
    }
    assert!((1..=3).contains(&hung.requests()), "{} of 60", hung.requests());
}

#[tokio::test]
async fn without_hedging_it_waits() {
    let hung = Hung::start().await;
    let good = Upstream::named("good").await;
    let proxy = before(&[&hung.upstream, &good], "timeout: 200ms").await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(send(&proxy, "GET", &[]).await.status.as_u16());
    }
    assert_eq!(answers.iter().filter(|status| **status == 504).count(), 2, "{answers:?}");
}

#[tokio::test]
async fn the_loser_of_http2_has_its_stream_reset_and_its_connection_kept() {
    let resets = Arc::new(AtomicUsize::new(0));
    let counted = resets.clone();
    let hung = Upstream::raw(move |stream| {
        let counted = counted.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let counted = counted.clone();
                tokio::spawn(async move {
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    if reason.expect("a reset") == h2::Reason::CANCEL {
                        counted.fetch_add(1, SeqCst);
                    }
                });
            }
        }
    })
    .await;
    let good = Upstream::named("good").await;
    let yaml = yaml(&[&hung, &good], "hedge: { after: 30ms }")
        .replace("    load_balancer", "    protocol: http2\n    load_balancer");
    let proxy = Proxy::start(&yaml).await;
    for _ in 0..6 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "good");
    }
    let sent = hedges(&proxy, "sent").await;
    assert!(sent >= 3.0);
    eventually(|| async { (resets.load(SeqCst) as f64 == sent).then_some(()) }).await;
    assert_eq!(hung.connections(), 1);
    none_in_flight(&proxy).await;
}

#[tokio::test]
async fn a_post_is_never_hedged_unless_that_was_said() {
    for (hedge, fields, requests) in [
        ("after: 20ms", &[][..], 1),
        ("after: 20ms", &[("idempotency-key", "a-1")], 2),
        ("after: 20ms, methods: all", &[], 2),
    ] {
        let answer = Duration::from_millis(300);
        let apps = [slow(answer, status(200, "a")).await, slow(answer, status(200, "b")).await];
        let proxy = before(&[&apps[0], &apps[1]], &format!("hedge: {{ {hedge} }}")).await;
        assert_eq!(send(&proxy, "POST", fields).await.status, 200);
        let seen: usize = apps.iter().map(|app| app.seen().len()).sum();
        assert_eq!(seen, requests, "{hedge} {fields:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_kept_whole_goes_along() {
    let slow = slow(LONG, status(200, "slow")).await;
    let echo = Upstream::echo().await;
    let proxy = before(&[&slow, &echo], "hedge: { after: 20ms }").await;
    let mut seen = 0;
    // Both ends of the turn, with a length and without one, over both wires of the client.
    for request in 0..8 {
        let text = format!("body {request}").repeat(1000);
        let whole = match request % 2 {
            0 => body(text.clone()),
            _ => frames([Frame::data(text.clone().into())]),
        };
        let put = Request::put("http://s/").header("host", "s").body(whole).unwrap();
        let answer = match request % 4 {
            0 | 1 => client::send(proxy.outbound(), put).await,
            _ => client::send2(proxy.outbound(), put).await.expect("an answer"),
        };
        assert_eq!(answer.text(), text);
        seen += 1;
    }
    assert_eq!(echo.seen().len(), seen);
    assert!(hedges(&proxy, "won").await >= 4.0);
    assert!(slow.seen().iter().all(|seen| seen.body.len() == 6000));

    // More than is kept is sent once.
    let (hung, other) = (slow, self::slow(LONG, status(200, "slow")).await);
    let proxy = before(&[&hung, &other], "timeout: 300ms, hedge: { after: 20ms }").await;
    let put = Request::put("/").header("host", "s").body(body("a".repeat(100 * 1024))).unwrap();
    assert_eq!(client::send(proxy.outbound(), put).await.status, 504);
    assert_eq!(skipped(&proxy, "body_too_large").await, 1.0);
    assert_eq!(proxy.log(1).await[0]["attempts"], 1);
}

#[tokio::test]
async fn a_grpc_call_whose_request_is_whole() {
    let hung = slow(LONG, status(200, "slow")).await;
    let good = Upstream::http(|seen| async move {
        let response = Response::builder().header("content-type", "application/grpc");
        let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
        let frames = [Frame::data(seen.body), Frame::trailers(trailers.into_iter().collect())];
        response.body(support::upstream::frames(frames)).expect("a response")
    })
    .await;
    let proxy = before(&[&hung, &good], "hedge: { after: 20ms, methods: all }").await;
    let mut answers = 0;
    for _ in 0..4 {
        let call = Request::post("http://s/a.B/C").header("content-type", "application/grpc");
        let call = call.header("te", "trailers").header("grpc-timeout", "9S");
        let call = call.body(body("message")).expect("a request");
        let answer = client::send2(proxy.outbound(), call).await.expect("an answer");
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(
            (&*answer.body, trailers["grpc-status"].as_bytes()),
            (&b"message"[..], &b"0"[..])
        );
        answers += 1;
    }
    let seen = good.seen();
    assert_eq!(seen.len(), answers);
    let hedge = seen.iter().find(|seen| seen.header("x-pilotfish-attempt") == "2").expect("one");
    assert_eq!(hedge.header("grpc-previous-rpc-attempts"), "1");
    let left = hedge.header("grpc-timeout").strip_suffix('u').expect("microseconds");
    assert!(left.parse::<u64>().expect("a number") <= 8_980_000, "less what has passed: {left}");
    // `expect` of its status by the winner's trailers.
    assert!(proxy.log(4).await.iter().all(|line| line["grpc_status"] == 0));
}

#[tokio::test]
async fn a_client_that_sticks_to_an_endpoint_goes_on_doing_so() {
    let upstream = |name| {
        let hangs = Arc::new(AtomicBool::new(false));
        let told = hangs.clone();
        let upstream = Upstream::http(move |_| {
            let hangs = told.load(SeqCst);
            async move {
                if hangs {
                    tokio::time::sleep(LONG).await;
                }
                Response::new(body(name))
            }
        });
        async { (upstream.await, hangs) }
    };
    let all = [upstream("a").await, upstream("b").await];
    let yaml = yaml(&[&all[0].0, &all[1].0], "hedge: { after: 20ms }");
    let proxy = Proxy::start(&yaml.replace("round_robin", "sticky_cookie")).await;
    let first = send(&proxy, "GET", &[]).await;
    let cookie = first.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let own = usize::from(first.text() == "b");
    all[own].1.store(true, SeqCst);
    let hedged = send(&proxy, "GET", &[("cookie", &cookie)]).await;
    assert_ne!(hedged.text(), first.text());
    assert_eq!(hedged.header("set-cookie"), "", "it is not moved");
    all[own].1.store(false, SeqCst);
    assert_eq!(send(&proxy, "GET", &[("cookie", &cookie)]).await.text(), first.text());
}

#[tokio::test]
async fn with_the_budget_used_up_there_is_none() {
    let hung = Hung::start().await;
    let good = slow(Duration::from_millis(60), status(200, "good")).await;
    let policy = "timeout: 150ms, hedge: { after: 20ms },
      retry: { budget: { ratio: 0, min_per_second: 0 } }";
    let proxy = before(&[&hung.upstream, &good], policy).await;
    let mut failed = 0;
    for _ in 0..4 {
        failed += usize::from(send(&proxy, "GET", &[]).await.status == 504);
    }
    assert_eq!((failed, hung.requests()), (2, 2));
    assert_eq!(hedges(&proxy, "sent").await, 0.0);
    assert_eq!(skipped(&proxy, "budget").await, 4.0);
}

#[tokio::test]
async fn nobody_else_is_no_second_endpoint() {
    let alone = slow(Duration::from_millis(100), status(200, "alone")).await;
    let proxy = before(&[&alone], "hedge: { after: 20ms, max: 4 }").await;
    assert_eq!(send(&proxy, "GET", &[]).await.text(), "alone");
    assert_eq!(alone.seen().len(), 1);
    assert_eq!(skipped(&proxy, "no_other_endpoint").await, 1.0);
}

#[tokio::test]
async fn a_full_bulkhead_is_not_waited_for() {
    let slow = [
        slow(Duration::from_millis(100), status(200, "slow")).await,
        slow(Duration::from_millis(100), status(200, "slow")).await,
    ];
    let policy = "hedge: { after: 20ms }, bulkhead: { max_requests: 1 }";
    let proxy = before(&[&slow[0], &slow[1]], policy).await;
    assert_eq!(send(&proxy, "GET", &[]).await.text(), "slow");
    assert_eq!(skipped(&proxy, "bulkhead").await, 1.0);
    assert_eq!(slow.iter().map(|app| app.seen().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn an_answer_that_is_listed_is_not_the_good_one() {
    // The first one answers 503 while the hedge is under way.
    let bad = slow(Duration::from_millis(100), status(503, "bad")).await;
    let good = slow(Duration::from_millis(300), status(200, "good")).await;
    let proxy = before(&[&bad, &good], "hedge: { after: 30ms }, retry: { on: [503] }").await;
    for _ in 0..2 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "good");
    }
    assert_eq!((bad.seen().len(), good.seen().len()), (2, 2), "no retry was needed");

    // So it is where the first one breaks off.
    let broken = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
    let proxy = before(&[&broken, &good], "hedge: { after: 30ms }").await;
    for _ in 0..2 {
        assert_eq!(send(&proxy, "GET", &[]).await.text(), "good");
    }
    none_in_flight(&proxy).await;
}

#[tokio::test]
async fn where_both_fail_the_last_one_tells() {
    let first = slow(Duration::from_millis(100), status(503, "first")).await;
    let second = slow(Duration::from_millis(200), status(502, "second")).await;
    let policy = "hedge: { after: 30ms }, retry: { on: [5xx], max_retries: 0 }";
    let proxy = before(&[&first, &second], policy).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(send(&proxy, "GET", &[]).await.text().to_owned());
    }
    assert_eq!(answers, ["second", "second"]);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 2));
    let (sent, won) = (hedges(&proxy, "sent").await, hedges(&proxy, "won").await);
    assert_eq!((sent, won), (2.0, 0.0), "to fail last is no win");
    none_in_flight(&proxy).await;
}

#[tokio::test]
async fn a_hedge_is_no_retry_and_a_retry_can_be_hedged() {
    let hung = Hung::start().await;
    let bad = slow(Duration::from_millis(60), status(503, "bad")).await;
    // Both attempts of the first round do not do: one is given up, the other says 503.
    let policy = "hedge: { after: 20ms }, timeout: 10s,
      retry: { on: [503, timeout], max_retries: 1, per_try_timeout: 100ms }";
    let proxy = before(&[&hung.upstream, &bad], policy).await;
    let answer = send(&proxy, "GET", &[]).await;
    assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
    let line = &proxy.log(1).await[0];
    assert_eq!(line["attempts"], 3, "two beside each other and one retry");
    assert_eq!(hedges(&proxy, "sent").await, 1.0, "one for a request");
}

#[tokio::test]
async fn a_client_that_leaves_ends_both() {
    let hung = [Hung::start().await, Hung::start().await];
    let proxy = before(&[&hung[0].upstream, &hung[1].upstream], "hedge: { after: 20ms }").await;
    {
        let both = eventually(|| async {
            (hung[0].requests() == 1 && hung[1].requests() == 1).then_some(())
        });
        tokio::select! {
            _ = send(&proxy, "GET", &[]) => panic!("nobody answers"),
            () = both => {}
        }
    }
    for hung in &hung {
        eventually(|| async { (hung.closed.load(SeqCst) == 1).then_some(()) }).await;
    }
    none_in_flight(&proxy).await;
}

/// Many at once, of which some are quick, some slow, some fail, and some clients leave.
#[tokio::test]
async fn nothing_is_left_behind_by_any_mix() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = || {
        let count = count.clone();
        Upstream::http(move |_| {
            let number = count.fetch_add(1, SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis([0, 5, 40, 15, 60][number % 5])).await;
                let code = if number.is_multiple_of(7) { 503 } else { 200 };
                status(code, "any")()
            }
        })
    };
    let apps = [upstream().await, upstream().await, upstream().await];
    for protocol in ["http1", "http2"] {
        let policy = "hedge: { after: 10ms, max: 2 }, retry: { on: [503] }";
        let yaml = yaml(&[&apps[0], &apps[1], &apps[2]], policy);
        let protocol = format!("    protocol: {protocol}\n    load_balancer");
        let proxy = Proxy::start(&yaml.replace("    load_balancer", &protocol)).await;
        let clients = (0..150_u64).map(|number| {
            let outbound = proxy.outbound();
            tokio::spawn(async move {
                let request = client::get_from(outbound, "s", "/");
                let patience =
                    Duration::from_millis(if number % 3 == 0 { number % 40 } else { 20_000 });
                tokio::time::timeout(patience, request).await.is_ok()
            })
        });
        let mut answered = 0;
        for client in clients.collect::<Vec<_>>() {
            answered += usize::from(within(client).await.expect("no panic"));
        }
        assert!(answered >= 100, "{answered}");
        none_in_flight(&proxy).await;
        let labels = "direction=\"outbound\",service=\"s\",kind=\"requests\"";
        let in_use = format!("pilotfish_bulkhead_in_use{{{labels}}}");
        eventually(|| async { (proxy.metric(&in_use).await == 0.0).then_some(()) }).await;
        assert!(hedges(&proxy, "sent").await > 0.0);
    }
}

#[tokio::test]
async fn in_shadow_mode_it_is_only_told() {
    let slow = [
        slow(Duration::from_millis(100), status(200, "slow")).await,
        slow(Duration::from_millis(100), status(200, "slow")).await,
    ];
    let policy = "hedge: { mode: shadow, after: 20ms, max: 3 }";
    let proxy = before(&[&slow[0], &slow[1]], policy).await;
    assert_eq!(send(&proxy, "GET", &[]).await.text(), "slow");
    assert_eq!(slow.iter().map(|app| app.seen().len()).sum::<usize>(), 1);
    let would = "pilotfish_shadow_decisions_total{policy=\"hedge\",would=\"send\"}";
    assert_eq!(proxy.metric(would).await, 1.0);
    assert_eq!(proxy.log(1).await[0]["shadow"], "hedge:send");
    assert_eq!(hedges(&proxy, "sent").await, 0.0);
}

/// The percentile is learnt from what comes by, and is kept across a reload.
#[tokio::test]
async fn after_a_percentile() {
    let count = Arc::new(AtomicUsize::new(0));
    // Quick, until it is told to hang.
    let hangs = Arc::new(AtomicBool::new(false));
    let upstream = || {
        let (count, hangs) = (count.clone(), hangs.clone());
        Upstream::http(move |_| {
            let hangs = hangs.load(SeqCst) && count.fetch_add(1, SeqCst) == 0;
            async move {
                if hangs {
                    tokio::time::sleep(LONG).await;
                }
                Response::new(body("good"))
            }
        })
    };
    let apps = [upstream().await, upstream().await];
    let yaml = yaml(&[&apps[0], &apps[1]], "hedge: {}, retry: { max_retries: 1 }");
    let proxy = Proxy::start(&yaml).await;
    let mut sender = client::http1(proxy.outbound()).await;
    let request = || Request::get("/").header("host", "s").body(body("")).unwrap();
    // Too little is known: nothing is hedged, however long it takes.
    for _ in 0..99 {
        let response = within(sender.send_request(request())).await.expect("an answer");
        client::read(response).await.expect("its end");
    }
    assert_eq!(hedges(&proxy, "sent").await, 0.0);
    // What was learnt is read anew from time to time.
    proxy.write(&yaml.replace("max_retries: 1", "max_retries: 2"));
    proxy.reload().await.expect("a good configuration");
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds < 5, "fewer than a hundred since the reload");
        for _ in 0..20 {
            let response = within(sender.send_request(request())).await.expect("an answer");
            client::read(response).await.expect("its end");
        }
        count.store(0, SeqCst);
        hangs.store(true, SeqCst);
        let answer = tokio::time::timeout(Duration::from_secs(2), sender.send_request(request()));
        let hedged = answer.await.is_ok();
        hangs.store(false, SeqCst);
        if hedged {
            break;
        }
        sender = client::http1(proxy.outbound()).await;
    }
    assert!(hedges(&proxy, "won").await >= 1.0);
}
