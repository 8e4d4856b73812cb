//! What the page says, at a fifth of its scale, so that it cannot cease to be true unseen.

use super::measure::Figures;
use super::run::run;
use super::scenario::{Illness, Scenario, Times};
use super::settings::Settings;
use super::sweep::Sweep;
use super::world::Health;
use super::{plot, report};

const SEED: u64 = 1;

fn scenario(name: &str) -> Scenario {
    let found = Scenario::all().into_iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("there is no scenario {name}")).scaled(5)
}

fn row(group: &str, name: &str) -> Settings {
    let is_it = |row: &Settings| row.group == group && row.name == name;
    Settings::all().into_iter().find(is_it).unwrap_or_else(|| panic!("there is no row {name}"))
}

fn ewma(name: &str) -> Settings {
    row("peak EWMA", name)
}

/// Short: it is the words and titles that are looked at.
fn parted() -> Sweep {
    let mut brownout = scenario("brownout").scaled(2);
    brownout.times = Times::seconds(1, 2, 3);
    Sweep::new(vec![brownout], Settings::parted(), vec![SEED])
}

fn figures(scenario: &Scenario, settings: &Settings) -> Figures {
    run(scenario, settings, SEED)
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let sweep = |seed| {
        let scenarios = ["a mix", "grey, seen by 20"].map(scenario).map(|mut scenario| {
            scenario.times = Times::seconds(2, 12, 20);
            scenario
        });
        let rows = ["bare", "all of ours", "hedging", "health checks", "adaptive concurrency"];
        let rows = rows.map(ewma);
        Sweep::new(scenarios.into(), rows.into(), vec![seed, seed + 1])
    };
    let parted = &parted();
    let written = |sweep: &Sweep| (report::page(sweep, parted), plot::plot(sweep));
    let first = written(&sweep(1));
    assert_eq!(first, written(&sweep(1)));
    assert_ne!(first.0, written(&sweep(2)).0);
}

#[test]
fn where_all_is_well_no_policy_does_harm() {
    let well = scenario("all well");
    let bare = figures(&well, &ewma("bare"));
    assert!(bare.success > 0.998 && bare.attempts == 1.0, "{bare:?}");
    for settings in Settings::all() {
        // Its measurements cost something, and the page says so.
        let measures = settings.name == "adaptive concurrency";
        let seen = figures(&well, &settings);
        let at_least = if measures { 0.95 } else { bare.success - 0.0005 };
        assert!(seen.success >= at_least, "{settings:?}: {}", seen.success);
        // What takes longer than the 95th percentile is asked for twice.
        let most = if settings.name == "hedging" { 1.06 } else { 1.002 };
        assert!(seen.attempts < most, "{settings:?}: {}", seen.attempts);
        assert!(seen.p99 <= bare.p99.mul_f64(1.1), "{settings:?}: {:?}", seen.p99);
        // Without a least gap to the mean, some are always far enough below it.
        let has_no_gap = settings.group == "Envoy" && settings.name != "defaults";
        assert_eq!(seen.well_ejected > 0, has_no_gap, "{settings:?}: {}", seen.well_ejected);
    }
}

#[test]
fn outlier_detection_finds_what_is_grey_and_failures_in_a_row_do_not() {
    let grey = scenario("grey");
    for group in ["round robin", "least request", "peak EWMA"] {
        let found = figures(&grey, &row(group, "outlier detection"));
        assert_eq!((found.ejected, found.well_ejected), (Some(1.0), 0), "{group}");
    }
    let (bare, with) = (figures(&grey, &ewma("bare")), figures(&grey, &ewma("outlier detection")));
    assert!(with.success > bare.success + 0.005, "{} {}", bare.success, with.success);
    assert_eq!(with.ejected, Some(1.0));
    // The interval in which the trouble begins, or the next.
    assert!(with.time_to_eject.is_some_and(|after| after.as_secs() < 20), "{with:?}");
    let in_a_row = figures(&grey, &row("Istio", "outlier detection"));
    assert!(in_a_row.success < with.success - 0.005, "{} {}", in_a_row.success, with.success);
}

#[test]
fn what_is_gone_is_left_alone_and_returns() {
    let gone = scenario("gone");
    for name in ["breaker", "outlier detection", "our defaults", "all of ours"] {
        let seen = figures(&gone, &row("round robin", name));
        assert_eq!(seen.ejected, Some(1.0), "{name}");
        assert!(seen.time_to_eject.is_some_and(|after| after.as_secs() < 10), "{name}: {seen:?}");
        assert!(seen.time_to_return.is_some_and(|after| after.as_secs() < 60), "{name}: {seen:?}");
    }
    let defaults = figures(&gone, &ewma("our defaults"));
    assert!(defaults.success > 0.998, "{}", defaults.success);
}

