//! The figures that are checked in, and how new ones compare to them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::callgrind::Profile;

/// By how many hundredths a figure may grow, and may shrink before the baseline is to be made anew.
pub const MOST_PERCENT: u64 = 3;
/// So many functions of each scenario are kept: those that cost most.
const FUNCTIONS: usize = 60;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    pub made_with: MadeWith,
    pub scenarios: BTreeMap<String, Figure>,
}

/// What the figures depend on besides our code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeWith {
    pub rustc: String,
    pub profile: String,
    pub processor: String,
    pub libc: String,
    pub valgrind: String,
}

/// Instructions for one request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    pub instructions: u64,
    /// Without what they called.
    pub functions: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Shrunk,
    Grown,
}

/// One function in both figures.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub function: String,
    pub was: Was,
    pub is: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    Known(u64),
    /// Too little to be kept.
    Below(u64),
}

impl Baseline {
    /// # Errors
    /// Why there are no figures, for whoever runs this.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |error: String| format!("{}: {error}; make it anew by --update", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| told(error.to_string()))
    }

    /// # Errors
    /// Why it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl MadeWith {
    /// Whether figures made with `self` say anything about those made with `other`.
    pub fn is_comparable(&self, other: &Self) -> bool {
        let decisive =
            |made: &Self| (made.rustc.clone(), made.profile.clone(), made.processor.clone());
        decisive(self) == decisive(other)
    }
}

impl Figure {
    pub fn new(profile: &Profile, requests: u64) -> Self {
        let each = |cost: u64| (cost + requests / 2) / requests;
        let functions =
            profile.functions.iter().map(|(name, cost)| (name.clone(), each(cost.own))).collect();
        Self { instructions: each(profile.total), functions }
    }

    /// As it is checked in.
    pub fn shortened(&self) -> Self {
        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
        let kept = functions.into_iter().take(FUNCTIONS);
        let functions = kept.map(|(name, cost)| (name.clone(), *cost)).collect();
        Self { instructions: self.instructions, functions }
    }

    /// 0.01 for one that is 1 % more than `was`.
    pub fn growth(&self, was: &Self) -> f64 {
        self.instructions as f64 / was.instructions as f64 - 1.0
    }

    pub fn verdict(&self, was: &Self) -> Verdict {
        let (is, was) = (self.instructions * 100, was.instructions);
        if is > was * (100 + MOST_PERCENT) {
            Verdict::Grown
        } else if is < was * (100 - MOST_PERCENT) {
            Verdict::Shrunk
        } else {
            Verdict::Same
        }
    }

    /// The functions by how much more they cost than in `was`, a shortened one: what grew most first, what
    /// shrank most last.
    pub fn changes(&self, was: &Self) -> Vec<Change> {
        let floor = match was.functions.len() {
            0..FUNCTIONS => 0,
            FUNCTIONS.. => was.functions.values().copied().min().unwrap_or(0),
        };
        let new = self.functions.iter().map(|(function, is)| {
            let known = was.functions.get(function);
            let was = known.map_or(Was::Below(floor), |was| Was::Known(*was));
            Change { function: function.clone(), was, is: *is }
        });
        let gone = was.functions.iter().filter(|(name, _)| !self.functions.contains_key(*name));
        let gone = gone.map(|(function, was)| Change {
            function: function.clone(),
            was: Was::Known(*was),
            is: 0,
        });
        let mut changes: Vec<_> = new.chain(gone).filter(|change| change.growth() != 0).collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.growth()));
        changes
    }
}

impl Change {
    pub fn growth(&self) -> i64 {
        let is = self.is as i64;
        match self.was {
            Was::Known(was) => is - was as i64,
            Was::Below(was) => (is - was as i64).max(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callgrind::Cost;

    fn figure(instructions: u64, functions: &[(&str, u64)]) -> Figure {
        let functions = functions.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
        Figure { instructions, functions }
    }

    #[test]
    fn more_than_three_percent_is_growth_and_the_function_is_named() {
        let was = figure(100_000, &[("parse", 60_000), ("route", 30_000), ("log", 10_000)]);
        let is = figure(103_100, &[("parse", 59_000), ("route", 30_000), ("log", 14_100)]);
        assert_eq!(is.verdict(&was), Verdict::Grown);
        let changes = is.changes(&was);
        let expected = |function: &str, was, is| Change {
            function: function.to_owned(),
            was: Was::Known(was),
            is,
        };
        assert_eq!(changes, [expected("log", 10_000, 14_100), expected("parse", 60_000, 59_000)]);
    }

    #[test]
    fn three_percent_either_way_is_nothing() {
        let was = figure(100_000, &[]);
        for (instructions, verdict) in [
            (103_000, Verdict::Same),
            (103_001, Verdict::Grown),
            (97_000, Verdict::Same),
            (96_999, Verdict::Shrunk),
        ] {
            assert_eq!(figure(instructions, &[]).verdict(&was), verdict, "{instructions}");
        }
    }

    #[test]
    fn what_was_not_kept_counts_from_what_it_was_at_most() {
        let many: Vec<_> =
            (0..FUNCTIONS as u64 + 10).map(|i| (format!("f{i:03}"), 1000 - i)).collect();
        let many: Vec<_> = many.iter().map(|(name, cost)| (name.as_str(), *cost)).collect();
        let was = figure(100_000, &many);
        assert!(was.changes(&was.shortened()).is_empty(), "nothing has changed");
        let mut is = was.clone();
        is.functions.insert("f065".to_owned(), 2000);
        is.functions.insert("new".to_owned(), 1500);
        is.functions.remove("f000");
        let changes = is.changes(&was.shortened());
        let told: Vec<_> =
            changes.iter().map(|change| (&*change.function, change.growth())).collect();
        assert_eq!(told, [("f065", 2000 - 941), ("new", 1500 - 941), ("f000", -1000)]);
    }

    #[test]
    fn a_figure_is_for_one_request() {
        let cost = Cost { own: 1_499, inclusive: 5_000, calls: 1 };
        let profile = Profile { total: 2_500, functions: [("f".to_owned(), cost)].into() };
        assert_eq!(Figure::new(&profile, 1000), figure(3, &[("f", 1)]));
    }

    #[test]
    fn another_compiler_cannot_be_compared_but_another_valgrind_can() {
        let made = MadeWith { rustc: "1".into(), valgrind: "3".into(), ..MadeWith::default() };
        assert!(made.is_comparable(&MadeWith { valgrind: "4".into(), ..made.clone() }));
        assert!(!made.is_comparable(&MadeWith { rustc: "2".into(), ..made.clone() }));
        assert!(!made.is_comparable(&MadeWith { profile: "release".into(), ..made.clone() }));
    }
}
