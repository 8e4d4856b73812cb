//! What a request to the admin server asks for. Pure.

use super::Surface;
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Uri};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Help,
    Live,
    Ready,
    Metrics,
    ConfigDump,
    Clusters { json: bool },
    Logging,
    Version,
    Reload,
    Drain,
    Quit,
    SetLogLevel(String),
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    /// The path is a change, or cannot be one. Holds the methods that it has.
    MethodNotAllowed {
        allow: &'static str,
        path: &'static str,
    },
    /// The client is a page of another site in somebody's browser, as far as we can tell.
    Forbidden(&'static str),
    /// What is missing from the query.
    BadRequest(&'static str),
}

/// Every path of the admin surface: its methods, and what it does. `/help` prints it.
pub(super) const PATHS: [(&str, &str, &str); 12] = [
    ("/live", "GET", "200 as long as the process works"),
    ("/ready", "GET", "200 when ready to serve, else 503 and why"),
    ("/healthz/ready", "GET", "the same as /ready"),
    ("/metrics", "GET", "metrics in Prometheus' text format"),
    ("/config_dump", "GET", "the configuration in force, secrets masked (JSON)"),
    ("/clusters", "GET", "services and their endpoints (text; ?format=json)"),
    ("/logging", "GET, POST", "the log level; POST ?level=debug sets it"),
    ("/version", "GET", "the version"),
    ("/help", "GET", "this list"),
    ("/reload", "POST", "read the configuration again"),
    ("/drain", "POST", "refuse new work, finish what is in flight"),
    ("/quitquitquit", "POST", "drain and end"),
];

/// The paths of the metrics surface.
pub(super) const METRICS_PATHS: [&str; 3] = ["/metrics", "/live", "/ready"];

/// Decides by method, target and headers.
///
/// The admin surface answers a `Host` that is an IP address or localhost only: a page that points
/// its own name to 127.0.0.1 (DNS rebinding) carries that name. And it refuses a POST with a foreign
/// `Origin`: browsers send a form to any address without asking.
pub(super) fn route(
    surface: Surface,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Action, Refusal> {
    let path = uri.path();
    match surface {
        Surface::Metrics if !METRICS_PATHS.contains(&path) => return Err(Refusal::NotFound),
        Surface::Metrics => {}
        Surface::Admin => check_host(uri, headers)?,
    }
    let path = match path {
        "/" => "/help",
        path => path,
    };
    let Some((path, allow, _)) = PATHS.iter().find(|(known, ..)| *known == path) else {
        return Err(Refusal::NotFound);
    };
    if method == Method::POST {
        check_origin(uri, headers)?;
        change(path, uri.query())
    } else if method == Method::GET || method == Method::HEAD {
        read(path, uri.query())
    } else {
        None
    }
    .unwrap_or(Err(Refusal::MethodNotAllowed { allow: allow_header(allow), path }))
}

/// HEAD is where GET is.
fn allow_header(methods: &str) -> &'static str {
    match methods {
        "POST" => "POST",
        "GET" => "GET, HEAD",
        _ => "GET, HEAD, POST",
    }
}

fn read(path: &str, query: Option<&str>) -> Option<Result<Action, Refusal>> {
    Some(Ok(match path {
        "/help" => Action::Help,
        "/live" => Action::Live,
        "/ready" | "/healthz/ready" => Action::Ready,
        "/metrics" => Action::Metrics,
        "/config_dump" => Action::ConfigDump,
        "/clusters" => {
            Action::Clusters { json: parameter(query, "format").as_deref() == Some("json") }
        }
        "/logging" => Action::Logging,
        "/version" => Action::Version,
        _ => return None,
    }))
}

fn change(path: &str, query: Option<&str>) -> Option<Result<Action, Refusal>> {
    Some(match path {
        "/reload" => Ok(Action::Reload),
        "/drain" => Ok(Action::Drain),
        "/quitquitquit" => Ok(Action::Quit),
        "/logging" => parameter(query, "level")
            .map(Action::SetLogLevel)
            .ok_or(Refusal::BadRequest("the query lacks level, as in /logging?level=debug")),
        _ => return None,
    })
}

fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let refusal = Refusal::Forbidden("Host must be an IP address or localhost");
    match authority(uri, headers) {
        Ok(None) => Ok(()),
        Ok(Some(authority)) if is_local_name(authority) => Ok(()),
        _ => Err(refusal),
    }
}

fn check_origin(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, authority(uri, headers)) {
        (Some((_, origin)), Ok(Some(authority))) if origin.eq_ignore_ascii_case(authority) => {
            Ok(())
        }
        _ => Err(Refusal::Forbidden("a page of another origin may not change anything")),
    }
}

/// Whom the client believes to talk to (RFC 9112, 3.2): the target's authority, else the one Host.
/// No browser leaves it out.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, ()> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

fn is_local_name(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => return host.parse::<Ipv6Addr>().is_ok() && is_port(port),
        None => match authority.find(':') {
            Some(colon) => authority.split_at(colon),
            None => (authority, ""),
        },
    };
    let is_name = host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok();
    is_name && is_port(port)
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// The decoded value of a parameter; the first, if there are several.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    percent_decode(value)
}

