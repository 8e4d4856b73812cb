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
        let rows = ["bare", "all of ours", "adaptive concurrency"].map(ewma);
        Sweep::new(scenarios.into(), rows.into(), vec![seed, seed + 1])
    };
    let written = |sweep: &Sweep| (report::page(sweep), plot::plot(sweep));
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
        assert!(seen.attempts < 1.002, "{settings:?}: {}", seen.attempts);
        assert!(seen.p99 <= bare.p99.mul_f64(1.1), "{settings:?}: {:?}", seen.p99);
        if settings.policy.iter().any(|(key, value)| *key == "outlier_detection" && value == "off")
        {
            assert_eq!(seen.well_ejected, 0, "{settings:?}");
        }
    }
}

#[test]
fn outlier_detection_finds_what_is_grey_and_failures_in_a_row_do_not() {
    let grey = scenario("grey");
    let (bare, with) = (figures(&grey, &ewma("bare")), figures(&grey, &ewma("outlier detection")));
    assert!(with.success > bare.success + 0.005, "{} {}", bare.success, with.success);
    assert_eq!(with.ejected, Some(1.0));
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
    assert!(bare.at_ill > Some(1.2), "{:?}", bare.at_ill);
    let tenth = figures(&rollout, &ewma("outlier detection of a tenth"));
    let half = figures(&rollout, &ewma("outlier detection"));
    assert!(half.success > tenth.success + 0.05, "{} {}", tenth.success, half.success);
    assert!(figures(&rollout, &ewma("all of ours")).success > 0.99);
}

#[test]
fn the_page_has_its_words_and_its_figures() {
    let rows = vec![ewma("bare"), row("Linkerd", "defaults")];
    let mut well = scenario("all well").scaled(2);
    well.times = Times::seconds(1, 3, 5);
    let page = report::page(&Sweep::new(vec![well], rows, vec![7]));
    for placeholder in ["{seeds}", "{summary}", "{details}", "{settings}"] {
        assert!(!page.contains(placeholder), "{placeholder}");
    }
    assert!(page.contains("| peak EWMA, bare |") && page.contains("seeds 7"), "{page}");
}
