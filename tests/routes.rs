//! Where requests go, both ways.

mod support;

use support::{Proxy, client, upstream::Upstream};

#[tokio::test]
async fn inbound_goes_to_the_app_and_outbound_to_services() {
    let app = Upstream::named("app").await;
    let users = Upstream::named("users").await;
    let proxy = Proxy::start(&format!(
        "service: {{ name: orders, port: {} }}\nservices:\n  user-service: {{ endpoints: [\"{}\"] }}\n",
        app.address.port(),
        users.address
    ))
    .await;
    assert_eq!(client::get(proxy.inbound(), "/").await.text(), "app");
    assert_eq!(client::get_from(proxy.outbound(), "user-service", "/a").await.text(), "users");
    assert_eq!(
        client::get_from(proxy.outbound(), "user-service.localhost:1", "/a").await.text(),
        "users"
    );
    assert_eq!(users.seen()[1].header("host"), "user-service");
    let answer = client::get_from(proxy.outbound(), "nowhere.invalid", "/a").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, "name_unresolved"));
    assert_eq!(proxy.log(4).await[0]["response_code"], 200);
}

/// A name can turn out to be ours however it is written; the second time round the proxy knows itself.
#[tokio::test]
async fn a_name_that_leads_back_is_a_loop() {
    let proxy = Proxy::start("outbound:\n  unknown: passthrough\n").await;
    let port = proxy.outbound().port();
    for host in ["127.1", "[::ffff:127.0.0.1]", "localhost", "127.0.0.1"] {
        let answer = client::get_from(proxy.outbound(), &format!("{host}:{port}"), "/").await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (508, "loop"), "{host}");
    }
}
