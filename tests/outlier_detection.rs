//! Endpoints that do worse than the others of their service, between real sockets.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::Response;
use support::client::{self, Answer};
use support::upstream::{Switch, Upstream, body};
use support::{Proxy, eventually};

fn yaml(endpoints: &[String], policy: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
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

fn addresses(upstreams: &[&Upstream]) -> Vec<String> {
    upstreams.iter().map(|upstream| upstream.address.to_string()).collect()
}

async fn before(upstreams: &[&Upstream], policy: &str) -> Proxy {
    Proxy::start(&yaml(&addresses(upstreams), policy)).await
}

async fn get(proxy: &Proxy) -> Answer {
    client::get_from(proxy.outbound(), "s", "/").await
}

async fn statuses(proxy: &Proxy, count: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for _ in 0..count {
        *statuses.entry(get(proxy).await.status.as_u16()).or_default() += 1;
    }
    statuses
}

async fn ejections(proxy: &Proxy, cause: &str, result: &str) -> f64 {
    let labels = format!("service=\"s\",cause=\"{cause}\",result=\"{result}\"");
    proxy.metric(&format!("pilotfish_outlier_ejections_total{{{labels}}}")).await
}

async fn ejected(proxy: &Proxy) -> f64 {
    proxy.metric("pilotfish_endpoints{service=\"s\",state=\"ejected\"}").await
}

#[tokio::test]
async fn failures_in_a_row_eject_by_default_and_it_comes_back() {
    let (bad, good) = (Switch::on(500).await, Switch::on(200).await);
    let policy = "outlier_detection: { ejection_time: 200ms }";
    let proxy = before(&[&bad.upstream, &good.upstream], policy).await;
    let statuses = statuses(&proxy, 60).await;
    assert!((5..15).contains(&statuses[&500]), "{statuses:?}");
    assert!(ejections(&proxy, "consecutive_5xx", "ejected").await >= 1.0);
    bad.set(200);
    let seen = bad.seen();
    eventually(|| async {
        get(&proxy).await;
        (bad.seen() > seen).then_some(())
    })
    .await;
    assert_eq!(ejected(&proxy).await, 0.0);
}

#[tokio::test]
async fn an_ejection_holds_and_the_last_one_is_spared() {
    let (bad, worse) = (Switch::on(500).await, Switch::on(503).await);
    let proxy = before(&[&bad.upstream, &worse.upstream], "outlier_detection: {}").await;
    statuses(&proxy, 40).await;
    assert_eq!(ejected(&proxy).await, 1.0);
    assert_eq!(ejections(&proxy, "consecutive_5xx", "ejected").await, 1.0);
    assert!(ejections(&proxy, "consecutive_5xx", "spared").await >= 1.0);
    let (first, second) = (bad.seen(), worse.seen());
    // One of the two is asked, and gives its answers: ejection refuses nobody.
    let statuses = statuses(&proxy, 10).await;
    assert!(statuses.contains_key(&500) != statuses.contains_key(&503), "{statuses:?}");
    assert_eq!((bad.seen() - first) + (worse.seen() - second), 10);

    // A reload keeps it, without outlier detection it is over.
    let both = addresses(&[&bad.upstream, &worse.upstream]);
    proxy.write(&yaml(&both, "outlier_detection: {}, max_body: 1MiB"));
    proxy.reload().await.expect("a reload");
    assert_eq!(ejected(&proxy).await, 1.0);
    proxy.write(&yaml(&both, "outlier_detection: off"));
    proxy.reload().await.expect("a reload");
    assert_eq!(ejected(&proxy).await, 0.0);
}

#[tokio::test]
async fn what_cannot_be_reached_counts_and_a_gateway_error_is_its_own_cause() {
    let good = Switch::on(200).await;
    let mut both = addresses(&[&good.upstream]);
    both.push("127.0.0.1:1".to_owned());
    // By default it is asked again elsewhere, so nobody notices.
    let proxy = Proxy::start(&yaml(&both, "retry: { max_retries: 1 }")).await;
    assert_eq!(statuses(&proxy, 30).await, BTreeMap::from([(200, 30)]));
    assert_eq!(ejected(&proxy).await, 1.0);

    let bad = Switch::on(502).await;
    let policy = "outlier_detection: { consecutive_5xx: off, consecutive_gateway_errors: 2 }";
    let proxy = before(&[&bad.upstream, &good.upstream], policy).await;
    statuses(&proxy, 10).await;
    assert_eq!(ejections(&proxy, "consecutive_gateway_errors", "ejected").await, 1.0);
    assert_eq!(bad.seen(), 2);
}

#[tokio::test]
async fn one_error_in_three_is_found_by_comparison() {
    let count = Arc::new(AtomicUsize::new(0));
    let grey = Upstream::http(move |_| {
        let status = if count.fetch_add(1, SeqCst).is_multiple_of(3) { 500 } else { 200 };
        async move { Response::builder().status(status).body(body("")).unwrap() }
    })
    .await;
    let good = [Switch::on(200).await, Switch::on(200).await, Switch::on(200).await];
    let mut upstreams = vec![&grey];
    upstreams.extend(good.iter().map(|switch| &switch.upstream));
    for (policy, cause) in [
        ("success_rate: { min_calls: 10, min_endpoints: 3, deviations: 1.5 }", "success_rate"),
        (
            "success_rate: off, failure_percentage: { threshold: 20%, min_calls: 10, min_endpoints: 2 }",
            "failure_percentage",
        ),
    ] {
        let policy = format!("outlier_detection: {{ interval: 1s, {policy} }}");
        let proxy = before(&upstreams, &policy).await;
        eventually(|| async {
            statuses(&proxy, 20).await;
            (ejected(&proxy).await == 1.0).then_some(())
        })
        .await;
        assert_eq!(ejections(&proxy, cause, "ejected").await, 1.0);
        assert_eq!(statuses(&proxy, 12).await, BTreeMap::from([(200, 12)]));
    }
}

#[tokio::test]
async fn with_too_many_ejected_all_are_asked() {
    let bad = [Switch::on(500).await, Switch::on(500).await];
    let good = Switch::on(200).await;
    let upstreams = [&bad[0].upstream, &bad[1].upstream, &good.upstream];
    for (threshold, panics) in [("50%", true), ("off", false)] {
        let policy =
            format!("outlier_detection: {{ max_ejected: 100% }}, panic_threshold: {threshold}");
        let proxy = before(&upstreams, &policy).await;
        eventually(|| async {
            statuses(&proxy, 10).await;
            (ejected(&proxy).await == 2.0).then_some(())
        })
        .await;
        let picks = "pilotfish_panic_picks_total{service=\"s\"}";
        if panics {
            // It is noticed a moment later.
            eventually(|| async {
                get(&proxy).await;
                (proxy.metric(picks).await > 3.0).then_some(())
            })
            .await;
            eventually(|| async {
                let lines = proxy.log(1).await;
                lines.iter().any(|line| line["notes"] == "panic_threshold:ignored").then_some(())
            })
            .await;
        } else {
            assert_eq!(statuses(&proxy, 10).await, BTreeMap::from([(200, 10)]));
            assert_eq!(proxy.metric(picks).await, 0.0);
        }
    }
}

#[tokio::test]
async fn in_shadow_it_is_only_told() {
    let (bad, good) = (Switch::on(500).await, Switch::on(200).await);
    let policy = "outlier_detection: { mode: shadow }";
    let proxy = before(&[&bad.upstream, &good.upstream], policy).await;
    assert_eq!(statuses(&proxy, 40).await, BTreeMap::from([(200, 20), (500, 20)]));
    let lines = proxy.log(40).await;
    let told: Vec<_> =
        lines.iter().filter(|line| line["shadow"] == "outlier_detection:eject").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["response_code"], 500);
    let counted = "pilotfish_shadow_decisions_total{policy=\"outlier_detection\",would=\"eject\"}";
    assert_eq!(proxy.metric(counted).await, 1.0);
    assert_eq!(ejections(&proxy, "consecutive_5xx", "would_eject").await, 1.0);
    assert_eq!(ejected(&proxy).await, 0.0);
}

