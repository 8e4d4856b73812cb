//! What a message keeps, loses and gets on its way through the proxy, in all versions of HTTP.

mod support;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{Empty, Full};
use support::client::Raw;
use support::raw::Recording;
use support::upstream::{Upstream, body, read_head, with_trailers};
use support::{Proxy, client};
use tokio::io::AsyncWriteExt;

/// A proxy before `app`, which speaks `protocol`.
async fn before(app: &Upstream, protocol: &str) -> Proxy {
    Proxy::start(&format!(
        "service: {{ name: app, port: {}, protocol: {protocol} }}\n",
        app.address.port()
    ))
    .await
}

fn lines(head: &str) -> Vec<&str> {
    head.lines().filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop_and_names_keep_their_case() {
    let app = Recording::start().await;
    let proxy = before(&app.upstream, "http1").await;
    let request = "GET /a HTTP/1.1\r\nHoSt: App.Example\r\nX-CuStOm: Value\r\nx-custom: second\r\n\
                   Connection: Keep-Alive, X-Auth, x-request-id, x-forwarded-for\r\nX-Auth: secret\r\n\
                   x-request-id: named\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                   TE: gzip, trailers\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: foo\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send(request).await;
    raw.until("ok").await;
    let message = &app.messages()[0];
    let (ours, kept): (Vec<_>, Vec<_>) = lines(message).into_iter().partition(|line| {
        line.starts_with("x-") && !line.starts_with("x-custom")
            || line.starts_with("forwarded")
            || line.starts_with("trace")
    });
    assert_eq!(
        kept,
        [
            "GET /a HTTP/1.1",
            "HoSt: App.Example",
            "X-CuStOm: Value",
            "x-custom: second",
            "TE: trailers"
        ]
    );
    // C2: what the client named is gone; what we say of it comes after.
    assert!(ours.contains(&"x-forwarded-for: 127.0.0.1"), "{ours:?}");
    assert!(ours.iter().any(|line| line.starts_with("x-request-id: ") && !line.contains("named")));

    // R9, R8: and back, from an upstream of HTTP/1.0 that ends its body by closing.
    let app = Upstream::canned(
        b"HTTP/1.0 200 Fine\r\nX-BaCk: Value\r\nConnection: X-Secret, close\r\nX-Secret: 1\r\n\
          Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n\r\nbody",
    )
    .await;
    let proxy = before(&app, "http1").await;
    let mut raw = Raw::connect(proxy.inbound()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = raw.head().await;
    assert_eq!(lines(&head), ["HTTP/1.1 200 Fine", "X-BaCk: Value", "transfer-encoding: chunked"]);
    assert_eq!(raw.until("0\r\n\r\n").await, "4\r\nbody\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_in_its_version() {
    let app = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with(b"GET /old HTTP/1.1\r\n"));
        let _ = stream
            .write_all(
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )
            .await;
    })
    .await;
    let proxy = before(&app, "http1").await;
    let answer = client::exchange(proxy.inbound(), b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nabcde"), "{answer}");
    assert!(!answer.contains("chunked") && !answer.contains("103"), "{answer}");
    assert_eq!(proxy.log(1).await[0]["protocol"], "HTTP/1.0");
}

#[tokio::test]
async fn versions_and_authorities_are_translated() {
    let users = Upstream::http(|_| async { Response::new(body("users")) }).await;
    let proxy = Proxy::start(&format!(
        "services:\n  one: {{ protocol: http1, endpoints: [\"{0}\"] }}\n  two: {{ protocol: http2, endpoints: [\"{0}\"] }}\n",
        users.address
    ))
    .await;
    // The absolute form wins over Host, and neither is left in what goes on.
    for (service, version) in [("one", Version::HTTP_11), ("two", Version::HTTP_2)] {
        let bytes = format!(
            "GET http://{service}/users/1?q=1 HTTP/1.1\r\nHost: other\r\nCookie: a=1; b=2\r\nConnection: close\r\n\r\n"
        );
        let answer = client::exchange(proxy.outbound(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("users"), "{answer}");
        let request = Request::post(format!("http://{service}/users/2"))
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let request = request.body(Full::new(Bytes::from("hello"))).expect("a request");
        let answer = client::send2(proxy.outbound(), request).await.expect("an answer");
        assert_eq!((answer.version, answer.text()), (Version::HTTP_2, "users"));
        let seen = users.seen();
        for (seen, method, path) in [
            (&seen[seen.len() - 2], Method::GET, "/users/1?q=1"),
            (&seen[seen.len() - 1], Method::POST, "/users/2"),
        ] {
            assert_eq!((&seen.method, seen.version), (&method, version));
            assert_eq!(seen.uri.path_and_query().expect("a path"), path);
            let authority = match version {
                Version::HTTP_2 => {
                    assert!(!seen.headers.contains_key("host"), "{seen:?}");
                    seen.uri.authority().expect("an authority").as_str()
                }
                _ => seen.header("host"),
            };
            assert_eq!(authority, service);
        }
        if version == Version::HTTP_11 {
            assert_eq!(seen[seen.len() - 1].header("cookie"), "a=1; b=2");
        }
        assert_eq!(seen[seen.len() - 1].body, "hello");
    }
}

#[tokio::test]
async fn trailers_pass_in_every_combination_but_not_the_forbidden_ones() {
    fn trailers() -> HeaderMap {
        let names = ["x-sum", "x-forwarded-for", "authorization"];
        names
            .iter()
            .map(|name| (name.parse().expect("a name"), HeaderValue::from_static("t")))
            .collect()
    }
    let app = Upstream::http(|_| async {
        let body = with_trailers("answer", trailers());
        Response::builder()
            .header("trailer", "x-sum, x-forwarded-for, authorization")
            .body(body)
            .expect("a response")
    })
    .await;
    for protocol in ["http1", "http2"] {
        let proxy = before(&app, protocol).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let request = Request::post("http://app/t")
                .header("host", "app")
                .header("te", "trailers")
                .header("trailer", "x-sum, x-forwarded-for, authorization");
            let body = with_trailers("question", trailers());
            let request = request.body(body).expect("a request");
            let answer = match version {
                Version::HTTP_2 => {
                    client::send2(proxy.inbound(), request).await.expect("an answer")
                }
                _ => client::send(proxy.inbound(), request).await,
            };
            let context = format!("{version:?} to {protocol}");
            let only: HeaderMap =
                [("x-sum".parse().expect("a name"), HeaderValue::from_static("t"))]
                    .into_iter()
                    .collect();
            assert_eq!(answer.text(), "answer", "{context}");
            assert_eq!(answer.trailers, Some(only.clone()), "{context}");
            let seen = app.seen().pop().expect("a request");
            assert_eq!((&*seen.body, seen.trailers), (&b"question"[..], Some(only)), "{context}");
        }
    }
}

#[tokio::test]
async fn what_says_who_the_client_is_comes_from_us_or_from_those_we_trust() {
    let app = Upstream::named("app").await;
    for (trusted, expected) in [
        (
            "[]",
            [
                "127.0.0.1",
                "http",
                "shop.example",
                "for=127.0.0.1;host=\"shop.example\";proto=http",
                "",
            ],
        ),
        (
            "[127.0.0.0/8]",
            [
                "6.6.6.6, 127.0.0.1",
                "https",
                "evil.example",
                "for=6.6.6.6, for=127.0.0.1;host=\"shop.example\";proto=http",
                "6.6.6.6",
            ],
        ),
    ] {
        let proxy = Proxy::start(&format!(
            "service: {{ name: app, port: {} }}\ninbound: {{ listen: \"127.0.0.1:0\", trusted_proxies: {trusted} }}\n",
            app.address.port()
        ))
        .await;
        let request = Request::get("/")
            .header("host", "shop.example")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "evil.example")
            .header("forwarded", "for=6.6.6.6")
            .header("x-real-ip", "6.6.6.6");
        client::send(proxy.inbound(), request.body(Empty::<Bytes>::new()).expect("a request"))
            .await;
        let seen = app.seen().pop().expect("a request");
        let names =
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip"];
        assert_eq!(names.map(|name| seen.header(name)), expected);
        assert_eq!(proxy.log(1).await[0]["x_forwarded_for"], expected[0]);
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_and_its_trace_or_gets_them() {
    let app = Upstream::named("app").await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: app, port: {} }}\nruntime: {{ workers: 1 }}\nservices:\n  other: {{ endpoints: [\"{}\"] }}\n",
        app.address.port(),
        app.address
    ))
    .await;
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    for (index, address) in [proxy.inbound(), proxy.outbound()].into_iter().enumerate() {
        let request = Request::get("/")
            .header("host", "other")
            .header("x-request-id", "mine")
            .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
            .header("tracestate", "a=1,b=2")
            .header("baggage", "user=7");
        client::send(address, request.body(Empty::<Bytes>::new()).expect("a request")).await;
        let seen = app.seen().pop().expect("a request");
        assert_eq!(
            ["x-request-id", "tracestate", "baggage"].map(|name| seen.header(name)),
            ["mine", "a=1,b=2", "user=7"]
        );
        let parts: Vec<_> = seen.header("traceparent").split('-').collect();
        assert_eq!([parts[0], parts[1], parts[3]], ["00", TRACE, "01"]);
        assert_ne!(parts[2], "b7ad6b7169203331", "a span of our own");
        let line = &proxy.log(2 * index + 1).await[2 * index];
        assert_eq!(
            [&line["request_id"], &line["trace_id"], &line["span_id"]],
            ["mine", TRACE, parts[2]]
        );

        client::get_from(address, "other", "/").await;
        let seen = app.seen().pop().expect("a request");
        assert!(seen.header("x-request-id").len() >= 32, "{seen:?}");
        assert_eq!(seen.header("traceparent").len(), 55, "{seen:?}");
        assert_eq!(seen.header("tracestate"), "");
    }
}

#[tokio::test]
async fn grpc_gets_our_errors_in_its_own_form() {
    let silent = Upstream::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let slow = Upstream::http(|_| std::future::pending()).await;
    let proxy = Proxy::start(&format!(
        "outbound: {{ listen: \"127.0.0.1:0\", unknown: reject }}\nservices:\n  gone: {{ endpoints: [\"127.0.0.1:1\"] }}\n  \
         slow: {{ endpoints: [\"{}\"] }}\n  silent: {{ endpoints: [\"{}\"], policy: {{ timeout: 100ms }} }}\n",
        slow.address, silent.address
    ))
    .await;
    for (service, status, reason) in [
        ("nobody", "12", "unknown_host"),
        ("gone", "14", "connect_refused"),
        ("slow", "4", "client_deadline"),
        ("silent", "4", "request_timeout"),
    ] {
        let request = Request::post(format!("http://{service}/pkg.Service/Method"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("grpc-timeout", "200m");
        let request = request.body(Full::new(Bytes::from_static(&[0; 5]))).expect("a request");
        let answer = client::send2(proxy.outbound(), request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{service}");
        assert_eq!([answer.header("grpc-status"), answer.reason()], [status, reason], "{service}");
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert!(answer.header("grpc-message").starts_with("pilotfish: "), "{answer:?}");
        assert_eq!(answer.text(), "");
    }
    let log = proxy.log(4).await;
    assert!(log.iter().all(|line| line["response_code"] == 200), "{log:?}");
    // What reached the upstream says how long it is waited for, and that trailers are wanted.
    let seen = slow.seen().pop().expect("a request");
    assert_eq!(["te", "grpc-timeout"].map(|name| seen.header(name)), ["trailers", "200m"]);
}
