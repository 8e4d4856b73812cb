//! Latency at a fixed rate of an open loop, beside that of no proxy at all.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::bench::Bench;
use crate::load;
use crate::proxies::{Kind, Port, Proxy};
use crate::record::{Figures, Records};
use crate::scenario::{self, What};
use crate::throughput;

/// Before this nothing counts.
const WARM_UP: f64 = 1.0;

/// Half of what the weakest can do. Found once in a run, so that all rounds have the same.
pub fn rate(bench: &mut Bench, records: &Records, proxies: &[Proxy]) -> Result<f64, String> {
    if let Some(rate) = bench.options.rate {
        return Ok(rate);
    }
    let mut weakest = f64::INFINITY;
    for proxy in proxies.iter().filter(|proxy| proxy.kind.serves_http()) {
        let capacity = match records.median("h1", &proxy.label, "rate") {
            Some(capacity) => capacity,
            None => probe(bench, proxy)?,
        };
        weakest = weakest.min(capacity);
    }
    let rate = if weakest.is_finite() { (weakest / 200.0).floor() * 100.0 } else { 1000.0 };
    let rate = rate.max(100.0);
    eprintln!("the rate is {rate}/s, half of what the weakest can do");
    bench.options.rate = Some(rate);
    Ok(rate)
}

fn probe(bench: &mut Bench, proxy: &Proxy) -> Result<f64, String> {
    let h1 = scenario::all().into_iter().find_map(|scenario| match scenario.what {
        What::Throughput(load) if scenario.name == "h1" => Some(load),
        _ => None,
    });
    let figures = throughput::measure(bench, &h1.ok_or("no scenario is called h1")?, proxy)?;
    figures.figures.get("rate").copied().ok_or("no rate".into())
}

pub fn measure(bench: &mut Bench, proxy: &Proxy, rate: f64) -> Result<Figures, String> {
    // The last one in a thousand wants many requests.
    let seconds = bench.options.seconds * 2.0;
    if proxy.kind == Kind::Direct {
        let port = bench.values["APP1"].clone();
        let text = run(bench, &port, rate, seconds)?;
        return figures(&text);
    }
    let answering = bench.start(proxy, 1)?;
    let port = answering.running.port(Port::Http1).to_string();
    let before = answering.running.process.usage();
    let text = run(bench, &port, rate, seconds)?;
    let used = answering.running.process.usage().since(before);
    let mut figures = figures(&text)?;
    // The warm-up's requests cost as much as any others.
    let requests = rate * (seconds + WARM_UP);
    figures.set("cpu_us", used.total / 1e3 / requests);
    Ok(figures)
}

fn run(bench: &Bench, port: &str, rate: f64, seconds: f64) -> Result<String, String> {
    let mut command = command(bench, port, rate, seconds, WARM_UP);
    let at_most = Duration::from_secs_f64(seconds + 20.0);
    load::run(&mut command, bench.options.load_core, at_most, || {})
}

pub fn command(bench: &Bench, port: &str, rate: f64, seconds: f64, warm_up: f64) -> Command {
    let mut command = Command::new(bench.folder.join("target/release/load"));
    command.arg("open").arg(format!("127.0.0.1:{port}"));
    command.args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--warm-up", &warm_up.to_string()]);
    command
}

fn figures(text: &str) -> Result<Figures, String> {
    let done = load::parse_own(text).ok_or_else(|| format!("its load said: {text}"))?;
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut figures = Figures::default();
    for name in ["p50", "p99", "p999", "max"] {
        figures.set(name, value[name].as_f64().unwrap_or(0.0));
    }
    figures.set("requests", done.requests);
    figures.set("rate", done.requests / done.seconds);
    figures.wrong = done.wrong;
    Ok(figures)
}
