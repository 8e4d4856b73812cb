//! How a service answers: JSON, problems as `{"error": "…"}`, and an end in which no request is lost.

use std::future::Future;
use std::process::ExitCode;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use serde::Serialize;
use serde_json::json;
use sqlx::error::ErrorKind;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::database::Database;
use crate::{Error, setting};

/// A request's or an answer's body. Unlike axum's own it tells what is wrong as JSON too.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Why a request was not done.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub text: String,
}

impl Problem {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// Whether the same request would be refused again. (404 may come from in between, where nobody is at home.)
    pub fn is_refusal(&self) -> bool {
        matches!(self.status.as_u16(), 400 | 409 | 422)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, axum::Json(json!({ "error": self.text }))).into_response()
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// 400 where the database cannot take a value (a text with a NUL), 500 where it will never take what is ours, 503 where it may
/// later: it is away, full, or busy with others. Nothing was done then.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        eprintln!("database: {error}");
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| code.starts_with("22")) {
            Self::new(StatusCode::BAD_REQUEST, "the database cannot take such a value")
        } else if is_at_fault(&error) {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database refused this")
        } else {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database cannot do this now")
        }
    }
}

/// Whether it lies in what was asked: a constraint, or by the code (SQLSTATE, or SQLite's own) a statement.
fn is_at_fault(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            !matches!(error.kind(), ErrorKind::Other) || code.starts_with("42") || code == "1"
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
            true
        }
        _ => false,
    }
}

/// The key under which a request is done once, however often it comes.
///
/// # Errors
/// There is none, or it is no [`key`]: 400.
pub fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    key(value.unwrap_or(""))
}

/// Whether every database can take this text, of 1 to `most` characters.
pub fn is_plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// `text`, if it can be a key: databases do not agree about spaces and letters beyond ASCII.
///
/// # Errors
/// It cannot: 400.
pub fn key(text: &str) -> Result<&str, Problem> {
    let is_key = (1..=128).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
    let problem = "this needs an Idempotency-Key of 1 to 128 visible ASCII characters";
    is_key.then_some(text).ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, problem))
}

/// `GET /health`: whether the service can work.
pub fn health(database: Database) -> Router {
    async fn answer(State(database): State<Database>) -> Result<Json<serde_json::Value>, Problem> {
        database.query("SELECT 1").execute(&database.pool).await?;
        Ok(Json(json!({ "status": "ok" })))
    }
    Router::new().route("/health", get(answer)).with_state(database)
}

/// Runs a service: what the environment does not say is by its `name` and its `port`.
pub async fn run<F>(
    name: &str,
    port: u16,
    migrations: &[&'static str],
    make: impl FnOnce(Database) -> F,
) -> ExitCode
where
    F: Future<Output = Result<Router, Error>>,
{
    match try_run(name, port, migrations, make).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn try_run<F>(
    name: &str,
    port: u16,
    migrations: &[&'static str],
    make: impl FnOnce(Database) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<Router, Error>>,
{
    let listen = setting("LISTEN").unwrap_or_else(|| format!("127.0.0.1:{port}"));
    let url = setting("DATABASE_URL").unwrap_or_else(|| format!("sqlite://{name}.db?mode=rwc"));
    // First of all, so that an end that is asked for while the database is awaited is an orderly one.
    let mut stopped = Box::pin(stopped()?);
    let listener = TcpListener::bind(&listen)
        .await
        .map_err(|error| format!("cannot listen on {listen} (LISTEN): {error}"))?;
    let start = async {
        let database = Database::open(&url, migrations).await?;
        Ok::<_, Error>(make(database.clone()).await?.merge(health(database)))
    };
    let app = tokio::select! {
        app = start => app?,
        () = &mut stopped => return Ok(()),
    };
    println!("{name} listens on {}", listener.local_addr()?);
    Ok(serve(listener, app).with_graceful_shutdown(stopped).await?)
}

/// Ends with SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
