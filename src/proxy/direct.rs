//! Answers that a route has in store, without any upstream.

use http::header::{CONTENT_LENGTH, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, StatusCode};

use super::body::Body;
use super::report::Report;
use super::target::Target;
use crate::config::snapshot::{Redirect, Respond, Route};

pub fn redirected(
    redirect: &Redirect,
    route: &Route,
    target: &Target,
    path: &PathAndQuery,
    report: &mut Report,
) -> Response<Body> {
    let path = match &redirect.path {
        Some(new) => path.query().map_or(new.to_string(), |query| format!("{new}?{query}")),
        None => path.as_str().to_owned(),
    };
    // What is not given is left to the client, which resolves a reference against what it asked for
    // (RFC 3986 5.2): it may have come by TLS to a proxy before us.
    let asked = || target.authority.to_str().unwrap_or_default();
    let location = match (redirect.scheme.as_deref(), redirect.host.as_deref()) {
        (Some(scheme), host) => format!("{scheme}://{}{path}", host.unwrap_or_else(asked)),
        (None, Some(host)) => format!("//{host}{path}"),
        (None, None) => path,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answered_here(response, route, report)
}

pub fn responded(respond: &Respond, route: &Route, report: &mut Report) -> Response<Body> {
    let mut response = Response::new(Body::full(respond.body.clone()));
    *response.status_mut() = respond.status;
    // These have no body by their nature, and a length would say something else (RFC 9110 8.6).
    if !matches!(respond.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(respond.body.len()));
    }
    respond.headers.apply(response.headers_mut());
    answered_here(response, route, report)
}

fn answered_here(
    mut response: Response<Body>,
    route: &Route,
    report: &mut Report,
) -> Response<Body> {
    if let Some(ops) = &route.response_headers {
        ops.apply(response.headers_mut());
    }
    report.answered_here(response.status());
    response
}
