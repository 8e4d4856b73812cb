//! The course of each scenario as a drawing: the share of the calls that fail, second by second.

use std::fmt::Write as _;

use crate::sweep::Sweep;

/// The rows that are drawn, by group and name.
const DRAWN: [(&str, &str); 5] = [
    ("round robin", "bare"),
    ("Envoy", "outlier detection, retries"),
    ("Linkerd", "failure accrual, retries"),
    ("peak EWMA", "our defaults"),
    ("peak EWMA", "all of ours"),
];

const COLUMNS: usize = 3;
const PANEL: (f64, f64) = (300.0, 150.0);
/// Room around a panel: left, top, and the distance to the next one.
const MARGIN: (f64, f64) = (44.0, 98.0);
const STEP: (f64, f64) = (352.0, 212.0);
/// Seconds that one point stands for.
const BUCKET: usize = 2;

const STYLE: &str = "
  .paper { fill: #ffffff } text { fill: #1f2328; font: 12px sans-serif } .small { font-size: 11px; fill: #59636e }
  .frame { fill: none; stroke: #d1d9e0 } .trouble { fill: #f1f3f5 } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
  .c0 { stroke: #818b98 } .c1 { stroke: #bc4c00; stroke-dasharray: 6 2 } .c2 { stroke: #8250df; stroke-dasharray: 2 2 }
  .c3 { stroke: #0969da; stroke-width: 2 } .c4 { stroke: #1a7f37; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #f0f6fc } .small { fill: #9198a1 } .frame { stroke: #3d444d } .trouble { fill: #1b222b }
    .c0 { stroke: #9198a1 } .c1 { stroke: #f0883e } .c2 { stroke: #bc8cff } .c3 { stroke: #58a6ff } .c4 { stroke: #3fb950 }
  }
";

pub fn plot(sweep: &Sweep) -> String {
    let rows: Vec<usize> = DRAWN.iter().filter_map(|drawn| place(sweep, *drawn)).collect();
    let height = MARGIN.1 + STEP.1 * sweep.scenarios.len().div_ceil(COLUMNS) as f64 - 20.0;
    let width = MARGIN.0 + STEP.0 * COLUMNS as f64 - 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>Failed calls, second by second, in each scenario</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
    );
    legend(&mut svg);
    for scenario in 0..sweep.scenarios.len() {
        let x = MARGIN.0 + STEP.0 * (scenario % COLUMNS) as f64;
        let y = MARGIN.1 + STEP.1 * (scenario / COLUMNS) as f64;
        panel(&mut svg, sweep, scenario, &rows, (x, y));
    }
    svg.push_str("</svg>\n");
    svg
}

fn place(sweep: &Sweep, (group, name): (&str, &str)) -> Option<usize> {
    sweep.settings.iter().position(|row| row.group == group && row.name == name)
}

fn legend(svg: &mut String) {
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"20\">Failed calls in %, by the time in s; grey: the time of the trouble</text>",
        MARGIN.0
    );
    for (class, (group, name)) in DRAWN.iter().enumerate() {
        let x = MARGIN.0 + STEP.0 * (class % COLUMNS) as f64;
        let y = 42.0 + 19.0 * (class / COLUMNS) as f64;
        let _ = writeln!(
            svg,
            "<path class=\"line c{class}\" d=\"M{x} {}h24\"/>\
             <text x=\"{}\" y=\"{y}\">{group}, {name}</text>",
            y - 4.0,
            x + 30.0
        );
    }
}

fn panel(svg: &mut String, sweep: &Sweep, scenario: usize, rows: &[usize], (x, y): (f64, f64)) {
    let lines: Vec<Vec<f64>> = rows.iter().map(|row| failed(sweep, scenario, *row)).collect();
    let top = ceiling(lines.iter().flatten().copied().fold(0.0, f64::max));
    let times = sweep.scenarios[scenario].times;
    let second = |at: u64| x + PANEL.0 * at as f64 / times.over.0 as f64;
    let (begins, ends) = (second(times.begins.0), second(times.ends.0));
    let (width, height) = PANEL;
    let name = sweep.scenarios[scenario].name;
    let _ = writeln!(
        svg,
        "<g>\n<text x=\"{x}\" y=\"{:.0}\">{name}</text>\n\
         <rect class=\"trouble\" x=\"{begins:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{height}\"/>\n\
         <rect class=\"frame\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>",
        y - 6.0,
        ends - begins,
    );
    for (label, share) in [(top, 0.0), (top / 2.0, 0.5), (0.0, 1.0)] {
        let _ = writeln!(
            svg,
            "<text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{:.0}\">{}</text>",
            x - 5.0,
            y + height * share + 4.0,
            label * 100.0,
        );
    }
    for at in [times.begins, times.ends, times.over] {
        let _ = writeln!(
            svg,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            second(at.0),
            y + height + 15.0,
            at.0 / 1_000_000_000,
        );
    }
    for (class, line) in lines.iter().enumerate() {
        let step = width / line.len() as f64;
        let point = |(place, share): (usize, &f64)| {
            let across = x + step * (place as f64 + 0.5);
            format!("{across:.1} {:.1}", y + height * (1.0 - share / top))
        };
        let points: Vec<String> = line.iter().enumerate().map(point).collect();
        let _ = writeln!(svg, "<path class=\"line c{class}\" d=\"M{}\"/>", points.join("L"));
    }
    svg.push_str("</g>\n");
}

/// The share of the calls that failed, of all seeds together.
fn failed(sweep: &Sweep, scenario: usize, row: usize) -> Vec<f64> {
    let runs = sweep.of(scenario, row);
    let seconds = runs[0].seconds.len() - 1;
    let bucket = |from: usize| {
        let range = from..(from + BUCKET).min(seconds);
        let all = runs.iter().flat_map(|figures| &figures.seconds[range.clone()]);
        let (calls, failed) =
            all.fold((0, 0), |(calls, failed), it| (calls + it.requests, failed + it.failed));
        f64::from(failed) / f64::from(calls.max(1))
    };
    (0..seconds).step_by(BUCKET).map(bucket).collect()
}

/// A round number that is no less.
fn ceiling(share: f64) -> f64 {
    [0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4]
        .into_iter()
        .find(|top| share <= *top)
        .unwrap_or(1.0)
}
