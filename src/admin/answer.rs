//! Doing what was asked, and writing the answer.

use super::route::{Action, METRICS_PATHS, PATHS, Refusal, route};
use super::{Handles, Surface};
use crate::telemetry::metrics;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use std::fmt::Write;
use tokio::task::spawn_local;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers one request. Its body is not read.
pub(super) async fn answer<B>(
    request: Request<B>,
    surface: Surface,
    handles: &Handles,
) -> Response<Full<Bytes>> {
    match route(surface, request.method(), request.uri(), request.headers()) {
        Ok(action) => act(action, handles).await,
        Err(refusal) => refuse(refusal, surface, request.uri().path()),
    }
}

async fn act(action: Action, handles: &Handles) -> Response<Full<Bytes>> {
    match action {
        Action::Help => text(StatusCode::OK, help()),
        Action::Live => text(StatusCode::OK, "live\n"),
        Action::Ready => match (handles.ready)() {
            Ok(state) => text(StatusCode::OK, line(state)),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, line(reason)),
        },
        Action::Metrics => respond(StatusCode::OK, metrics::CONTENT_TYPE, (handles.metrics)()),
        Action::ConfigDump => json(&(handles.config_dump)()),
        Action::Clusters { json: true } => json(&(handles.clusters)()),
        Action::Clusters { json: false } => text(StatusCode::OK, flat(&(handles.clusters)())),
        Action::Logging => text(StatusCode::OK, line((handles.log_level)())),
        Action::Version => text(StatusCode::OK, line(format!("pilotfish {}", handles.version))),
        // A task, because hyper drops this future when the client goes away.
        Action::Reload => match spawn_local((handles.reload)()).await {
            Ok(Ok(result)) => text(StatusCode::OK, line(result)),
            Ok(Err(reason)) => text(StatusCode::UNPROCESSABLE_ENTITY, line(reason)),
            Err(panic) => text(StatusCode::INTERNAL_SERVER_ERROR, line(panic.to_string())),
        },
        Action::Drain => {
            (handles.drain)();
            text(StatusCode::OK, "draining\n")
        }
        Action::Quit => {
            (handles.quit)();
            text(StatusCode::OK, "draining, then ending\n")
        }
        Action::SetLogLevel(level) => match (handles.set_log_level)(&level) {
            Ok(()) => text(StatusCode::OK, line((handles.log_level)())),
            Err(reason) => text(StatusCode::BAD_REQUEST, line(reason)),
        },
    }
}

fn refuse(refusal: Refusal, surface: Surface, asked: &str) -> Response<Full<Bytes>> {
    match refusal {
        Refusal::NotFound => {
            let list = match surface {
                Surface::Admin => help(),
                Surface::Metrics => METRICS_PATHS.map(|path| format!("  {path}\n")).concat(),
            };
            let body = format!("there is no {asked}; there are:\n{list}");
            text(StatusCode::NOT_FOUND, body)
        }
        Refusal::MethodNotAllowed { allow, path } => {
            let hint = match allow {
                "POST" => {
                    format!("this changes something: curl -X POST http://127.0.0.1:15000{path}\n")
                }
                _ => format!("{path} takes {allow}\n"),
            };
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, hint);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            response
        }
        Refusal::Forbidden(reason) => text(StatusCode::FORBIDDEN, line(reason.to_owned())),
        Refusal::BadRequest(reason) => text(StatusCode::BAD_REQUEST, line(reason.to_owned())),
    }
}

fn help() -> String {
    PATHS.iter().fold(String::new(), |mut text, (path, methods, what)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {methods:<10} {path:<16} {what}");
        text
    })
}

/// One line a value, its place before it, as in `user-service::10.0.0.1:3001::state healthy`. An
/// entry of a list stands under its `name` or `address`, if it has one, else under its number.
fn flat(value: &Value) -> String {
    let mut out = String::new();
    flatten(value, &mut String::new(), &mut out);
    out
}

fn flatten(value: &Value, place: &mut String, out: &mut String) {
    let at = place.len();
    let mut below = |key: &str, child: &Value| {
        if at > 0 {
            place.push_str("::");
        }
        place.push_str(key);
        flatten(child, place, out);
        place.truncate(at);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, child)| below(key, child)),
        Value::Array(list) => {
            for (index, child) in list.iter().enumerate() {
                let named = ["name", "address"].iter().find_map(|key| child.get(key)?.as_str());
                match named {
                    Some(name) => below(name, child),
                    None => below(&index.to_string(), child),
                }
            }
        }
        // A value is one line, whoever wrote it.
        Value::String(text) if text.contains(char::is_control) => {
            let _ = writeln!(out, "{place} {}", text.replace(char::is_control, "\u{fffd}"));
        }
        Value::String(text) => {
            let _ = writeln!(out, "{place} {text}");
        }
        other => {
            let _ = writeln!(out, "{place} {other}");
        }
    }
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, JSON, line(format!("{value:#}")))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, TEXT, body)
}

/// Ends a text with one line feed.
fn line(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
