//! What is measured. To add a load, add a line to `all`.

use crate::growth::{Policies, Size};
use crate::proxies::{Kind, Port, Proxy};

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    /// Scenarios can be chosen by it too.
    pub group: &'static str,
    pub what: What,
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    /// As much as one core can do.
    Throughput(Throughput),
    /// Percentiles at a rate that all can bear.
    Latency,
    /// Memory of idle connections.
    Idle { http2: bool },
    /// From the start of the process to its first answer.
    Start,
    /// System calls of a request.
    Syscalls,
    /// A configuration with many endpoints is exchanged under load.
    Reload,
}

#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    pub port: Port,
    pub tool: Tool,
    /// What is counted.
    pub unit: &'static str,
    pub workers: usize,
    /// How much there is in the configuration.
    pub size: Size,
}

#[derive(Debug, Clone, Copy)]
pub enum Tool {
    /// HTTP/1.1 by wrk.
    Wrk { connections: usize, path: &'static str, script: Option<&'static str> },
    /// HTTP/2 by h2load.
    H2load { connections: usize, streams: usize, grpc: bool },
    /// A load of our own, by its name.
    Own { kind: &'static str, connections: usize, streams: usize },
    /// HTTP/1.1 by a load of our own, to so many paths.
    Paths { number: usize },
}

pub fn all() -> Vec<Scenario> {
    let wrk = |path, script| Tool::Wrk { connections: 64, path, script };
    let h2load = |connections, streams, grpc| Tool::H2load { connections, streams, grpc };
    let own = |kind, connections, streams| Tool::Own { kind, connections, streams };
    let load = |name, title, port, unit, tool| Scenario {
        name,
        title,
        group: "load",
        what: What::Throughput(Throughput { port, tool, unit, workers: 1, size: Size::USUAL }),
    };
    use Port::{Bulk, Echo, Grpc, Http1, Http2};
    let mut all = vec![
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
        workers("h1-workers", "as h1, with two workers", Http1, wrk("/", None)),
        workers("h2-workers", "as h2, with two workers", Http2, h2load(8, 16, false)),
    ];
    all.extend(others());
    all.extend(growth());
    all
}

fn workers(name: &'static str, title: &'static str, port: Port, tool: Tool) -> Scenario {
    let load = Throughput { port, tool, unit: "request", workers: 2, size: Size::USUAL };
    Scenario { name, title, group: "load", what: What::Throughput(load) }
}

fn others() -> [Scenario; 5] {
    let one = |name, title, group, what| Scenario { name, title, group, what };
    [
        one("latency", "HTTP/1.1, an open loop on 64 connections", "latency", What::Latency),
        one(
            "idle-h1",
            "memory of idle HTTP/1.1 connections that had a request each",
            "idle",
            What::Idle { http2: false },
        ),
        one(
            "idle-h2",
            "memory of idle HTTP/2 connections that had a request each",
            "idle",
            What::Idle { http2: true },
        ),
        one("start", "from the start of the process to its first answer", "start", What::Start),
        one("syscalls", "system calls of a request of h1, by strace", "syscalls", What::Syscalls),
    ]
}

/// Pilotfish, and HAProxy as far as it tells what the kernel's part is, with more of everything.
fn growth() -> Vec<Scenario> {
    let grown = |name, title, tool, size| Scenario {
        name,
        title,
        group: "growth",
        what: What::Throughput(Throughput {
            port: Port::Http1,
            tool,
            unit: "request",
            workers: 1,
            size,
        }),
    };
    let wrk = |connections| Tool::Wrk { connections, path: "/", script: None };
    let endpoints =
        |name, title, endpoints| grown(name, title, wrk(64), Size { endpoints, ..Size::USUAL });
    let routes = |name, title, routes| {
        grown(name, title, Tool::Paths { number: routes }, Size { routes, ..Size::USUAL })
    };
    let connections = |name, title, number| grown(name, title, wrk(number), Size::USUAL);
    let policies =
        |name, title, policies| grown(name, title, wrk(64), Size { policies, ..Size::USUAL });
    vec![
        policies("policies-off", "as h1, without any policy", Policies::Off),
        policies("policies-on", "as h1, every policy there is", Policies::On),
        policies(
            "policies-shadow",
            "as h1, every policy there is, in shadow mode",
            Policies::Shadow,
        ),
        endpoints("endpoints-10", "as h1, 10 endpoints", 10),
        endpoints("endpoints-1000", "as h1, 1,000 endpoints", 1000),
        endpoints("endpoints-10000", "as h1, 10,000 endpoints", 10_000),
        routes("routes-10", "as h1, 10 routes", 10),
        routes("routes-1000", "as h1, 1,000 routes", 1000),
        routes("routes-10000", "as h1, 10,000 routes", 10_000),
        connections("connections-1", "as h1, one connection", 1),
        connections("connections-100", "as h1, 100 connections", 100),
        connections("connections-5000", "as h1, 5,000 connections", 5000),
        Scenario {
            name: "reload",
            title: "a reload that exchanges 1,000 of 10,000 endpoints under the open loop",
            group: "growth",
            what: What::Reload,
        },
    ]
}

impl Scenario {
    /// Is it one of several that differ in a number alone?
    pub fn is_growth(&self) -> bool {
        self.group == "growth" && matches!(self.what, What::Throughput(_))
    }

    /// Why this proxy is not measured here; `None`: it is. An empty reason goes without saying.
    pub fn omits(&self, proxy: &Proxy) -> Option<&'static str> {
        let load = match self.what {
            _ if self.group == "growth" => {
                let endpoints = self.name.starts_with("endpoints-");
                let there =
                    proxy.kind == Kind::Pilotfish || proxy.kind == Kind::Haproxy && endpoints;
                return (!there).then_some("");
            }
            What::Throughput(load) => load,
            What::Latency if proxy.kind == Kind::Direct => return None,
            _ => return (!proxy.kind.serves_http()).then_some(""),
        };
        match proxy.kind {
            Kind::Direct => Some(""),
            Kind::HaproxySplice if !load.port.is_tcp() => Some(""),
            Kind::Hyper if self.name == "websocket" => Some("it knows no upgrades"),
            _ => proxy.lacks(load.port),
        }
    }

    /// How often it is measured: what does not vary, or takes long, less often.
    pub fn rounds(&self, wanted: usize) -> usize {
        match self.what {
            What::Idle { .. } => wanted.min(3),
            What::Syscalls => 1,
            _ => wanted,
        }
    }
}
