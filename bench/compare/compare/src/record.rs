//! What was measured, and the medians of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    pub figures: BTreeMap<String, f64>,
    /// What was wrong with the answers, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

impl Figures {
    pub fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.into(), value);
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    pub round: usize,
    pub scenario: String,
    pub proxy: String,
    #[serde(flatten)]
    pub figures: Figures,
}

#[derive(Debug, Default, Serialize)]
pub struct Records {
    pub records: Vec<Record>,
}

impl Records {
    pub fn add(&mut self, round: usize, scenario: &str, proxy: &str, figures: Figures) {
        let (scenario, proxy) = (scenario.into(), proxy.into());
        self.records.push(Record { round, scenario, proxy, figures });
    }

    fn of<'a, 'b>(
        &'a self,
        scenario: &'b str,
        proxy: &'b str,
    ) -> impl Iterator<Item = &'a Record> + use<'a, 'b> {
        let here = move |record: &&Record| record.scenario == scenario && record.proxy == proxy;
        self.records.iter().filter(here)
    }

    pub fn values(&self, scenario: &str, proxy: &str, figure: &str) -> Vec<f64> {
        let value = |record: &Record| record.figures.figures.get(figure).copied();
        self.of(scenario, proxy).filter_map(value).collect()
    }

    pub fn median(&self, scenario: &str, proxy: &str, figure: &str) -> Option<f64> {
        median(self.values(scenario, proxy, figure))
    }

    /// The median of the ratios of each round: what changed from one round to the next changed for both.
    pub fn ratio(&self, one: (&str, &str), other: (&str, &str), figure: &str) -> Option<f64> {
        self.compared(one, other, figure, |a, b| a / b)
    }

    /// The same of what one has more than the other.
    pub fn difference(&self, one: (&str, &str), other: (&str, &str), figure: &str) -> Option<f64> {
        self.compared(one, other, figure, |a, b| a - b)
    }

    fn compared(
        &self,
        one: (&str, &str),
        other: (&str, &str),
        figure: &str,
        compare: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let of_round = |record: &Record| {
            let value = record.figures.figures.get(figure)?;
            let mut others = self.of(other.0, other.1).filter(|there| there.round == record.round);
            Some(compare(*value, *others.find_map(|there| there.figures.figures.get(figure))?))
        };
        median(self.of(one.0, one.1).filter_map(of_round).collect())
    }

    /// The medians of all that is known.
    pub fn all_medians(&self, scenario: &str, proxy: &str) -> Vec<(String, f64)> {
        let names: BTreeSet<&String> =
            self.of(scenario, proxy).flat_map(|record| record.figures.figures.keys()).collect();
        let median = |name: &String| Some((name.clone(), self.median(scenario, proxy, name)?));
        names.into_iter().filter_map(median).collect()
    }

    /// The first thing that was wrong in any round.
    pub fn wrong(&self, scenario: &str, proxy: &str) -> Option<&str> {
        self.of(scenario, proxy).find_map(|record| record.figures.wrong.as_deref())
    }
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_proxy_has_its_own_records() {
        let mut records = Records::default();
        for (round, proxy, value) in [(0, "a", 1.0), (1, "a", 3.0), (0, "b", 7.0)] {
            let mut figures = Figures::default();
            figures.set("x", value);
            figures.wrong = (value > 2.0).then(|| format!("{value}"));
            records.add(round, "s", proxy, figures);
        }
        assert_eq!(records.median("s", "a", "x"), Some(2.0));
        assert_eq!(records.wrong("s", "a"), Some("3"));
        assert_eq!(records.ratio(("s", "b"), ("s", "a"), "x"), Some(7.0));
        assert_eq!(records.difference(("s", "b"), ("s", "a"), "x"), Some(6.0));
        assert_eq!(records.values("t", "a", "x"), Vec::<f64>::new());
    }
}
