//! A program that ends with the test, however the test ends.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::within;

/// A process with a group of its own. It is ended when this is dropped. Where the test is killed nothing is dropped:
/// then a shell that waits for our end does it, and removes the directory.
pub struct Program {
    child: Child,
    guard: Child,
    ending: Signal,
}

/// `$1` is the group, `$2` how it ends, `$3` its directory. The directory goes when nobody writes there any more.
const GUARD: &str = r#"
read -r _
kill -s "$2" -- "-$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 -- "-$1" || break; sleep 0.1; done
rm -rf -- "$3"
"#;

impl Program {
    /// `ending` is what it does not survive and its children do not either.
    pub fn start(command: &mut Command, ending: Signal, dir: &Path) -> Self {
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let ending_name = if ending == Signal::QUIT { "QUIT" } else { "KILL" };
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard", &child.id().to_string(), ending_name]).arg(dir);
        // A group of its own too: Ctrl-C ends the test, and that is what it waits for.
        guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let guard = guard.spawn().expect("sh");
        Self { child, guard, ending }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).expect("it runs");
    }

    /// It keeps its connections and its port, and does nothing; nor do its children. It has stopped when this returns.
    pub fn freeze(&self) {
        for one in self.family() {
            let _ = kill_process(pid(one), Signal::STOP);
            while threads(one).any(|state| !['T', 'Z'].contains(&state)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub fn thaw(&self) {
        for one in self.family() {
            let _ = kill_process(pid(one), Signal::CONT);
        }
    }

    /// Itself and all that descends from it.
    fn family(&self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
            if let (Some((_, parent)), Some(pid)) = (state(&entry.path()), pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while next < family.len() {
            family.extend(children.remove(&family[next]).unwrap_or_default());
            next += 1;
        }
        family
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // First the guard: once we have waited for the child, its number may be another's.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        if let Ok(None) = self.child.try_wait() {
            self.thaw();
            let _ = kill_process_group(pid(self.child.id()), self.ending);
        }
        let _ = self.child.wait();
    }
}

/// The states of a process's threads.
fn threads(pid: u32) -> impl Iterator<Item = char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| Some(state(&task.path())?.0))
}

/// The state of a process or thread, and its parent.
fn state(of: &Path) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(of.join("stat")).ok()?;
    // The name of a program, in parentheses, may have any character in it.
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).expect("a pid")
}

/// Below those that the kernel gives for port 0, so that it is still free when its server is started again.
pub fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The first of `names` that is there: a name on the PATH, or a path in which one directory may be `*`.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    names.iter().find_map(|name| match name.split_once("/*/") {
        Some((above, below)) => {
            let entries = std::fs::read_dir(above).ok()?.flatten();
            entries.map(|entry| entry.path().join(below)).filter(|path| path.is_file()).max()
        }
        None if name.starts_with('/') => Some(PathBuf::from(name)).filter(|path| path.is_file()),
        None => {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
        }
    })
}

/// Runs what prepares a server's directory to its good end.
pub(crate) async fn prepare(mut command: Command, dir: &Path) {
    let log = dir.join("log");
    command.current_dir(dir).stdout(log_file(&log)).stderr(log_file(&log));
    let mut program = Program::start(&mut command, Signal::KILL, dir);
    wait_for(&mut program, async || false).await;
    let succeeded = program.ended().is_some_and(|status| status.success());
    assert!(succeeded, "{command:?}: {}", log_of(&log));
}

/// Waits until `program` does what `ask` finds out; false where it ends instead.
pub(crate) async fn wait_for(program: &mut Program, ask: impl AsyncFn() -> bool) -> bool {
    within(async {
        loop {
            if program.ended().is_some() {
                return false;
            }
            if ask().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Where something that a test needs is absent: says so, past the capture of the test harness, or fails the test where
/// `PILOTFISH_TESTS_NO_SKIP` is set.
pub(crate) fn absent(what: &str) {
    let may_skip = std::env::var_os("PILOTFISH_TESTS_NO_SKIP").is_none();
    assert!(may_skip, "needs {what}; see CONTRIBUTING.md");
    let _ = writeln!(std::io::stderr(), "skipped: needs {what}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a server wrote, for the message of a test that fails.
pub(crate) fn log_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A file for what a program prints.
pub(crate) fn log_file(path: &Path) -> Stdio {
    std::fs::File::options().create(true).append(true).open(path).expect("a file").into()
}
