//! Who gets a request, over real sockets: keys, cookies, zones, labels, and splits that keep their clients.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Empty;
use support::{Proxy, client, client::Answer, upstream, upstream::Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

/// Upstreams that answer with their names.
async fn four() -> Vec<Upstream> {
    let mut all = Vec::new();
    for name in NAMES {
        all.push(Upstream::named(name).await);
    }
    all
}

/// A list of endpoints for the YAML.
fn addresses<'a>(upstreams: impl IntoIterator<Item = &'a Upstream>) -> String {
    let quoted = |upstream: &Upstream| format!("\"{}\"", upstream.address);
    upstreams.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

fn services(endpoints: &str, more: &str) -> String {
    format!("services:\n  users:\n    endpoints: [{endpoints}]\n{more}\n")
}

/// A request to `users` from the app.
async fn ask(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header("host", "users");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::send(proxy.outbound(), request.body(Empty::<Bytes>::new()).expect("a request")).await
}

fn user(index: usize) -> String {
    format!("user-{index}")
}

/// Who answers each of so many users, asked three times each.
async fn placed(
    proxy: &Proxy,
    users: usize,
    ask: impl AsyncFn(&Proxy, &str) -> Answer,
) -> Vec<String> {
    let mut owners = Vec::new();
    for index in 0..users {
        let user = user(index);
        let first = ask(proxy, &user).await;
        assert_eq!(first.status, 200);
        for _ in 0..2 {
            assert_eq!(ask(proxy, &user).await.text(), first.text(), "{user} stays");
        }
        owners.push(first.text().to_owned());
    }
    owners
}

fn distinct(owners: &[String]) -> usize {
    owners.iter().collect::<std::collections::BTreeSet<_>>().len()
}

async fn by_header(proxy: &Proxy, user: &str) -> Answer {
    ask(proxy, "/", &[("x-user", user)]).await
}

async fn by_cookie(proxy: &Proxy, user: &str) -> Answer {
    ask(proxy, "/", &[("cookie", &format!("theme=dark; session={user}"))]).await
}

async fn by_query(proxy: &Proxy, user: &str) -> Answer {
    ask(proxy, &format!("/?page=2&user={user}"), &[]).await
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_endpoint() {
    let all = four().await;
    for algorithm in ["ring_hash", "maglev"] {
        let start = async |key: &str| {
            let balancer = format!("    load_balancer: {{ {algorithm}: {{ key: {key} }} }}");
            Proxy::start(&services(&addresses(&all), &balancer)).await
        };
        let proxy = start("{ header: x-user }").await;
        let owners = placed(&proxy, 24, by_header).await;
        assert_eq!(distinct(&owners), 4, "{algorithm} {owners:?}");
        let count = async |result: &str| {
            let series =
                format!("pilotfish_sticky_picks_total{{service=\"users\",result=\"{result}\"}}");
            proxy.metric(&series).await
        };
        assert_eq!(count("by_key").await, 72.0);
        // Without the key they go anywhere.
        let mut anywhere = Vec::new();
        for _ in 0..40 {
            anywhere.push(ask(&proxy, "/", &[]).await.text().to_owned());
        }
        assert!(distinct(&anywhere) > 1, "{anywhere:?}");
        assert_eq!(count("no_key").await, 40.0);
        // Another sidecar says the same, and where the key stands makes no difference to it.
        let other = start("{ cookie: session }").await;
        assert_eq!(placed(&other, 24, by_cookie).await, owners);
        let third = start("{ query: user }").await;
        assert_eq!(placed(&third, 24, by_query).await, owners);
    }
}

#[tokio::test]
async fn the_clients_address_is_the_one_that_trusted_proxies_tell() {
    let all = four().await;
    let yaml = |trusted: &str| {
        format!(
            "inbound:\n  listen: 127.0.0.1:0\n  trusted_proxies: [{trusted}]\n  routes: [{{ to: users }}]\n{}",
            services(
                &addresses(&all),
                "    load_balancer: { ring_hash: { key: { source: true } } }"
            )
        )
    };
    let ask = async |proxy: &Proxy, from: &str| {
        let request = Request::get("/").header("host", "x").header("x-forwarded-for", from);
        client::send(proxy.inbound(), request.body(Empty::<Bytes>::new()).unwrap()).await
    };
    let proxy = Proxy::start(&yaml("127.0.0.0/8")).await;
    let mut owners = Vec::new();
    for last in 0..24 {
        // What a client says before its own address is no part of it.
        let plain = ask(&proxy, &format!("203.0.113.{last}")).await;
        let claimed = ask(&proxy, &format!("6.6.6.{last}, 203.0.113.{last}, 127.0.0.7")).await;
        assert_eq!(plain.text(), claimed.text());
        owners.push(plain.text().to_owned());
    }
    assert_eq!(distinct(&owners), 4, "{owners:?}");
    // Nobody is trusted: all come from here.
    let proxy = Proxy::start(&yaml("10.0.0.0/8")).await;
    let mut owners = Vec::new();
    for last in 0..24 {
        owners.push(ask(&proxy, &format!("203.0.113.{last}")).await.text().to_owned());
    }
    assert_eq!(distinct(&owners), 1, "{owners:?}");
}

#[tokio::test]
async fn a_connection_without_http_goes_by_its_address() {
    let mut servers = Vec::new();
    for name in NAMES {
        servers.push(
            Upstream::raw(move |mut stream| async move {
                let _ = stream.write_all(name.as_bytes()).await;
            })
            .await,
        );
    }
    let proxy = Proxy::start(&format!(
        "outbound:\n  listen: 127.0.0.1:0\n  ports: {{ 1: {{ service: users, listen: 127.0.0.1:0 }} }}\n{}",
        services(
            &addresses(&servers),
            "    protocol: tcp\n    load_balancer: { maglev: { key: { source: true } } }"
        )
    ))
    .await;
    let mut owners = Vec::new();
    for _ in 0..12 {
        let mut stream =
            TcpStream::connect(proxy.port()).await.expect("the proxy takes connections");
        let mut said = String::new();
        within(stream.read_to_string(&mut said)).await.expect("a name");
        owners.push(said);
    }
    assert_eq!(distinct(&owners), 1, "{owners:?}");
}

#[tokio::test]
async fn only_the_keys_of_an_endpoint_that_goes_move() {
    let all = four().await;
    let balancer = "    load_balancer: { ring_hash: { key: { header: x-user } } }";
    let proxy = Proxy::start(&services(&addresses(&all), balancer)).await;
    let before = placed(&proxy, 32, by_header).await;

    // Taken out by a reload.
    proxy.write(&services(&addresses(&all[1..]), balancer));
    proxy.reload().await.expect("it is right");
    let without = placed(&proxy, 32, by_header).await;
    for (before, after) in before.iter().zip(&without) {
        assert!(before == after || before == "a", "{before} to {after}");
        assert_ne!(after, "a");
    }
    // And back.
    proxy.write(&services(&addresses(&all), balancer));
    proxy.reload().await.expect("it is right");
    assert_eq!(placed(&proxy, 32, by_header).await, before);
}

#[tokio::test]
async fn a_dead_endpoints_keys_go_to_the_next_one() {
    let all = four().await;
    let endpoints = format!("\"{DEAD}\", {}", addresses(&all));
    for algorithm in ["ring_hash", "maglev"] {
        let balancer =
            format!("    load_balancer: {{ {algorithm}: {{ key: {{ header: x-user }} }} }}");
        let proxy = Proxy::start(&services(&endpoints, &balancer)).await;
        let owners = placed(&proxy, 24, by_header).await;
        let series = "pilotfish_retries_total{service=\"users\",reason=\"connect_refused\"}";
        assert!(distinct(&owners) > 1 && proxy.metric(series).await > 0.0, "{owners:?}");
    }
}

/// Answers when it is told to.
async fn slow(name: &'static str, gate: tokio::sync::watch::Receiver<bool>) -> Upstream {
    Upstream::http(move |_| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            http::Response::new(upstream::body(name))
        }
    })
    .await
}

