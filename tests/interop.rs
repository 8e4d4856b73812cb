//! Clients and servers that others wrote, with the proxy between them, in both directions. Their
//! scripts are in `tests/interop/`; a test whose tools are absent says so and passes.

mod support;

use support::counterpart::{Server, Tool, have, node, output, python};
use support::town::{Town, Way};
use tokio::process::Command;

/// A client script, which prints `ok` when all was well.
async fn run(town: &Town, mut command: Command, script: &str, topic: &str, way: &str) {
    let kind = way.split('/').next().unwrap_or(way);
    let entrance = match kind {
        "inbound" => town.entrance(Way::Inbound),
        _ => town.entrance(Way::Host),
    };
    command.args([script, topic, way, &entrance.to_string()]);
    assert_eq!(output(&mut command).await, "ok\n", "{topic} by {way}");
}

/// Tests that run a topic of a script by each of some ways.
macro_rules! scripts {
    ($($test:ident: $start:ident, $runner:ident $script:literal $topic:literal by [$($way:literal),+];)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let Some((_servers, town)) = $start().await else {
                return;
            };
            for way in [$($way),+] {
                run(&town, $runner(), $script, $topic, way).await;
            }
        }
    )+};
}

async fn httpx_app() -> Option<(Server, Town)> {
    if !have(&[Tool::Httpx]).await {
        return None;
    }
    let server = Server::python("app.py", &[]).await;
    let town = Town::around(&[&server]).await;
    Some((server, town))
}

async fn fetch_app() -> Option<(Server, Town)> {
    if !have(&[Tool::Node, Tool::Python]).await {
        return None;
    }
    let server = Server::python("app.py", &[]).await;
    let town = Town::around(&[&server]).await;
    Some((server, town))
}

async fn ws_app() -> Option<(Server, Town)> {
    if !have(&[Tool::Ws]).await {
        return None;
    }
    let server = Server::node("app.mjs", &["ws"]).await;
    let town = Town::around(&[&server]).await;
    Some((server, town))
}

async fn grpc_app() -> Option<(Vec<Server>, Town)> {
    if !have(&[Tool::Grpcio]).await {
        return None;
    }
    let server = Server::python("grpc_server.py", &["one"]).await;
    let town = Town::around(&[&server]).await;
    Some((vec![server], town))
}

scripts! {
    httpx_requests: httpx_app, python "httpx_client.py" "requests"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];
    httpx_uploads: httpx_app, python "httpx_client.py" "upload"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];
    httpx_keeps_cookies: httpx_app, python "httpx_client.py" "cookies"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];
    httpx_gets_events_one_by_one: httpx_app, python "httpx_client.py" "events"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];
    httpx_asks_much_at_a_time: httpx_app, python "httpx_client.py" "together"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];
    httpx_polls_long: httpx_app, python "httpx_client.py" "long_poll"
        by ["inbound", "inbound/2", "host", "host/2", "mesh", "mesh/2", "proxy"];

    fetch_requests: fetch_app, node "fetch_client.mjs" "requests" by ["inbound", "host", "mesh"];
    fetch_uploads: fetch_app, node "fetch_client.mjs" "upload" by ["inbound", "host", "mesh"];
    fetch_gets_events_one_by_one: fetch_app, node "fetch_client.mjs" "events" by ["inbound", "host", "mesh"];
    fetch_gives_up: fetch_app, node "fetch_client.mjs" "abort" by ["inbound", "host", "mesh"];

    ws_messages: ws_app, node "ws_client.mjs" "messages" by ["inbound", "host", "mesh", "connect"];
    ws_closes: ws_app, node "ws_client.mjs" "close" by ["inbound", "host", "mesh", "connect"];
    ws_subprotocol: ws_app, node "ws_client.mjs" "subprotocol" by ["inbound", "host", "mesh", "connect"];
    ws_refused: ws_app, node "ws_client.mjs" "refused" by ["inbound", "host", "mesh", "connect"];

    grpc_unary: grpc_app, python "grpc_client.py" "unary" by ["inbound", "host", "mesh", "connect"];
    grpc_server_stream: grpc_app, python "grpc_client.py" "server_stream" by ["inbound", "host", "mesh", "connect"];
    grpc_client_stream: grpc_app, python "grpc_client.py" "client_stream" by ["inbound", "host", "mesh", "connect"];
    grpc_both_stream: grpc_app, python "grpc_client.py" "bidi" by ["inbound", "host", "mesh", "connect"];
    grpc_metadata_and_trailers: grpc_app, python "grpc_client.py" "metadata" by ["inbound", "host", "mesh", "connect"];
    grpc_error_status: grpc_app, python "grpc_client.py" "status" by ["inbound", "host", "mesh", "connect"];
    grpc_deadline_and_cancel: grpc_app, python "grpc_client.py" "deadline" by ["inbound", "host", "mesh", "connect"];
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_spreads_the_calls_of_one_connection() {
    if !have(&[Tool::Grpcio]).await {
        return;
    }
    let one = Server::python("grpc_server.py", &["one"]).await;
    let two = Server::python("grpc_server.py", &["two"]).await;
    let town = Town::around(&[&one, &two]).await;
    run(&town, python(), "grpc_client.py", "spread", "host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_learns_that_nobody_is_there() {
    let Some((mut servers, town)) = grpc_app().await else {
        return;
    };
    run(&town, python(), "grpc_client.py", "unary", "host").await;
    servers.clear();
    for way in ["inbound", "host", "mesh"] {
        run(&town, python(), "grpc_client.py", "unavailable", way).await;
    }
}
