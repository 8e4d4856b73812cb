//! Does a request cost more where there is more of everything? And what is felt of a reload?

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bench::{Answering, Bench};
use crate::http::ask;
use crate::latency;
use crate::load;
use crate::ports::Values;
use crate::proxies::{Port, Proxy};
use crate::record::Figures;

/// How much there is in a configuration of Pilotfish, and which policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// 0: the usual three.
    pub endpoints: usize,
    /// 0: the usual one.
    pub routes: usize,
    pub policies: Policies,
}

/// Which policies hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    Usual,
    /// None at all, not even what is on by default.
    Off,
    /// All that there are.
    On,
    /// The same, in shadow mode where they have one.
    Shadow,
}

impl Policies {
    const USUAL: &str = "      timeout: { request: 15s, connect: 1s, stream_idle: 5m }
      retry: { max_retries: 2, budget: { ratio: 20%, min_per_second: 10 } }
      # Counted as by default, for as many as the connections of the largest load.
      bulkhead: { max_requests: 10000, max_connections: 10000 }
";

    const ON: &str = include_str!("../../config/policies-on.yaml");

    fn text(self) -> Result<Cow<'static, str>, String> {
        Ok(match self {
            Policies::Usual => Self::USUAL.into(),
            Policies::Off => include_str!("../../config/policies-off.yaml").into(),
            Policies::On => Self::ON.into(),
            Policies::Shadow => {
                let mut text = Self::ON.to_owned();
                let with_mode = [
                    "timeout",
                    "hedge",
                    "circuit_breaker",
                    "outlier_detection",
                    "rate_limit",
                    "fault",
                ];
                for policy in with_mode {
                    let begins = format!("      {policy}: {{ ");
                    text = replace(&text, &begins, &format!("{begins}mode: shadow, "))?;
                }
                text.into()
            }
        })
    }
}

impl Size {
    pub const USUAL: Size = Size { endpoints: 0, routes: 0, policies: Policies::Usual };

    /// The usual configuration, with as many endpoints and routes. `first` is the number of the first endpoint.
    pub fn grow(self, template: &str, values: &Values, first: usize) -> Result<String, String> {
        let mut text = template.to_owned();
        if self.policies != Policies::Usual {
            text = replace(&text, Policies::USUAL, &self.policies.text()?)?;
        }
        if self.endpoints > 0 {
            let port = values.get("ANY").ok_or("no upstream listens on all of 127.0.0.0/8")?;
            let list: Vec<String> = (first..first + self.endpoints)
                .map(|number| format!("\"{}:{port}\"", address(number)))
                .collect();
            let usual = r#"["127.0.0.1:${APP1}", "127.0.0.1:${APP2}", "127.0.0.1:${APP3}"]"#;
            text = replace(&text, usual, &format!("[{}]", list.join(", ")))?;
        }
        if self.routes > 0 {
            let usual = "    - match: { path_prefix: / }\n      to: app\n";
            let route =
                |number| format!("    - {{ match: {{ path_prefix: /r{number} }}, to: app }}\n");
            let routes: String = (0..self.routes).map(route).collect();
            // The first answer is that of `/`.
            text = replace(&text, usual, &format!("{usual}{routes}"))?;
        }
        Ok(text)
    }

    /// The same for HAProxy, which tells what as many sockets cost anybody. It has no routes here.
    pub fn grow_haproxy(self, template: &str, values: &Values) -> Result<String, String> {
        if self.endpoints == 0 {
            return Ok(template.to_owned());
        }
        let port = values.get("ANY").ok_or("no upstream listens on all of 127.0.0.0/8")?;
        let server = |name: usize, address: &str| format!("    server app{name} {address}\n");
        let usual: String =
            (1..=3).map(|name| server(name, &format!("127.0.0.1:${{APP{name}}}"))).collect();
        let servers: String = (0..self.endpoints)
            .map(|number| server(number, &format!("{}:{port}", address(number))))
            .collect();
        replace(template, &usual, &servers)
    }
}

fn replace(text: &str, old: &str, new: &str) -> Result<String, String> {
    if text.matches(old).count() != 1 {
        return Err(format!("the configuration has not once: {old}"));
    }
    Ok(text.replace(old, new))
}

/// All of 127.0.0.0/8 is this host.
fn address(number: usize) -> String {
    format!("127.{}.{}.{}", 1 + number / 62_500, number / 250 % 250, 1 + number % 250)
}

const ENDPOINTS: usize = 10_000;
/// What the reload exchanges.
const NEW: usize = ENDPOINTS / 10;
/// How long after a reload requests count as affected by it.
const AFTER: Duration = Duration::from_secs(1);

