//! Active health checks of real servers, and of our own app.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use hyper_util::rt::TokioExecutor;
use support::client::{self, Answer};
use support::counterpart::{self, Server, Tool};
use support::upstream::{Switch, Upstream, body, with_trailers};
use support::{Proxy, eventually};

fn yaml(endpoints: &[String], rest: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "services:
  s:
    endpoints: [{}]
    load_balancer: round_robin
    {rest}
    policy: {{ outlier_detection: off }}
runtime: {{ workers: 1 }}
",
        endpoints.join(", ")
    )
}

async fn before(upstreams: &[&Upstream], rest: &str) -> Proxy {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
    Proxy::start(&yaml(&addresses, rest)).await
}

async fn get(proxy: &Proxy) -> Answer {
    client::get_from(proxy.outbound(), "s", "/").await
}

async fn count(proxy: &Proxy, state: &str) -> f64 {
    proxy.metric(&format!("pilotfish_endpoints{{service=\"s\",state=\"{state}\"}}")).await
}

async fn until(proxy: &Proxy, state: &str, wanted: f64) {
    eventually(|| async { (count(proxy, state).await == wanted).then_some(()) }).await;
}

async fn checks(proxy: &Proxy, result: &str) -> f64 {
    let labels = format!("service=\"s\",result=\"{result}\"");
    proxy.metric(&format!("pilotfish_health_checks_total{{{labels}}}")).await
}

/// Which bodies `requests` requests are answered with, and how often.
async fn answers(proxy: &Proxy, requests: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        *answers.entry(get(proxy).await.text().to_owned()).or_default() += 1;
    }
    answers
}

const FAST: &str = "interval: 20ms, timeout: 1s";

