//! Rate limits over real sockets: what a client gets, what is counted, and what a reload keeps. Those that
//! are shared by a Redis: `tests/rate_limits_redis.rs`.

mod support;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use support::client::{self, Answer};
use support::upstream::{Seen, Upstream, body};
use support::{Proxy, eventually};

/// An app that answers `ok`, and its proxy with `rest`, in which `{app}` is its address.
async fn app_with(rest: &str) -> (Upstream, Proxy) {
    let app = Upstream::named("ok").await;
    let proxy = Proxy::start(&yaml(&app, rest)).await;
    (app, proxy)
}

fn yaml(app: &Upstream, rest: &str) -> String {
    format!("service: {{ name: app, address: \"{}\" }}\n{rest}", app.address)
        .replace("{app}", &app.address.to_string())
}

async fn get_with(proxy: &Proxy, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header("host", "test.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client::send(proxy.inbound(), request.body(Empty::<Bytes>::new()).expect("a request")).await
}

/// How many of `count` requests pass. All others are refused by a rate limit.
async fn passed(proxy: &Proxy, count: usize, path: &str, headers: &[(&str, &str)]) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        let answer = get_with(proxy, path, headers).await;
        match answer.status {
            StatusCode::OK => passed += 1,
            status => {
                assert_eq!((status.as_u16(), answer.reason()), (429, "rate_limited"));
            }
        }
    }
    passed
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_says_when_to_come_again() {
    let (app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 2, per: 1h, burst: 3 } }").await;
    let left: Vec<String> = [
        client::get(proxy.inbound(), "/").await,
        client::get(proxy.inbound(), "/a").await,
        client::get(proxy.inbound(), "/b").await,
    ]
    .map(|answer| {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-limit"), "3");
        assert_eq!(answer.header("retry-after"), "");
        answer.header("ratelimit-remaining").to_owned()
    })
    .into();
    assert_eq!(left, ["2", "1", "0"]);

    let refused = client::get(proxy.inbound(), "/").await;
    assert_eq!((refused.status.as_u16(), refused.reason()), (429, "rate_limited"));
    assert_eq!(refused.header("ratelimit-remaining"), "0");
    // One token takes half an hour.
    let seconds = |name: &str| refused.header(name).parse::<u64>().expect("seconds");
    assert!((1790..=1800).contains(&seconds("retry-after")), "{refused:?}");
    assert!((5390..=5400).contains(&seconds("ratelimit-reset")), "{refused:?}");
    assert!(refused.text().contains("2 requests in 3600s"), "{}", refused.text());
    assert_eq!(app.seen().len(), 3);

    // Lines of several workers come in any order.
    let lines = proxy.log(4).await;
    let line = lines.iter().find(|line| line["response_code"] == 429).expect("its line");
    assert_eq!(line["response_flags"], "RL");
    assert!(line["notes"].as_str().is_some_and(|notes| notes.starts_with("rate_limit:")), "{line}");
    assert_eq!(line["response_code_details"], "rate_limited");
    let count = |decision: &str| {
        let series =
            format!("pilotfish_rate_limit_total{{limit=\"inbound\",decision=\"{decision}\"}}");
        let proxy = &proxy;
        async move { proxy.metric(&series).await }
    };
    assert_eq!((count("allowed").await, count("limited").await), (3.0, 1.0));
    assert_eq!(proxy.metric("pilotfish_rejected_total{reason=\"rate_limited\"}").await, 1.0);
}