/// A tenth of 10,000 endpoints is exchanged under load.
pub fn reload(bench: &mut Bench, proxy: &Proxy, rate: f64) -> Result<Figures, String> {
    let size = Size { endpoints: ENDPOINTS, ..Size::USUAL };
    let answering = bench.start_grown(proxy, 1, size)?;
    let port = answering.running.port(Port::Http1).to_string();
    let samples = bench.file("samples");
    // Connections to most of the endpoints are there after some seconds; then as long to compare with.
    let (settle, seconds) = (Duration::from_secs(3), Duration::from_secs(4));
    let total = (settle + seconds * 2).as_secs_f64();
    let mut command = latency::command(bench, &port, rate, total, 0.0);
    command.arg("--samples").arg(&samples);
    let mut load = load::start(&mut command, bench.options.load_core)?;
    let began = Instant::now();
    sleep(settle + seconds);

    let text = size.grow(&proxy.template(&bench.folder.join("config"))?, &bench.values, NEW)?;
    let text = crate::ports::fill_in(&text, &answering.running.values)?;
    let asked = began.elapsed();
    let figures = change(bench, proxy, &answering, &text)?;
    let done = began.elapsed();
    while !load.ended() {
        sleep(Duration::from_millis(50));
    }
    let samples = read_samples(&samples)?;
    judge(figures, &samples, settle, asked, done)
}

/// Writes the configuration and has it read; how long that took.
fn change(
    bench: &Bench,
    proxy: &Proxy,
    answering: &Answering,
    text: &str,
) -> Result<Figures, String> {
    let file = bench.file(&proxy.label).join("pilotfish.yaml");
    let admin: u16 = answering.running.values["ADMIN"].parse().map_err(|_| "no admin port")?;
    let began = Instant::now();
    // In one step: it watches the file.
    let next = file.with_extension("next");
    fs::write(&next, text).and_then(|()| fs::rename(&next, &file)).map_err(|e| e.to_string())?;
    let answer = ask(admin, "POST", "/reload").map_err(|error| error.to_string())?;
    let took = began.elapsed();
    let mut figures = Figures::default();
    figures.set("reload_ms", took.as_secs_f64() * 1e3);
    if !answer.starts_with("HTTP/1.1 200") {
        figures.wrong = Some(format!("the reload: {}", answer.lines().next().unwrap_or("?")));
    }
    let dump = ask(admin, "GET", "/clusters").map_err(|error| error.to_string())?;
    if !dump.contains(&address(ENDPOINTS + NEW - 1)) {
        figures.wrong = Some("the new endpoints are not in force".into());
    }
    Ok(figures)
}

/// When it was due, and how long it took.
type Sample = (Duration, u64);

fn read_samples(file: &Path) -> Result<Vec<Sample>, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let sample = |line: &str| {
        let (due, took) = line.split_once(' ')?;
        Some((Duration::from_micros(due.parse().ok()?), took.parse().ok()?))
    };
    Ok(text.lines().filter_map(sample).collect())
}

fn judge(
    mut figures: Figures,
    samples: &[Sample],
    settle: Duration,
    asked: Duration,
    done: Duration,
) -> Result<Figures, String> {
    let p99 = |from: Duration, to: Duration| {
        let mut took: Vec<u64> = samples
            .iter()
            .filter(|(due, _)| (from..to).contains(due))
            .map(|(_, took)| *took)
            .collect();
        took.sort_unstable();
        let p99 = took.get((took.len() * 99).div_ceil(100).max(1) - 1).copied();
        p99.zip(took.last().copied()).ok_or("too few requests")
    };
    // The load began a little after it was started.
    let slack = Duration::from_millis(20);
    let before = p99(settle, asked - slack)?;
    let during = p99(asked - slack, done + AFTER)?;
    figures.set("p99_before", before.0 as f64);
    figures.set("p99_during", during.0 as f64);
    figures.set("max_before", before.1 as f64);
    figures.set("max_during", during.1 as f64);
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("../../config/pilotfish.yaml");

    #[test]
    fn the_usual_configuration_can_grow() {
        let values = Values::from([("ANY".into(), "80".into())]);
        let size = Size { endpoints: 3, routes: 2, policies: Policies::Off };
        let text = size.grow(TEMPLATE, &values, 250).unwrap();
        assert!(text.contains(r#"["127.1.1.1:80", "127.1.1.2:80", "127.1.1.3:80"]"#), "{text}");
        assert!(text.contains("/r1 }, to: app }\n") && !text.contains("/r2"));
        assert_eq!(Size::USUAL.grow(TEMPLATE, &values, 0).unwrap(), TEMPLATE);
        assert!(size.grow("", &values, 0).is_err());
        let shadow = Policies::Shadow.text().unwrap();
        assert_eq!(shadow.matches("mode: shadow").count(), 6, "{shadow}");
    }

    #[test]
    fn every_endpoint_has_an_address_of_its_own() {
        let mut all: Vec<String> = (0..70_000).map(address).collect();
        assert!(all.iter().all(|address| address.parse::<std::net::Ipv4Addr>().is_ok()));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 70_000);
    }

    #[test]
    fn latency_is_compared_by_when_requests_were_due() {
        let second = Duration::from_secs;
        let sample = |ms: u64| (Duration::from_millis(ms), if ms < 5000 { 10 } else { 500 });
        let samples: Vec<Sample> = (0..8000).map(sample).collect();
        let figures = judge(Figures::default(), &samples, second(1), second(5), second(6)).unwrap();
        assert_eq!(figures.figures["p99_before"], 10.0);
        assert_eq!(figures.figures["p99_during"], 500.0);
    }
}
