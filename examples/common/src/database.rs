//! A service's own database: SQLite, PostgreSQL or MySQL, by a URL.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::any::{AnyArguments, AnyPoolOptions, AnyQueryResult};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, AssertSqlSafe, Executor, SqlSafeStr, Transaction};

use crate::Error;

/// A pool of connections, and what differs between databases. SQL is written with `?` for its arguments, in the part of
/// the language that all three understand.
#[derive(Clone)]
pub struct Database {
    pub pool: AnyPool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

pub type Query = sqlx::query::Query<'static, Any, AnyArguments>;
pub type QueryAs<T> = sqlx::query::QueryAs<'static, Any, T, AnyArguments>;

impl Database {
    /// Opens the database at `url`, and brings it up to date: `migrations` in their order, each one once. Several
    /// instances of a service may do so at the same time.
    ///
    /// # Errors
    /// A URL of another kind of database, one that cannot be reached within 30 s, a migration that fails.
    pub async fn open(url: &str, migrations: &[&'static str]) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let kind = Kind::of(url)?;
        let pool = AnyPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(kind.first_words()).await?;
                    Ok(())
                })
            })
            .connect_lazy(url)?;
        let database = Self { pool, kind };
        database.migrate(migrations).await?;
        Ok(database)
    }

    /// A database that is not up yet, and an instance that migrates at the same time, are both reasons to try again.
    async fn migrate(&self, migrations: &[&'static str]) -> Result<(), Error> {
        let numbered = (1..).zip(migrations).map(|(number, sql)| {
            let simple = MigrationType::Simple;
            let sql = AssertSqlSafe(self.kind.spell_tables(sql)).into_sql_str();
            Migration::new(number, "".into(), simple, sql, false)
        });
        let migrator = Migrator::with_migrations(numbered.collect());
        for _ in 0..60 {
            match migrator.run(&self.pool).await {
                Ok(()) => return Ok(()),
                Err(error) => eprintln!("the database is not ready: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(migrator.run(&self.pool).await?)
    }

    pub fn query(&self, sql: &'static str) -> Query {
        sqlx::query(AssertSqlSafe(self.kind.spell(sql)))
    }

    pub fn query_as<T>(&self, sql: &'static str) -> QueryAs<T>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::any::AnyRow>,
    {
        sqlx::query_as(AssertSqlSafe(self.kind.spell(sql)))
    }

    /// Begins a transaction that is going to write.
    ///
    /// # Errors
    /// No connection could be had.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static, Any>> {
        match self.kind {
            // One that first reads and then writes would fail where another one has written meanwhile.
            Kind::Sqlite => self.pool.begin_with("BEGIN IMMEDIATE").await,
            Kind::Postgres | Kind::MySql => self.pool.begin().await,
        }
    }
}

impl Kind {
    fn of(url: &str) -> Result<Self, Error> {
        match url.split(':').next() {
            Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            Some("mysql" | "mariadb") => Ok(Self::MySql),
            _ => Err("DATABASE_URL begins with sqlite:, postgres: or mysql:".into()),
        }
    }

    /// What a new connection is told.
    const fn first_words(self) -> &'static str {
        match self {
            // Readers do not wait for a writer, and writers wait for each other.
            Self::Sqlite => {
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000"
            }
            Self::Postgres => "SELECT 1",
            // Two that write the same rows in turn do not block each other by gaps between rows.
            Self::MySql => "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        }
    }

    /// MySQL takes keys that differ in case alone for the same, unless a table says otherwise.
    fn spell_tables(self, sql: &'static str) -> Cow<'static, str> {
        match self {
            Self::Sqlite | Self::Postgres => sql.into(),
            Self::MySql => sql.replace("\n);", "\n) COLLATE utf8mb4_bin;").into(),
        }
    }

    /// PostgreSQL numbers its arguments.
    fn spell(self, sql: &'static str) -> Cow<'static, str> {
        if self != Self::Postgres {
            return sql.into();
        }
        let mut spelled = String::with_capacity(sql.len() + 8);
        for (place, part) in sql.split('?').enumerate() {
            if place > 0 {
                spelled.push_str(&format!("${place}"));
            }
            spelled.push_str(part);
        }
        spelled.into()
    }
}

/// Whether an INSERT has made a row. False: there is one with its key already.
///
/// # Errors
/// Any other one.
pub fn is_new(inserted: sqlx::Result<AnyQueryResult>) -> sqlx::Result<bool> {
    match inserted {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbered_for_postgresql_alone() {
        let sql = "UPDATE users SET balance = balance - ? WHERE id = ?";
        assert_eq!(
            Kind::Postgres.spell(sql),
            "UPDATE users SET balance = balance - $1 WHERE id = $2"
        );
        assert_eq!(Kind::MySql.spell(sql), sql);
    }

    #[test]
    fn a_url_tells_the_kind() {
        assert_eq!(Kind::of("sqlite://a.db").expect("known"), Kind::Sqlite);
        assert_eq!(Kind::of("postgresql://h/d").expect("known"), Kind::Postgres);
        assert_eq!(Kind::of("mysql://h/d").expect("known"), Kind::MySql);
        assert!(Kind::of("redis://h").is_err());
    }
}
