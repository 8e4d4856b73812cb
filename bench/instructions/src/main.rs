//! Instructions that a request takes on its whole path through the proxy, counted by Callgrind in user
//! space, where neither the machine's load nor its speed matters:
//!
//!     cargo run -p instructions --profile release-ci                      compares with baseline.json
//!     cargo run -p instructions --profile release-ci -- --update          writes baseline.json
//!     cargo run -p instructions --profile release-ci -- --profile NAME    the functions of a scenario
//!
//! `scenario.rs` is the table of what is measured, `subject.rs` tells how.

mod baseline;
mod callgrind;
mod peers;
mod report;
mod scenario;
mod subject;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use baseline::{Baseline, Figure, MadeWith, Verdict};
use callgrind::{Profile, REQUESTS};
use scenario::{SCENARIOS, Scenario};

const USAGE: &str = "usage: instructions [--update | --profile | --list] [SCENARIO...]
  (none)      fails where a scenario takes more than 3 % more instructions than in baseline.json
  --update    writes baseline.json, or these scenarios in it
  --profile   the functions that cost most
  --list      the scenarios";
// As the proxy has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The profile of cargo that figures are made with.
const PROFILE: &str = "release-ci";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["--run", name, requests] => run(name, requests),
        ["--list"] => {
            SCENARIOS.iter().for_each(|scenario| println!("{}", scenario.name));
            Ok(true)
        }
        ["--update", names @ ..] => update(names),
        ["--profile", names @ ..] => profile(names),
        [option, ..] if option.starts_with('-') => Err(USAGE.to_owned()),
        names => check(names),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What runs under Callgrind.
fn run(name: &str, requests: &str) -> Result<bool, String> {
    let [scenario] = chosen(&[name])?[..] else { return Err(USAGE.to_owned()) };
    subject::run(scenario, requests.parse().map_err(|_| USAGE)?);
    Ok(true)
}

fn check(names: &[&str]) -> Result<bool, String> {
    let made_with = made_with()?;
    let baseline = Baseline::read(&baseline_file())?;
    if !baseline.made_with.is_comparable(&made_with) {
        return Err(format!(
            "baseline.json was made with {:#?}\nand this is {made_with:#?}\n\
             Figures of different ones cannot be compared: make it anew by --update, at a commit whose \
             figures are good.",
            baseline.made_with
        ));
    }
    if baseline.made_with != made_with {
        println!("note: baseline.json was made with {:?}", baseline.made_with);
        println!("note: and this is                 {made_with:?}");
    }
    let mut good = true;
    for (scenario, profile) in measure(&chosen(names)?)? {
        let is = Figure::new(&profile, REQUESTS as u64);
        let Some(was) = baseline.scenarios.get(scenario.name) else {
            println!("{}: has no figure in baseline.json; add it by --update", scenario.name);
            good = false;
            continue;
        };
        good &= is.verdict(was) != Verdict::Grown;
        print!("{}", report::comparison(scenario.name, was, &is));
    }
    for name in baseline.scenarios.keys().filter(|name| scenario::find(name).is_none()) {
        println!("{name}: is in baseline.json and no more a scenario; remove it by --update");
        good = false;
    }
    println!("{}", if good { report::GOOD } else { report::BAD });
    Ok(good)
}

fn update(names: &[&str]) -> Result<bool, String> {
    let made_with = made_with()?;
    let mut baseline = Baseline { made_with: made_with.clone(), ..Baseline::default() };
    let old = Baseline::read(&baseline_file());
    if !names.is_empty() {
        baseline = old?;
        if baseline.made_with != made_with {
            return Err("baseline.json was made elsewhere; update all scenarios, not some".into());
        }
    } else if let Ok(old) = &old {
        // Only to tell what has changed.
        baseline.scenarios = old.scenarios.clone();
    }
    for (scenario, profile) in measure(&chosen(names)?)? {
        let is = Figure::new(&profile, REQUESTS as u64);
        match baseline.scenarios.get(scenario.name) {
            Some(was) => print!("{}", report::comparison(scenario.name, was, &is)),
            None => println!("{}: {} instructions a request", scenario.name, is.instructions),
        }
        baseline.scenarios.insert(scenario.name.to_owned(), is.shortened());
    }
    baseline.scenarios.retain(|name, _| scenario::find(name).is_some());
    baseline.write(&baseline_file())?;
    println!("{} is written", baseline_file().display());
    Ok(true)
}

fn profile(names: &[&str]) -> Result<bool, String> {
    if names.is_empty() {
        return Err(USAGE.to_owned());
    }
    for (scenario, profile) in measure(&chosen(names)?)? {
        print!("{}", report::functions(scenario.name, &profile, REQUESTS as u64));
        println!("all of it: callgrind_annotate {}\n", file_of(scenario).display());
    }
    Ok(true)
}

fn chosen(names: &[&str]) -> Result<Vec<&'static Scenario>, String> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let unknown = |name| format!("there is no scenario {name}; --list tells them");
    names.iter().map(|name| scenario::find(name).ok_or_else(|| unknown(name))).collect()
}

/// Measures these, as many at a time as there are processors: one does not disturb the other.
fn measure(scenarios: &[&'static Scenario]) -> Result<Vec<(&'static Scenario, Profile)>, String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let measured: Vec<_> = scenarios.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..processors.min(scenarios.len()) {
            scope.spawn(|| {
                while let Some(index) =
                    Some(next.fetch_add(1, Relaxed)).filter(|i| *i < scenarios.len())
                {
                    let profile = callgrind::measure(scenarios[index].name, &output_directory());
                    *measured[index].lock().expect("no thread panics") = Some(profile);
                }
            });
        }
    });
    let profiles =
        measured.into_iter().map(|profile| profile.into_inner().expect("no thread panics"));
    let profiles = profiles.map(|profile| profile.expect("all were measured"));
    scenarios
        .iter()
        .copied()
        .zip(profiles)
        .map(|(scenario, profile)| Ok((scenario, profile?)))
        .collect()
}

fn baseline_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
}

/// Where Callgrind's own files stay.
fn output_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/instructions")
}

fn made_with() -> Result<MadeWith, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let profile = program.parent().and_then(Path::file_name).unwrap_or_default();
    if profile != PROFILE {
        return Err(format!(
            "figures are made with `cargo run -p instructions --profile {PROFILE}`"
        ));
    }
    // The C library has other routines for others, and so have crates that search in bytes.
    #[cfg(target_arch = "x86_64")]
    let wide = if std::arch::is_x86_feature_detected!("avx2") { " with AVX2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let wide = "";
    let libc = Command::new("ldd").arg("--version").output().map(|output| output.stdout);
    let libc = String::from_utf8_lossy(&libc.unwrap_or_default()).lines().next().map(str::to_owned);
    Ok(MadeWith {
        rustc: env!("RUSTC_VERSION").to_owned(),
        profile: PROFILE.to_owned(),
        processor: format!("{}{wide}", std::env::consts::ARCH),
        libc: libc.unwrap_or_default(),
        valgrind: callgrind::version(),
    })
}

fn file_of(scenario: &Scenario) -> PathBuf {
    output_directory().join(format!("{}.callgrind", scenario.name))
}
