//! Prints what the policies do when endpoints misbehave, and writes it down:
//!
//!     cargo run --release -p simulation -- --seed 1 --write docs
//!
//! The same seed gives the same bytes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use simulation::scenario::Scenario;
use simulation::settings::Settings;
use simulation::sweep::Sweep;
use simulation::{plot, report};

const USAGE: &str = "\
usage: simulation [--seed N] [--seeds COUNT] [--only SCENARIO] [--write FOLDER]
  --seed   the first seed (1)
  --seeds  how many runs, each with the next seed (5)
  --only   the scenario of that name
  --write  where simulation.md and simulation.svg go; nowhere without it";

struct Options {
    seed: u64,
    seeds: u64,
    only: Option<String>,
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Some(options) = options(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let only = |scenario: &Scenario| options.only.as_ref().is_none_or(|only| scenario.name == only);
    let scenarios = Scenario::all().into_iter().filter(only).collect();
    let seeds: Vec<u64> = (options.seed..options.seed + options.seeds).collect();
    let sweep = Sweep::new(scenarios, Settings::all(), seeds.clone());
    let parted = Sweep::new(vec![Scenario::brownout()], Settings::parted(), seeds);
    println!("{}\n{}", report::summary(&sweep), report::details(&sweep));
    println!("\n{}", report::parted(&parted));
    match options.write.map(|folder| write(&sweep, &parted, &folder)) {
        Some(Err(error)) => {
            eprintln!("nothing is written: {error}");
            ExitCode::FAILURE
        }
        Some(Ok(())) | None => ExitCode::SUCCESS,
    }
}

fn write(sweep: &Sweep, parted: &Sweep, folder: &Path) -> io::Result<()> {
    fs::write(folder.join("simulation.md"), report::page(sweep, parted))?;
    fs::write(folder.join("simulation.svg"), plot::plot(sweep))
}

/// `None`: they are none.
fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { seed: 1, seeds: 5, only: None, write: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seed" => options.seed = value.parse().ok()?,
            "--seeds" => options.seeds = value.parse().ok().filter(|seeds| *seeds > 0)?,
            "--only" => options.only = Some(value),
            "--write" => options.write = Some(value.into()),
            _ => return None,
        }
    }
    Some(options)
}
