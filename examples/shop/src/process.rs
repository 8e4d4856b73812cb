//! Programs that we start: each in a process group of its own, so that the Ctrl-C of a terminal comes to us alone,
//! with a log of its own, and none that outlives us, whatever ends us.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

/// How often we look whether something has become true.
pub const GLANCE: Duration = Duration::from_millis(10);

/// With this as its first argument we are a child that is to become another program.
const BECOME: &str = "@become";

/// A command that the kernel ends when we end, even by SIGKILL, in a process group of its own.
///
/// The kernel is asked to by the child itself, which is this program until it becomes the other one: so it takes
/// no `unsafe`. It counts as our end when the *thread* ends that started the child, so that all are started by the
/// main one.
pub fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(BECOME).arg(getpid().as_raw_nonzero().to_string()).arg(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

/// In a child of [`command`], becomes its program and does not return. Else nothing.
pub fn become_program() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != BECOME) {
        return;
    }
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
    let asked = set_parent_process_death_signal(Some(Signal::KILL));
    // It may have ended before we asked.
    if asked.is_err() || getppid().map(|pid| pid.as_raw_nonzero().get()) != parent {
        std::process::exit(1);
    }
    let Some(program) = arguments.next() else { std::process::exit(2) };
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    std::process::exit(127);
}

/// What is started, again and again if need be.
#[derive(Debug, Clone)]
pub struct Program {
    /// As we call it, as in `user-service-1`.
    pub name: String,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    /// All of its environment, but for what [`KEPT`] names.
    pub environment: Vec<(&'static str, String)>,
    pub directory: PathBuf,
    /// Where its output goes, behind what is there.
    pub log: PathBuf,
}

/// What our programs get of our own environment. A proxy that the user has for other things is not for them.
const KEPT: [&str; 7] =
    ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "RUST_LOG", "RUST_BACKTRACE", "PILOTFISH_LOG"];

pub struct Process {
    pub program: Program,
    child: Option<Child>,
    frozen: bool,
    /// How long its log was when it was started.
    began: u64,
}

impl Process {
    pub fn start(program: Program) -> Result<Self, String> {
        let mut process = Self { program, child: None, frozen: false, began: 0 };
        process.start_again()?;
        Ok(process)
    }

    /// Nothing is done while it runs.
    pub fn start_again(&mut self) -> Result<(), String> {
        if self.child.is_some() && self.ended().is_none() {
            return Ok(());
        }
        let Program { name, path, arguments, environment, directory, log } = &self.program;
        let file = open(log).map_err(|error| format!("{}: {error}", log.display()))?;
        self.began = file.metadata().map_or(0, |metadata| metadata.len());
        let and = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut command = command(path);
        command.args(arguments).env_clear().envs(kept).env("TMPDIR", directory);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(directory).stdout(file).stderr(and);
        let child =
            command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
        self.child = Some(child);
        self.frozen = false;
        Ok(())
    }

    /// While it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it has ended, if it has since it was started. Told once: then nothing runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// To a process that has not been waited for, whose pid is therefore still its own.
    fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            // That it has ended already is as well.
            let _ = kill_process(pid, signal);
        }
    }

    /// It has no time to say goodbye to anybody.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It keeps its connections and its port, and does nothing.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.frozen = true;
    }

    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
        self.frozen = false;
    }

    /// Asks it to end.
    pub fn terminate(&mut self) {
        if self.frozen {
            self.thaw();
        }
        self.signal(Signal::TERM);
    }

    /// Waits for its end, and at the deadline ends it.
    pub async fn end_by(&mut self, deadline: Instant) {
        while self.child.is_some() && self.ended().is_none() {
            if Instant::now() >= deadline {
                return self.kill();
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// What it writes since it was started.
    pub fn log(&self) -> Log {
        Log { path: self.program.log.clone(), from: self.began }
    }

    /// Its last words, indented, for an error of ours.
    pub fn last_words(&self) -> String {
        tail(&self.log().read(), 10)
    }

    /// Waits until `ready` says so. Else tells what it last said is missing, or how it has ended.
    pub async fn until<F>(&mut self, within: Duration, ready: impl Fn() -> F) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>>,
    {
        let deadline = Instant::now() + within;
        loop {
            let missing = match ready().await {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            };
            let ended = self.ended().map(how);
            let (name, said) = (&self.program.name, self.last_words());
            if let Some(how) = ended {
                return Err(format!("{name} {how} before it was ready.{said}"));
            }
            if Instant::now() >= deadline {
                let waited = within.as_secs();
                return Err(format!("{name} is not ready after {waited} s: {missing}.{said}"));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Nothing that we have started stays, also when we panic.
impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process writes, from its start on.
pub struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    pub fn read(&self) -> String {
        let all = fs::read(&self.path).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or(usize::MAX).min(all.len());
        String::from_utf8_lossy(&all[from..]).into_owned()
    }
}

fn open(log: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log)
}

/// How a process ended.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log, each under the other.
fn tail(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return " It has written nothing.".to_owned();
    }
    let last = &lines[lines.len().saturating_sub(count)..];
    let mut text = " It wrote last:".to_owned();
    for line in last {
        text.push_str("\n    ");
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_lines_are_shown() {
        assert_eq!(tail("a\n\nb\nc\n", 2), " It wrote last:\n    b\n    c");
        assert_eq!(tail("\n", 2), " It has written nothing.");
    }

    #[test]
    fn how_a_process_ended_is_told() {
        assert_eq!(how(ExitStatus::from_raw(1 << 8)), "ended with exit code 1");
        assert_eq!(how(ExitStatus::from_raw(9)), "was ended by signal 9");
    }
}
