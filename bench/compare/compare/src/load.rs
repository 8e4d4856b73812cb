//! The loads: what is run, and how its output is read.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Process, spawn};

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    pub requests: f64,
    pub seconds: f64,
    /// What was not as it should be, if anything.
    pub wrong: Option<String>,
}

pub fn start(command: &mut Command, core: usize) -> Result<Process, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command, &[core], &[core])
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))
}

/// Runs it to its end, calling `meanwhile` every 50 ms; its output.
pub fn run(
    command: &mut Command,
    core: usize,
    at_most: Duration,
    mut meanwhile: impl FnMut(),
) -> Result<String, String> {
    let mut process = start(command, core)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let began = std::time::Instant::now();
    // Their output fits into a pipe, so that it may wait there until they have ended.
    while !process.ended() {
        if began.elapsed() > at_most {
            return Err(format!("{name} did not end within {} s", at_most.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(50));
        meanwhile();
    }
    let mut text = String::new();
    let mut errors = String::new();
    let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
    let read = |pipe: &mut dyn std::io::Read, into: &mut String| {
        pipe.read_to_string(into).map_err(|error| format!("{name}: {error}"))
    };
    read(&mut stdout.ok_or("no output")?, &mut text)?;
    read(&mut stderr.ok_or("no output")?, &mut errors)?;
    let status = process.child.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("{name}: {status}: {}", errors.trim()));
    }
    Ok(text)
}

pub fn parse_wrk(text: &str) -> Option<Done> {
    let mut done = Done::default();
    let mut wrong = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((requests, rest)) = line.split_once(" requests in ") {
            done.requests = requests.trim().parse().ok()?;
            done.seconds = duration(rest.split(',').next()?)?;
        } else if line.starts_with("Socket errors:") || line.starts_with("Non-2xx") {
            wrong.push(line.to_owned());
        }
    }
    if done.requests == 0.0 {
        wrong.push("no request was answered".into());
    }
    done.wrong = (!wrong.is_empty()).then(|| wrong.join("; "));
    (done.seconds > 0.0).then_some(done)
}

/// `4.00s`, `500.00ms`, `1.02m`.
fn duration(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| c.is_alphabetic())?;
    let number: f64 = text[..digits].parse().ok()?;
    Some(match &text[digits..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => return None,
    })
}

pub fn parse_h2load(text: &str) -> Option<Done> {
    let mut done = Done::default();
    let mut wrong = Vec::new();
    let mut succeeded = 0.0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("finished in ") {
            done.seconds = duration(rest.split(',').next()?)?;
        } else if let Some(rest) = line.strip_prefix("requests: ") {
            let count = |name: &str| -> Option<f64> {
                let part = rest.split(", ").find_map(|part| part.strip_suffix(name))?;
                part.trim().parse().ok()
            };
            done.requests = count("done")?;
            succeeded = count("succeeded")?;
            for name in ["failed", "errored", "timeout"] {
                let number = count(name)?;
                if number > 0.0 {
                    wrong.push(format!("{number} {name}"));
                }
            }
        } else if let Some(rest) = line.strip_prefix("status codes: ") {
            let good: f64 = rest.split(" 2xx").next()?.trim().parse().ok()?;
            if good < succeeded {
                wrong.push(rest.to_owned());
            }
        }
    }
    if done.requests == 0.0 {
        wrong.push("no request was answered".into());
    }
    done.wrong = (!wrong.is_empty()).then(|| wrong.join("; "));
    (done.seconds > 0.0).then_some(done)
}

/// Our own load tells everything as one JSON object.
pub fn parse_own(text: &str) -> Option<Done> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let requests = value["requests"].as_f64()?;
    let errors = value["errors"].as_f64()?;
    let wrong = if errors > 0.0 {
        let first = value["first_error"].as_str().unwrap_or("?");
        Some(format!("{errors} errors: {first}"))
    } else if requests == 0.0 {
        Some("no request was answered".into())
    } else {
        None
    };
    Some(Done { requests, seconds: value["seconds"].as_f64()?, wrong })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 4s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.62ms  302.92us   5.90ms   84.00%\n    \
        Req/Sec    39.59k     2.33k   43.10k    82.50%\n  157577 requests in 4.00s, 45.68MB read\n";

    #[test]
    fn wrk_tells_what_it_did_and_what_was_wrong() {
        let done = parse_wrk(&format!("{WRK}Requests/sec:  39392.45\n")).unwrap();
        assert_eq!(done, Done { requests: 157_577.0, seconds: 4.0, wrong: None });
        let text = format!(
            "{WRK}  Socket errors: connect 0, read 3, write 0, timeout 0\n  Non-2xx or 3xx responses: 7\n"
        );
        let wrong = parse_wrk(&text).unwrap().wrong.unwrap();
        assert!(wrong.contains("read 3") && wrong.contains("responses: 7"), "{wrong}");
        assert_eq!(parse_wrk("unable to connect"), None);
    }

    #[test]
    fn h2load_tells_what_it_did_and_what_was_wrong() {
        let text = |done: u32, failed: u32, good: u32| {
            format!(
                "starting benchmark...\n\nfinished in 4.00s, 31456.00 req/s, 7.30MB/s\n\
                 requests: 125824 total, 125952 started, {done} done, {} succeeded, {failed} failed, 0 errored, 0 timeout\n\
                 status codes: {good} 2xx, 0 3xx, 0 4xx, 3 5xx\n",
                done - failed
            )
        };
        let done = parse_h2load(&text(125_824, 0, 125_824)).unwrap();
        assert_eq!(done, Done { requests: 125_824.0, seconds: 4.0, wrong: None });
        assert_eq!(parse_h2load(&text(10, 2, 8)).unwrap().wrong.unwrap(), "2 failed");
        assert!(parse_h2load(&text(10, 0, 7)).unwrap().wrong.unwrap().contains("3 5xx"));
        assert_eq!(parse_h2load(&text(0, 0, 0)).unwrap().wrong.unwrap(), "no request was answered");
        assert_eq!(parse_h2load("starting benchmark...\n"), None);
    }

    #[test]
    fn our_own_load_tells_the_same() {
        let done = parse_own(r#"{"requests": 10, "errors": 0, "seconds": 1.5}"#).unwrap();
        assert_eq!(done, Done { requests: 10.0, seconds: 1.5, wrong: None });
        let done =
            parse_own(r#"{"requests": 10, "errors": 2, "seconds": 1.5, "first_error": "x"}"#)
                .unwrap();
        assert_eq!(done.wrong.as_deref(), Some("2 errors: x"));
        assert_eq!(parse_own(""), None);
    }
}