#[test]
fn the_budget_bounds_what_retries_add_and_a_fixed_number_does_not() {
    for scenario in ["brownout", "bad rollout"].map(scenario) {
        let most = 1.2 + 10.0 / scenario.rate + 0.01;
        for group in ["round robin", "least request", "peak EWMA"] {
            let seen = figures(&scenario, &row(group, "retries"));
            assert!(seen.attempts <= most, "{group}, {}: {}", scenario.name, seen.attempts);
        }
    }
    let brownout = scenario("brownout");
    let naive = figures(&brownout, &ewma("3 retries, no budget"));
    let within = figures(&brownout, &ewma("retries"));
    let bare = figures(&brownout, &ewma("bare"));
    assert!(bare.success > within.success + 0.1, "{} {}", bare.success, within.success);
    assert!(naive.attempts > 3.0, "{}", naive.attempts);
    assert!(within.success > 2.0 * naive.success, "{} {}", within.success, naive.success);
    // It keeps itself going after its cause is gone.
    assert!(naive.success_after < 0.1, "{}", naive.success_after);
    assert!(within.success_after > 0.9, "{}", within.success_after);
}

#[test]
fn where_all_fail_some_are_still_asked() {
    let mut doomed = scenario("bad rollout");
    doomed.ill = vec![(doomed.endpoints, Illness::Is(Health::Wrong(1.0)))];
    for name in ["outlier detection", "outlier detection of a tenth", "our defaults"] {
        let seen = figures(&doomed, &ewma(name));
        assert_eq!((seen.attempts, seen.success), (1.0, 0.0), "{name}");
        assert!(seen.success_after > 0.99, "{name}: {}", seen.success_after);
    }
}

#[test]
fn fast_errors_attract_and_a_tenth_is_too_few_to_eject_for_a_fifth() {
    let rollout = scenario("bad rollout");
    let bare = figures(&rollout, &ewma("bare"));
    let least = figures(&rollout, &row("least request", "bare"));
    assert!(least.at_ill > Some(1.2) && bare.at_ill > least.at_ill, "{:?}", bare.at_ill);
    let tenth = figures(&rollout, &ewma("outlier detection of a tenth"));
    let half = figures(&rollout, &ewma("outlier detection"));
    assert!(half.success > tenth.success + 0.05, "{} {}", tenth.success, half.success);
}

#[test]
fn retries_and_ejections_together_leave_next_to_nothing() {
    for trouble in Scenario::all().into_iter().filter(|it| it.name != "brownout") {
        let seen = figures(&scenario(trouble.name), &ewma("all of ours"));
        assert!(seen.success > 0.9985, "{}: {}", trouble.name, seen.success);
    }
}

/// A bulkhead for a fifth of the load.
fn scaled_bulkhead(endpoint: &str) -> Settings {
    let limits = format!("{{ max_requests: 205, max_pending: 205, endpoint: {{ {endpoint} }} }}");
    ewma("bare").named("bulkhead").with("bulkhead", limits)
}

#[test]
fn in_the_brownout_the_bulkhead_fills_with_requests_to_the_slow_unless_each_has_its_share() {
    let brownout = scenario("brownout");
    let bare = figures(&brownout, &ewma("bare"));
    let of_all = figures(&brownout, &scaled_bulkhead(""));
    let of_each = figures(&brownout, &scaled_bulkhead("max_requests: 11"));
    assert!(of_all.success < bare.success - 0.1, "{} {}", of_all.success, bare.success);
    assert!(of_each.success > of_all.success + 0.1, "{} {}", of_each.success, of_all.success);
    assert!(of_each.prompt > bare.prompt, "{} {}", of_each.prompt, bare.prompt);
}

#[test]
fn hedging_helps_where_some_are_slow_and_stays_within_the_budget() {
    let slow = scenario("slow");
    let bare = figures(&slow, &row("round robin", "bare"));
    let hedged = figures(&slow, &row("round robin", "hedging"));
    assert!(hedged.prompt > bare.prompt + 0.02, "{} {}", hedged.prompt, bare.prompt);
    assert!(hedged.p99 < bare.p99, "{:?} {:?}", hedged.p99, bare.p99);
    assert!(hedged.attempts > 1.01 && hedged.attempts < 1.25, "{}", hedged.attempts);
}

#[test]
fn health_checks_find_what_is_gone_and_not_what_is_slow_or_grey() {
    let found = |name| figures(&scenario(name), &ewma("health checks"));
    for name in ["gone", "bad rollout"] {
        let seen = found(name);
        assert_eq!((seen.ejected, seen.well_ejected), (Some(1.0), 0), "{name}");
        assert!(seen.time_to_eject.is_some_and(|after| after.as_secs() < 50), "{name}: {seen:?}");
    }
    assert_eq!(found("slow").ejected, Some(0.0));
    assert!(found("grey").ejected < Some(0.5));
}

#[test]
fn a_breaker_for_slow_calls_opens_where_none_fails() {
    let slow = scenario("slow");
    let of = |name| figures(&slow, &row("least request", name));
    let (by_failures, by_both) = (of("breaker"), of("breaker, slow calls too"));
    assert_eq!(by_failures.ejected, Some(0.0));
    assert!(by_both.ejected > Some(0.0) && by_both.well_ejected == 0, "{:?}", by_both.ejected);
    assert!(by_both.at_ill < by_failures.at_ill, "{:?} {:?}", by_both.at_ill, by_failures.at_ill);
}