#[tokio::test]
async fn a_bounded_load_sends_a_busy_key_on() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let mut all = Vec::new();
    for name in NAMES {
        all.push(slow(name, gate.clone()).await);
    }
    let balancer =
        "    load_balancer: { ring_hash: { key: { header: x-user }, bounded_load: 125% } }";
    let proxy = Proxy::start(&services(&addresses(&all), balancer)).await;
    let proxy = std::sync::Arc::new(proxy);
    let mut asked = Vec::new();
    for count in 1..=16 {
        let proxy_of = proxy.clone();
        asked.push(tokio::spawn(async move { by_header(&proxy_of, "one").await }));
        // One after the other: the next is picked when this one is in flight.
        support::eventually(|| async {
            let seen: usize = all.iter().map(|upstream| upstream.seen().len()).sum();
            (seen == count).then_some(())
        })
        .await;
    }
    let counts: Vec<usize> = all.iter().map(|upstream| upstream.seen().len()).collect();
    // 16 / 4 * 1.25 are 5.
    assert!(counts.iter().all(|count| *count <= 5), "{counts:?}");
    open.send(true).expect("somebody waits");
    for answer in asked {
        assert_eq!(within(answer).await.expect("an answer").status, 200);
    }
    // With nothing in flight the key is back at its own.
    let first = by_header(&proxy, "one").await;
    for _ in 0..8 {
        assert_eq!(by_header(&proxy, "one").await.text(), first.text());
    }
}

