//! The shop as a process, in a directory for temporary files of its own, so that what it leaves can be told.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What no step may take longer than, also where many compile meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where pilotfish and the services are, by `SHOP_BIN_DIR`; a path that is not absolute is one in the workspace. None
/// where it is not said, which has been told then.
pub fn programs() -> Option<PathBuf> {
    let Some(directory) = std::env::var_os("SHOP_BIN_DIR") else {
        return may_skip(
            "SHOP_BIN_DIR, where pilotfish and the services are, such as target/debug",
        );
    };
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(directory))
}

/// None, which is told past the capture of the test harness; or the test fails, where `PILOTFISH_TESTS_NO_SKIP` is set.
pub fn may_skip<T>(needs: &str) -> Option<T> {
    let may_skip = std::env::var_os("PILOTFISH_TESTS_NO_SKIP").is_none();
    assert!(may_skip, "needs {needs}; see CONTRIBUTING.md");
    let _ = writeln!(std::io::stderr(), "skipped: needs {needs}");
    None
}

/// A program that heeds all signals, whoever runs the tests: by `nohup` it would not heed SIGHUP, and the shop outlive its
/// parent, as it should then.
pub fn heeding_signals(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", program]);
    command
}

pub struct Launcher {
    child: Child,
    tmp: TempDir,
}

impl Launcher {
    /// On any ports that are free.
    pub fn start(programs: &Path, arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), programs, arguments)
    }

    pub fn start_in(tmp: TempDir, programs: &Path, arguments: &[&str]) -> Self {
        let mut command = heeding_signals(env!("CARGO_BIN_EXE_shop"));
        command.args(["--base-port", "0", "--bin-dir"]).arg(programs).args(arguments);
        if !arguments.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        Self::spawn(tmp, command)
    }

    pub fn spawn(tmp: TempDir, mut command: Command) -> Self {
        let file = |name| File::create(tmp.path().join(name)).expect("a file");
        // What others have in their environment is not for the shop's processes.
        command.env("TMPDIR", tmp.path()).env("http_proxy", "http://127.0.0.1:1");
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let child = command.spawn().expect("it starts");
        Self { child, tmp }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.tmp.path().join("stdout")).expect("a file")
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.tmp.path().join("stderr")).expect("a file")
    }

    /// What it has said, all of it, for a failed assertion.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout(), self.stderr())
    }

    /// Waits until its output has this.
    pub fn until_it_says(&mut self, text: &str) {
        self.eventually(text, |it| it.stdout().contains(text).then_some(()));
    }

    pub fn eventually<T>(&mut self, what: &str, ask: impl Fn(&Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            let ended = self.child.try_wait().expect("its status");
            assert!(ended.is_none(), "{ended:?} before {what}: {}", self.said());
            assert!(Instant::now() < until, "no {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// The processes that have a directory of it as theirs, whoever their parent is.
    pub fn processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").expect("Linux").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: &u32| {
            let directory = fs::read_link(format!("/proc/{pid}/cwd"));
            directory.is_ok_and(|directory| directory.starts_with(self.tmp.path()))
        };
        pids.filter(here).collect()
    }

    /// The directories of runs that are there.
    pub fn directories(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.tmp.path()).expect("its directory").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// Nothing of it runs, and it has left no file.
    pub fn left_nothing(&self) {
        assert_eq!(self.processes(), [0; 0], "{}", self.said());
        assert_eq!(self.directories(), [] as [PathBuf; 0], "{}", self.said());
    }

    /// Its directory for temporary files, for another run. It has ended.
    pub fn into_directory(mut self) -> TempDir {
        std::mem::replace(&mut self.tmp, tempfile::tempdir().expect("a directory"))
    }
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("it runs");
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends what it has started; where it is killed the kernel does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
