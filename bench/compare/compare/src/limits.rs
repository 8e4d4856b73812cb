//! What Pilotfish wants to reach, all of it here, and whether it does.

use crate::proxies::{Kind, Proxy};
use crate::record::Records;
use crate::table::{Table, number};

struct Limit {
    what: &'static str,
    scenario: &'static str,
    figure: &'static str,
    /// What it is divided by.
    to: To,
    bound: Bound,
}

enum To {
    /// A unit.
    Unit(f64),
    /// The same of another proxy.
    Proxy(&'static str),
    /// The same of itself in another scenario.
    Scenario(&'static str),
    /// The same, subtracted from it.
    Above(&'static str),
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    /// With more cores than the load and one worker need.
    AtLeastWithCores(f64, usize),
}

use Bound::{AtLeastWithCores, AtMost};

const fn limit(
    what: &'static str,
    (scenario, figure): (&'static str, &'static str),
    to: To,
    bound: Bound,
) -> Limit {
    Limit { what, scenario, figure, to, bound }
}

const KIB: f64 = 1024.0;

#[rustfmt::skip]
const LIMITS: &[Limit] = &[
    limit("CPU a request, HTTP/1.1", ("h1", "cpu_us"), To::Proxy("haproxy"), AtMost(1.0)),
    limit("CPU a request, HTTP/1.1", ("h1", "cpu_us"), To::Proxy("envoy"), AtMost(0.35)),
    limit("CPU a request, HTTP/1.1", ("h1", "cpu_us"), To::Proxy("envoy-governed"), AtMost(0.25)),
    limit("CPU a request, HTTP/2", ("h2", "cpu_us"), To::Proxy("envoy"), AtMost(0.45)),
    limit("CPU a request, HTTP/2", ("h2", "cpu_us"), To::Proxy("haproxy"), AtMost(1.35)),
    limit("CPU a call, gRPC unary", ("grpc", "cpu_us"), To::Proxy("envoy"), AtMost(0.45)),
    limit("CPU a call, gRPC unary", ("grpc", "cpu_us"), To::Proxy("haproxy"), AtMost(1.35)),
    limit("CPU a request, 100 KB down", ("download", "cpu_us"), To::Proxy("haproxy"), AtMost(1.0)),
    limit("CPU a request, 100 KB up", ("upload", "cpu_us"), To::Proxy("haproxy"), AtMost(1.0)),
    limit("CPU a MB, TCP bulk", ("tcp-bulk", "cpu_us"), To::Proxy("haproxy-splice"), AtMost(1.0)),
    limit("p99 at the fixed rate", ("latency", "p99"), To::Proxy("haproxy"), AtMost(1.0)),
    limit("p99.9 at the fixed rate", ("latency", "p999"), To::Proxy("haproxy"), AtMost(1.0)),
    limit("MB at start", ("start", "rss_start"), To::Unit(1e6), AtMost(12.0)),
    limit("KB an idle HTTP/1 connection", ("idle-h1", "bytes"), To::Unit(KIB), AtMost(6.0)),
    limit("ms from start to first answer", ("start", "start_ms"), To::Unit(1.0), AtMost(20.0)),
    limit("CPU, 10,000 endpoints", ("endpoints-10000", "cpu_us"), To::Scenario("endpoints-10"), AtMost(1.1)),
    limit("CPU, 10,000 routes", ("routes-10000", "cpu_us"), To::Scenario("routes-10"), AtMost(1.1)),
    limit("CPU µs a request, every policy in shadow mode", ("policies-shadow", "cpu_us"), To::Above("policies-off"), AtMost(1.0)),
    limit("CPU µs a request, every policy on", ("policies-on", "cpu_us"), To::Above("policies-off"), AtMost(1.0)),
    limit("requests/s, two workers", ("h1-workers", "rate"), To::Scenario("h1"), AtLeastWithCores(1.8, 4)),
    // Eight connections, four to four.
    limit("two workers, the second one's share", ("h2-workers", "split"), To::Unit(1.0), AtLeastWithCores(0.4, 4)),
];

impl Limit {
    fn measured(&self, records: &Records, label: &str) -> Option<f64> {
        match self.to {
            To::Unit(unit) => Some(records.median(self.scenario, label, self.figure)? / unit),
            To::Proxy(peer) => {
                records.ratio((self.scenario, label), (self.scenario, peer), self.figure)
            }
            To::Scenario(other) => {
                records.ratio((self.scenario, label), (other, label), self.figure)
            }
            To::Above(other) => {
                records.difference((self.scenario, label), (other, label), self.figure)
            }
        }
    }

    fn text(&self) -> String {
        let (than, value) = match self.bound {
            AtMost(value) => ("≤", value),
            AtLeastWithCores(value, _) => ("≥", value),
        };
        match self.to {
            To::Unit(_) => format!("{than} {value}"),
            To::Proxy(name) | To::Scenario(name) => format!("{than} {value} × {name}"),
            To::Above(name) => format!("{than} {name} + {value}"),
        }
    }
}

impl Bound {
    fn verdict(self, value: f64, cores: usize) -> &'static str {
        let holds = match self {
            AtMost(bound) => value <= bound,
            AtLeastWithCores(_, needed) if cores < needed => return "too few cores",
            AtLeastWithCores(bound, _) => value >= bound,
        };
        if holds { "yes" } else { "**no**" }
    }
}

/// A row for each figure that was measured, a pair of columns for each build.
pub fn table(records: &Records, proxies: &[Proxy], cores: usize) -> String {
    let builds: Vec<&str> = proxies
        .iter()
        .filter(|proxy| proxy.kind == Kind::Pilotfish)
        .map(|proxy| &*proxy.label)
        .collect();
    let mut head = vec!["figure".to_owned(), "limit".to_owned()];
    for build in &builds {
        head.extend([(*build).to_owned(), "holds".to_owned()]);
    }
    let mut table = Table::new(head);
    let mut rows = 0;
    for limit in LIMITS {
        let measured: Vec<Option<f64>> =
            builds.iter().map(|build| limit.measured(records, build)).collect();
        if measured.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![limit.what.to_owned(), limit.text()];
        for value in measured {
            row.push(value.map_or("–".into(), number));
            row.push(value.map_or("–", |value| limit.bound.verdict(value, cores)).to_owned());
        }
        table.row(row);
        rows += 1;
    }
    if rows == 0 { String::new() } else { format!("\n### To reach\n\n{table}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;
    use crate::scenario;

    #[test]
    fn limits_are_of_scenarios_that_exist() {
        let exists = |name: &str| scenario::all().iter().any(|scenario| scenario.name == name);
        for limit in LIMITS {
            assert!(exists(limit.scenario), "{}", limit.scenario);
            if let To::Scenario(other) | To::Above(other) = limit.to {
                assert!(exists(other), "{other}");
            }
        }
    }

    #[test]
    fn a_limit_is_judged_by_the_ratio() {
        let mut records = Records::default();
        for (proxy, cpu) in [("pilotfish", 9.0), ("haproxy", 10.0)] {
            let mut figures = Figures::default();
            figures.set("cpu_us", cpu);
            records.add(0, "h1", proxy, figures);
        }
        let measured = LIMITS[0].measured(&records, "pilotfish").unwrap();
        assert!((measured - 0.9).abs() < 1e-9);
        assert_eq!(LIMITS[0].bound.verdict(measured, 2), "yes");
        assert_eq!(LIMITS[0].bound.verdict(1.01, 2), "**no**");
        assert_eq!(LIMITS[1].measured(&records, "pilotfish"), None);
        assert_eq!(AtLeastWithCores(1.8, 4).verdict(1.9, 4), "yes");
        assert_eq!(AtLeastWithCores(1.8, 4).verdict(1.0, 2), "too few cores");
    }
}
