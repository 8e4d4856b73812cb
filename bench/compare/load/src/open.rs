//! An open loop: requests begin when they are due, whatever became of those before, and their latency counts
//! from then. So a proxy that stands still for a moment is charged for all that had to wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, Http1, Tally, Then};
use crate::engine::Engine;
use crate::{Failure, Options, result};

/// When a request was due, and how long it took from then, in microseconds.
type Sample = (u32, u32);

pub fn run(options: &Options) -> Result<Value, Failure> {
    let mut open = Open::new(options)?;
    let warm_up = Duration::from_secs_f64(options.warm_up);
    let end = warm_up + Duration::from_secs_f64(options.seconds);
    open.run(options.rate, end)?;
    open.samples.retain(|(due, _)| u128::from(*due) >= warm_up.as_micros());
    if let Some(file) = &options.samples {
        let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
        for (due, took) in &open.samples {
            writeln!(out, "{due} {took}")?;
        }
        out.flush()?;
    }
    let mut took: Vec<u32> = open.samples.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    let mut result = result(took.len() as f64, options.seconds, &open.tally);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        result[name] = json!(percentile(&took, share));
    }
    Ok(result)
}

/// The least value that is not less than so large a share of all.
fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

struct Open {
    engine: Engine<Client>,
    tally: Rc<Tally>,
    answered: Rc<RefCell<Vec<usize>>>,
    idle: Vec<usize>,
    /// What has no connection yet.
    waiting: VecDeque<Duration>,
    /// By connection: when what it carries was due.
    due: Vec<Duration>,
    samples: Vec<Sample>,
    random: u64,
}

impl Open {
    fn new(options: &Options) -> Result<Self, Failure> {
        let tally = Rc::new(Tally::default());
        let answered = Rc::new(RefCell::default());
        let requests = options.requests("");
        let mut engine = Engine::new()?;
        let mut idle = Vec::new();
        for seed in 1..=options.connections as u64 {
            let http = Http1::new(tally.clone(), Then::Tell, requests.clone(), seed);
            let key = engine.connect(options.target, Client::Http1(http))?;
            engine.with(key, |client, _| {
                if let Client::Http1(http) = client {
                    http.told = Some((Rc::clone(&answered), key));
                }
            });
            idle.push(key);
        }
        Ok(Open {
            engine,
            tally,
            answered,
            due: vec![Duration::ZERO; idle.len()],
            idle,
            waiting: VecDeque::new(),
            samples: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn run(&mut self, rate: f64, end: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        let mut next = Duration::ZERO;
        // What was due before the end may still be answered.
        let last = end + Duration::from_secs(2);
        loop {
            let now = began.elapsed();
            while next <= now && next < end {
                self.waiting.push_back(next);
                next += self.interval(rate);
            }
            while let Some(due) = self.waiting.front().copied()
                && let Some(key) = self.idle.pop()
            {
                self.waiting.pop_front();
                self.due[key] = due;
                self.engine.with(key, |client, out| {
                    if let Client::Http1(http) = client {
                        http.ask(out);
                    }
                });
            }
            let none = self.waiting.is_empty() && self.idle.len() == self.due.len();
            if now >= last || next >= end && none {
                break;
            }
            let until = if next < end { next } else { last };
            self.engine.turn(Some(until.saturating_sub(began.elapsed())))?;
            self.collect(began.elapsed());
        }
        let lost = self.waiting.len() + self.due.len() - self.idle.len();
        if lost > 0 {
            self.tally.error("requests were not answered within 2 s");
            self.tally.errors.set(self.tally.errors.get() + lost as u64 - 1);
        }
        Ok(())
    }

    fn collect(&mut self, now: Duration) {
        for key in self.answered.borrow_mut().drain(..) {
            let due = self.due[key];
            let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            self.samples.push((micros(due), micros(now.saturating_sub(due))));
            self.idle.push(key);
        }
    }

    /// As of independent clients (a Poisson process), the same in each run.
    fn interval(&mut self, rate: f64) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let uniform = ((self.random >> 11) + 1) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&values, 0.5), Some(500));
        assert_eq!(percentile(&values, 0.999), Some(999));
        assert_eq!(percentile(&values, 1.0), Some(1000));
        assert_eq!(percentile(&[7], 0.01), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