#[test]
fn slow_start_spares_who_is_cold() {
    let restart = scenario("restart");
    let of = |name| figures(&restart, &row("round robin", name));
    let (at_once, by_and_by) = (of("outlier detection"), of("outlier detection, slow start"));
    assert!(by_and_by.p99 < at_once.p99, "{:?} {:?}", by_and_by.p99, at_once.p99);
}

/// A default of ours that changes must not change what others are compared by.
#[test]
fn the_rows_of_others_say_everything() {
    let others = |row: &Settings| ["Envoy", "Istio", "Linkerd"].contains(&row.group);
    for settings in Settings::all().into_iter().filter(others) {
        let of = |key: &str| {
            let found = settings.policy.iter().find(|(known, _)| *known == key);
            found.map_or_else(|| panic!("{settings:?}: {key}"), |(_, value)| value.as_str())
        };
        for key in ["hedge", "circuit_breaker", "slow_start", "adaptive_concurrency"] {
            of(key);
        }
        let says = |key: &str, all: &[&str]| {
            let value = of(key);
            let missing = all.iter().find(|name| !value.contains(&format!("{name}:")));
            assert!(value == "off" || missing.is_none(), "{settings:?}: {key}: {missing:?}");
        };
        says("panic_threshold", &[]);
        says("timeout", &["request", "connect"]);
        let slots = ["max_requests", "max_connections", "max_pending", "queue_timeout", "codel"];
        says("bulkhead", &slots);
        let retry = ["max_retries", "on", "methods", "per_try_timeout", "backoff", "base", "max"];
        says("retry", &retry);
        says("retry", &["max_retry_after", "budget", "ratio", "min_per_second"]);
        let rows = ["consecutive_5xx", "consecutive_gateway_errors", "failure_percentage"];
        says("outlier_detection", &rows);
        says("outlier_detection", &["interval", "ejection_time", "max_ejection_time"]);
        says("outlier_detection", &["max_ejected", "success_rate"]);
        if of("outlier_detection").contains("success_rate: {") {
            let rate = ["deviations", "min_gap", "min_endpoints", "min_calls"];
            says("outlier_detection", &rate);
        }
        let breaker = ["scope", "consecutive_failures", "open_for", "max_open_for", "probes"];
        says("circuit_breaker", &breaker);
    }
}

/// The first cells of the rows of each table in `text`, table by table.
fn tables(text: &str) -> Vec<Vec<&str>> {
    let mut tables = vec![vec![]];
    for line in text.lines() {
        match line.strip_prefix("| ").and_then(|line| line.split(" | ").next()) {
            Some("") | None if line.starts_with("|---") => {}
            Some(first) if !first.starts_with('|') => {
                tables.last_mut().expect("one").push(first);
            }
            _ => tables.push(vec![]),
        }
    }
    tables.retain(|table| !table.is_empty());
    tables
}

/// Whoever changes rows, scenarios or words has to write the page again.
#[test]
fn the_page_in_docs_is_of_these_scenarios_and_rows_and_words() {
    let written = include_str!("../../../docs/simulation.md");
    let mut rest = written;
    // Of each word that stands between the figures, in their order.
    for (nth, words) in report::WORDS.split(['{', '}']).enumerate().filter(|(nth, _)| nth % 2 == 0)
    {
        let at = rest.find(words).unwrap_or_else(|| panic!("part {nth} of the words is another"));
        rest = &rest[at + words.len()..];
    }
    let (scenarios, rows) = (Scenario::all(), Settings::all());
    assert!(written.contains(&report::heads(&scenarios)), "the scenarios are others");
    assert!(written.contains(&report::settings(&rows)), "the rows are others");
    let titles: Vec<_> = rows.iter().map(report::title).collect();
    let parted: Vec<_> = Settings::parted().iter().map(report::parted_title).collect();
    let tables = tables(written);
    let count = |titles: &[String]| tables.iter().filter(|table| *table == titles).count();
    // One for each scenario, and the summary.
    assert_eq!((count(&titles), count(&parted)), (scenarios.len() + 1, 1));
    let drawn = include_str!("../../../docs/simulation.svg");
    for scenario in &scenarios {
        assert!(written.contains(&report::heading(scenario)), "{}", scenario.name);
        assert!(drawn.contains(&format!(">{}</text>", scenario.name)), "{}", scenario.name);
    }
}

#[test]
fn the_page_has_its_words_and_its_figures() {
    let rows = vec![ewma("bare"), row("Linkerd", "defaults")];
    let mut well = scenario("all well").scaled(2);
    well.times = Times::seconds(1, 3, 5);
    let page = report::page(&Sweep::new(vec![well], rows, vec![7]), &parted());
    for placeholder in ["{seeds}", "{summary}", "{parted}", "{details}", "{settings}"] {
        assert!(!page.contains(placeholder), "{placeholder}");
    }
    assert!(page.contains("| peak EWMA, bare |") && page.contains("seeds 7"), "{page}");
    assert!(page.contains("| without bulkhead, `bulkhead: off` |"), "{page}");
}
