//! The four programs that we start: built by cargo, or those of a directory.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::place::Service;
use crate::{process, say};

/// Where they are.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

const PILOTFISH: &str = "pilotfish";
const ELSEWHERE: &str = "Where all is built already: --bin-dir DIR";

impl Programs {
    /// What is in `directory`, where all must be.
    pub fn of(directory: &Path) -> Result<Self, String> {
        let programs = Self { directory: std::path::absolute(directory).unwrap_or_default() };
        let names = [PILOTFISH].into_iter().chain(Service::ALL.map(Service::name));
        let missing: Vec<&str> = names.filter(|name| !programs.path(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(programs);
        }
        let packages: String = missing.iter().map(|name| format!(" -p {name}")).collect();
        Err(format!(
            "{} has no {}\nBuild what is missing, as by: cargo build{packages}\n\
             Or leave --bin-dir out: then it is built here.",
            directory.display(),
            missing.join(", no ")
        ))
    }

    /// Builds them with our own profile, beside us.
    pub async fn build() -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let Some((target, profile)) = target_and_profile(&own) else {
            return Err(format!(
                "{} is not where cargo puts what it builds\n{ELSEWHERE}",
                own.display()
            ));
        };
        // The proxy alone, as it is released: with features that no other package asks for.
        cargo(&target, &profile, &[PILOTFISH]).await?;
        cargo(&target, &profile, &Service::ALL.map(Service::name)).await?;
        Self::of(own.parent().unwrap_or(&target))
    }

    pub fn pilotfish(&self) -> PathBuf {
        self.path(PILOTFISH)
    }

    pub fn service(&self, service: Service) -> PathBuf {
        self.path(service.name())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Of `target/PROFILE/shop`. What cargo puts into `debug` is the profile `dev`.
fn target_and_profile(own: &Path) -> Option<(PathBuf, String)> {
    let directory = own.parent()?;
    let profile = match directory.file_name()?.to_str()? {
        "debug" => "dev",
        name => name,
    };
    Some((directory.parent()?.to_owned(), profile.to_owned()))
}

async fn cargo(target: &Path, profile: &str, packages: &[&str]) -> Result<(), String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = process::command(&program);
    command.args(["build", "--color", "never", "--profile", profile, "--target-dir"]).arg(target);
    command.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Command::from(command)
        .spawn()
        .map(Building)
        .map_err(|error| format!("cargo cannot be started: {error}\n{ELSEWHERE}"))?;
    let stderr = child.0.stderr.take().ok_or("cargo has no stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    let mut progress = Progress::begin(&format!("{} ({profile})", packages.join(", ")));
    let mut last = VecDeque::new();
    // In between the time goes on.
    while let Some(line) = match timeout(Progress::TICK, lines.next_line()).await {
        Ok(line) => line.ok().flatten().map(Some),
        Err(_) => Some(None),
    } {
        progress.tell(line.as_deref());
        if last.len() == 60 {
            last.pop_front();
        }
        last.extend(line);
    }
    match child.0.wait().await {
        Ok(status) if status.success() => {
            progress.end();
            Ok(())
        }
        status => {
            let how = status.map_or_else(|error| error.to_string(), process::how);
            let said: Vec<String> = last.into();
            Err(format!("{}\ncargo build {how}. {ELSEWHERE}", said.join("\n")))
        }
    }
}

/// Cargo and all that it has started, which end with it.
struct Building(Child);

impl Drop for Building {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let Some(group) = group else { return };
        let _ = kill_process_group(group, Signal::TERM);
        let until = now() + Duration::from_secs(2);
        while now() < until && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(process::GLANCE);
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Tells how a build goes: on a terminal by one line that changes, else by a line now and then.
struct Progress {
    what: String,
    began: Instant,
    told: Instant,
    compiled: usize,
    last: String,
    terminal: bool,
}

impl Progress {
    const OFTEN: Duration = Duration::from_secs(15);
    const TICK: Duration = Duration::from_secs(1);
    const WIDTH: usize = 79;

    fn begin(what: &str) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let (what, last) = (what.to_owned(), String::new());
        let progress = Self { what, began: now(), told: now(), compiled: 0, last, terminal };
        match terminal {
            true => progress.show(""),
            false => say!("{:<10}  {}", "building", progress.what),
        }
        progress
    }

    /// A line of cargo's, as `   Compiling h2 v0.4.20`, or that time goes on.
    fn tell(&mut self, line: Option<&str>) {
        if let Some(line) = line.map(str::trim).filter(|line| !line.is_empty()) {
            self.compiled += usize::from(line.starts_with("Compiling "));
            line.clone_into(&mut self.last);
        }
        let passed = self.began.elapsed().as_secs();
        let text = format!("{passed} s, {} crates: {}", self.compiled, self.last);
        if self.terminal {
            self.show(&text);
        } else if self.told.elapsed() > Self::OFTEN {
            self.told = now();
            say!("{:<10}  {}", "building", cut(&text, Self::WIDTH));
        }
    }

    fn show(&self, text: &str) {
        if self.terminal {
            let line = format!("{:<10}  {}  {text}", "building", self.what);
            let mut out = std::io::stdout();
            let line = cut(&line, Self::WIDTH);
            let _ = write!(out, "\r{line:<0$}", Self::WIDTH).and_then(|()| out.flush());
        }
    }

    fn end(self) {
        self.wipe();
        say!("{:<10}  {:<68} {:>6.1} s", "built", self.what, self.began.elapsed().as_secs_f32());
    }

    fn wipe(&self) {
        if self.terminal {
            let mut out = std::io::stdout();
            let _ = write!(out, "\r{:1$}\r", "", Self::WIDTH).and_then(|()| out.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn cut(text: &str, longest: usize) -> &str {
    text.char_indices().nth(longest).map_or(text, |(end, _)| &text[..end])
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_told_from_where_we_are() {
        let of = |path: &str| target_and_profile(Path::new(path)).expect("a directory");
        assert_eq!(of("/w/target/debug/shop"), ("/w/target".into(), "dev".to_owned()));
        assert_eq!(of("/w/target/release/shop"), ("/w/target".into(), "release".to_owned()));
        assert_eq!(of("/w/target/release-ci/shop"), ("/w/target".into(), "release-ci".to_owned()));
        assert_eq!(target_and_profile(Path::new("/shop")), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("pilotfish"), "").expect("a file");
        std::fs::write(directory.path().join("order-service"), "").expect("a file");
        let told = Programs::of(directory.path()).expect_err("two are missing");
        assert!(told.contains("has no user-service, no inventory-service\n"), "{told}");
        assert!(told.contains("cargo build -p user-service -p inventory-service\n"), "{told}");
    }
}