#[tokio::test]
async fn tokens_come_back() {
    let (_app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 20, per: 1s, burst: 1 } }").await;
    // The last token may have been taken by the request before.
    eventually(|| async {
        let answer = client::get(proxy.inbound(), "/").await;
        (answer.status == 429).then_some(())
    })
    .await;
    eventually(|| async {
        let answer = client::get(proxy.inbound(), "/").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_header_value_has_its_own_and_those_without_share_one() {
    let (_app, proxy) = app_with(
        "inbound:
  policy: { rate_limit: { requests: 2, per: 1h, key: { header: X-Api-Key } } }",
    )
    .await;
    assert_eq!(passed(&proxy, 4, "/", &[("x-api-key", "a")]).await, 2);
    assert_eq!(passed(&proxy, 4, "/", &[("x-api-key", "b")]).await, 2);
    assert_eq!(passed(&proxy, 4, "/", &[]).await, 2);
    assert_eq!(passed(&proxy, 4, "/", &[("x-other", "c")]).await, 0);
    assert_eq!(proxy.metric("pilotfish_rate_limit_keys{limit=\"inbound\"}").await, 3.0);
}

#[tokio::test]
async fn each_client_has_its_own_also_behind_a_trusted_proxy() {
    let (_app, proxy) = app_with(
        "inbound:
  trusted_proxies: [127.0.0.1, 10.0.0.0/8]
  policy: { rate_limit: { requests: 2, per: 1h, key: client_ip } }",
    )
    .await;
    let from = |client| [("x-forwarded-for", client)];
    assert_eq!(passed(&proxy, 3, "/", &[]).await, 2);
    assert_eq!(passed(&proxy, 3, "/", &from("192.0.2.1")).await, 2);
    // What stands before it is what the client says.
    assert_eq!(passed(&proxy, 3, "/", &from("192.0.2.9, 192.0.2.1, 10.1.1.1")).await, 0);
    assert_eq!(passed(&proxy, 3, "/", &from("192.0.2.2")).await, 2);
    // A client of IPv6 is its /64.
    assert_eq!(passed(&proxy, 3, "/", &from("2001:db8:0:1::1")).await, 2);
    assert_eq!(passed(&proxy, 3, "/", &from("2001:db8:0:1:ffff::2")).await, 0);
    assert_eq!(passed(&proxy, 3, "/", &from("2001:db8:0:2::1")).await, 2);
}

#[tokio::test]
async fn who_is_not_trusted_cannot_be_another_client() {
    let (_app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 2, per: 1h, key: client_ip } }")
            .await;
    let mut all = 0;
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        all += passed(&proxy, 2, "/", &[("x-forwarded-for", client)]).await;
    }
    assert_eq!(all, 2);
}

#[tokio::test]
async fn each_identity_has_its_own_as_a_trusted_proxy_tells_it() {
    let limit = "policy: { rate_limit: { requests: 2, per: 1h, key: identity } }";
    let (_app, proxy) =
        app_with(&format!("inbound:\n  trusted_proxies: [127.0.0.1]\n  {limit}")).await;
    let told = |says| [("x-forwarded-client-cert", says)];
    let shop = told("By=spiffe://a/here;Hash=1;Subject=\"CN=x\";URI=spiffe://a/shop");
    assert_eq!(passed(&proxy, 3, "/", &shop).await, 2);
    // Its next certificate, and a claim that the proxy has only passed on.
    let later = told("URI=spiffe://a/forged,Hash=2;URI=spiffe://a/shop");
    assert_eq!(passed(&proxy, 3, "/", &later).await, 0);
    assert_eq!(passed(&proxy, 3, "/", &told("URI=spiffe://a/users")).await, 2);
    // Those without one are one.
    assert_eq!(passed(&proxy, 3, "/", &[]).await, 2);
    assert_eq!(passed(&proxy, 3, "/", &told("Hash=")).await, 0);
}

#[tokio::test]
async fn who_is_not_trusted_has_no_identity() {
    let limit = "policy: { rate_limit: { requests: 2, per: 1h, key: identity } }";
    let (app, proxy) =
        app_with(&format!("inbound:\n  trusted_proxies: [192.0.2.1]\n  {limit}")).await;
    let mut all = 0;
    for says in ["URI=spiffe://a/shop", "URI=spiffe://a/users", "URI=spiffe://a/orders"] {
        all += passed(&proxy, 2, "/", &[("x-forwarded-client-cert", says)]).await;
    }
    assert_eq!(all, 2);
    let told = |seen: &Seen| seen.headers.contains_key("x-forwarded-client-cert");
    assert!(!app.seen().iter().any(told));
}

