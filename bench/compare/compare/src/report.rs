//! The tables, out of the records.

use crate::proxies::Proxy;
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
        match scenario.what {
            What::Throughput(load) => text += &self.throughput(scenario, &load),
        }
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
            let others = self.records.median(scenario.name, &proxy.label, "core_others");
            if let Some(others) = others
                && others > OTHERS
            {
                let percent = others * 100.0;
                notes.push(format!("- {}: others had {percent:.0} % of its core", proxy.label));
            }
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
        head.extend([format!("{}s/s", load.unit), "MB under load".into(), "of its core".into()]);
        let mut table = Table::new(head);
        let median = |proxy: &str, figure| self.records.median(scenario.name, proxy, figure);
        for proxy in self.proxies {
            let label = &*proxy.label;
            let Some(cpu) = median(label, "cpu_us") else { continue };
            let show = |figure| median(label, figure).map_or("–".into(), number);
            let all = self.records.values(scenario.name, label, "cpu_us");
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            let most = all.iter().copied().fold(0.0, f64::max);
            let mark = if self.records.wrong(scenario.name, label).is_some() { " (!)" } else { "" };
            let mut row = vec![format!("{label}{mark}"), number(cpu)];
            row.extend([show("user_us"), show("system_us")]);
            row.push(format!("{}–{}", number(least), number(most)));
            if let Some(base) = self.base {
                let ratio = median(base, "cpu_us").map(|base| cpu / base);
                row.push(ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")));
            }
            row.push(show("rate"));
            row.push(median(label, "rss_load").map_or("–".into(), |rss| number(rss / 1e6)));
            let used = median(label, "core_used");
            row.push(used.map_or("–".into(), |used| format!("{:.0} %", used * 100.0)));
            table.row(row);
        }
        table.to_string()
    }
}