/// The cookie that an answer sets: its pair, and its attributes.
fn cookie_of(answer: &Answer) -> Option<(String, String)> {
    let set = answer.header("set-cookie");
    let (pair, attributes) = set.split_once("; ")?;
    Some((pair.to_owned(), attributes.to_owned()))
}

#[tokio::test]
async fn a_client_stays_where_its_cookie_says() {
    let all = four().await;
    let balancer = "    load_balancer:\n      sticky_cookie: { name: route, ttl: 1h, path: /shop, secure: true, then: round_robin }";
    let proxy = Proxy::start(&services(&addresses(&all), balancer)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let answer = ask(&proxy, "/", &[]).await;
        let (pair, attributes) = cookie_of(&answer).expect("a cookie");
        assert_eq!(attributes, "Path=/shop; Max-Age=3600; HttpOnly; Secure; SameSite=Lax");
        let value = pair.strip_prefix("route=").expect("its name");
        assert!(value.len() == 16 && !value.contains("127"), "it says nothing: {value}");
        clients.push((pair, answer.text().to_owned()));
    }
    // Some may be the same: each worker takes turns of its own.
    assert!(clients.iter().any(|client| client != &clients[0]));
    for (pair, owner) in &clients {
        for _ in 0..4 {
            let answer = ask(&proxy, "/", &[("cookie", &format!("a=b; {pair}"))]).await;
            assert_eq!(answer.text(), owner);
            assert_eq!(cookie_of(&answer), None, "it has one");
        }
    }
    let count = async |result: &str| {
        let series =
            format!("pilotfish_sticky_picks_total{{service=\"users\",result=\"{result}\"}}");
        proxy.metric(&series).await
    };
    assert_eq!((count("new").await, count("followed").await), (4.0, 16.0));

    // What was never one of ours is replaced.
    let forged = ask(&proxy, "/", &[("cookie", "route=ffffffffffffffff")]).await;
    assert!(cookie_of(&forged).is_some());
    assert_eq!(count("reassigned").await, 1.0);

    // The endpoint goes: the client gets another, and a cookie for it; all others stay.
    let (pair, owner) = clients[0].clone();
    let left: Vec<_> =
        all.iter().zip(NAMES).filter(|(_, name)| *name != owner).map(|(all, _)| all).collect();
    proxy.write(&services(&addresses(left), balancer));
    proxy.reload().await.expect("it is right");
    let moved = ask(&proxy, "/", &[("cookie", &pair)]).await;
    let (new, _) = cookie_of(&moved).expect("another cookie");
    assert_ne!((moved.text(), &new), (&*owner, &pair));
    let again = ask(&proxy, "/", &[("cookie", &new)]).await;
    assert_eq!((again.text(), cookie_of(&again)), (moved.text(), None));
    for (pair, owner) in clients.iter().filter(|(_, other)| *other != owner) {
        assert_eq!(ask(&proxy, "/", &[("cookie", pair)]).await.text(), owner);
    }
}

