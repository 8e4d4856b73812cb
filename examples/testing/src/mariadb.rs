//! A real MariaDB, with a directory and a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;

use crate::program::{
    Program, absent, find, free_address, is_root, log_file, log_of, prepare, wait_for,
};

pub struct MariaDb {
    program: Option<Program>,
    dir: TempDir,
    server: PathBuf,
    address: SocketAddr,
    databases: AtomicU32,
}

impl MariaDb {
    /// None where there is none, which has been said then.
    pub async fn start() -> Option<Self> {
        sqlx::any::install_default_drivers();
        let server = find(&["mariadbd", "/usr/sbin/mariadbd"]);
        let install = find(&["mariadb-install-db", "/usr/bin/mariadb-install-db"]);
        let (Some(server), Some(install)) = (server, install) else {
            absent("MariaDB (Debian's package mariadb-server)");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        prepare(initialise(&install, dir.path()), dir.path()).await;
        let databases = AtomicU32::new(0);
        let address = free_address();
        let mut mariadb = Self { program: None, dir, server, address, databases };
        // Another process may have taken a port meanwhile.
        while !mariadb.try_start().await {
            mariadb.address = free_address();
        }
        Some(mariadb)
    }

    /// Of a new, empty database, which has `name` in its name.
    pub async fn url_of(&self, name: &str) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}_{number}");
        let mut connection = AnyConnection::connect(&self.url()).await.expect("it answers");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&mut connection).await.expect("a database");
        format!("mysql://root@{}/{name}", self.address)
    }

    /// Of the database that is always there.
    pub fn url(&self) -> String {
        format!("mysql://root@{}/mysql", self.address)
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
        let mut command = Command::new(&self.server);
        // Has to stand first.
        command.arg("--no-defaults").args(user());
        // Its temporary files too: their names are those of another server's, in another container.
        for (name, file) in
            [("datadir", "data"), ("tmpdir", ""), ("socket", "socket"), ("pid-file", "pid")]
        {
            command.arg(format!("--{name}={}", self.dir.path().join(file).display()));
        }
        command.arg(format!("--port={}", self.address.port()));
        command.args([
            "--bind-address=127.0.0.1",
            "--skip-networking=OFF",
            "--character-set-server=utf8mb4",
            "--max-connections=300",
            "--innodb-buffer-pool-size=32M",
            SMALL_LOG,
            // A process that is killed loses nothing by it; only a machine would.
            "--innodb-flush-log-at-trx-commit=2",
        ]);
        command.stdout(Stdio::null()).stderr(log_file(&self.log()));
        self.program = Some(Program::start(&mut command, Signal::KILL, self.dir.path()));
        let url = self.url();
        let program = self.program.as_mut().expect("started");
        wait_for(program, async || AnyConnection::connect(&url).await.is_ok()).await
    }
}

/// Its default is 96 MB, which is written at once.
const SMALL_LOG: &str = "--innodb-log-file-size=8M";

fn initialise(install: &Path, dir: &Path) -> Command {
    let mut command = Command::new(install);
    command.arg("--no-defaults").args(user());
    command.arg(format!("--datadir={}", dir.join("data").display()));
    command.arg(format!("--tmpdir={}", dir.display()));
    command.args(["--auth-root-authentication-method=normal", "--skip-test-db", SMALL_LOG]);
    command
}

/// It runs as root only when told to.
fn user() -> Option<&'static str> {
    is_root().then_some("--user=root")
}
