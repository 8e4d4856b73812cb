//! What is measured. To add a load, add a line to `all`.

use crate::proxies::{Kind, Port};

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
}

pub fn all() -> Vec<Scenario> {
    let wrk = |path, script| Tool::Wrk { connections: 64, path, script };
    let load = |name, title, port, unit, tool| Scenario {
        name,
        title,
        what: What::Throughput(Throughput { port, tool, unit, workers: 1 }),
    };
    vec![load(
        "h1",
        "HTTP/1.1, 64 connections, answers of 304 bytes",
        Port::Http1,
        "request",
        wrk("/", None),
    )]
}

impl Scenario {
    /// Why this proxy is not measured here; `None`: it is.
    pub fn omits(&self, kind: Kind) -> Option<&'static str> {
        let What::Throughput(load) = self.what;
        let tcp = matches!(load.port, Port::Echo | Port::Bulk);
        match kind {
            Kind::Direct => Some(""),
            Kind::HaproxySplice if !tcp => Some(""),
            Kind::Hyper | Kind::Pingora if tcp => Some("HTTP alone"),
            _ => None,
        }
    }
}
