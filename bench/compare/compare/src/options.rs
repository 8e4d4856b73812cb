//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures Pilotfish and other proxies side by side: each alone on one core, load and upstreams on
/// another, rounds interleaved.
#[derive(Parser, Debug, Clone)]
#[command(name = "compare")]
pub struct Options {
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long one measurement lasts.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Only these proxies: their names, or labels of builds.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only these scenarios, or groups of them.
    #[arg(long, value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// One round of a second each: does everything work?
    #[arg(long)]
    pub quick: bool,
    /// A build of Pilotfish, `PATH` or `LABEL=PATH`; several are measured beside each other.
    #[arg(long, value_name = "[LABEL=]PATH")]
    pub pilotfish: Vec<Build>,
    /// The configuration of a build, instead of `config/pilotfish.yaml`.
    #[arg(long, value_name = "LABEL=FILE")]
    pub config: Vec<Build>,
    /// Another program for `haproxy`, `nginx` or `envoy`.
    #[arg(long, value_name = "NAME=PATH")]
    pub binary: Vec<Build>,
    /// The core of the proxies.
    #[arg(long, default_value_t = 0)]
    pub proxy_core: usize,
    /// The core of load and upstreams.
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Requests a second of the latency scenario; default: half of what the slowest proxy can do.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Where the raw results go; default: a new file in `results/`.
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// What there is to measure, and who.
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub label: Option<String>,
    pub path: PathBuf,
}

impl std::str::FromStr for Build {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('=') {
            Some((label, path)) => Build { label: Some(label.into()), path: path.into() },
            None => Build { label: None, path: text.into() },
        })
    }
}

impl Options {
    pub fn read() -> Self {
        let mut options = Options::parse();
        if options.quick {
            options.rounds = 1;
            options.seconds = 1.0;
        }
        options
    }

    pub fn wants_scenario(&self, name: &str, group: &str) -> bool {
        self.scenarios.is_empty()
            || self.scenarios.iter().any(|wanted| wanted == name || wanted == group)
    }

    /// `pilotfish` stands for all its builds.
    pub fn wants_proxy(&self, label: &str, pilotfish: bool) -> bool {
        self.only.is_empty()
            || self.only.iter().any(|wanted| wanted == label || pilotfish && wanted == "pilotfish")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_may_have_labels() {
        let build: Build = "before=target/release/pilotfish".parse().unwrap();
        assert_eq!(build.label.as_deref(), Some("before"));
        assert_eq!(build.path, PathBuf::from("target/release/pilotfish"));
        assert_eq!("a/b".parse(), Ok(Build { label: None, path: "a/b".into() }));
    }
}
