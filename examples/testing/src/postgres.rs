//! A real PostgreSQL, with a directory and a port of its own.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;

use crate::program::{
    Program, absent, find, free_address, is_root, log_file, log_of, prepare, wait_for,
};

pub struct Postgres {
    program: Option<Program>,
    dir: TempDir,
    server: PathBuf,
    address: SocketAddr,
    databases: AtomicU32,
}

impl Postgres {
    /// None where there is none, which has been said then.
    pub async fn start() -> Option<Self> {
        sqlx::any::install_default_drivers();
        let Some(server) = find(&["/usr/lib/postgresql/*/bin/postgres", "postgres"]) else {
            absent("PostgreSQL (Debian's package postgresql)");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        if is_root() {
            let user = Some(user());
            chown(dir.path(), user, None).expect("the directory becomes that of the user");
        }
        prepare(initialise(&server, dir.path()), dir.path()).await;
        let databases = AtomicU32::new(0);
        let address = free_address();
        let mut postgres = Self { program: None, dir, server, address, databases };
        // Another process may have taken a port meanwhile.
        while !postgres.try_start().await {
            postgres.address = free_address();
        }
        Some(postgres)
    }

    /// Of a new, empty database, which has `name` in its name.
    pub async fn url_of(&self, name: &str) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}_{number}");
        let mut connection = AnyConnection::connect(&self.url()).await.expect("it answers");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&mut connection).await.expect("a database");
        format!("postgres://postgres@{}/{name}", self.address)
    }

    /// Of the database that is always there.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it at once: its clients' connections are cut, and what was committed is kept.
    pub fn stop(&mut self) {
        self.program = None;
    }

    /// Starts it again on its port, with what it kept.
    pub async fn start_again(&mut self) {
        assert!(self.try_start().await, "{}", log_of(&self.log()));
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn freeze(&self) {
        self.program.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self) {
        self.program.as_ref().expect("it runs").thaw();
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// False where it ends instead of answering.
    async fn try_start(&mut self) -> bool {
        let mut command = as_user(&self.server);
        command.arg("-D").arg(self.dir.path().join("data"));
        command.args(["-p", &self.address.port().to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=32MB",
            // A process that is killed loses nothing by it; only a machine would.
            "fsync=off",
        ] {
            command.args(["-c", setting]);
        }
        command.stdout(Stdio::null()).stderr(log_file(&self.log()));
        // At this it ends its children, which have groups of their own, and itself.
        self.program = Some(Program::start(&mut command, Signal::QUIT, self.dir.path()));
        let url = self.url();
        let program = self.program.as_mut().expect("started");
        wait_for(program, async || AnyConnection::connect(&url).await.is_ok()).await
    }
}

/// What `initdb` makes of a directory.
fn initialise(server: &Path, dir: &Path) -> Command {
    let mut command = as_user(&server.with_file_name("initdb"));
    command.arg("-D").arg(dir.join("data"));
    command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
    command
}

/// It refuses to run as root.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(user()).gid(user());
    }
    command
}

/// Debian's user of the package, or one that has no rights anywhere.
fn user() -> u32 {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    line.and_then(|line| line.split(':').nth(2)?.parse().ok()).unwrap_or(65_534)
}
