//! Upstreams that misbehave on script, one beside three that are well, under load: callers notice as little as
//! can be, the bad one is left alone, and nothing is left behind.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response};
use support::load::{Load, Tally};
use support::raw;
use support::upstream::{Upstream, body, read_head};
use support::{Proxy, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GOOD: usize = 3;

/// What stands in the answers of those that are well.
const WELL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell";

/// One service of three good endpoints and a bad one.
struct Town {
    good: Vec<Upstream>,
    proxy: Proxy,
}

impl Town {
    async fn with(bad: &str, policy: &str) -> Self {
        let mut good = Vec::new();
        for _ in 0..GOOD {
            good.push(Upstream::named("well").await);
        }
        let addresses: Vec<_> =
            good.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
        let proxy = Proxy::start(&format!(
            "services:
  user-service:
    endpoints: [\"{bad}\", {}]
    load_balancer: round_robin
    policy: {{ {policy} }}
",
            addresses.join(", ")
        ))
        .await;
        Self { good, proxy }
    }

    async fn count(&self, state: &str) -> f64 {
        let series = format!("pilotfish_endpoints{{service=\"user-service\",state=\"{state}\"}}");
        self.proxy.metric(&series).await
    }

    /// Until the bad one is ejected, and for a while after that. Returns how many requests failed, and how
    /// many of these did so after it was gone.
    async fn under_load(&self) -> (usize, usize) {
        let load = Load::start(self.proxy.outbound(), 8);
        eventually(|| async { (self.count("ejected").await == 1.0).then_some(()) }).await;
        // Those that were under way may end.
        load.answered(100).await;
        let failures = |tally: &Tally| {
            tally.failed.load(SeqCst) + tally.dropped.load(SeqCst) + tally.unserved.load(SeqCst)
        };
        let before = failures(&load.tally);
        load.answered(500).await;
        let tally = load.stop().await;
        let failed = failures(&tally);
        eventually(|| async {
            let busy = "pilotfish_bulkhead_in_use{direction=\"outbound\",service=\"user-service\",kind=\"requests\"}";
            let busy = self.proxy.metric(busy).await;
            let open = "pilotfish_requests_in_flight{direction=\"outbound\"}";
            (busy == 0.0 && self.proxy.metric(open).await == 0.0).then_some(())
        })
        .await;
        (failed, failed - before)
    }
}

/// Everything that may be tried again is: what is left are failures that callers have to see.
const RETRIES: &str = "retry: { on: [connect_failure, refused_stream, reset, timeout, gateway_error], \
                       max_retries: 3, per_try_timeout: 300ms, budget: { min_per_second: 1000 } }";

async fn canned(bytes: &'static [u8]) -> Upstream {
    Upstream::canned(bytes).await
}

#[tokio::test]
async fn who_refuses_hangs_or_breaks_off_before_its_answer_costs_nobody_a_request() {
    let hangs = Upstream::raw(|mut stream| async move {
        // It takes all that comes and says nothing.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let silent = Upstream::raw(|stream| async move {
        drop(stream);
    })
    .await;
    let mid_head = canned(b"HTTP/1.1 200 OK\r\ncontent-le").await;
    let garbage = canned(b"\x16\x03\x01 no http at all\r\n\r\n").await;
    let bursts = Upstream::http({
        let count = Arc::new(AtomicUsize::new(0));
        move |_| {
            // Fifty in a row, then fifty that are well.
            let status =
                if (count.fetch_add(1, SeqCst) / 50).is_multiple_of(2) { 503 } else { 200 };
            async move { Response::builder().status(status).body(body("well")).unwrap() }
        }
    })
    .await;
    for (name, address) in [
        ("refuses", "127.0.0.1:1".to_owned()),
        ("hangs", hangs.address.to_string()),
        ("closes", silent.address.to_string()),
        ("breaks off in its head", mid_head.address.to_string()),
        ("speaks no HTTP", garbage.address.to_string()),
        ("503 in bursts", bursts.address.to_string()),
    ] {
        let town = Town::with(&address, RETRIES).await;
        let (failed, _) = town.under_load().await;
        assert_eq!(failed, 0, "{name}");
    }
}

#[tokio::test]
async fn who_breaks_off_in_its_body_is_noticed_by_its_clients_until_it_is_gone() {
    let mid_body = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let town = Town::with(&mid_body.address.to_string(), RETRIES).await;
    let (failed, after) = town.under_load().await;
    // Five in a row, and what was under way with them.
    assert!((5..=5 + 8).contains(&failed), "{failed}");
    assert_eq!(after, 0);
}

#[tokio::test]
async fn who_is_slow_is_given_up_by_a_breaker_of_slow_calls() {
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        Response::new(body("well"))
    })
    .await;
    let policy =
        "circuit_breaker: { slow_call_rate: 50%, slow_call: 30ms, min_calls: 5, open_for: 1m }";
    let town = Town::with(&slow.address.to_string(), policy).await;
    let load = Load::start(town.proxy.outbound(), 8);
    eventually(|| async { (town.count("breaker_open").await == 1.0).then_some(()) }).await;
    load.answered(100).await;
    let seen = slow.seen().len();
    load.answered(500).await;
    let tally = load.stop().await;
    assert_eq!(slow.seen().len(), seen);
    assert_eq!(tally.failed.load(SeqCst) + tally.dropped.load(SeqCst), 0);
}

