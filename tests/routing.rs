//! What routes do to a request over real sockets: where it goes, what is changed, what is answered here.

mod support;

use support::{Proxy, client, upstream::Upstream};

/// A proxy whose app and `users` are `upstream`, with these inbound routes, one a line.
async fn proxy(upstream: &Upstream, routes: &str) -> Proxy {
    let port = upstream.address.port();
    Proxy::start(&format!(
        "service: {{ name: app, port: {port} }}\ninbound:\n  listen: 127.0.0.1:0\n  request_headers: {{ set: {{ x-outer: a }}, add: {{ x-more: a }} }}\n  routes:\n{routes}\nservices:\n  users: {{ endpoints: [\"127.0.0.1:{port}\"] }}\n"
    ))
    .await
}

#[tokio::test]
async fn a_redirect_leaves_what_it_does_not_name() {
    let app = Upstream::named("app").await;
    let proxy = proxy(
        &app,
        "    - { match: { path: /path }, redirect: { path: /new } }
    - { match: { path: /host }, redirect: { host: other.example, status: 301 } }
    - { match: { path: /tls }, redirect: { scheme: https, status: 308 } }
    - { match: { path: /all }, redirect: { scheme: http, host: \"other:81\", path: /b } }",
    )
    .await;
    for (path, status, location) in [
        ("/path?a=1", 302, "/new?a=1"),
        ("/host?a=1", 301, "//other.example/host?a=1"),
        ("/tls", 308, "https://shop.example:8443/tls"),
        ("/all", 302, "http://other:81/b"),
    ] {
        let answer = client::get_from(proxy.inbound(), "shop.example:8443", path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header("location"), location);
        assert_eq!(answer.header("content-length"), "0");
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn an_answer_of_ours_has_a_length_where_it_may() {
    let app = Upstream::named("app").await;
    let proxy = proxy(
        &app,
        "    - { match: { path: /empty }, respond: { status: 204 } }
    - { match: { path: /same }, respond: { status: 304, headers: { etag: '\"a\"' } } }
    - { match: { path: /none }, respond: { status: 404 } }
    - { match: { path: /json }, respond: { json: { a: [1] }, headers: { x-a: b } }, response_headers: { set: { x-b: c } } }",
    )
    .await;
    for (path, status, length, body) in [
        ("/empty", 204, "", ""),
        ("/same", 304, "", ""),
        ("/none", 404, "0", ""),
        ("/json", 200, "9", "{\"a\":[1]}"),
    ] {
        let answer = client::get(proxy.inbound(), path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header("content-length"), length, "{path}");
        assert_eq!(answer.text(), body);
    }
    let answer = client::get(proxy.inbound(), "/json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!((answer.header("x-a"), answer.header("x-b")), ("b", "c"));
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_prefix_is_replaced_in_the_form_in_which_it_was_matched() {
    let app = Upstream::named("app").await;
    let proxy = proxy(
        &app,
        "    - { match: { path_prefix: /a%2Db }, rewrite: { path_prefix: /c, host: inner.example } }
    - { match: { path_prefix: /root }, rewrite: { path_prefix: / } }",
    )
    .await;
    let paths = [
        ("/a-b/d?q=%2D", "/c/d?q=%2D"),
        ("/a%2db", "/c"),
        ("/a-bc", "/a-bc"),
        ("/root/x", "/x"),
        ("/root", "/"),
    ];
    for (path, _) in paths {
        assert_eq!(client::get(proxy.inbound(), path).await.status, 200);
    }
    let seen = app.seen();
    for ((_, expected), seen) in paths.iter().zip(&seen) {
        assert_eq!(seen.uri.path_and_query().expect("a path"), expected);
    }
    assert_eq!(seen[0].header("host"), "inner.example");
}

#[tokio::test]
async fn edits_of_a_route_win_over_those_around_it() {
    let app = Upstream::named("app").await;
    let proxy = proxy(
        &app,
        "    - { match: { path: /inner }, request_headers: { remove: [x-outer], set: { x-more: b } } }",
    )
    .await;
    client::get(proxy.inbound(), "/inner").await;
    client::get(proxy.inbound(), "/outer").await;
    let seen = app.seen();
    let values = |at: usize, name: &str| seen[at].headers.get_all(name).iter().count();
    assert_eq!((values(0, "x-outer"), seen[0].header("x-more")), (0, "b"));
    assert_eq!((seen[1].header("x-outer"), values(1, "x-more")), ("a", 1));
}

#[tokio::test]
async fn a_host_can_be_an_ipv6_address_and_any() {
    let app = Upstream::named("app").await;
    let proxy = proxy(
        &app,
        "    - { match: { host: \"[::1]\" }, respond: { body: six } }
    - { match: { host: \"*\", path: /any }, respond: { body: any } }",
    )
    .await;
    let from = |host, path| client::get_from(proxy.inbound(), host, path);
    assert_eq!(from("[::1]:80", "/").await.text(), "six");
    assert_eq!(from("a.example", "/any").await.text(), "any");
    assert_eq!(from("a.example", "/").await.text(), "app");
}

#[tokio::test]
async fn a_local_port_is_there_for_both_ips() {
    let users = Upstream::named("users").await;
    // A port that was free a moment ago; another process may take it, so a few are tried.
    let mut started = None;
    for _ in 0..5 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let yaml = format!(
            "outbound:\n  listen: 127.0.0.1:0\n  ports: {{ {port}: users }}\nservices:\n  users: {{ endpoints: [\"{}\"] }}\n",
            users.address
        );
        if let Ok(proxy) = Proxy::try_start(&yaml).await {
            started = Some((proxy, port));
            break;
        }
    }
    let (_proxy, port) = started.expect("one of five ports is free");
    for ip in ["127.0.0.1", "::1"] {
        let address = std::net::SocketAddr::new(ip.parse().expect("an address"), port);
        // Where there is no IPv6 there is no such listener.
        if std::net::TcpListener::bind((ip, 0)).is_ok() {
            assert_eq!(client::get(address, "/").await.text(), "users", "{ip}");
        }
    }
}
