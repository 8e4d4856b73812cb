//! The upstream of the comparison, and the loads that wrk and h2load cannot make. It is started by
//! `compare`; alone: `load upstream --http 127.0.0.1:8001`, `load grpc-stream 127.0.0.1:8001`.
//! What a load did is one JSON object on stdout.

mod client;
mod engine;
mod h2;
mod http1;
mod open;
mod server;
mod websocket;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::{Client, Echo, Grpc, Http1, Idle2, Tally, Then, WebSocket};
use engine::Engine;
use lexopt::prelude::*;
use serde_json::json;
use server::{Role, Server};

type Failure = Box<dyn Error>;

const USAGE: &str = "upstream (--http | --echo | --source ADDRESS)...
KIND ADDRESS [--connections N] [--seconds S] [--streams N] [--paths N] [--rate N] [--warm-up S] [--samples FILE]
KIND: open, http1, connect, grpc-stream, websocket, echo, bulk, idle-http1, idle-http2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = lexopt::Parser::from_env();
    let Some(Value(kind)) = arguments.next()? else { return Err(USAGE.into()) };
    let kind = kind.string()?;
    if kind == "upstream" {
        return upstream(arguments);
    }
    let options = Options::read(arguments)?;
    match &*kind {
        "open" => {
            println!("{}", open::run(&options)?);
            Ok(())
        }
        "idle-http1" | "idle-http2" => idle(&kind, &options),
        _ => closed(&kind, &options),
    }
}

fn upstream(mut arguments: lexopt::Parser) -> Result<(), Failure> {
    let mut engine = Engine::new()?;
    while let Some(argument) = arguments.next()? {
        let role = match argument {
            Long("http") => Role::Http,
            Long("echo") => Role::Echo,
            Long("source") => Role::Source,
            other => return Err(other.unexpected().into()),
        };
        let address: SocketAddr = arguments.value()?.parse()?;
        engine.listen(address, move || Server::new(role))?;
    }
    ready()?;
    loop {
        engine.turn(None)?;
    }
}

/// For whoever started this.
fn ready() -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    Ok(stdout.flush()?)
}

struct Options {
    target: SocketAddr,
    connections: usize,
    seconds: f64,
    streams: u32,
    paths: usize,
    rate: f64,
    warm_up: f64,
    samples: Option<PathBuf>,
}

impl Options {
    fn read(mut arguments: lexopt::Parser) -> Result<Self, Failure> {
        let target = arguments.value()?.parse()?;
        let mut options = Options {
            target,
            connections: 64,
            seconds: 1.0,
            streams: 1,
            paths: 0,
            rate: 1000.0,
            warm_up: 0.0,
            samples: None,
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("connections") => options.connections = arguments.value()?.parse()?,
                Long("seconds") => options.seconds = arguments.value()?.parse()?,
                Long("streams") => options.streams = arguments.value()?.parse()?,
                Long("rate") => options.rate = arguments.value()?.parse()?,
                Long("warm-up") => options.warm_up = arguments.value()?.parse()?,
                Long("samples") => options.samples = Some(arguments.value()?.into()),
                Long("paths") => options.paths = arguments.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }

    /// `/`, or so many paths as `--paths` says.
    fn requests(&self, fields: &str) -> Rc<Vec<Vec<u8>>> {
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{fields}\r\n");
        Rc::new(match self.paths {
            0 => vec![request("/").into_bytes()],
            paths => (0..paths).map(|n| request(&format!("/r{n}/x")).into_bytes()).collect(),
        })
    }
}

/// Every connection asks again when it has been answered.
fn closed(kind: &str, options: &Options) -> Result<(), Failure> {
    let tally = Rc::new(Tally::default());
    let mut engine = Engine::new()?;
    let (keep, close) = (options.requests(""), options.requests("Connection: close\r\n"));
    let began = Instant::now();
    for seed in 1..=options.connections as u64 {
        let tally = tally.clone();
        let client = match kind {
            "http1" => Client::Http1(Http1::new(tally, Then::Ask, keep.clone(), seed)),
            "connect" => Client::Http1(Http1::new(tally, Then::Reconnect, close.clone(), seed)),
            "grpc-stream" => Client::Grpc(Grpc::new(tally, options.streams)),
            "websocket" => Client::WebSocket(WebSocket::new(tally)),
            "echo" => Client::Echo(Echo::new(tally)),
            "bulk" => Client::Sink(tally),
            _ => return Err(USAGE.into()),
        };
        engine.connect(options.target, client)?;
    }
    let end = began + Duration::from_secs_f64(options.seconds);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        engine.turn(Some(left))?;
    }
    let done = tally.requests.get() as f64;
    // Of a flow of bytes, a megabyte is what is counted.
    let requests = if kind == "bulk" { done / 1e6 } else { done };
    println!("{}", result(requests, began.elapsed().as_secs_f64(), &tally));
    Ok(())
}

fn result(requests: f64, seconds: f64, tally: &Tally) -> serde_json::Value {
    json!({
        "requests": requests,
        "seconds": seconds,
        "errors": tally.errors.get(),
        "first_error": *tally.first_error.borrow(),
    })
}

/// Connections that have had one answer each, and are kept until this is ended.
fn idle(kind: &str, options: &Options) -> Result<(), Failure> {
    let tally = Rc::new(Tally::default());
    let mut engine = Engine::new()?;
    let requests = options.requests("");
    for number in 1..=options.connections as u64 {
        let client = if kind == "idle-http2" {
            Client::Idle2(Idle2::new(tally.clone()))
        } else {
            Client::Http1(Http1::new(tally.clone(), Then::Wait, requests.clone(), number))
        };
        engine.connect(options.target, client)?;
        // One after the other, so that no more than one request is ever in flight.
        let asked = Instant::now();
        while tally.requests.get() < number && tally.errors.get() == 0 {
            if asked.elapsed() > Duration::from_secs(5) {
                return Err(format!("connection {number} was not answered").into());
            }
            engine.turn(Some(Duration::from_secs(1)))?;
        }
    }
    if tally.errors.get() > 0 {
        return Err(format!("{:?}", tally.first_error.borrow()).into());
    }
    ready()?;
    loop {
        engine.turn(None)?;
        if tally.errors.get() > 0 {
            return Err(format!("{:?}", tally.first_error.borrow()).into());
        }
    }
}
