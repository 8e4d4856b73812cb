//! The tables, out of the records.

use crate::machine;
use crate::proxies::{Kind, Proxy};
use crate::record::Records;
use crate::scenario::{Scenario, Throughput, What};
use crate::table::{Table, number};

/// More of the proxies' core than this taken by others, and a figure cannot be trusted.
const OTHERS: f64 = 0.05;

pub struct Report<'a> {
    pub records: &'a Records,
    pub proxies: &'a [Proxy],
    /// With whom ratios are made: the first build of Pilotfish, if there is one.
    pub base: Option<&'a str>,
}

impl Report<'_> {
    pub fn scenario(&self, scenario: &Scenario) -> String {
        let mut text = format!("\n### {}: {}\n\n", scenario.name, scenario.title);
        text += &match scenario.what {
            What::Throughput(load) => self.throughput(scenario, &load),
            What::Syscalls => self.syscalls(scenario),
            _ => self.figures(scenario, columns(scenario.what)),
        };
        let mut notes = Vec::new();
        for proxy in self.proxies {
            if let Some(wrong) = self.records.wrong(scenario.name, &proxy.label) {
                notes.push(format!("- **{} is not to be trusted**: {wrong}", proxy.label));
            }
            match scenario.omits(proxy) {
                Some(reason) if !reason.is_empty() => {
                    notes.push(format!("- {}: not measured, {reason}", proxy.label));
                }
                _ => {}
            }
            if let Some(rate) = self.records.median(scenario.name, &proxy.label, "rate")
                && matches!(scenario.what, What::Latency)
                && proxy.kind == Kind::Direct
            {
                notes.push(format!("- the rate: {}/s", number(rate)));
            }
            if let Some(dropped) = self.records.median(scenario.name, &proxy.label, "log_dropped")
                && dropped > 0.0
            {
                let percent = number(dropped * 100.0);
                notes.push(format!("- {}: {percent} % of its log lines were dropped", proxy.label));
            }
            let others = self.records.median(scenario.name, &proxy.label, "core_others");
            if let Some(others) = others
                && others > OTHERS
            {
                let percent = others * 100.0;
                notes.push(format!("- {}: others had {percent:.0} % of its core", proxy.label));
            }
        }
        if matches!(scenario.what, What::Throughput(load) if load.workers > 1)
            && machine::cores() < 4
        {
            notes.push("- there are too few cores: the load shares them with the proxy".into());
        }
        if !notes.is_empty() {
            text += &format!("\n{}\n", notes.join("\n"));
        }
        text
    }

    fn throughput(&self, scenario: &Scenario, load: &Throughput) -> String {
        let per = format!("µs a {}", load.unit);
        let mut head = vec!["proxy".into(), format!("CPU {per}"), "user".into(), "system".into()];
        head.push("from … to".into());
        head.extend(self.base.map(|base| format!("× {base}")));
        head.extend([format!("{}s/s", load.unit), "MB under load".into()]);
        head.push(
            if load.workers == 1 { "of its core" } else { "of both workers, the second" }.into(),
        );
        let mut table = Table::new(head);
        let median = |proxy: &str, figure| self.records.median(scenario.name, proxy, figure);
        for proxy in self.proxies {
            let label = &*proxy.label;
            let Some(cpu) = median(label, "cpu_us") else { continue };
            let show = |figure| median(label, figure).map_or("–".into(), number);
            let all = self.records.values(scenario.name, label, "cpu_us");
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            let most = all.iter().copied().fold(0.0, f64::max);
            let mut row = vec![self.marked(scenario.name, label), number(cpu)];
            row.extend([show("user_us"), show("system_us")]);
            row.push(format!("{}–{}", number(least), number(most)));
            if let Some(base) = self.base {
                let ratio =
                    self.records.ratio((scenario.name, label), (scenario.name, base), "cpu_us");
                row.push(ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")));
            }
            row.push(show("rate"));
            row.push(median(label, "rss_load").map_or("–".into(), |rss| number(rss / 1e6)));
            let used = median(label, if load.workers == 1 { "core_used" } else { "split" });
            row.push(used.map_or("–".into(), |used| format!("{:.0} %", used * 100.0)));
            table.row(row);
        }
        table.to_string()
    }

    /// With more of everything, each against the least of its kind.
    pub fn growth(&self, scenarios: &[Scenario]) -> String {
        let head =
            ["of what, how many", "proxy", "CPU µs a request", "user", "system", "× the least"];
        let mut table = Table::new(head.into_iter().chain(["requests/s", "MB under load"]));
        let mut notes = String::new();
        let grown: Vec<&Scenario> = scenarios.iter().filter(|one| one.is_growth()).collect();
        for scenario in &grown {
            let kind = scenario.name.split('-').next();
            let least = grown.iter().find(|other| other.name.split('-').next() == kind);
            let least = least.map_or(scenario.name, |least| least.name);
            for proxy in self.proxies {
                let label = &*proxy.label;
                if let Some(wrong) = self.records.wrong(scenario.name, label) {
                    notes += &format!("- **{}, {label}**: {wrong}\n", scenario.name);
                }
                let median = |figure| self.records.median(scenario.name, label, figure);
                let Some(cpu) = median("cpu_us") else { continue };
                let show = |figure, unit| {
                    median(figure).map_or("–".into(), |value| number(value / unit))
                };
                let ratio = self.records.ratio((scenario.name, label), (least, label), "cpu_us");
                let mut row =
                    vec![scenario.name.replace('-', " "), self.marked(scenario.name, label)];
                row.extend([number(cpu), show("user_us", 1.0), show("system_us", 1.0)]);
                row.push(ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")));
                row.extend([show("rate", 1.0), show("rss_load", 1e6)]);
                table.row(row);
            }
        }
        if grown.is_empty() {
            return String::new();
        }
        format!("\n### growth: as h1, with more of everything\n\n{table}\n{notes}")
    }

    fn figures(&self, scenario: &Scenario, columns: &[Column]) -> String {
        let mut table =
            Table::new(std::iter::once("proxy").chain(columns.iter().map(|column| column.head)));
        for proxy in self.proxies {
            let label = &*proxy.label;
            let cells: Vec<String> = columns
                .iter()
                .map(|column| {
                    let value = self.records.median(scenario.name, label, column.figure);
                    value.map_or("–".into(), |value| number(value / column.unit))
                })
                .collect();
            if cells.iter().any(|cell| cell != "–") {
                table.row(std::iter::once(self.marked(scenario.name, label)).chain(cells));
            }
        }
        table.to_string()
    }

    fn syscalls(&self, scenario: &Scenario) -> String {
        let mut table = Table::new(["proxy", "calls a request", "which"]);
        for proxy in self.proxies {
            let label = &*proxy.label;
            let Some(total) = self.records.median(scenario.name, label, "total") else { continue };
            let mut calls = self.records.all_medians(scenario.name, label);
            calls.retain(|(name, each)| !matches!(&**name, "total" | "requests") && *each >= 0.05);
            calls.sort_by(|a, b| b.1.total_cmp(&a.1));
            let calls: Vec<String> =
                calls.iter().map(|(name, each)| format!("{name} {each:.2}")).collect();
            let mark = self.marked(scenario.name, label);
            table.row([mark, format!("{total:.2}"), calls.join(", ")]);
        }
        table.to_string()
    }

    fn marked(&self, scenario: &str, label: &str) -> String {
        let wrong = self.records.wrong(scenario, label).is_some();
        format!("{label}{}", if wrong { " (!)" } else { "" })
    }
}

struct Column {
    figure: &'static str,
    head: &'static str,
    /// What it is divided by.
    unit: f64,
}

const fn column(figure: &'static str, head: &'static str, unit: f64) -> Column {
    Column { figure, head, unit }
}

fn columns(what: What) -> &'static [Column] {
    const LATENCY: &[Column] = &[
        column("p50", "p50 µs", 1.0),
        column("p99", "p99 µs", 1.0),
        column("p999", "p99.9 µs", 1.0),
        column("max", "max µs", 1.0),
        column("cpu_us", "CPU µs a request", 1.0),
    ];
    const IDLE: &[Column] = &[
        column("bytes", "bytes a connection", 1.0),
        column("rss_before", "MB before", 1e6),
        column("rss_after", "MB with them", 1e6),
        column("idle_us_s", "CPU µs a second, idle", 1.0),
    ];
    const START: &[Column] =
        &[column("start_ms", "ms to the first answer", 1.0), column("rss_start", "MB then", 1e6)];
    const RELOAD: &[Column] = &[
        column("reload_ms", "ms until in force", 1.0),
        column("p99_before", "p99 µs before", 1.0),
        column("p99_during", "p99 µs during", 1.0),
        column("max_before", "max µs before", 1.0),
        column("max_during", "max µs during", 1.0),
    ];
    match what {
        What::Latency => LATENCY,
        What::Idle { .. } => IDLE,
        What::Start => START,
        What::Reload => RELOAD,
        What::Throughput(_) | What::Syscalls => &[],
    }
}
