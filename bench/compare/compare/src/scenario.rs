//! What is measured. To add a load, add a line to `all`.

use crate::proxies::{Kind, Port, Proxy};

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub what: What,
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    /// As much as one core can do.
    Throughput(Throughput),
}

#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    pub port: Port,
    pub tool: Tool,
    /// What is counted.
    pub unit: &'static str,
    pub workers: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum Tool {
    /// HTTP/1.1 by wrk.
    Wrk { connections: usize, path: &'static str, script: Option<&'static str> },
    /// HTTP/2 by h2load.
    H2load { connections: usize, streams: usize, grpc: bool },
    /// A load of our own, by its name.
    Own { kind: &'static str, connections: usize, streams: usize },
}

pub fn all() -> Vec<Scenario> {
    let wrk = |path, script| Tool::Wrk { connections: 64, path, script };
    let h2load = |connections, streams, grpc| Tool::H2load { connections, streams, grpc };
    let own = |kind, connections, streams| Tool::Own { kind, connections, streams };
    let load = |name, title, port, unit, tool| Scenario {
        name,
        title,
        what: What::Throughput(Throughput { port, tool, unit, workers: 1 }),
    };
    use Port::{Bulk, Echo, Grpc, Http1, Http2};
    vec![
        load(
            "h1",
            "HTTP/1.1, 64 connections, answers of 304 bytes",
            Http1,
            "request",
            wrk("/", None),
        ),
        load(
            "h2",
            "HTTP/2 (h2c) of 8 connections with 16 streams each, HTTP/1.1 to the endpoints",
            Http2,
            "request",
            h2load(8, 16, false),
        ),
        load(
            "h2-100",
            "HTTP/2 (h2c) of one connection with 100 streams, HTTP/1.1 to the endpoints",
            Http2,
            "request",
            h2load(1, 100, false),
        ),
        load(
            "grpc",
            "gRPC unary calls of 100 bytes both ways, 8 connections with 16 streams each, h2c both sides",
            Grpc,
            "call",
            h2load(8, 16, true),
        ),
        load(
            "grpc-stream",
            "gRPC streams, messages of 100 bytes there and back, 8 connections with 16 streams each",
            Grpc,
            "message",
            own("grpc-stream", 8, 16),
        ),
        load("download", "HTTP/1.1, answers of 100 KB", Http1, "request", wrk("/large", None)),
        load(
            "upload",
            "HTTP/1.1, requests of 100 KB",
            Http1,
            "request",
            wrk("/", Some("upload.lua")),
        ),
        load(
            "websocket",
            "WebSocket, messages of 64 bytes there and back, 64 connections",
            Http1,
            "message",
            own("websocket", 64, 1),
        ),
        load(
            "tcp-echo",
            "plain TCP, 64 bytes there and back, 64 connections",
            Echo,
            "message",
            own("echo", 64, 1),
        ),
        load("tcp-bulk", "plain TCP, a flow down 4 connections", Bulk, "MB", own("bulk", 4, 1)),
        load(
            "connect",
            "HTTP/1.1, a new connection for each request, 64 at a time",
            Http1,
            "request",
            own("connect", 64, 1),
        ),
        Scenario {
            name: "h1-workers",
            title: "as h1, with two workers",
            what: What::Throughput(Throughput {
                port: Http1,
                tool: wrk("/", None),
                unit: "request",
                workers: 2,
            }),
        },
    ]
}

impl Scenario {
    /// Why this proxy is not measured here; `None`: it is. An empty reason goes without saying.
    pub fn omits(&self, proxy: &Proxy) -> Option<&'static str> {
        let What::Throughput(load) = self.what;
        let tcp = matches!(load.port, Port::Echo | Port::Bulk);
        match proxy.kind {
            Kind::Direct => Some(""),
            Kind::HaproxySplice if !tcp => Some(""),
            Kind::Hyper if self.name == "websocket" => Some("it knows no upgrades"),
            _ => proxy.lacks(load.port),
        }
    }
}
