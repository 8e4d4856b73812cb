//! Measures Pilotfish and other proxies side by side, in one run. See README.md.

mod bench;
mod check;
mod growth;
mod http;
mod idle;
mod latency;
mod limits;
mod load;
mod machine;
mod options;
mod ports;
mod process;
mod proxies;
mod record;
mod report;
mod scenario;
mod table;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bench::Bench;
use options::Options;
use proxies::{Found, Kind, Proxy};
use record::{Figures, Records};
use report::Report;
use scenario::{Scenario, What};
use serde_json::{Value, json};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: something that was to be measured was not, or answered wrongly.
fn run() -> Result<bool, String> {
    let options = Options::read();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder")?.to_owned();
    let found = proxies::find(&options, &folder);
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| options.wants_scenario(scenario.name, scenario.group))
        .collect();
    if options.list {
        list(&found);
        return Ok(true);
    }
    if let Some(unknown) = unknown(&options, &found) {
        return Err(format!("there is no `{unknown}`; `--list` shows what there is"));
    }
    process::raise_limits();
    process::pin(&[options.load_core]).map_err(|error| error.to_string())?;
    let output = output(&options, &folder)?;
    let machine = machine::describe();
    let grown = scenarios.iter().any(|scenario| scenario.group == "growth");
    let mut bench = Bench::new(options.clone(), &folder, grown)?;
    let records = measure(&mut bench, &scenarios, &found.proxies);
    drop(bench);

    print!("{}", report(&options, &machine, &found, &scenarios, &records));
    let raw = json!({
        "machine": machine,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "versions": versions(&found.proxies),
        "missing": found.missing,
        "records": records.records,
    });
    let raw = serde_json::to_string_pretty(&raw).map_err(|error| error.to_string())?;
    fs::write(&output, raw).map_err(|error| format!("{}: {error}", output.display()))?;
    eprintln!("raw results: {}", output.display());
    Ok(records.records.iter().all(|record| record.figures.wrong.is_none()))
}

fn list(found: &Found) {
    println!("scenarios and their groups:");
    for scenario in scenario::all() {
        println!("  {:<16} {:<9} {}", scenario.name, scenario.group, scenario.title);
    }
    println!("proxies:");
    for proxy in &found.proxies {
        println!("  {:<16} {}", proxy.label, proxy.version);
    }
    for (label, reason) in &found.missing {
        println!("  {label:<16} {reason}");
    }
}

/// A name that was asked for and does not exist.
fn unknown(options: &Options, found: &Found) -> Option<String> {
    let scenarios = scenario::all();
    let scenario = |name: &&String| {
        !scenarios.iter().any(|scenario| scenario.name == **name || scenario.group == **name)
    };
    let proxy = |name: &&String| {
        let label = |label: &str| label == **name;
        !label("pilotfish")
            && !found.proxies.iter().any(|proxy| label(&proxy.label))
            && !found.missing.iter().any(|(missing, _)| label(missing))
    };
    let mut unknown = options.scenarios.iter().filter(scenario);
    unknown.next().or_else(|| options.only.iter().find(proxy)).cloned()
}

fn output(options: &Options, folder: &Path) -> Result<PathBuf, String> {
    if let Some(output) = &options.output {
        return Ok(output.clone());
    }
    let results = folder.join("results");
    fs::create_dir_all(&results).map_err(|error| format!("{}: {error}", results.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Ok(results.join(format!("{now}.json")))
}

fn measure(bench: &mut Bench, scenarios: &[Scenario], proxies: &[Proxy]) -> Records {
    let mut records = Records::default();
    let began = Instant::now();
    for round in 0..bench.options.rounds {
        for scenario in scenarios {
            if round >= scenario.rounds(bench.options.rounds) {
                continue;
            }
            // Another one begins each time, so that nobody is always measured after the same one.
            for at in 0..proxies.len() {
                let proxy = &proxies[(at + round) % proxies.len()];
                if scenario.omits(proxy).is_some() {
                    continue;
                }
                let measured = one(bench, scenario, proxy, proxies, &records);
                bench.clean(proxy);
                let figures = measured
                    .unwrap_or_else(|error| Figures { wrong: Some(error), ..Figures::default() });
                eprintln!(
                    "[{:>4} s] round {} of {}, {}, {}: {}",
                    began.elapsed().as_secs(),
                    round + 1,
                    bench.options.rounds,
                    scenario.name,
                    proxy.label,
                    progress(&figures)
                );
                records.add(round, scenario.name, &proxy.label, figures);
            }
        }
    }
    records
}

fn one(
    bench: &mut Bench,
    scenario: &Scenario,
    proxy: &Proxy,
    proxies: &[Proxy],
    records: &Records,
) -> Result<Figures, String> {
    match scenario.what {
        What::Throughput(load) => throughput::measure(bench, &load, proxy),
        What::Latency => {
            let rate = latency::rate(bench, records, proxies)?;
            latency::measure(bench, proxy, rate)
        }
        What::Idle { http2 } => idle::connections(bench, proxy, http2),
        What::Start => idle::start(bench, proxy),
        What::Syscalls => idle::syscalls(bench, proxy),
        What::Reload => {
            let rate = latency::rate(bench, records, proxies)?;
            growth::reload(bench, proxy, rate)
        }
    }
}

fn progress(figures: &Figures) -> String {
    let show = |(name, unit): &(&str, &str)| {
        let value = figures.figures.get(*name)?;
        Some(format!("{}{unit}", table::number(*value)))
    };
    let shown = [
        ("cpu_us", " µs CPU"),
        ("rate", "/s"),
        ("p50", " µs p50"),
        ("p99", " µs p99"),
        ("p999", " µs p99.9"),
        ("bytes", " bytes a connection"),
        ("start_ms", " ms to the first answer"),
        ("total", " system calls a request"),
        ("reload_ms", " ms to reload"),
        ("p99_before", " µs p99 before"),
        ("p99_during", " µs during"),
    ];
    let mut text: Vec<String> = shown.iter().filter_map(show).collect();
    text.extend(figures.wrong.clone().map(|wrong| format!("WRONG: {wrong}")));
    text.join(", ")
}

fn versions(proxies: &[Proxy]) -> Value {
    let entry = |proxy: &Proxy| (proxy.label.clone(), json!(proxy.version));
    Value::Object(proxies.iter().map(entry).collect())
}

fn report(
    options: &Options,
    machine: &Value,
    found: &Found,
    scenarios: &[Scenario],
    records: &Records,
) -> String {
    let base = found.proxies.iter().find(|proxy| proxy.kind == Kind::Pilotfish);
    let report = Report { records, proxies: &found.proxies, base: base.map(|base| &*base.label) };
    let mut text = format!(
        "{}. Each proxy alone on core {}, load and upstreams on core {}; medians of {} rounds of {} s.\n\n",
        machine::line(machine),
        options.proxy_core,
        options.load_core,
        options.rounds,
        options.seconds
    );
    for proxy in &found.proxies {
        if proxy.kind != Kind::Direct {
            text += &format!("- {}: {}\n", proxy.label, proxy.version);
        }
    }
    for (label, reason) in &found.missing {
        text += &format!("- {label}: not measured, {reason}\n");
    }
    for scenario in scenarios.iter().filter(|scenario| !scenario.is_growth()) {
        text += &report.scenario(scenario);
    }
    text += &report.growth(scenarios);
    text += &limits::table(records, &found.proxies, machine::cores());
    text
}
