//! Every scenario with every row and every seed, on all cores. What comes out does not depend on how many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::measure::Figures;
use crate::run::run;
use crate::scenario::Scenario;
use crate::settings::Settings;

pub struct Sweep {
    pub scenarios: Vec<Scenario>,
    pub settings: Vec<Settings>,
    pub seeds: Vec<u64>,
    /// By scenario, then row, then seed.
    figures: Vec<Figures>,
}

impl Sweep {
    pub fn new(scenarios: Vec<Scenario>, settings: Vec<Settings>, seeds: Vec<u64>) -> Self {
        let jobs = scenarios.len() * settings.len() * seeds.len();
        let done: Mutex<Vec<Option<Figures>>> = Mutex::new((0..jobs).map(|_| None).collect());
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let job = next.fetch_add(1, Relaxed);
                if job >= jobs {
                    return;
                }
                let (place, seed) = (job / seeds.len(), seeds[job % seeds.len()]);
                let scenario = &scenarios[place / settings.len()];
                let figures = run(scenario, &settings[place % settings.len()], seed);
                done.lock().expect("no run panics")[job] = Some(figures);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            (0..threads).for_each(|_| drop(scope.spawn(work)));
        });
        let figures = done.into_inner().expect("no run panics").into_iter().flatten().collect();
        Self { scenarios, settings, seeds, figures }
    }

    /// One for each seed.
    pub fn of(&self, scenario: usize, row: usize) -> &[Figures] {
        let place = (scenario * self.settings.len() + row) * self.seeds.len();
        &self.figures[place..place + self.seeds.len()]
    }
}
