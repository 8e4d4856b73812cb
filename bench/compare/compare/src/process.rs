//! Processes: on which core they run, what they have used, and that they end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Starts `command` on these cores, with all the threads it will have.
pub fn spawn(command: &mut Command, cores: &[usize], own: &[usize]) -> io::Result<Process> {
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    // A child has the affinity of who starts it, from its first instruction on.
    pin(cores)?;
    let child = command.spawn();
    pin(own)?;
    Ok(Process { child: child? })
}

pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// As many open files as we may have; for all that is started from here too.
pub fn raise_limits() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A process that ends with its owner.
pub struct Process {
    pub child: Child,
}

impl Process {
    /// It and its children.
    pub fn pids(&self) -> Vec<u32> {
        tree(self.child.id())
    }

    pub fn usage(&self) -> Usage {
        self.pids().iter().map(|pid| Usage::of(*pid)).fold(Usage::default(), Usage::add)
    }

    /// What each thread has used, in nanoseconds.
    pub fn threads(&self) -> BTreeMap<String, u64> {
        let tasks = self.pids().into_iter().map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
        let tasks = tasks.flatten().flatten().flatten();
        tasks
            .filter_map(|task| {
                let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
                Some((task.file_name().into_string().ok()?, parse_schedstat(&text)?))
            })
            .collect()
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> u64 {
        self.pids().iter().map(|pid| rss(*pid)).sum()
    }

    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, insists after a second.
    pub fn stop(&mut self) {
        let pids = self.pids();
        signal(self.child.id(), Signal::TERM);
        let asked = Instant::now();
        while !self.ended() {
            if asked.elapsed() > Duration::from_secs(1) {
                for pid in &pids {
                    signal(*pid, Signal::KILL);
                }
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended() {
            self.stop();
        }
    }
}

pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while at < pids.len() {
        let path = format!("/proc/{0}/task/{0}/children", pids[at]);
        let children = fs::read_to_string(path).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    pids
}

/// The share of the second busiest thread in what the two busiest have used: one half, where two workers have
/// the same to do.
pub fn split(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> f64 {
    let used = |(thread, now): (&String, &u64)| now - before.get(thread).copied().unwrap_or(0);
    let mut used: Vec<u64> = after.iter().map(used).collect();
    used.sort_unstable_by(|a, b| b.cmp(a));
    match used[..] {
        [most, next, ..] if most > 0 => next as f64 / (most + next) as f64,
        _ => 0.0,
    }
}

/// CPU time, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub total: f64,
    pub user: f64,
    pub system: f64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((user, system)) = parse_stat(&stat) else { return Usage::default() };
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let exact: u64 = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| parse_schedstat(&text))
            .sum();
        Usage { total: exact as f64, user, system }
    }

    fn add(self, other: Usage) -> Usage {
        Usage {
            total: self.total + other.total,
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }

    /// What was used since `before`. The total is exact; user and system are counted in ticks, and share
    /// it in their ratio.
    pub fn since(self, before: Usage) -> Usage {
        let total = self.total - before.total;
        let (user, system) = (self.user - before.user, self.system - before.system);
        let ticks = (user + system).max(1.0);
        Usage { total, user: total * user / ticks, system: total * system / ticks }
    }
}

/// A clock tick of /proc in nanoseconds: 100 a second on every Linux of today.
const TICK: f64 = 1e7;

fn parse_stat(text: &str) -> Option<(f64, f64)> {
    // The name in brackets may hold anything, also blanks and brackets.
    let rest = text.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user * TICK, system * TICK))
}

fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_rss(&status).unwrap_or(0)
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// How long a core has worked, for whomever, in nanoseconds.
pub fn busy(core: usize) -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_busy(&stat, core).unwrap_or(0.0)
}

fn parse_busy(stat: &str, core: usize) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?;
    let fields: Vec<f64> = line.split(' ').map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let idle = fields.get(3)? + fields.get(4)?;
    Some((fields.iter().take(8).sum::<f64>() - idle) * TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_stat(text), Some((1.23e9, 4.5e8)));
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_exact_total_is_shared_by_the_ticks() {
        let before = Usage { total: 1000.0, user: 0.0, system: TICK };
        let after = Usage { total: 5000.0, user: 3.0 * TICK, system: 2.0 * TICK };
        let used = after.since(before);
        assert_eq!((used.total, used.user, used.system), (4000.0, 3000.0, 1000.0));
    }

    #[test]
    fn two_workers_that_do_the_same_share_evenly() {
        let threads = |used: [u64; 3]| -> BTreeMap<String, u64> {
            ["a", "b", "c"].map(String::from).into_iter().zip(used).collect()
        };
        assert_eq!(split(&threads([5, 1, 0]), &threads([8, 4, 1])), 0.5);
        assert_eq!(split(&threads([0, 0, 0]), &threads([1, 3, 0])), 0.25);
        assert_eq!(split(&threads([1, 1, 1]), &threads([1, 1, 1])), 0.0);
    }

    #[test]
    fn other_files_of_proc_are_read() {
        assert_eq!(parse_schedstat("123456 789 3\n"), Some(123_456));
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    8412 kB\n"), Some(8412 * 1024));
        let stat = "cpu  9 9 9 9\ncpu0 1 2 3 400 50 6 7 8 0 0\ncpu1 0 0 0 1 0 0 0 1 0 0\n";
        assert_eq!(parse_busy(stat, 0), Some(27.0 * TICK));
        assert_eq!(parse_busy(stat, 1), Some(TICK));
    }
}
