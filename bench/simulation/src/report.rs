//! The figures as Markdown: medians over the seeds, with the least and the greatest where that says something.

use std::fmt::Write as _;
use std::time::Duration;

use crate::measure::Figures;
use crate::scenario::Scenario;
use crate::settings::Settings;
use crate::sweep::Sweep;

/// The words of the page.
pub const WORDS: &str = include_str!("page.md");

/// The page. `parted` is of [`Settings::parted`].
pub fn page(sweep: &Sweep, parted: &Sweep) -> String {
    let seeds = sweep.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    WORDS
        .replace("{seeds}", &seeds)
        .replace("{summary}", &summary(sweep))
        .replace("{parted}", &self::parted(parted))
        .replace("{details}", &details(sweep))
        .replace("{settings}", &settings(&sweep.settings))
}

/// The share of calls that were answered well, of every row in every scenario.
pub fn summary(sweep: &Sweep) -> String {
    let mut text = heads(&sweep.scenarios);
    text.push_str(&rule(sweep.scenarios.len()));
    for (row, settings) in sweep.settings.iter().enumerate() {
        let _ = write!(text, "| {} |", title(settings));
        for scenario in 0..sweep.scenarios.len() {
            let success = over(sweep.of(scenario, row), |figures| figures.success);
            let _ = write!(text, " {} |", percent(median(&success)));
        }
        text.push('\n');
    }
    text
}

/// All figures, a table for each scenario.
pub fn details(sweep: &Sweep) -> String {
    let mut text = String::new();
    for (index, scenario) in sweep.scenarios.iter().enumerate() {
        let _ = writeln!(text, "{}\n{}", heading(scenario), table(sweep, index, title));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The first line of the summary.
pub fn heads(scenarios: &[Scenario]) -> String {
    let names = scenarios.iter().map(|scenario| format!(" {} |", scenario.name));
    format!("| |{}\n", names.collect::<String>())
}

/// The defaults with one thing else.
pub fn parted(sweep: &Sweep) -> String {
    table(sweep, 0, parted_title)
}

/// What a scenario is.
pub fn heading(scenario: &Scenario) -> String {
    format!("### {}\n\n{}\n", capital(scenario.name), scenario.about)
}

/// All figures of one scenario.
fn table(sweep: &Sweep, scenario: usize, title: impl Fn(&Settings) -> String) -> String {
    let mut text = String::from(
        "| | success | in 1 s | p50 | p99 | attempts | to the ill | left alone | after | back after | \
         well ones left alone | success afterwards |\n",
    );
    text.push_str(&rule(11));
    for (row, settings) in sweep.settings.iter().enumerate() {
        let cells = cells(sweep.of(scenario, row));
        let _ = writeln!(text, "| {} | {} |", title(settings), cells.join(" | "));
    }
    text
}

/// What of the defaults another value is.
pub fn parted_title(settings: &Settings) -> String {
    let typed = settings.policy.iter().map(|(key, value)| format!(", `{key}: {value}`"));
    format!("{}{}", settings.name, typed.collect::<String>())
}

fn cells(runs: &[Figures]) -> [String; 11] {
    let success = over(runs, |figures| figures.success);
    let p99 = over(runs, |figures| figures.p99);
    [
        spread(&success, percent),
        percent(median(&over(runs, |figures| figures.prompt))),
        millis(median(&over(runs, |figures| figures.p50))),
        spread(&p99, millis),
        format!("{:.3}", median(&over(runs, |figures| figures.attempts))),
        maybe(&over(runs, |figures| figures.at_ill), |share| format!("{:.0} %", share * 100.0)),
        maybe(&over(runs, |figures| figures.ejected), |share| format!("{:.0} %", share * 100.0)),
        maybe(&over(runs, |figures| figures.time_to_eject), seconds),
        maybe(&over(runs, |figures| figures.time_to_return), seconds),
        median(&over(runs, |figures| figures.well_ejected)).to_string(),
        percent(median(&over(runs, |figures| figures.success_after))),
    ]
}

/// What the rows are, where the balancer makes no difference only once.
pub fn settings(rows: &[Settings]) -> String {
    let mut text = String::new();
    let ours = |settings: &&Settings| !["round robin", "least request"].contains(&settings.group);
    for settings in rows.iter().filter(ours) {
        let _ = write!(text, "{}:\n\n```yaml\n{}```\n\n", title(settings), settings.defaults());
    }
    text.truncate(text.trim_end().len());
    text
}

pub fn title(settings: &Settings) -> String {
    format!("{}, {}", settings.group, settings.name)
}

fn rule(columns: usize) -> String {
    format!("|---|{}\n", "---:|".repeat(columns))
}

fn capital(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

fn over<T: PartialOrd>(runs: &[Figures], figure: impl Fn(&Figures) -> T) -> Vec<T> {
    let mut all: Vec<T> = runs.iter().map(figure).collect();
    all.sort_by(|a, b| a.partial_cmp(b).expect("a number"));
    all
}

fn median<T: Copy>(sorted: &[T]) -> T {
    sorted[sorted.len() / 2]
}

fn spread<T: Copy>(sorted: &[T], shown: impl Fn(T) -> String) -> String {
    let (low, high) = (shown(sorted[0]), shown(sorted[sorted.len() - 1]));
    let median = shown(median(sorted));
    if low == high { median } else { format!("{median} ({low}–{high})") }
}

fn maybe<T: Copy>(sorted: &[Option<T>], shown: impl Fn(T) -> String) -> String {
    median(sorted).map_or("–".into(), shown)
}

fn percent(share: f64) -> String {
    format!("{:.2}", share * 100.0)
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
