//! What is told of figures.

use std::fmt::Write;

use crate::baseline::{Figure, MOST_PERCENT, Verdict, Was};
use crate::callgrind::Profile;
use crate::subject::WARM_UP;

pub const GOOD: &str = "no scenario takes more than 3 % more instructions than its figure";
pub const BAD: &str = "Too many instructions. If they are worth it, `cargo run -p instructions --profile release-ci -- --update`
makes these the figures to hold, and the commit says what they buy.";

/// One line where little has changed; otherwise also the functions that have.
pub fn comparison(name: &str, was: &Figure, is: &Figure) -> String {
    const CHANGES: usize = 12;
    let (before, now) = (thousands(was.instructions), thousands(is.instructions));
    let percent = is.growth(was) * 100.0;
    let verdict = match is.verdict(was) {
        Verdict::Same => "",
        Verdict::Shrunk => "  less: a good time for --update",
        Verdict::Grown => "  TOO MUCH",
    };
    let mut text = format!("{name:<28}{before:>9} -> {now:>9}  {percent:+6.2} %{verdict}\n");
    let mut changes = is.changes(was);
    match is.verdict(was) {
        Verdict::Same => return text,
        Verdict::Grown => {}
        Verdict::Shrunk => changes.reverse(),
    }
    if is.verdict(was) == Verdict::Grown {
        let _ = writeln!(
            text,
            "    at most +{MOST_PERCENT} %; what each function itself takes for a request:"
        );
    }
    for change in changes.iter().take(CHANGES) {
        let before = match change.was {
            Was::Known(was) => thousands(was),
            Was::Below(most) => format!("<={}", thousands(most)),
        };
        let (is, growth) = (thousands(change.is), change.growth());
        let _ = writeln!(text, "    {before:>9} -> {is:>9}  {growth:>+7}  {}", change.function);
    }
    text
}

/// A profile: what a request takes in each function, without and with what it calls.
pub fn functions(name: &str, profile: &Profile, requests: u64) -> String {
    const TOP: usize = 60;
    let each = |cost: u64| thousands(cost / requests);
    let mut text = format!("{name}: {} instructions a request\n\n", each(profile.total));
    let share = |cost: u64| 100.0 * cost as f64 / profile.total as f64;
    let mut by_own: Vec<_> = profile.functions.iter().collect();
    let mut by_inclusive = by_own.clone();
    by_own.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.own));
    by_inclusive.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.inclusive));
    let heads = ["by what they take themselves", "by what they take with what they call"];
    for (head, functions) in heads.iter().zip([by_own, by_inclusive]) {
        let _ = writeln!(
            text,
            "{:>9}{:>8}{:>11}{:>8}{:>8}  {head}",
            "self", "%", "inclusive", "%", "calls"
        );
        for (function, cost) in functions.into_iter().take(TOP) {
            let (own, inclusive) = (each(cost.own), each(cost.inclusive));
            let calls = cost.calls as f64 / (requests + WARM_UP as u64) as f64;
            let (own_share, inclusive_share) = (share(cost.own), share(cost.inclusive));
            let _ = writeln!(
                text,
                "{own:>9}{own_share:>8.2}{inclusive:>11}{inclusive_share:>8.2}{calls:>8.1}  {function}"
            );
        }
        text.push('\n');
    }
    text
}

/// `12,345`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(instructions: u64, functions: &[(&str, u64)]) -> Figure {
        let functions = functions.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
        Figure { instructions, functions }
    }

    #[test]
    fn growth_names_the_function() {
        let was = figure(100_000, &[("proxy::answer", 5_000), ("log::write", 2_000)]);
        let is = figure(103_100, &[("proxy::answer", 5_000), ("log::write", 5_100)]);
        assert_eq!(
            comparison("http1", &was, &is),
            "http1                         100,000 ->   103,100   +3.10 %  TOO MUCH\n    \
             at most +3 %; what each function itself takes for a request:\n        \
             2,000 ->     5,100    +3100  log::write\n"
        );
        let same = comparison("http1", &was, &figure(102_000, &[]));
        assert_eq!(same, "http1                         100,000 ->   102,000   +2.00 %\n");
        assert!(comparison("http1", &is, &was).contains("a good time for --update"));
    }

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(thousands(number), text);
        }
    }
}