/// Answers `requests` requests on each connection and then, at the next one, closes without a word: as a
/// server does whose idle timeout ends in that very moment.
async fn closing_at_reuse(requests: usize, taken: Arc<AtomicUsize>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let taken = taken.clone();
        async move {
            for _ in 0..requests {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                taken.fetch_add(1, SeqCst);
                if stream.write_all(WELL).await.is_err() {
                    return;
                }
            }
            read_head(&mut stream).await;
        }
    })
    .await
}

#[tokio::test]
async fn who_closes_idle_connections_as_they_are_used_is_not_ejected_and_costs_nothing() {
    let taken = Arc::<AtomicUsize>::default();
    let closing = closing_at_reuse(2, taken.clone()).await;
    let town =
        Town::with(&closing.address.to_string(), "retry: { budget: { min_per_second: 1000 } }")
            .await;
    let load = Load::start(town.proxy.outbound(), 4);
    load.answered(600).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed.load(SeqCst) + tally.dropped.load(SeqCst), 0);
    assert_eq!(town.count("ejected").await, 0.0);
    let again = "pilotfish_retries_total{service=\"user-service\",reason=\"upstream_reset\"}";
    assert!(town.proxy.metric(again).await > 10.0, "connections that died at their reuse");
    // It has its share: about a quarter.
    assert!(taken.load(SeqCst) > 60, "{}", taken.load(SeqCst));
    let good: usize = town.good.iter().map(|upstream| upstream.seen().len()).sum();
    // Nothing was processed twice.
    assert_eq!(good + taken.load(SeqCst), tally.answered.load(SeqCst));
}

/// The next request of an HTTP/2 connection, by the number of its stream, once its body has ended.
async fn next_request(stream: &mut TcpStream) -> Option<u32> {
    let mut head = [0; 9];
    loop {
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        if head[3] == raw::DATA && head[4] & raw::END_STREAM != 0 {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

/// gRPC that answers four requests of a connection, and says goodbye in the middle of its answer to the fifth.
async fn going_away() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).await.is_err() {
            return;
        }
        let _ = stream.write_all(&raw::frame(raw::SETTINGS, 0, 0, &[])).await;
        for count in 1..=5 {
            let Some(id) = next_request(&mut stream).await else { return };
            let head = raw::block(&[(":status", "200"), ("content-type", "application/grpc")]);
            let mut frames = raw::frame(raw::HEADERS, raw::END_HEADERS, id, &head);
            if count < 5 {
                frames.extend(raw::frame(raw::DATA, 0, id, b"\0\0\0\0\x04well"));
                let trailers = raw::block(&[("grpc-status", "0")]);
                let flags = raw::END_HEADERS | raw::END_STREAM;
                frames.extend(raw::frame(raw::HEADERS, flags, id, &trailers));
            } else {
                frames.extend(raw::frame(raw::DATA, 0, id, b"\0\0\0\0\x04we"));
                let goaway = [&id.to_be_bytes()[..], &[0, 0, 0, 2]].concat();
                frames.extend(raw::frame(raw::GOAWAY, 0, 0, &goaway));
            }
            let _ = stream.write_all(&frames).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_goaway_in_the_middle_of_a_stream_breaks_that_stream_alone() {
    let away = going_away().await;
    let proxy = Proxy::start(&format!(
        "services:\n  s: {{ endpoints: [\"{}\"] }}\nruntime: {{ workers: 1 }}\n",
        away.address
    ))
    .await;
    let call = || async {
        let request = Request::post("http://s/a.B/C")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body("message"))
            .expect("a request");
        client::send2(proxy.outbound(), request).await
    };
    for round in 0..3 {
        for number in 1..=5 {
            let answer = call().await;
            match number {
                5 => assert!(answer.is_err(), "round {round}: {answer:?}"),
                _ => assert!(answer.is_ok_and(|it| it.body.ends_with(b"well")), "{round} {number}"),
            }
        }
    }
    let lines = proxy.log(15).await;
    let broken: Vec<_> = lines
        .iter()
        .filter(|line| line["response_code_details"] == "upstream_reset_in_response")
        .collect();
    assert_eq!(broken.len(), 3);
}
