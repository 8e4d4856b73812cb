//! Faults on purpose.

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use support::Proxy;
use support::client::{self, Answer};
use support::upstream::Upstream;

fn yaml(app: &Upstream, fault: &str) -> String {
    format!(
        "services: {{ s: {{ endpoints: [\"{}\"], policy: {{ fault: {fault} }} }} }}\n",
        app.address
    )
}

async fn before(app: &Upstream, fault: &str) -> Proxy {
    Proxy::start(&yaml(app, fault)).await
}

async fn ask(proxy: &Proxy, header: Option<(&'static str, &'static str)>) -> Answer {
    let mut request = Request::get("/").header("host", "s");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    client::send(proxy.outbound(), request.body(Empty::<Bytes>::new()).unwrap()).await
}

#[tokio::test]
async fn requests_with_a_header_are_aborted_and_no_others() {
    let app = Upstream::named("app").await;
    let fault = "{ abort: { status: 418 }, headers: { x-fault: { regex: \"y.*\" } } }";
    let proxy = before(&app, fault).await;
    assert_eq!(ask(&proxy, None).await.status, 200);
    assert_eq!(ask(&proxy, Some(("x-fault", "no"))).await.status, 200);
    let aborted = ask(&proxy, Some(("x-fault", "yes"))).await;
    assert_eq!((aborted.status.as_u16(), aborted.reason()), (418, "fault_abort"));
    assert_eq!(app.seen().len(), 2);
    let log = proxy.log(3).await;
    let line = log.iter().find(|line| line["response_code"] == 418).expect("its line");
    assert_eq!(line["response_flags"], "FI");
    assert_eq!(line["response_code_details"], "fault_abort");
    let counted = "pilotfish_faults_total{service=\"s\",fault=\"abort\"}";
    assert_eq!(proxy.metric(counted).await, 1.0);
}

#[tokio::test]
async fn a_grpc_call_is_aborted_with_its_own_status() {
    let app = Upstream::named("app").await;
    for (abort, status) in
        [("grpc_status: 8", "8"), ("status: 403", "7"), ("status: 403, grpc_status: 0", "0")]
    {
        let proxy = before(&app, &format!("{{ abort: {{ {abort} }} }}")).await;
        let request = Request::post("http://s/a.B/C")
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .unwrap();
        let answer = client::send2(proxy.outbound(), request).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, status));
        let expected = if abort.starts_with("grpc") { 200 } else { 403 };
        assert_eq!(ask(&proxy, None).await.status.as_u16(), expected, "HTTP with {abort}");
    }
}

#[tokio::test]
async fn a_delay_comes_before_the_request_and_is_told() {
    let app = Upstream::named("app").await;
    let proxy = before(&app, "{ delay: { duration: 120ms } }").await;
    assert_eq!(ask(&proxy, None).await.text(), "app");
    let line = &proxy.log(1).await[0];
    assert_eq!(line["response_flags"], "DI");
    assert_eq!(line["response_code_details"], "via_upstream");
    assert!(line["duration"].as_u64().unwrap() >= 120, "{line}");
    let counted = "pilotfish_faults_total{service=\"s\",fault=\"delay\"}";
    assert_eq!(proxy.metric(counted).await, 1.0);
}

#[tokio::test]
async fn in_shadow_it_is_only_told() {
    let app = Upstream::named("app").await;
    let fault = "{ mode: shadow, delay: { duration: 1h }, abort: { status: 500 } }";
    let proxy = before(&app, fault).await;
    assert_eq!(ask(&proxy, None).await.text(), "app");
    let line = &proxy.log(1).await[0];
    assert_eq!(line["shadow"], "fault:delay,fault:abort");
    assert_eq!(line["response_flags"], "-");
    for would in ["delay", "abort"] {
        let counted =
            format!("pilotfish_shadow_decisions_total{{policy=\"fault\",would=\"{would}\"}}");
        assert_eq!(proxy.metric(&counted).await, 1.0);
    }
    let counted = "pilotfish_faults_total{service=\"s\",fault=\"abort\"}";
    assert_eq!(proxy.metric(counted).await, 0.0);
}

#[tokio::test]
async fn a_reload_switches_it_and_a_share_of_none_hits_nobody() {
    let app = Upstream::named("app").await;
    let proxy = before(&app, "{ abort: { status: 500 } }").await;
    for (fault, status) in [
        ("{ abort: { status: 500, share: 0% }, delay: { duration: 1h, share: 0 } }", 200),
        ("{ abort: { status: 501, share: 1 } }", 501),
        ("{ mode: off, abort: { status: 500 } }", 200),
        ("{ abort: { status: 502 } }", 502),
        ("off", 200),
    ] {
        proxy.write(&yaml(&app, fault));
        proxy.reload().await.expect("a reload");
        for _ in 0..5 {
            assert_eq!(ask(&proxy, None).await.status.as_u16(), status, "{fault}");
        }
    }
}

#[tokio::test]
async fn about_the_share_is_hit() {
    let app = Upstream::named("app").await;
    let proxy = before(&app, "{ abort: { status: 500, share: 50% } }").await;
    let mut sender = client::http1::<Empty<Bytes>>(proxy.outbound()).await;
    let mut aborted = 0;
    for _ in 0..200 {
        let request = Request::get("/").header("host", "s").body(Empty::new()).unwrap();
        let answer = client::read(sender.send_request(request).await.unwrap()).await.unwrap();
        aborted += u32::from(answer.status == 500);
    }
    // Beyond this once in ten thousand million runs.
    assert!((55..=145).contains(&aborted), "{aborted}");
}