#[tokio::test]
async fn an_endpoint_that_says_503_is_left_alone_until_it_is_well() {
    let ailing = Switch::on(503).await;
    let good = Upstream::named("good").await;
    let check = format!("health_check: {{ http: /health, {FAST} }}");
    let proxy = before(&[&ailing.upstream, &good], &check).await;
    until(&proxy, "unhealthy", 1.0).await;
    assert_eq!(answers(&proxy, 10).await, BTreeMap::from([("good".into(), 10)]));
    assert!(checks(&proxy, "bad_status").await >= 3.0 && checks(&proxy, "success").await >= 1.0);
    let seen = ailing.upstream.seen();
    assert!(seen.iter().all(|seen| seen.header("connection") == "close"));
    let (first, agents) = (&seen[0], seen.iter().map(|seen| seen.header("user-agent")));
    assert_eq!(
        (first.method.as_str(), first.uri.path(), first.header("host")),
        ("GET", "/health", "s")
    );
    assert!(agents.into_iter().all(|agent| agent == "pilotfish-health-check"));

    // A reload that leaves the check alone leaves what it has found out alone.
    let both = [ailing.upstream.address.to_string(), good.address.to_string()];
    proxy.write(&yaml(&both, &format!("{check}\n    hosts: [t]")));
    proxy.reload().await.expect("a reload");
    assert_eq!(count(&proxy, "unhealthy").await, 1.0);

    ailing.set(200);
    until(&proxy, "unhealthy", 0.0).await;
    let answers = answers(&proxy, 10).await;
    assert_eq!((answers["good"], answers["upstream"]), (5, 5));

    // Without a check nobody is unhealthy.
    ailing.set(503);
    until(&proxy, "unhealthy", 1.0).await;
    proxy.write(&yaml(&both, "health_check: off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(count(&proxy, "unhealthy").await, 0.0);
}

#[tokio::test]
async fn who_refuses_hangs_or_breaks_off_fails_each_in_its_way() {
    let good = Upstream::named("good").await;
    let hangs = Upstream::raw(|mut stream| async move {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let breaks = Upstream::canned(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let garbage = Upstream::canned(b"220 mail.example.com ESMTP\r\n\r\n").await;
    let dead = "127.0.0.1:1".to_owned();
    for (bad, kind, result) in [
        (dead.clone(), "http: /", "connect_failure"),
        (dead, "tcp: true", "connect_failure"),
        (hangs.address.to_string(), "http: /", "timeout"),
        (breaks.address.to_string(), "http: /", "broken"),
        (garbage.address.to_string(), "http: /", "broken"),
    ] {
        let check = format!("health_check: {{ {kind}, interval: 20ms, timeout: 100ms }}");
        let proxy = Proxy::start(&yaml(&[bad, good.address.to_string()], &check)).await;
        until(&proxy, "unhealthy", 1.0).await;
        assert!(checks(&proxy, result).await >= 3.0, "{kind} {result}");
        assert_eq!(answers(&proxy, 6).await, BTreeMap::from([("good".into(), 6)]));
    }
}

#[tokio::test]
async fn statuses_host_and_port_are_those_of_the_configuration() {
    let traffic = Upstream::named("traffic").await;
    let health = Upstream::http(|seen| async move {
        let well = seen.header("host") == "health.example.com";
        let status = if well { 204 } else { 500 };
        Response::builder().status(status).body(body("")).unwrap()
    })
    .await;
    let more = format!("port: {}, host: health.example.com, {FAST}", health.address.port());
    let proxy = before(&[&traffic], &format!("health_check: {{ http: /, {more} }}")).await;
    eventually(|| async { (checks(&proxy, "success").await >= 2.0).then_some(()) }).await;
    assert!(traffic.seen().is_empty());
    let statuses = format!("health_check: {{ http: /, statuses: [200], {more} }}");
    proxy.write(&yaml(&[traffic.address.to_string()], &statuses));
    proxy.reload().await.expect("a reload");
    until(&proxy, "unhealthy", 1.0).await;
    // The only one is asked all the same.
    assert_eq!(answers(&proxy, 2).await, BTreeMap::from([("traffic".into(), 2)]));
}

/// An answer of gRPC's health service with this status.
fn health(status: u8) -> Response<support::upstream::Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message: &'static str = match status {
        1 => "\0\0\0\0\u{2}\u{8}\u{1}",
        _ => "\0\0\0\0\u{2}\u{8}\u{2}",
    };
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(with_trailers(message, trailers)).expect("a response")
}

#[tokio::test]
async fn by_grpc_only_serving_is_well() {
    let serving = Upstream::http(|_| async { health(1) }).await;
    let not_serving = Upstream::http(|_| async { health(2) }).await;
    let check = format!("health_check: {{ grpc: shop.Users, {FAST} }}");
    let proxy = before(&[&serving, &not_serving], &check).await;
    until(&proxy, "unhealthy", 1.0).await;
    assert!(checks(&proxy, "not_serving").await >= 3.0);
    let asked = &serving.seen()[0];
    assert_eq!(asked.uri.path(), "/grpc.health.v1.Health/Check");
    assert_eq!(asked.body, Bytes::from_static(b"\0\0\0\0\x0c\x0a\x0ashop.Users"));
    assert_eq!(asked.header("te"), "trailers");
}

#[tokio::test]
async fn a_real_grpc_server_is_understood() {
    if !counterpart::have(&[Tool::GrpcHealth]).await {
        return;
    }
    let server = Server::python("grpc_health_server.py", &[]).await;
    let address = [server.address.to_string()];
    for (service, result) in [
        ("\"\"", "success"),
        ("shop.Users", "success"),
        ("shop.Orders", "not_serving"),
        ("shop.Unknown", "not_serving"),
    ] {
        let check = format!("health_check: {{ grpc: {service}, {FAST} }}\n    protocol: http2");
        let proxy = Proxy::start(&yaml(&address, &check)).await;
        eventually(|| async { (checks(&proxy, result).await >= 3.0).then_some(()) }).await;
        let unhealthy = f64::from(u8::from(result != "success"));
        until(&proxy, "unhealthy", unhealthy).await;
    }
}

async fn ready(proxy: &Proxy) -> (u16, String) {
    let answer = client::get(proxy.metrics(), "/ready").await;
    (answer.status.as_u16(), answer.text().to_owned())
}

#[tokio::test]
async fn where_others_find_our_app_by_us_we_are_ready_when_it_takes_connections() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let proxy = async |service: &str, registry: &str| {
        let port = address.port();
        let service = format!("service: {{ name: app, port: {port}{service} }}");
        Proxy::start(&format!("{service}\nregistry: {registry}")).await
    };
    let dns = "{ dns: { name: \"{service}.internal\", server: 127.0.0.1:9 } }";
    let waiting = [proxy("", dns).await, proxy("", "kubernetes://").await];
    let dir = tempfile::tempdir().unwrap();
    // Who has a registry to tell, or is not to look, does not keep others waiting.
    for (service, registry) in [
        ("", format!("directory://{}", dir.path().display())),
        ("", "off".to_owned()),
        (", health_check: off", dns.to_owned()),
    ] {
        let proxy = proxy(service, &registry).await;
        assert_eq!(ready(&proxy).await.0, 200, "{registry}");
    }
    let is = async |status: u16, text: &str| {
        for proxy in &waiting {
            eventually(|| async {
                let told = ready(proxy).await;
                (told.0 == status && told.1.contains(text)).then_some(())
            })
            .await;
        }
    };
    is(503, "takes no connections yet").await;
    let app = Upstream::canned_at(address, b"").await;
    is(200, "ready").await;
    drop(app);
    is(503, "takes no connections any more").await;
}

#[tokio::test]
async fn we_are_ready_when_our_app_is() {
    let app = Switch::on(503).await;
    let yaml = |check: &str| {
        format!("service: {{ name: app, address: \"{}\", {check} }}\n", app.upstream.address)
    };
    let check = format!("health_check: {{ http: /up, unhealthy_after: 2, {FAST} }}");
    let proxy = Proxy::start(&yaml(&check)).await;
    let gauge = "pilotfish_app_healthy";
    eventually(|| async {
        let (status, text) = ready(&proxy).await;
        let told = ["GET /up", "times in a row: status 503"].iter().all(|it| text.contains(it));
        (status == 503 && told).then_some(())
    })
    .await;
    assert_eq!(proxy.metric(gauge).await, 0.0);
    // What comes is passed on all the same.
    assert_eq!(client::get(proxy.inbound(), "/").await.text(), "upstream");
    let becomes = |wanted: u16| {
        let proxy = &proxy;
        eventually(move || async move { (ready(proxy).await.0 == wanted).then_some(()) })
    };
    app.set(200);
    becomes(200).await;
    assert_eq!(proxy.metric(gauge).await, 1.0);
    // A reload that leaves it alone does not begin anew.
    proxy.write(&(yaml(&check) + "limits: { max_headers: 50 }\n"));
    proxy.reload().await.expect("a reload");
    assert_eq!(ready(&proxy).await.0, 200);
    app.set(500);
    becomes(503).await;
    // Without a check we are ready.
    proxy.write(&yaml("health_check: off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(ready(&proxy).await.0, 200);
    assert_eq!(proxy.metric(gauge).await, 0.0);
}

/// Takes connections on one port of as many addresses as are wanted (all of 127.0.0.0/8 is this host) and says
/// nothing on them.
struct Silent {
    port: u16,
    /// Open at present, and at most so far.
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Silent {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let silent = Self { port, open: Arc::default(), most: Arc::default() };
        let (open, most) = (silent.open.clone(), silent.most.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (open, most) = (open.clone(), most.clone());
                tokio::spawn(async move {
                    most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        silent
    }

    fn endpoints(&self, count: usize) -> Vec<String> {
        let port = self.port;
        let address = |number| format!("127.{}.{}.1:{port}", 1 + number / 250, 1 + number % 250);
        (0..count).map(address).collect()
    }
}

#[tokio::test]
async fn thousands_are_not_checked_at_once() {
    let silent = Silent::start().await;
    let check = "health_check: { http: /, interval: 1h, timeout: 2s }";
    let proxy = Proxy::start(&yaml(&silent.endpoints(2000), check)).await;
    eventually(|| async { (checks(&proxy, "timeout").await >= 100.0).then_some(()) }).await;
    // The server learns of an end a little later than of the next beginning.
    let most = silent.most.load(SeqCst);
    assert!((2..=2 * AT_ONCE).contains(&most), "{most}");
    // And the proxy has its hands free for others.
    assert_eq!(client::get(proxy.metrics(), "/ready").await.status, 200);
}

/// Checks of one service that are under way at a time.
const AT_ONCE: usize = 128;

#[tokio::test]
async fn a_service_that_hangs_does_not_keep_the_others_and_the_app_from_being_checked() {
    let silent = Silent::start().await;
    let (app, other) = (Switch::on(200).await, Switch::on(200).await);
    let yaml = format!(
        "service: {{ name: app, address: \"{}\", health_check: {{ http: /, {FAST} }} }}
services:
  hangs:
    endpoints: {:?}
    health_check: {{ http: /, interval: 20ms, timeout: 1h }}
  s:
    endpoints: [\"{}\"]
    health_check: {{ http: /, {FAST} }}
",
        app.upstream.address,
        silent.endpoints(3 * AT_ONCE),
        other.upstream.address,
    );
    let proxy = Proxy::start(&yaml).await;
    eventually(|| async { (silent.open.load(SeqCst) >= AT_ONCE).then_some(()) }).await;
    other.set(503);
    until(&proxy, "unhealthy", 1.0).await;
    app.set(503);
    eventually(|| async { (ready(&proxy).await.0 == 503).then_some(()) }).await;
}

#[tokio::test]
async fn a_check_by_http2_is_not_asked_over_the_connection_that_has_hung() {
    let open = Arc::<AtomicUsize>::default();
    let (count, connections) = (open.clone(), Arc::<AtomicUsize>::default());
    // Its first connection answers pings and no request, as of a process that was replaced.
    let upstream = Upstream::serve(Arc::default(), move |stream| {
        let first = connections.fetch_add(1, SeqCst) == 0;
        let count = count.clone();
        async move {
            count.fetch_add(1, SeqCst);
            let service = hyper::service::service_fn(move |_| async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(Response::new(body("well")))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
            count.fetch_sub(1, SeqCst);
        }
    })
    .await;
    let check = "health_check: { http: /, unhealthy_after: 1, interval: 20ms, timeout: 300ms }\n    protocol: http2";
    let proxy = before(&[&upstream], check).await;
    eventually(|| async { (checks(&proxy, "timeout").await >= 1.0).then_some(()) }).await;
    eventually(|| async { (checks(&proxy, "success").await >= 3.0).then_some(()) }).await;
    until(&proxy, "unhealthy", 0.0).await;
    // And none is left behind.
    proxy.write(&yaml(&[upstream.address.to_string()], "health_check: off"));
    proxy.reload().await.expect("a reload");
    eventually(|| async { (open.load(SeqCst) == 0).then_some(()) }).await;
}

#[tokio::test]
async fn another_check_does_not_make_an_app_that_is_well_not_ready() {
    let app = Upstream::http(|seen| async move {
        let status = if seen.uri.path() == "/old" { 200 } else { 503 };
        Response::builder().status(status).body(body("")).expect("a response")
    })
    .await;
    let yaml =
        |check: &str| format!("service: {{ name: app, address: \"{}\", {check} }}\n", app.address);
    let proxy = Proxy::start(&yaml(&format!("health_check: {{ http: /old, {FAST} }}"))).await;
    eventually(|| async { (ready(&proxy).await.0 == 200).then_some(()) }).await;
    // Of the failures that are needed now there will not be enough within this test.
    proxy.write(&yaml("health_check: { http: /new, interval: 1h, unhealthy_after: 2 }"));
    proxy.reload().await.expect("a reload");
    assert_eq!(ready(&proxy).await.0, 200);
    let failed = "pilotfish_health_checks_total{service=\"app\",result=\"bad_status\"}";
    eventually(|| async { (proxy.metric(failed).await == 1.0).then_some(()) }).await;
    assert_eq!(ready(&proxy).await.0, 200);
}

#[tokio::test]
async fn a_unix_socket_is_checked_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let served = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(body("well")))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let at = format!("unix:{}", path.display());
    let proxy = Proxy::start(&yaml(&[at], &format!("health_check: {{ http: /, {FAST} }}"))).await;
    eventually(|| async { (checks(&proxy, "success").await >= 2.0).then_some(()) }).await;
    served.abort();
    until(&proxy, "unhealthy", 1.0).await;
}

#[tokio::test]
async fn who_asks_for_the_health_of_the_app_is_never_shed() {
    let app = Upstream::named("app").await;
    let address = app.address;
    let yaml = format!(
        "service: {{ name: app, address: \"{address}\", health_check: {{ http: /up }} }}
services:
  s: {{ endpoints: [\"{address}\"] }}
overload: {{ memory: {{ limit: 64KiB }} }}
"
    );
    let proxy = Proxy::start(&yaml).await;
    eventually(|| async { (client::get(proxy.inbound(), "/").await.status == 503).then_some(()) })
        .await;
    assert_eq!(client::get(proxy.inbound(), "/up").await.status, 200);
    assert_eq!(client::get(proxy.inbound(), "/up?deep=1").await.status, 200);
    assert_eq!(client::get(proxy.inbound(), "/upper").await.status, 503);
    // It is the path of our app, and of nobody else.
    assert_eq!(client::get_from(proxy.outbound(), "s", "/up").await.status, 503);
}
