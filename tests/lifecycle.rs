//! Reloads, the drain, scarce descriptors, large bodies: what has to go well while traffic flows.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use support::load::Load;
use support::process::{Process, Start};
use support::upstream::{Upstream, body, read_head};
use support::{Proxy, client, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn sidecar(app: SocketAddr) -> String {
    format!(
        "service: {{ name: app, address: \"{app}\" }}
inbound: {{ listen: \"{{inbound}}\" }}
outbound: {{ listen: \"{{outbound}}\" }}
admin: {{ listen: \"{{admin}}\", metrics: \"{{metrics}}\" }}
telemetry: {{ access_log: {{ format: json, path: {{dir}}/access.log }} }}
drain: {{ linger: 0s, timeout: 10s }}
runtime: {{ workers: 2 }}
services:
  user-service: {{ endpoints: [\"{app}\"] }}
"
    )
}

/// Each good configuration differs from the one before in what requests use.
fn variant(text: &str, number: usize) -> String {
    format!("{text}  other-{number}: {{ endpoints: [\"127.0.0.1:{}\"] }}\n", 1 + number % 1000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_under_load_lose_nothing() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let good = std::fs::read_to_string(proxy.config_path()).unwrap();
    let inbound = Load::start(proxy.inbound, 32);
    let outbound = Load::start(proxy.outbound, 32);
    let mut settled = 0;
    for number in 0..1000 {
        let bad = number % 2 == 1;
        let text =
            if bad { good.replace("endpoints", "endpionts") } else { variant(&good, number) };
        let new = proxy.dir().join(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, proxy.config_path()).unwrap();
        let answer = client::post(proxy.admin, "localhost", "/reload", "").await;
        assert_eq!(answer.status.is_success(), !bad, "{}", answer.text());
        assert_eq!(answer.text().contains("did you mean `endpoints`?"), bad, "{}", answer.text());
        if number == 200 {
            settled = proxy.memory("VmRSS");
        }
    }
    inbound.answered(100).await;
    outbound.answered(100).await;
    let after = proxy.memory("VmRSS");
    for load in [inbound, outbound] {
        let tally = load.stop().await;
        let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(SeqCst);
        assert_eq!((count(&tally.failed), count(&tally.dropped), count(&tally.closed)), (0, 0, 0));
        assert_eq!(count(&tally.unserved), 0);
    }
    assert!(after < settled + settled / 10, "from {settled} KiB to {after} KiB");
    let ready = client::get_from(proxy.admin, "localhost", "/ready").await;
    assert!(ready.text().contains("did you mean"), "{}", ready.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_under_load_answers_whatever_was_accepted() {
    let app = Upstream::named("ok").await;
    let mut proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let mut inbound = Load::start(proxy.inbound, 32);
    let mut outbound = Load::start(proxy.outbound, 32);
    inbound.answered(500).await;
    outbound.answered(500).await;
    proxy.signal(Signal::TERM);
    inbound.join().await;
    outbound.join().await;
    assert!(proxy.exit().await.success());
    // What the proxy says it has answered is what the clients got: a request that it took and lost would
    // stand in its log alone.
    let log = std::fs::read_to_string(proxy.dir().join("access.log")).unwrap();
    let good = |line: &&str| line.contains("\"response_code\":200,\"response_flags\":\"-\"");
    let answered = |load: &Load| load.tally.answered.load(SeqCst);
    let odd: Vec<_> = log.lines().filter(|line| !good(line)).take(3).collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert_eq!(log.lines().count(), answered(&inbound) + answered(&outbound));
    for load in [inbound, outbound] {
        assert_eq!(load.tally.failed.load(SeqCst), 0);
        assert_eq!(load.tally.dropped.load(SeqCst), 0);
        assert!(load.tally.closed.load(SeqCst) > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_finishes_in_the_drain_and_a_second_term_cuts_it() {
    let (release, hold) = tokio::sync::watch::channel(false);
    let app = Upstream::http(move |_| {
        let mut hold = hold.clone();
        async move {
            let _ = hold.wait_for(|released| *released).await;
            Response::new(body("late"))
        }
    })
    .await;
    for second_term in [false, true] {
        release.send_replace(false);
        let mut proxy = Process::start(&sidecar(app.address), Start::default()).await;
        let seen = app.seen().len();
        let request = tokio::spawn(client::try_send(
            proxy.inbound,
            Request::get("/slow").header("host", "a").body(body("")).unwrap(),
        ));
        eventually(|| async { (app.seen().len() > seen).then_some(()) }).await;
        proxy.signal(Signal::TERM);
        // The listener closes, so that the drain has begun for certain.
        eventually(|| async { TcpStream::connect(proxy.inbound).await.is_err().then_some(()) })
            .await;
        if second_term {
            proxy.signal(Signal::TERM);
            assert!(proxy.exit().await.success());
            assert!(request.await.unwrap().is_err());
        } else {
            release.send_replace(true);
            let answer = request.await.unwrap().unwrap();
            assert_eq!(answer.text(), "late");
            assert_eq!(answer.header("connection"), "close");
            assert!(proxy.exit().await.success());
        }
    }
}

/// Tells when the drain has closed what was idle: by a connection that is.
async fn until_idle_ones_are_closed(proxy: &Proxy, mut idle: TcpStream) {
    proxy.shutdown();
    let mut rest = Vec::new();
    within(idle.read_to_end(&mut rest)).await.expect("a close");
}

async fn keep_alive(proxy: &Proxy, request: &str, answer: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.inbound()).await.expect("the proxy is there");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    read_until(&mut stream, answer).await;
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let read = within(stream.read_buf(&mut bytes)).await.expect("an answer");
        assert!(read > 0, "it ends with {:?}", String::from_utf8_lossy(&bytes));
    }
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.expect("an end");
    text
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_head_that_has_begun_is_still_answered_in_the_drain() {
    let app = Upstream::named("ok").await;
    let app = format!("service: {{ name: app, address: \"{}\" }}", app.address);
    let proxy = Proxy::start(&format!("{app}\nruntime: {{ workers: 1 }}")).await;
    let idle = keep_alive(&proxy, GET, "ok").await;
    let mut begun = keep_alive(&proxy, &format!("{GET}GET / HT"), "ok").await;
    until_idle_ones_are_closed(&proxy, idle).await;
    begun.write_all(b"TP/1.1\r\nHost: a\r\n\r\n").await.expect("it reads");
    let answer = read_to_end(begun).await;
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("ok"), "{answer}");
}

/// Its answer began before the drain, and so without `Connection: close`.
#[tokio::test]
async fn what_came_behind_a_long_answer_is_still_answered_in_the_drain() {
    let (release, hold) = tokio::sync::watch::channel(false);
    let app = Upstream::raw(move |mut stream| {
        let mut hold = hold.clone();
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nbegun";
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = hold.wait_for(|released| *released).await;
                let _ = stream.write_all(b" ended").await;
            }
        }
    })
    .await;
    let idle_app = Upstream::named("ok").await;
    let yaml = format!(
        "service: {{ name: gateway }}
inbound:
  routes: [ {{ match: {{ path: /idle }}, to: idle }}, {{ match: {{ path_prefix: / }}, to: slow }} ]
services: {{ slow: {{ endpoints: [\"{}\"] }}, idle: {{ endpoints: [\"{}\"] }} }}
runtime: {{ workers: 1 }}
",
        app.address, idle_app.address
    );
    let proxy = Proxy::start(&yaml).await;
    let idle = keep_alive(&proxy, &GET.replace("/ ", "/idle "), "ok").await;
    let busy = keep_alive(&proxy, &format!("{GET}{GET}"), "begun").await;
    until_idle_ones_are_closed(&proxy, idle).await;
    release.send_replace(true);
    let answers = read_to_end(busy).await;
    let (first, second) = answers.split_once("HTTP/1.1 200 OK").expect("a second answer");
    assert_eq!(first, " ended");
    assert!(second.contains("\r\nconnection: close\r\n"), "{second}");
    assert!(second.ends_with("begun ended"), "{second}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_before_the_door_closes() {
    let app = Upstream::named("ok").await;
    let yaml = sidecar(app.address).replace("linger: 0s", "linger: 2s");
    let proxy = Process::start(&yaml, Start::default()).await;
    proxy.signal(Signal::TERM);
    eventually(|| async {
        let ready = client::get_from(proxy.admin, "localhost", "/ready").await;
        (ready.status == 503).then_some(())
    })
    .await;
    assert_eq!(client::get(proxy.inbound, "/").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_in_progress_finish_in_the_drain() {
    let (release, hold) = tokio::sync::watch::channel(false);
    let app = Upstream::http(move |_| {
        let mut hold = hold.clone();
        async move {
            let _ = hold.wait_for(|released| *released).await;
            Response::new(body("late"))
        }
    })
    .await;
    let mut proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let mut sender = client::http2(proxy.inbound).await;
    let request = || Request::get("http://a/slow").body(body("")).unwrap();
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        answers.spawn(sender.send_request(request()));
    }
    eventually(|| async { (app.seen().len() == 10).then_some(()) }).await;
    proxy.signal(Signal::TERM);
    eventually(|| async { TcpStream::connect(proxy.inbound).await.is_err().then_some(()) }).await;
    release.send_replace(true);
    while let Some(answer) = answers.join_next().await {
        let answer = client::read(answer.unwrap().unwrap()).await.unwrap();
        assert_eq!(answer.text(), "late");
    }
    assert!(proxy.exit().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_flows_both_ways_in_constant_memory() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = (1 << 30) / CHUNK;
    // Echoes the body as it comes.
    let app = streaming_echo().await;
    let proxy = Process::start(&sidecar(app), Start::default()).await;
    let chunk = Bytes::from(vec![7; CHUNK]);
    let chunks =
        (0..CHUNKS).map(move |_| Ok::<_, std::convert::Infallible>(Frame::data(chunk.clone())));
    let request =
        Request::post("/echo").header("host", "a").body(StreamBody::new(Iter(chunks))).unwrap();
    let mut sender = client::http1(proxy.inbound).await;
    let response = tokio::time::timeout(Duration::from_secs(120), sender.send_request(request));
    let mut incoming = response.await.unwrap().unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = within(incoming.frame()).await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(received, 1 << 30);
    let most = proxy.memory("VmHWM");
    assert!(most < 64 * 1024, "{most} KiB");
}

/// An iterator as a stream, without a crate for it.
struct Iter<I>(I);

impl<I: Iterator + Unpin> futures_core::Stream for Iter<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

async fn streaming_echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let service =
                hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
                    Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
                });
            tokio::spawn(async move {
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_the_proxy_backs_off_and_recovers() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start { descriptors: Some(128) }).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(proxy.inbound).await.unwrap());
    }
    eventually(|| async { proxy.stderr().contains("cannot accept").then_some(()) }).await;
    let before = proxy.cpu();
    let began = std::time::Duration::from_secs(1);
    tokio::time::sleep(began).await;
    let spent = proxy.cpu() - before;
    assert!(spent < began / 2, "spins: {spent:?} in {began:?}");
    drop(held);
    eventually(|| async {
        let request = Request::get("/").header("host", "a").body(body("")).unwrap();
        let answer = client::try_send(proxy.inbound, request).await.ok()?;
        (answer.text() == "ok").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_is_reopened_on_usr1() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let (log, old) = (proxy.dir().join("access.log"), proxy.dir().join("access.log.1"));
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    client::get(proxy.inbound, "/one").await;
    eventually(|| async { lines(&log).contains("/one").then_some(()) }).await;
    std::fs::rename(&log, &old).unwrap();
    proxy.signal(Signal::USR1);
    eventually(|| async {
        client::get(proxy.inbound, "/two").await;
        lines(&log).contains("/two").then_some(())
    })
    .await;
    assert!(lines(&old).contains("/one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_with_the_file_and_the_others_are_not_touched() {
    let app = Upstream::named("app").await;
    let users = Upstream::named("users").await;
    let of = |ports: &str| {
        format!(
            "service: {{ name: app, port: {} }}\noutbound:\n  listen: 127.0.0.1:0\n{ports}services:\n  users: {{ endpoints: [\"{}\"] }}\n",
            app.address.port(),
            users.address
        )
    };
    let proxy = Proxy::start(&of("")).await;
    let mut kept = client::http1(proxy.inbound()).await;
    let request = || Request::get("/").header("host", "a").body(body("")).unwrap();
    let answer = client::read(kept.send_request(request()).await.unwrap()).await.unwrap();
    assert_eq!(answer.text(), "app");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    proxy.write(&of(&format!("  ports: {{ {}: users }}\n", port.port())));
    // The watch reads it by itself.
    eventually(|| async { TcpStream::connect(port).await.ok() }).await;
    assert_eq!(client::get(port, "/").await.text(), "users");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    proxy.write(&of(&format!("  ports: {{ {}: users, {taken_port}: users }}\n", port.port())));
    let refused = proxy.reload().await.unwrap_err();
    assert!(refused.contains("another process has it"), "{refused}");
    assert_eq!(client::get(port, "/").await.text(), "users");

    proxy.write(&of(""));
    proxy.reload().await.unwrap();
    eventually(|| async { TcpStream::connect(port).await.is_err().then_some(()) }).await;
    let answer = client::read(kept.send_request(request()).await.unwrap()).await.unwrap();
    assert_eq!(answer.text(), "app");
    assert_eq!(proxy.metric("pilotfish_config_last_reload_successful").await, 1.0);
    assert!(proxy.metric("pilotfish_config_reload_total{result=\"failure\"}").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_empty_or_no_file_changes_nothing() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let path = proxy.config_path();
    std::fs::write(&path, "").unwrap();
    let refused = client::post(proxy.admin, "localhost", "/reload", "").await;
    assert!(refused.text().contains("it says nothing"), "{}", refused.text());
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let refused = client::post(proxy.admin, "localhost", "/reload", "").await;
    assert!(refused.text().contains("no regular file"), "{}", refused.text());
    assert_eq!(client::get(proxy.inbound, "/").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_proxy_sleeps() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start::default()).await;
    // Longer than the watch takes between two looks, so that one of them is in it.
    let before = proxy.switches();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = proxy.switches();
    assert!(after - before < 60, "{} wake-ups in 6 s", after - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_ended() {
    use tokio::io::AsyncWriteExt;
    let app = Upstream::http(|_| async { Response::new(body(vec![7; 64 << 20])) }).await;
    let yaml = format!(
        "service: {{ name: app, port: {} }}\nlimits: {{ write_timeout: 1s }}\n",
        app.address.port()
    );
    let proxy = Proxy::start(&yaml).await;
    let mut client = TcpStream::connect(proxy.inbound()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let log = proxy.log(1).await;
    assert_eq!(log[0]["response_flags"], "DC");
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_peer_takes_get_another_connection() {
    let (release, hold) = tokio::sync::watch::channel(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (hold, seen) = (hold.clone(), seen.clone());
            let service = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
                let mut hold = hold.clone();
                let _ = seen.send(connection);
                async move {
                    let _ = hold.wait_for(|released| *released).await;
                    Ok::<_, std::convert::Infallible>(Response::new(body("late")))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(2)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(builder);
        }
    });
    let yaml = format!(
        "service: {{ name: app, address: \"{address}\", protocol: http2 }}\nruntime: {{ workers: 1 }}\n"
    );
    let proxy = Proxy::start(&yaml).await;
    let mut sender = client::http2(proxy.inbound()).await;
    let mut answers = tokio::task::JoinSet::new();
    let mut connections = std::collections::HashSet::new();
    for _ in 0..4 {
        let request = Request::get("http://a/").body(body("")).unwrap();
        answers.spawn(sender.send_request(request));
        connections.insert(within(arrivals.recv()).await.unwrap());
    }
    assert_eq!(connections.len(), 2);
    release.send_replace(true);
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_reads_the_file_again() {
    let app = Upstream::named("ok").await;
    let proxy = Process::start(&sidecar(app.address), Start::default()).await;
    let good = "pilotfish_config_reload_total{result=\"success\"} 2";
    proxy.signal(Signal::HUP);
    eventually(|| async {
        let metrics = client::get_from(proxy.admin, "localhost", "/metrics").await;
        metrics.text().contains(good).then_some(())
    })
    .await;
}
