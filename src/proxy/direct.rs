//! Answers that a route has in store, without any upstream.

use http::header::{CONTENT_LENGTH, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderValue, Response};

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
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let authority = redirect
        .host
        .as_deref()
        .or(target.authority.to_str().ok())
        .unwrap_or_default();
    let path = match &redirect.path {
        Some(new) => path
            .query()
            .map_or(new.to_string(), |query| format!("{new}?{query}")),
        None => path.as_str().to_owned(),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    if let Ok(location) = HeaderValue::try_from(format!("{scheme}://{authority}{path}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answered_here(response, route, report)
}

pub fn responded(respond: &Respond, route: &Route, report: &mut Report) -> Response<Body> {
    let mut response = Response::new(Body::full(respond.body.clone()));
    *response.status_mut() = respond.status;
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(respond.body.len()));
    respond.headers.apply(response.headers_mut());
    answered_here(response, route, report)
}

fn answered_here(
    mut response: Response<Body>,
    route: &Route,
    report: &mut Report,
) -> Response<Body> {
    route.response_headers.apply(response.headers_mut());
    report.answered_here(response.status());
    response
}