/// Nothing if it is not percent-encoded UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                rest = tail;
                digits.iter().try_fold(0, |value, digit| {
                    Some(value * 16 + char::from(*digit).to_digit(16)? as u8)
                })?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ask(
        surface: Surface,
        method: &Method,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Action, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        route(surface, method, &target.parse().unwrap(), &map)
    }

    fn admin(method: Method, target: &str) -> Result<Action, Refusal> {
        ask(Surface::Admin, &method, target, &[("host", "127.0.0.1:15000")])
    }

    #[test]
    fn every_path_of_the_list_does_something() {
        for (path, methods, _) in PATHS {
            for method in methods.split(", ") {
                let method: Method = method.parse().unwrap();
                let answer = admin(method, &format!("{path}?level=debug"));
                assert!(answer.is_ok(), "{path}: {answer:?}");
            }
        }
        assert_eq!(admin(Method::GET, "/"), Ok(Action::Help));
        assert_eq!(admin(Method::GET, "/nothing"), Err(Refusal::NotFound));
        assert_eq!(admin(Method::GET, "/live/"), Err(Refusal::NotFound));
    }

    #[test]
    fn a_change_needs_post_and_reading_does_not_take_it() {
        for path in ["/reload", "/drain", "/quitquitquit"] {
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
                let refusal = Refusal::MethodNotAllowed { allow: "POST", path };
                assert_eq!(admin(method, path), Err(refusal));
            }
        }
        let refusal = Refusal::MethodNotAllowed { allow: "GET, HEAD", path: "/metrics" };
        assert_eq!(admin(Method::POST, "/metrics"), Err(refusal));
    }

    #[test]
    fn queries() {
        let level = |query| admin(Method::POST, &format!("/logging{query}"));
        let set = |level: &str| Ok(Action::SetLogLevel(level.to_owned()));
        assert_eq!(level("?level=debug"), set("debug"));
        assert_eq!(level("?a=b&level=info%2Cpilotfish%3dtrace"), set("info,pilotfish=trace"));
        for bad in ["", "?", "?level", "?level=%", "?level=%zz", "?level=%ff"] {
            assert!(matches!(level(bad), Err(Refusal::BadRequest(_))), "{bad}");
        }
        let clusters = |query| admin(Method::GET, &format!("/clusters{query}"));
        assert_eq!(clusters(""), Ok(Action::Clusters { json: false }));
        assert_eq!(clusters("?format=json"), Ok(Action::Clusters { json: true }));
    }

    #[test]
    fn the_metrics_surface_has_three_paths_and_any_host() {
        let metrics = |method: Method, path| {
            ask(Surface::Metrics, &method, path, &[("host", "pod.example.com")])
        };
        assert_eq!(metrics(Method::GET, "/metrics"), Ok(Action::Metrics));
        assert_eq!(metrics(Method::GET, "/live"), Ok(Action::Live));
        assert_eq!(metrics(Method::HEAD, "/ready"), Ok(Action::Ready));
        for (path, ..) in PATHS.iter().filter(|(path, ..)| !METRICS_PATHS.contains(path)) {
            assert_eq!(metrics(Method::GET, path), Err(Refusal::NotFound), "{path}");
            assert_eq!(metrics(Method::POST, path), Err(Refusal::NotFound), "{path}");
        }
    }

    #[test]
    fn only_local_names_reach_the_admin_surface() {
        let host = |host: &str| ask(Surface::Admin, &Method::GET, "/live", &[("host", host)]);
        for good in [
            "127.0.0.1",
            "127.0.0.1:15000",
            "10.1.2.3:15000",
            "localhost",
            "LocalHost:15000",
            "[::1]",
            "[::1]:15000",
        ] {
            assert_eq!(host(good), Ok(Action::Live), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "[::1",
            "[::1]x",
            "::1",
            "0x7f.1",
            "localhost:1:2",
        ] {
            assert!(matches!(host(bad), Err(Refusal::Forbidden(_))), "{bad}");
        }
        let both = [("host", "localhost"), ("host", "evil.example")];
        let answer = ask(Surface::Admin, &Method::GET, "/live", &both);
        assert!(matches!(answer, Err(Refusal::Forbidden(_))));
        let absolute =
            ask(Surface::Admin, &Method::GET, "http://evil.example/live", &[("host", "localhost")]);
        assert!(matches!(absolute, Err(Refusal::Forbidden(_))));
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let drain = |origin: &str| {
            let headers = [("host", "127.0.0.1:15000"), ("origin", origin)];
            ask(Surface::Admin, &Method::POST, "/drain", &headers)
        };
        assert_eq!(drain("http://127.0.0.1:15000"), Ok(Action::Drain));
        for foreign in ["http://evil.example", "http://127.0.0.1:3000", "null", ""] {
            assert!(matches!(drain(foreign), Err(Refusal::Forbidden(_))), "{foreign}");
        }
    }
}
