//! Running a scenario under Callgrind, and reading what it found.
//!
//! The format: <https://valgrind.org/docs/manual/cl-format.html>.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// Requests that are counted. Enough that what happens once in many requests (a batch of the log is
/// handed over, a table grows) has its share.
pub const REQUESTS: usize = 640;

/// What a scenario took, over all of its requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub total: u64,
    pub functions: BTreeMap<String, Cost>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub own: u64,
    /// Together with what it called. Too much where a function calls itself.
    pub inclusive: u64,
    /// How often it was called. Callgrind counts these also in the warm-up.
    pub calls: u64,
}

/// Measures the scenario of this name; leaves the file of Callgrind in `directory`.
///
/// # Errors
/// Valgrind is missing, or the scenario failed, as a text for whoever runs this.
pub fn measure(scenario: &str, directory: &Path) -> Result<Profile, String> {
    let told = |error: std::io::Error| format!("{scenario}: {error}");
    let program = std::env::current_exe().map_err(told)?;
    std::fs::create_dir_all(directory).map_err(told)?;
    let file = directory.join(format!("{scenario}.callgrind"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--demangle=no", "--dump-line=no", "--collect-atstart=no"])
        .args(["--toggle-collect=counted", "--toggle-collect=uncounted"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--run", scenario, &REQUESTS.to_string()])
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => MISSING.to_owned(),
            _ => told(error),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{scenario}: {} under valgrind\n{said}", output.status));
    }
    let text = std::fs::read_to_string(&file).map_err(told)?;
    parse(&text).ok_or_else(|| format!("{scenario}: {} is no profile", file.display()))
}

const MISSING: &str = "valgrind is not installed; on Debian and Ubuntu: apt-get install valgrind";

/// `valgrind-3.19.0`, or nothing where there is none.
pub fn version() -> String {
    let output = Command::new("valgrind").arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Sums the costs of each function up. None where the parts do not make the whole that the file tells.
fn parse(text: &str) -> Option<Profile> {
    // A name is written once, as `fn=(7) name`, and stands for its number from then on.
    let mut names: HashMap<&str, String> = HashMap::new();
    let mut costs: HashMap<&str, Cost> = HashMap::new();
    let (mut current, mut called) = (None, None);
    let mut is_call = false;
    let mut whole = None;
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=') {
            if key == "fn" || key == "cfn" {
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                if !name.is_empty() {
                    names.insert(number, readable(name));
                }
                *(if key == "fn" { &mut current } else { &mut called }) = Some(number);
            }
            // The line after it is what these calls took altogether.
            is_call = key == "calls";
            if is_call {
                let calls = value.split(' ').next()?.parse::<u64>().ok()?;
                costs.entry(called?).or_default().calls += calls;
            }
        } else if let Some(totals) = line.strip_prefix("totals:") {
            whole = totals.trim().parse().ok();
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // The place, and the instructions; none is none.
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
            let costs = costs.entry(current?).or_default();
            costs.inclusive += cost;
            if !std::mem::take(&mut is_call) {
                costs.own += cost;
            }
        }
    }
    let mut profile = Profile { total: whole?, ..Profile::default() };
    for (number, cost) in costs {
        let sum = profile.functions.entry(names.get(number)?.clone()).or_default();
        sum.own += cost.own;
        sum.inclusive += cost.inclusive;
        sum.calls += cost.calls;
    }
    let parts: u64 = profile.functions.values().map(|cost| cost.own).sum();
    (parts == profile.total).then_some(profile)
}

/// A name that stays the same from build to build and from machine to machine.
fn readable(symbol: &str) -> String {
    const LONGEST: usize = 120;
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    // The C library has one for each kind of processor: `__memcpy_avx_unaligned_erms`.
    let plain = name.strip_prefix("__").and_then(|rest| {
        let kind = ["_avx", "_sse", "_evex", "_erms"].iter().find_map(|kind| rest.find(kind))?;
        Some(rest[..kind].to_owned())
    });
    let name = plain.unwrap_or(name);
    match name.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# callgrind format
version: 1
cmd:  target/release-ci/instructions --run http1-inbound 640
desc: Trigger: Program termination

positions: line
events: Ir
summary: 1130

ob=(1) /usr/lib/libc.so.6
fl=(1) malloc.c
fn=(1) malloc
0 100
+7 20
cfn=(2) _ZN9pilotfish5proxy6handle17h0123456789abcdefE
calls=2 0
* 900
fi=(2) arena.c
3 10

ob=(2) instructions
fl=(3) ???
fn=(2)
0 600
cob=(1)
cfi=(1)
cfn=(1)
calls=3 0
0 300
0

fn=(3) _ZN9pilotfish5proxy6handle17hfedcba9876543210E
0 250
fn=(4) __memcpy_avx_unaligned_erms
0 150
totals: 1130
";

    #[test]
    fn costs_are_summed_by_name_and_calls_are_apart() {
        let profile = parse(FILE).expect("a profile");
        assert_eq!(profile.total, 1130);
        let cost = |own, inclusive, calls| Cost { own, inclusive, calls };
        let expected = [
            ("malloc", cost(130, 1030, 3)),
            ("memcpy", cost(150, 150, 0)),
            ("pilotfish::proxy::handle", cost(850, 1150, 2)),
        ];
        assert_eq!(profile.functions, expected.map(|(name, cost)| (name.to_owned(), cost)).into());
    }

    #[test]
    fn a_file_that_is_cut_short_is_no_profile() {
        assert_eq!(parse(""), None);
        assert_eq!(parse(&FILE.replace("totals: 1130\n", "")), None);
        assert_eq!(parse(&FILE.replace("0 250\n", "")), None);
    }

    #[test]
    fn names_have_no_hash_and_no_processor() {
        for (symbol, name) in [
            (
                "_ZN5tokio4time5clock5Clock3now17h29bc26042e8fb2dcE.llvm.715697059333930662",
                "tokio::time::clock::Clock::now",
            ),
            (
                "_RNvMNtNtNtNtCsjrHSEGnQ3l9_3std3sys3pal4unix4timeNtB2_8Timespec12sub_timespec",
                "<std::sys::pal::unix::time::Timespec>::sub_timespec",
            ),
            ("__memset_avx2_unaligned_erms", "memset"),
            ("_int_free", "_int_free"),
        ] {
            assert_eq!(readable(symbol), name);
        }
        assert_eq!(readable(&"x".repeat(500)).chars().count(), 121);
    }
}
