//! How much of memory and of file descriptors is in use, for the workers to know when it is too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::config::live::Live;
use crate::policy::shed::{Level, Pressure, ShedLimits};

const EVERY: Duration = Duration::from_millis(500);

/// Measures for as long as the process lives.
pub async fn measure(live: Live, pressure: Arc<Pressure>) {
    loop {
        let limits = live.current().shed;
        let (memory, descriptors) = limits.map_or(Default::default(), |limits| levels(&limits));
        pressure.set(memory, descriptors);
        sleep(EVERY).await;
    }
}

/// What cannot be measured is not too much.
fn levels(limits: &ShedLimits) -> (Level, Level) {
    let memory = limits.memory.and_then(|thresholds| {
        let used = match limits.memory_limit {
            Some(limit) => resident()? as f64 / limit as f64,
            None => cgroup()?,
        };
        Some(thresholds.level(&used))
    });
    let descriptors = limits.descriptors.and_then(|thresholds| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
        Some(thresholds.level(&(descriptors()? as f64 / limit.max(1) as f64)))
    });
    (memory.unwrap_or_default(), descriptors.unwrap_or_default())
}

/// Memory of this process, in bytes.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Memory of our cgroup (v2) that cannot simply be dropped, as a share of its limit; none without one.
fn cgroup() -> Option<f64> {
    let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
    share(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
}

fn share(max: &str, current: &str, stat: &str) -> Option<f64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cache: u64 = cache.and_then(|cache| cache.trim().parse().ok()).unwrap_or(0);
    Some(current.saturating_sub(cache) as f64 / max.max(1) as f64)
}

/// File descriptors in use.
fn descriptors() -> Option<u64> {
    const OURS: &str = "/proc/self/fd";
    // Since Linux 6.2 it tells their number without a list of them.
    match std::fs::metadata(OURS).ok()?.len() {
        0 => std::fs::read_dir(OURS).ok().map(|open| open.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::shed::Thresholds;

    #[test]
    fn what_can_be_dropped_is_not_in_use() {
        let stat = "anon 100\nfile 900\ninactive_anon 5\ninactive_file 300\n";
        assert_eq!(share("1000\n", "800\n", stat), Some(0.5));
        assert_eq!(share("max\n", "800\n", stat), None);
        assert_eq!(share("1000\n", "800\n", ""), Some(0.8));
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        assert!(resident().unwrap() > 1 << 20);
        let before = descriptors().unwrap();
        let files: Vec<_> =
            (0..50).map(|_| std::fs::File::open("/proc/self/fd").unwrap()).collect();
        // Other tests of this process open and close some.
        assert!(descriptors().unwrap() > before.saturating_sub(25), "{before}");
        drop(files);
        let all = Thresholds { sheddable: 0.0, default: 0.0 };
        let none = ShedLimits { lag: None, memory: None, memory_limit: None, descriptors: None };
        let tiny =
            ShedLimits { memory: Some(all), memory_limit: Some(1), descriptors: Some(all), ..none };
        assert_eq!(levels(&tiny), (Level::Severe, Level::Severe));
        assert_eq!(levels(&none), (Level::Calm, Level::Calm));
    }
}