#[tokio::test]
async fn a_route_has_its_own_bucket_and_those_without_share_that_of_inbound() {
    let (_app, proxy) = app_with(
        "inbound:
  routes:
    - { match: { path_prefix: /a } }
    - { match: { path_prefix: /b } }
    - { match: { path_prefix: /c }, policy: { rate_limit: { requests: 3, per: 1h } } }
    - { match: { path_prefix: /d }, policy: { rate_limit: off } }
    - match: { path_prefix: /e }
      respond: { body: here }
      policy: { rate_limit: { requests: 1, per: 1h } }
  policy: { rate_limit: { requests: 2, per: 1h } }",
    )
    .await;
    assert_eq!(passed(&proxy, 1, "/a", &[]).await, 1);
    assert_eq!(passed(&proxy, 3, "/b", &[]).await, 1);
    assert_eq!(passed(&proxy, 1, "/", &[]).await, 0);
    assert_eq!(passed(&proxy, 5, "/c", &[]).await, 3);
    assert_eq!(passed(&proxy, 5, "/d", &[]).await, 5);
    assert_eq!(passed(&proxy, 5, "/e", &[]).await, 1);
}

#[tokio::test]
async fn a_service_is_limited_by_whatever_way_it_is_called() {
    let app = Upstream::named("ok").await;
    let proxy = Proxy::start(&format!(
        "
services:
  defaults: {{ policy: {{ rate_limit: {{ requests: 2, per: 1h }} }} }}
  users:
    endpoints: [\"{0}\"]
    routes: [ {{ match: {{ path: /free }}, policy: {{ rate_limit: off }} }} ]
  orders: {{ endpoints: [\"{0}\"] }}
",
        app.address
    ))
    .await;
    let call = |host: &'static str, path: &'static str| {
        let outbound = proxy.outbound();
        async move { client::get_from(outbound, host, path).await.status.as_u16() }
    };
    assert_eq!(call("users", "/").await, 200);
    assert_eq!(call("users.localhost", "/").await, 200);
    assert_eq!(call("users", "/").await, 429);
    assert_eq!(call("users", "/free").await, 200);
    // The limit of all is one for each.
    assert_eq!(call("orders", "/").await, 200);
    let mut refused = client::Raw::connect(proxy.outbound()).await;
    refused.send("CONNECT users:80 HTTP/1.1\r\nhost: users:80\r\n\r\n").await;
    assert!(refused.head().await.starts_with("HTTP/1.1 429 "));
}

#[tokio::test]
async fn in_shadow_all_pass_and_what_would_not_is_counted() {
    let (app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 2, per: 1h, mode: shadow } }")
            .await;
    for _ in 0..5 {
        let answer = client::get(proxy.inbound(), "/").await;
        assert_eq!(answer.status, 200);
        assert!(!answer.headers.contains_key("ratelimit-limit"), "{answer:?}");
    }
    assert_eq!(app.seen().len(), 5);
    let would = "pilotfish_shadow_decisions_total{policy=\"rate_limit\",would=\"reject\"}";
    assert_eq!(proxy.metric(would).await, 3.0);
    let counted = "pilotfish_rate_limit_total{limit=\"inbound\",decision=\"would_limit\"}";
    assert_eq!(proxy.metric(counted).await, 3.0);
    let lines = proxy.log(5).await;
    assert!(lines[1]["shadow"].as_array().is_none_or(Vec::is_empty), "{}", lines[1]);
    assert!(lines[2]["shadow"].to_string().contains("rate_limit"), "{}", lines[2]);
    assert_eq!(lines[4]["response_code"], 200);
}

#[tokio::test]
async fn a_reload_keeps_what_was_spent_unless_it_changes_the_limit() {
    let (app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 3, per: 1h, key: client_ip } }")
            .await;
    let reload = |rest: &str| {
        proxy.write(&yaml(&app, rest));
        async { proxy.reload().await.expect("it is right") }
    };
    assert_eq!(passed(&proxy, 2, "/", &[]).await, 2);
    let limit = "rate_limit: { requests: 3, per: 60m, burst: 3, key: client_ip, headers: false }";
    reload(&format!("inbound:\n  policy: {{ timeout: 3s, {limit} }}")).await;
    let answer = client::get(proxy.inbound(), "/").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("ratelimit-limit"), "{answer:?}");
    let refused = client::get(proxy.inbound(), "/").await;
    assert_eq!(refused.status, 429);
    assert!(!refused.headers.contains_key("ratelimit-limit"), "{refused:?}");
    assert_ne!(refused.header("retry-after"), "");

    reload("inbound:\n  policy: { rate_limit: { requests: 4, per: 1h, key: client_ip } }").await;
    assert_eq!(passed(&proxy, 6, "/", &[]).await, 4);
    reload("inbound:\n  policy: { rate_limit: off }").await;
    assert_eq!(passed(&proxy, 6, "/", &[]).await, 6);
    reload("inbound:\n  policy: { rate_limit: { requests: 1, mode: off } }").await;
    assert_eq!(passed(&proxy, 6, "/", &[]).await, 6);
}

#[tokio::test]
async fn of_several_limits_all_hold_and_the_narrowest_is_told() {
    let (_app, proxy) = app_with(
        "inbound:
  policy:
    rate_limit:
      - { requests: 2, per: 1h, key: { header: x-api-key } }
      - { requests: 3, per: 1h }",
    )
    .await;
    let key = |key| [("x-api-key", key)];
    let told = get_with(&proxy, "/", &key("a")).await;
    assert_eq!((told.header("ratelimit-limit"), told.header("ratelimit-remaining")), ("2", "1"));
    assert_eq!(passed(&proxy, 3, "/", &key("a")).await, 1);
    // What the first has refused the second has not counted.
    let told = get_with(&proxy, "/", &key("b")).await;
    assert_eq!((told.header("ratelimit-limit"), told.header("ratelimit-remaining")), ("3", "0"));
    assert_eq!(passed(&proxy, 2, "/", &key("c")).await, 0);
    let second = "pilotfish_rate_limit_total{limit=\"inbound[1]\",decision=\"limited\"}";
    assert_eq!(proxy.metric(second).await, 2.0);
}

#[tokio::test]
async fn a_service_that_runs_twice_has_half_a_limit_each() {
    let (_app, proxy) = app_with(
        "inbound:
  policy: { rate_limit: { requests: 10, per: 1h, scope: service } }
services:
  app: { endpoints: [\"{app}\", \"192.0.2.1:80\"] }",
    )
    .await;
    assert_eq!(passed(&proxy, 10, "/", &[]).await, 5);
}

#[tokio::test]
async fn what_the_upstream_says_of_its_own_limit_stays() {
    let app = Upstream::http(|_| async {
        let response = Response::builder().header("ratelimit-limit", "7");
        response.header("ratelimit-remaining", "6").body(body("ok")).expect("a response")
    })
    .await;
    let proxy =
        Proxy::start(&yaml(&app, "inbound:\n  policy: { rate_limit: { requests: 100, per: 1h } }"))
            .await;
    let answer = client::get(proxy.inbound(), "/").await;
    let told = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
    assert_eq!(told.map(|name| answer.header(name)), ["7", "6", ""]);
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_way() {
    let (_app, proxy) =
        app_with("inbound:\n  policy: { rate_limit: { requests: 1, per: 1h } }").await;
    assert_eq!(passed(&proxy, 1, "/", &[]).await, 1);
    let request = Request::post("http://test.example/shop.Orders/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let answer = client::send2(proxy.inbound(), request).await.expect("an answer");
    assert_eq!(answer.status, 200);
    // RESOURCE_EXHAUSTED
    assert_eq!(answer.header("grpc-status"), "8");
    assert_eq!(answer.header("ratelimit-remaining"), "0");
    assert_eq!(answer.header("retry-after"), "3600");
}

#[tokio::test]
async fn more_keys_than_fit_are_forgotten_and_counted() {
    let (_app, proxy) = app_with(
        "inbound:
  policy: { rate_limit: { requests: 1, per: 1h, key: { header: x-key }, max_keys: 16 } }",
    )
    .await;
    for key in 0..40 {
        assert_eq!(passed(&proxy, 1, "/", &[("x-key", &key.to_string())]).await, 1);
    }
    assert_eq!(proxy.metric("pilotfish_rate_limit_keys{limit=\"inbound\"}").await, 16.0);
    assert_eq!(proxy.metric("pilotfish_rate_limit_evicted_total{limit=\"inbound\"}").await, 24.0);
}
