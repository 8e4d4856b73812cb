//! Any of the three databases that a service may have.

use tempfile::TempDir;

use crate::{MariaDb, Postgres};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    MariaDb,
}

pub enum Database {
    Sqlite(TempDir),
    Postgres(Postgres),
    MariaDb(MariaDb),
}

impl Database {
    /// None where there is none, which has been said then.
    pub async fn start(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Sqlite => Some(Self::sqlite()),
            Kind::Postgres => Postgres::start().await.map(Self::Postgres),
            Kind::MariaDb => MariaDb::start().await.map(Self::MariaDb),
        }
    }

    /// The one that is always there.
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a directory"))
    }

    /// Of a new, empty database.
    pub async fn url_of(&self, name: &str) -> String {
        match self {
            Self::Sqlite(dir) => {
                format!(
                    "sqlite://{}?mode=rwc",
                    dir.path().join(name).with_extension("db").display()
                )
            }
            Self::Postgres(postgres) => postgres.url_of(name).await,
            Self::MariaDb(mariadb) => mariadb.url_of(name).await,
        }
    }

    /// Ends it at once: what was committed is kept.
    pub fn stop(&mut self) {
        match self {
            Self::Sqlite(_) => panic!("there is nothing to stop"),
            Self::Postgres(postgres) => postgres.stop(),
            Self::MariaDb(mariadb) => mariadb.stop(),
        }
    }

    pub async fn start_again(&mut self) {
        match self {
            Self::Sqlite(_) => panic!("there is nothing to start"),
            Self::Postgres(postgres) => postgres.start_again().await,
            Self::MariaDb(mariadb) => mariadb.start_again().await,
        }
    }
}
