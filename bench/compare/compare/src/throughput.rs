//! As much as a proxy can do on its core: requests a second, and what one costs.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::check::check;
use crate::http;
use crate::load::{self, Done};
use crate::process::{busy, split};
use crate::proxies::{Proxy, Running};
use crate::record::Figures;
use crate::scenario::{Throughput, Tool};

pub fn measure(bench: &mut Bench, load: &Throughput, proxy: &Proxy) -> Result<Figures, String> {
    let mut answering = bench.start_grown(proxy, load.workers, load.size)?;
    let seconds = bench.options.seconds;
    check(bench, load.tool, answering.running.port(load.port))?;
    // Connections to the endpoints are opened, caches and allocators filled.
    let many = load.size.endpoints > 100;
    let warm_up = if many { 3.0 } else { (seconds / 4.0).max(0.5) };
    apply(bench, load, &answering.running, warm_up, || {})?;

    let logged = dropped(&answering.running);
    let process = &mut answering.running.process;
    let core = bench.options.proxy_core;
    let pids = process.pids();
    let threads = process.threads();
    let (before, busy_before) = (process.usage(), busy(core));
    let began = Instant::now();
    let mut rss = 0;
    let done = apply(bench, load, &answering.running, seconds, || {
        let now = answering.running.process.rss();
        rss = rss.max(now);
    })?;
    // What was put off, as the last lines of a log, belongs to the requests too.
    sleep(Duration::from_millis(100));
    let process = &mut answering.running.process;
    if process.ended() || process.pids() != pids {
        return Err("it ended under load".into());
    }
    if done.requests == 0.0 {
        return Err("no request was answered".into());
    }
    let elapsed = began.elapsed().as_secs_f64();
    let (used, busy) = (process.usage().since(before), busy(core) - busy_before);
    let each = |nanoseconds: f64| nanoseconds / 1e3 / done.requests;
    let mut figures = Figures::default();
    figures.set("cpu_us", each(used.total));
    figures.set("user_us", each(used.user));
    figures.set("system_us", each(used.system));
    figures.set("rate", done.requests / done.seconds);
    figures.set("requests", done.requests);
    figures.set("rss_start", answering.rss_at_start as f64);
    figures.set("rss_load", rss as f64);
    if load.workers == 2 {
        figures.set("split", split(&threads, &process.threads()));
    } else {
        figures.set("core_used", used.total / 1e9 / done.seconds);
        figures.set("core_others", ((busy - used.total) / 1e9 / elapsed).max(0.0));
    }
    if let (Some(before), Some(after)) = (logged, dropped(&answering.running)) {
        figures.set("log_dropped", (after - before) / done.requests);
    }
    figures.wrong = done.wrong;
    Ok(figures)
}

/// Lines that Pilotfish did not get into its log: a log that is not written costs nothing.
fn dropped(running: &Running) -> Option<f64> {
    let admin = running.values.get("METRICS")?.parse().ok()?;
    let text = http::ask(admin, "GET", "/metrics").ok()?;
    // It has no line before it has happened.
    Some(http::metric(&text, "pilotfish_access_log_dropped_total").unwrap_or(0.0))
}

/// Lets the load loose on a proxy.
fn apply(
    bench: &Bench,
    load: &Throughput,
    running: &Running,
    seconds: f64,
    meanwhile: impl FnMut(),
) -> Result<Done, String> {
    let (mut command, parse) = command(bench, load, running.port(load.port), seconds);
    let at_most = Duration::from_secs_f64(seconds + 20.0);
    let text = load::run(&mut command, bench.options.load_core, at_most, meanwhile)?;
    parse(&text).ok_or_else(|| format!("its load said: {}", text.trim()))
}

type Parse = fn(&str) -> Option<Done>;

fn command(bench: &Bench, load: &Throughput, port: u16, seconds: f64) -> (Command, Parse) {
    match load.tool {
        Tool::Wrk { connections, path, script } => {
            // wrk knows whole seconds alone.
            let seconds = seconds.round().max(1.0);
            let mut command = Command::new("wrk");
            command.args(["-t", "1", "-c", &connections.to_string()]);
            command.args(["-d", &format!("{seconds}s"), "--timeout", "10s"]);
            if let Some(script) = script {
                command.arg("-s").arg(bench.folder.join("config").join(script));
            }
            command.arg(format!("http://127.0.0.1:{port}{path}"));
            (command, load::parse_wrk)
        }
        Tool::H2load { connections, streams, grpc } => {
            let mut command = Command::new("h2load");
            command.args(["-t", "1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
            command.args(["-D", &seconds.round().max(1.0).to_string()]);
            let mut path = "/";
            if grpc {
                command.arg("-d").arg(bench.folder.join("config/message.grpc"));
                command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
                path = "/bench.Echo/Unary";
            }
            command.arg(format!("http://127.0.0.1:{port}{path}"));
            (command, load::parse_h2load)
        }
        Tool::Own { kind, connections, streams } => {
            let mut command = Command::new(bench.folder.join("target/release/load"));
            command.arg(kind).arg(format!("127.0.0.1:{port}"));
            command.args(["--connections", &connections.to_string()]);
            command.args(["--streams", &streams.to_string(), "--seconds", &seconds.to_string()]);
            (command, load::parse_own)
        }
        Tool::Paths { number } => {
            let mut command = Command::new(bench.folder.join("target/release/load"));
            command.arg("http1").arg(format!("127.0.0.1:{port}"));
            command.args(["--paths", &number.to_string(), "--seconds", &seconds.to_string()]);
            (command, load::parse_own)
        }
    }
}