#[tokio::test]
async fn a_connection_without_http_counts_by_whether_it_is_made() {
    let echo = Upstream::raw(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let proxy = Proxy::start(&format!(
        "services:
  s:
    endpoints: [\"{}\", \"127.0.0.1:1\"]
    protocol: tcp
    load_balancer: round_robin
outbound:
  ports: {{ 1: {{ service: s, listen: \"127.0.0.1:0\" }} }}
",
        echo.address
    ))
    .await;
    for _ in 0..20 {
        let mut raw = client::Raw::connect(proxy.port()).await;
        raw.send("ping").await;
        assert_eq!(raw.until("ping").await, "ping");
    }
    assert_eq!(ejected(&proxy).await, 1.0);
    assert_eq!(ejections(&proxy, "consecutive_5xx", "ejected").await, 1.0);
}

#[tokio::test]
async fn who_joins_gets_its_share_little_by_little() {
    let (first, second, new) =
        (Switch::on(200).await, Switch::on(200).await, Switch::on(200).await);
    let two = addresses(&[&first.upstream, &second.upstream]);
    let three = addresses(&[&first.upstream, &second.upstream, &new.upstream]);
    let policy = "slow_start: { window: 1h, min_weight: 10% }";
    let proxy = Proxy::start(&yaml(&two, policy)).await;
    // The first ones are as old as the service.
    statuses(&proxy, 20).await;
    assert_eq!((first.seen(), second.seen()), (10, 10));
    proxy.write(&yaml(&three, policy));
    proxy.reload().await.expect("a reload");
    statuses(&proxy, 300).await;
    let share = new.seen();
    assert!((1..40).contains(&share), "{share} of 300");
    let warming = "pilotfish_endpoints{service=\"s\",state=\"warming\"}";
    assert_eq!(proxy.metric(warming).await, 1.0);
    // Without slow start it has all of it.
    proxy.write(&yaml(&three, "slow_start: off"));
    proxy.reload().await.expect("a reload");
    statuses(&proxy, 300).await;
    assert_eq!(new.seen() - share, 100);
}

#[tokio::test]
async fn who_comes_back_gets_its_share_little_by_little() {
    let (first, second, bad) =
        (Switch::on(200).await, Switch::on(200).await, Switch::on(500).await);
    let policy = "slow_start: { window: 1h, min_weight: 10% },
      outlier_detection: { ejection_time: 2s, max_ejection_time: 2s }";
    let proxy = before(&[&first.upstream, &second.upstream, &bad.upstream], policy).await;
    statuses(&proxy, 30).await;
    assert_eq!(ejections(&proxy, "consecutive_5xx", "ejected").await, 1.0);
    bad.set(200);
    eventually(|| async { (ejected(&proxy).await == 0.0).then_some(()) }).await;
    let warming = "pilotfish_endpoints{service=\"s\",state=\"warming\"}";
    assert_eq!(proxy.metric(warming).await, 1.0);
    let before = bad.seen();
    statuses(&proxy, 300).await;
    let share = bad.seen() - before;
    assert!((1..40).contains(&share), "{share} of 300");
}
