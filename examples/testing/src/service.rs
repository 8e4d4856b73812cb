//! A service as a process of its own: it can be killed as a machine kills.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::program::{Program, free_address, log_file, log_of, wait_for};
use crate::{Api, eventually, within};

pub struct Service {
    program: Mutex<Option<Program>>,
    binary: PathBuf,
    environment: Vec<(String, OsString)>,
    address: SocketAddr,
    dir: TempDir,
}

impl Service {
    /// Starts `binary` in a directory of its own, with this environment and `LISTEN`, and waits until it says that it
    /// serves.
    pub async fn start(binary: impl AsRef<Path>, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.into()));
        let service = Self {
            program: Mutex::new(None),
            binary: binary.as_ref().to_owned(),
            environment: environment.collect(),
            // Not a port of the kernel's: somebody's connection could have it when the service is started again.
            address: free_address(),
            dir: tempfile::tempdir().expect("a directory"),
        };
        service.start_again().await;
        service
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn api(&self) -> Api {
        Api::new(self.address)
    }

    /// Starts it again where it was, with what it kept.
    pub async fn start_again(&self) {
        let mut program = self.spawn();
        let (stdout, stderr) = (self.dir.path().join("stdout"), self.dir.path().join("stderr"));
        let says_so = async || log_of(&stdout).contains('\n');
        assert!(wait_for(&mut program, says_so).await, "it ends: {}", log_of(&stderr));
        let line = self.first_line();
        assert!(line.ends_with(&format!(" {}", self.address)), "its first line: {line}");
        *self.program.lock().expect("no panic") = Some(program);
    }

    /// Starts it, and kills it after `time`, whatever it does then.
    pub async fn die_young(&self, time: Duration) {
        let program = self.spawn();
        tokio::time::sleep(time).await;
        drop(program);
    }

    fn spawn(&self) -> Program {
        let (stdout, stderr) = (self.dir.path().join("stdout"), self.dir.path().join("stderr"));
        let _ = std::fs::remove_file(&stdout);
        let mut command = Command::new(&self.binary);
        // Its settings are all in the environment, and the one who runs the tests may have some.
        command.env_clear().env("LISTEN", self.address.to_string());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.dir).stdout(log_file(&stdout)).stderr(log_file(&stderr));
        Program::start(&mut command, Signal::KILL, self.dir.path())
    }

    /// Ends it at once, by SIGKILL. From another task than the one that started it, if need be.
    pub fn kill(&self) {
        drop(self.program.lock().expect("no panic").take());
    }

    /// Asks it to end, and waits until it has.
    pub async fn end_by(&self, signal: Signal) -> ExitStatus {
        let mut program = self.program.lock().expect("no panic").take().expect("it runs");
        program.signal(signal);
        let program = std::cell::RefCell::new(&mut program);
        eventually(|| async { program.borrow_mut().ended() }).await
    }

    /// One that is expected to end by itself.
    pub async fn run_to_its_end(binary: &str, environment: &[(&str, &str)]) -> Output {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = tokio::process::Command::new(binary);
        command.env_clear().envs(environment.iter().copied()).current_dir(&dir);
        command.stdin(Stdio::null()).kill_on_drop(true);
        within(command.output()).await.expect("it starts")
    }

    pub fn first_line(&self) -> String {
        log_of(&self.dir.path().join("stdout")).lines().next().unwrap_or_default().to_owned()
    }

    /// It keeps its connections and its port, and does nothing.
    pub fn freeze(&self) {
        self.program.lock().expect("no panic").as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self) {
        self.program.lock().expect("no panic").as_ref().expect("it runs").thaw();
    }

    pub fn log(&self) -> String {
        log_of(&self.dir.path().join("stderr"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(30).collect();
            let last = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
            eprintln!("{} wrote last:\n{last}", self.binary.display());
        }
    }
}