#[tokio::test]
async fn a_cookie_of_an_endpoint_that_refuses_is_changed() {
    let alive = Upstream::named("alive").await;
    let dead = Upstream::named("dead").await;
    let balancer = "    load_balancer: sticky_cookie";
    let endpoints = addresses([&alive, &dead]);
    let proxy = Proxy::start(&services(&endpoints, balancer)).await;
    let cookie = support::eventually(|| async {
        let answer = ask(&proxy, "/", &[]).await;
        (answer.text() == "dead").then(|| cookie_of(&answer).expect("a cookie").0)
    })
    .await;
    assert!(cookie.starts_with("pilotfish-users="), "{cookie}");
    drop(dead);
    // Its idle connection may be found dead first; the answer is the other's in the end.
    let answer = support::eventually(|| async {
        let answer = ask(&proxy, "/", &[("cookie", &cookie)]).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.text(), "alive");
    let (new, attributes) = cookie_of(&answer).expect("a new one");
    assert_ne!(new, cookie);
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn the_own_zone_is_first_and_spills_over() {
    let all = four().await;
    let yaml = |zones: [&str; 4], more: &str| {
        let endpoint = |(upstream, zone): (&Upstream, &str)| {
            format!("{{ address: \"{}\", zone: {zone} }}", upstream.address)
        };
        let endpoints: Vec<_> = all.iter().zip(zones).map(endpoint).collect();
        let endpoints = format!("{}{more}", endpoints.join(", "));
        format!(
            "service: {{ name: shop, port: 1, zone: east }}\n{}",
            services(&endpoints, "    zone_aware: {}\n    load_balancer: round_robin")
        )
    };
    let tally = async |proxy: &Proxy, requests: usize| {
        let mut counts = BTreeMap::<String, usize>::new();
        for _ in 0..requests {
            let answer = ask(proxy, "/", &[]).await;
            assert_eq!(answer.status, 200);
            *counts.entry(answer.text().to_owned()).or_default() += 1;
        }
        counts
    };
    let picks = async |proxy: &Proxy, zone: &str| {
        let series = format!("pilotfish_zone_picks_total{{service=\"users\",zone=\"{zone}\"}}");
        proxy.metric(&series).await
    };
    // It has its half: nothing leaves it.
    let proxy = Proxy::start(&yaml(["east", "east", "west", "west"], "")).await;
    let counts = tally(&proxy, 40).await;
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["a", "b"], "{counts:?}");
    assert_eq!((picks(&proxy, "local").await, picks(&proxy, "other").await), (40.0, 0.0));

    // It has a quarter, where a half would be its part: half of the requests leave it.
    proxy.write(&yaml(["east", "west", "west", "west"], ""));
    proxy.reload().await.expect("it is right");
    let counts = tally(&proxy, 200).await;
    assert!((60..140).contains(&counts["a"]), "{counts:?}");
    assert_eq!(counts.len(), 4);
    let other = picks(&proxy, "other").await;
    assert_eq!(other as usize, 200 - counts["a"]);

    // Nobody is at home in it: what was tried there goes to the other zone.
    let dead = format!(", {{ address: \"{DEAD}\", zone: east }}");
    proxy.write(&yaml(["west", "west", "west", "west"], &dead));
    proxy.reload().await.expect("it is right");
    assert_eq!(tally(&proxy, 40).await.values().sum::<usize>(), 40);

    // Switched off.
    proxy.write(
        &yaml(["east", "east", "west", "west"], "").replace("zone_aware: {}", "zone_aware: off"),
    );
    proxy.reload().await.expect("it is right");
    assert_eq!(tally(&proxy, 40).await.len(), 4);
}

#[tokio::test]
async fn routes_choose_endpoints_by_label_and_version() {
    let all = four().await;
    let labels = [
        "version: v1, labels: { tier: gold, track: stable }",
        "version: v1, labels: { tier: free }",
        "version: v2, labels: { tier: gold }",
        "version: v2",
    ];
    let endpoint = |(upstream, labels): (&Upstream, &str)| {
        format!("{{ address: \"{}\", {labels} }}", upstream.address)
    };
    let endpoints: Vec<_> = all.iter().zip(labels).map(endpoint).collect();
    let routes = "    load_balancer: round_robin
    routes:
      - { match: { path: /gold }, to: { labels: { tier: gold } } }
      - { match: { path: /gold-v1 }, to: { version: v1, labels: { tier: gold } } }
      - { match: { path: /both }, to: { labels: { tier: gold, track: stable } } }
      - { match: { path: /v2 }, to: { version: v2 } }";
    let proxy = Proxy::start(&services(&endpoints.join(", "), routes)).await;
    for (path, expected) in [
        ("/gold", &["a", "c"][..]),
        ("/gold-v1", &["a"]),
        ("/both", &["a"]),
        ("/v2", &["c", "d"]),
        ("/", &NAMES),
    ] {
        let mut got = std::collections::BTreeSet::new();
        for _ in 0..24 {
            got.insert(ask(&proxy, path, &[]).await.text().to_owned());
        }
        assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{path}");
    }
    let clusters = client::get_from(proxy.admin(), "localhost", "/clusters?format=json").await;
    assert!(clusters.text().contains("\"tier\""), "{}", clusters.text());
}

#[tokio::test]
async fn a_sticky_split_keeps_its_clients_and_moves_few() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let yaml = |weights: (u32, u32)| {
        format!(
            "services:
  users:
    endpoints:
      - {{ address: \"{}\", version: v1 }}
      - {{ address: \"{}\", version: v2 }}
    routes:
      - to: [{{ version: v1, weight: {} }}, {{ version: v2, weight: {} }}]
        sticky: {{ header: x-user }}
",
            old.address, new.address, weights.0, weights.1
        )
    };
    let proxy = Proxy::start(&yaml((90, 10))).await;
    let at_ten = placed(&proxy, 100, by_header).await;
    let is_new = |owners: &[String]| owners.iter().filter(|owner| *owner == "new").count();
    assert!((2..25).contains(&is_new(&at_ten)), "{}", is_new(&at_ten));
    let counted = "pilotfish_split_requests_total{service=\"users\",subset=\"v2\"}";
    assert_eq!(proxy.metric(counted).await, (3 * is_new(&at_ten)) as f64);

    proxy.write(&yaml((50, 50)));
    proxy.reload().await.expect("it is right");
    let at_fifty = placed(&proxy, 100, by_header).await;
    assert!((30..70).contains(&is_new(&at_fifty)), "{}", is_new(&at_fifty));
    // Who had the new one keeps it: nobody goes back.
    assert!(at_ten.iter().zip(&at_fifty).all(|(before, after)| before == after || after == "new"));

    // Without the key it is by chance.
    let mut anybody = Vec::new();
    for _ in 0..40 {
        anybody.push(ask(&proxy, "/", &[]).await.text().to_owned());
    }
    assert_eq!(distinct(&anybody), 2);
}

#[tokio::test]
async fn crumbs_of_a_cookie_on_http2_are_one_cookie() {
    let all = four().await;
    let balancer = "    load_balancer: { maglev: { key: { cookie: session } } }";
    let proxy = Proxy::start(&services(&addresses(&all), balancer)).await;
    let owners = placed(&proxy, 12, by_cookie).await;
    for (index, owner) in owners.iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "theme=dark".parse().unwrap());
        headers.append("cookie", format!("session={}", user(index)).parse().unwrap());
        let mut request = Request::get("http://users/").body(Empty::<Bytes>::new()).unwrap();
        request.headers_mut().extend(headers);
        let answer = client::send2(proxy.outbound(), request).await.expect("an answer");
        assert_eq!(answer.text(), owner);
    }
}
