//! What is counted of one run.

use std::time::Duration;

use pilotfish::clock::Instant;

use crate::scenario::{Scenario, Times};

/// Gathers while it runs.
pub struct Meter {
    times: Times,
    ill: Vec<bool>,
    requests: u64,
    good: u64,
    prompt: u64,
    attempts: u64,
    attempts_at_ill: u64,
    /// Of each call of the time of trouble, however it ended, in microseconds.
    latencies: Vec<u32>,
    seconds: Vec<Second>,
    /// When each caller first left an ill endpoint alone, from the beginning of the trouble.
    ejections: Vec<Option<Duration>>,
    well_ejected: u32,
    after: (u64, u64),
}

/// What there was in one second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    pub requests: u32,
    pub failed: u32,
    attempts: u32,
    attempts_at_ill: u32,
}

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Share of the calls that began in the time of trouble and were answered well.
    pub success: f64,
    /// Share of them that were answered well within a second.
    pub prompt: f64,
    /// The share that was answered well of the calls that began after it.
    pub success_after: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Attempts for each call, in the time of trouble.
    pub attempts: f64,
    /// What the ill endpoints got of the attempts, where 1 is their fair share. `None`: there are none.
    pub at_ill: Option<f64>,
    /// Share of the ill endpoints that were left alone at all.
    pub ejected: Option<f64>,
    /// The median of the times after which that was so.
    pub time_to_eject: Option<Duration>,
    /// From the end of the trouble until they get half of their fair share.
    pub time_to_return: Option<Duration>,
    /// How often one was left alone that was never ill.
    pub well_ejected: u32,
    pub seconds: Vec<Second>,
}

const SECOND: u64 = 1_000_000_000;
/// Somebody who waits longer has often gone.
const PROMPT: Duration = Duration::from_secs(1);

impl Meter {
    pub fn new(scenario: &Scenario) -> Self {
        let ill = scenario.ill();
        Self {
            times: scenario.times,
            requests: 0,
            good: 0,
            prompt: 0,
            attempts: 0,
            attempts_at_ill: 0,
            latencies: Vec::new(),
            seconds: vec![Second::default(); (scenario.times.over.0 / SECOND) as usize + 1],
            // By caller and endpoint.
            ejections: vec![None; ill.len() * scenario.callers],
            ill,
            well_ejected: 0,
            after: (0, 0),
        }
    }

    fn is_trouble(&self, at: Instant) -> bool {
        at >= self.times.begins && at < self.times.ends
    }

    fn second(&mut self, at: Instant) -> &mut Second {
        &mut self.seconds[(at.0 / SECOND) as usize]
    }

    pub fn attempt(&mut self, endpoint: usize, now: Instant) {
        let at_ill = self.ill[endpoint];
        let second = self.second(now);
        second.attempts += 1;
        second.attempts_at_ill += u32::from(at_ill);
        if self.is_trouble(now) {
            self.attempts += 1;
            self.attempts_at_ill += u64::from(at_ill);
        }
    }

    /// A call that began then has ended.
    pub fn call(&mut self, began: Instant, now: Instant, good: bool) {
        let second = self.second(began);
        second.requests += 1;
        second.failed += u32::from(!good);
        if self.is_trouble(began) {
            self.requests += 1;
            let took = now.saturating_duration_since(began);
            self.good += u64::from(good);
            self.prompt += u64::from(good && took <= PROMPT);
            self.latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        } else if began >= self.times.ends {
            self.after.0 += 1;
            self.after.1 += u64::from(good);
        }
    }

    pub fn left_alone(&mut self, caller: usize, endpoint: usize, now: Instant) {
        if !self.ill[endpoint] {
            self.well_ejected += 1;
        } else if self.is_trouble(now) {
            let first = &mut self.ejections[caller * self.ill.len() + endpoint];
            first.get_or_insert(now.saturating_duration_since(self.times.begins));
        }
    }

    pub fn figures(mut self) -> Figures {
        let mut ejections: Vec<Duration> = self.ejections.iter().flatten().copied().collect();
        ejections.sort_unstable();
        let ill = self.ill.iter().filter(|ill| **ill).count();
        let (is_ill, fair) = (ill > 0, ill as f64 / self.ill.len() as f64);
        let pairs = fair * self.ejections.len() as f64;
        Figures {
            success: share(self.good, self.requests),
            prompt: share(self.prompt, self.requests),
            success_after: share(self.after.1, self.after.0),
            p50: quantile(&mut self.latencies, 0.5),
            p99: quantile(&mut self.latencies, 0.99),
            attempts: share(self.attempts, self.requests),
            at_ill: is_ill.then(|| share(self.attempts_at_ill, self.attempts) / fair),
            ejected: is_ill.then(|| ejections.len() as f64 / pairs),
            time_to_eject: ejections.get(ejections.len() / 2).copied(),
            time_to_return: if is_ill { self.time_to_return(fair) } else { None },
            well_ejected: self.well_ejected,
            seconds: self.seconds,
        }
    }

    fn time_to_return(&self, fair: f64) -> Option<Duration> {
        let ends = (self.times.ends.0 / SECOND) as usize;
        let after = &self.seconds[ends..self.seconds.len() - 1];
        let back = |second: &Second| {
            f64::from(second.attempts_at_ill) >= 0.5 * fair * f64::from(second.attempts)
        };
        after.iter().position(back).map(|seconds| Duration::from_secs(seconds as u64))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn quantile(latencies: &mut [u32], share: f64) -> Duration {
    if latencies.is_empty() {
        return Duration::ZERO;
    }
    let place = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
    Duration::from_micros(u64::from(*latencies.select_nth_unstable(place).1))
}
