//! Where it was measured.

use std::fs;

use serde_json::{Value, json};

pub fn describe() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpuinfo, "model name").unwrap_or("?");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&memory, "MemTotal").and_then(|text| text.strip_suffix("kB"));
    let memory = memory.and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0);
    json!({
        "cpu": model,
        "virtual": cpuinfo.contains(" hypervisor"),
        "cores": cores(),
        "memory_gb": (memory / 1e6).round(),
        "kernel": kernel.trim(),
        "load_average": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}

/// All of the machine, not only those that this process may use.
pub fn cores() -> usize {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

pub fn line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("?");
    let virtually = if machine["virtual"] == true { " (virtual)" } else { "" };
    format!(
        "{}{virtually}, {} cores, {} GB, Linux {}",
        text("cpu"),
        machine["cores"],
        machine["memory_gb"],
        text("kernel")
    )
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        assert_eq!(field("a\t: 1\nmodel name\t: X Y\n", "model name"), Some("X Y"));
        assert_eq!(field("", "x"), None);
    }
}
