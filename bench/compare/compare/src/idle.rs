//! What it costs to be there: the memory of idle connections, the start, the system calls of a request.

use std::io::Read;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::Bench;
use crate::load;
use crate::process::signal;
use crate::proxies::{Port, Proxy};
use crate::record::Figures;

/// Idle connections that had one request each.
pub fn connections(bench: &mut Bench, proxy: &Proxy, http2: bool) -> Result<Figures, String> {
    let (number, wait) = if bench.options.quick { (500, 2) } else { (5000, 10) };
    let answering = bench.start(proxy, 1)?;
    sleep(Duration::from_millis(500));
    let process = &answering.running.process;
    let before = process.rss();

    let (kind, port) =
        if http2 { ("idle-http2", Port::Http2) } else { ("idle-http1", Port::Http1) };
    let mut command = Command::new(bench.folder.join("target/release/load"));
    command.arg(kind).arg(format!("127.0.0.1:{}", answering.running.port(port)));
    command.args(["--connections", &number.to_string()]);
    let mut load = load::start(&mut command, bench.options.load_core)?;
    let mut ready = [0; 5];
    let said = load.child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut ready));
    if !matches!(said, Some(Ok(()))) {
        let mut errors = String::new();
        if let Some(stderr) = load.child.stderr.as_mut() {
            let _ = stderr.read_to_string(&mut errors);
        }
        return Err(format!("the connections were not answered: {}", errors.trim()));
    }
    let used = process.usage();
    sleep(Duration::from_secs(wait));
    let mut figures = Figures::default();
    if load.ended() {
        figures.wrong = Some("idle connections were closed".into());
    }
    let after = process.rss();
    let used = process.usage().since(used).total;
    figures.set("bytes", (after as f64 - before as f64) / f64::from(number));
    figures.set("rss_before", before as f64);
    figures.set("rss_after", after as f64);
    figures.set("idle_us_s", used / 1e3 / wait as f64);
    figures.set("connections", f64::from(number));
    Ok(figures)
}

pub fn start(bench: &mut Bench, proxy: &Proxy) -> Result<Figures, String> {
    let answering = bench.start(proxy, 1)?;
    let mut figures = Figures::default();
    figures.set("start_ms", answering.started_in.as_secs_f64() * 1e3);
    figures.set("rss_start", answering.rss_at_start as f64);
    Ok(figures)
}

/// System calls of a request of the scenario h1, by `strace -c`, which slows down everything: a run of its own.
pub fn syscalls(bench: &mut Bench, proxy: &Proxy) -> Result<Figures, String> {
    let answering = bench.start(proxy, 1)?;
    let wrk = |seconds: &str| {
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", "64", "-d", seconds, "--timeout", "10s"]);
        command.arg(format!("http://127.0.0.1:{}/", answering.running.port(Port::Http1)));
        let core = bench.options.load_core;
        let text = load::run(&mut command, core, Duration::from_secs(60), || {})?;
        load::parse_wrk(&text).ok_or_else(|| format!("wrk said: {text}"))
    };
    wrk("1s")?;
    let file = bench.file("strace");
    let mut command = Command::new("strace");
    command.arg("-c").arg("-f").arg("-o").arg(&file);
    for pid in answering.running.process.pids() {
        command.args(["-p", &pid.to_string()]);
    }
    let mut strace = load::start(&mut command, bench.options.load_core)?;
    // It is attached to all threads when it has said so; then it says no more.
    let asked = Instant::now();
    while !traced(&answering.running.process.pids()) {
        if strace.ended() || asked.elapsed() > Duration::from_secs(5) {
            return Err("strace could not attach".into());
        }
        sleep(Duration::from_millis(10));
    }
    let done = wrk("2s")?;
    signal(strace.child.id(), Signal::INT);
    let _ = strace.child.wait();
    if done.requests == 0.0 {
        return Err("no request was answered".into());
    }
    let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let mut figures = Figures::default();
    for (name, calls) in parse_strace(&text) {
        let each = calls / done.requests;
        if name == "total" || each >= 0.005 {
            figures.set(&name, each);
        }
    }
    figures.set("requests", done.requests);
    figures.wrong = done.wrong;
    Ok(figures)
}

fn traced(pids: &[u32]) -> bool {
    pids.iter().all(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// Calls by name, and `total`.
fn parse_strace(text: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [share, _, _, calls, .., name] = fields[..] else { return None };
        share.parse::<f64>().ok()?;
        Some((name.to_owned(), calls.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_read_with_and_without_errors() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            99.64    0.170907           9     18124        24 splice\n  \
            0.18    0.000306           8        38           epoll_wait\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.171213           9     18162        24 total\n";
        let calls = parse_strace(text);
        assert_eq!(calls[0], ("splice".into(), 18_124.0));
        assert_eq!(calls[1], ("epoll_wait".into(), 38.0));
        assert_eq!(calls[2], ("total".into(), 18_162.0));
        assert_eq!(calls.len(), 3);
    }
}
