use std::cmp::Reverse;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// A request by `GET host/path?query`.
#[derive(Debug)]
struct Asked {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Asked {
    fn get(host: &str, path: &str) -> Self {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (path, None),
        };
        Self {
            method: Method::GET,
            host: host.into(),
            path: path.into(),
            query,
            headers: HeaderMap::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    fn request(&self) -> Request<'_> {
        Request {
            host: &self.host,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

/// `=/a` exact, `/a/*` prefix, `~/a` regular expression, `*` any, else a template.
fn path(text: &str) -> PathPattern {
    match text.split_at(1) {
        ("*", "") => Ok(PathPattern::Any),
        ("=", exact) => PathPattern::exact(exact),
        ("~", regex) => PathPattern::regex(regex),
        _ => match text.strip_suffix('*') {
            Some(prefix) => PathPattern::prefix(prefix),
            None => PathPattern::template(text),
        },
    }
    .unwrap()
}

fn on(pattern: &str) -> Matcher {
    Matcher::path(path(pattern))
}

fn at(hosts: &[&str], pattern: &str) -> Matcher {
    let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
    Matcher { hosts, ..on(pattern) }
}

fn header(name: &'static str, condition: Condition) -> FieldMatch<HeaderName> {
    FieldMatch { name: HeaderName::from_static(name), condition }
}

fn query(name: &str, condition: Condition) -> FieldMatch<String> {
    FieldMatch { name: name.into(), condition }
}

fn router(matchers: Vec<Matcher>) -> Router<usize> {
    Router::new(matchers.into_iter().zip(0..).collect())
}

fn paths(patterns: &[&str]) -> Router<usize> {
    router(patterns.iter().map(|pattern| on(pattern)).collect())
}

fn found(router: &Router<usize>, asked: &Asked) -> Option<usize> {
    router.find(&asked.request()).copied()
}

#[test]
fn no_routes_no_match() {
    assert_eq!(found(&paths(&[]), &Asked::get("a", "/")), None);
}

#[test]
fn prefixes_end_at_segments() {
    let router = paths(&["/users/*", "/*", "/users/1/*"]);
    for (asked, route) in [
        ("/users", 0),
        ("/users/", 0),
        ("/users/2", 0),
        ("/users/12", 0),
        ("/users2", 1),
        ("/", 1),
        ("/users/1", 2),
        ("/users/1/x", 2),
    ] {
        assert_eq!(found(&router, &Asked::get("a", asked)), Some(route), "{asked}");
    }
    assert_eq!(found(&router, &Asked::get("a", "*")), None);
}

#[test]
fn literals_go_before_parameters_from_the_left() {
    let router = paths(&["/{a}/{b}", "/{a}/y", "/x/{b}", "/x/z"]);
    for (asked, route) in [("/x/z", 3), ("/x/y", 2), ("/w/y", 1), ("/w/w", 0)] {
        assert_eq!(found(&router, &Asked::get("a", asked)), Some(route), "{asked}");
    }
    for asked in ["/", "/x", "/x/", "//y", "/x/y/z"] {
        assert_eq!(found(&router, &Asked::get("a", asked)), None, "{asked}");
    }
}

#[test]
fn a_dead_end_leads_back_to_the_parameter() {
    let router = paths(&["/a/b/c", "/{x}/b/d", "/{x}/{y}/e"]);
    for (asked, route) in [("/a/b/c", 0), ("/a/b/d", 1), ("/a/b/e", 2)] {
        assert_eq!(found(&router, &Asked::get("a", asked)), Some(route), "{asked}");
    }
}

#[test]
fn kinds_of_paths_in_their_order() {
    let patterns = ["*", "~/a/.*", "/a/*", "/a/{x}", "=/a/b"];
    for (count, asked) in [(5, "/a/b"), (4, "/a/c"), (3, "/a/b/c"), (2, "/a/b/c")] {
        let router = paths(&patterns[..count]);
        assert_eq!(found(&router, &Asked::get("a", asked)), Some(count - 1), "{asked}");
    }
    assert_eq!(found(&paths(&patterns), &Asked::get("a", "*")), Some(0));
}

#[test]
fn hosts_in_their_order() {
    let router = router(vec![
        on("/*"),
        at(&["*.example.com"], "/*"),
        at(&["*.api.example.com", "other"], "/*"),
        at(&["v1.api.example.com"], "/*"),
        at(&["*.example.com"], "=/deep"),
    ]);
    for (host, asked, route) in [
        ("example.com", "/", 0),
        (".example.com", "/", 0),
        ("notexample.com", "/", 0),
        ("", "/", 0),
        ("a.example.com", "/", 1),
        ("a.b.example.com", "/", 1),
        ("a.api.example.com", "/", 2),
        ("other", "/", 2),
        ("v1.api.example.com", "/", 3),
        ("v1.api.example.com", "/deep", 3),
        ("a.example.com", "/deep", 4),
    ] {
        assert_eq!(found(&router, &Asked::get(host, asked)), Some(route), "{host}{asked}");
    }
}

#[test]
fn a_less_specific_host_serves_what_the_other_does_not() {
    let router = router(vec![on("/*"), at(&["a.b"], "/x/*"), at(&["*.b"], "/y/*")]);
    for (asked, route) in [("/x", 1), ("/y", 2), ("/z", 0)] {
        assert_eq!(found(&router, &Asked::get("a.b", asked)), Some(route), "{asked}");
    }
}

#[test]
fn the_other_conditions_in_their_order() {
    let present = |name| header(name, Condition::Present(true));
    let base = || on("/a");
    let router = router(vec![
        base(),
        Matcher { query: vec![query("q", Condition::Present(true))], ..base() },
        Matcher { headers: vec![present("x-a")], ..base() },
        Matcher { headers: vec![present("x-a"), present("x-b")], ..base() },
        Matcher { methods: vec![Method::POST], ..base() },
        base(),
    ]);
    let get = || Asked::get("h", "/a");
    assert_eq!(found(&router, &get()), Some(0));
    assert_eq!(found(&router, &Asked::get("h", "/a?q=1")), Some(1));
    assert_eq!(found(&router, &Asked::get("h", "/a?q=1").with("x-a", "1")), Some(2));
    assert_eq!(found(&router, &get().with("x-a", "1").with("x-b", "1")), Some(3));
    let all = get().with("x-a", "1").with("x-b", "1").by(Method::POST);
    assert_eq!(found(&router, &all), Some(4));
}

#[test]
fn a_method_that_does_not_fit_leaves_the_next_route() {
    let exact = Matcher { methods: vec![Method::POST, Method::PUT], ..on("=/users") };
    let router = router(vec![exact, on("/{x}")]);
    assert_eq!(found(&router, &Asked::get("h", "/users")), Some(1));
    assert_eq!(found(&router, &Asked::get("h", "/users").by(Method::PUT)), Some(0));
}

#[test]
fn expressions_of_several_routes_keep_the_order() {
    let posts = Matcher { methods: vec![Method::POST], ..on("~/a.*") };
    let router = router(vec![on("~/a"), on("~/b|/ab"), posts, on("~/.b")]);
    assert_eq!(found(&router, &Asked::get("h", "/ab")), Some(1));
    assert_eq!(found(&router, &Asked::get("h", "/ab").by(Method::POST)), Some(2));
    assert_eq!(found(&router, &Asked::get("h", "/abc")), None);
}

/// All the 2^12 mixtures of literals and parameters over one path, none of which accepts: what is
/// visited is each node once. Without that bound, long paths and hosts would take for ever.
#[test]
fn backtracking_and_long_input_are_bounded() {
    let deep = |mask: u32| -> String {
        (0..12)
            .map(|bit| if mask >> bit & 1 == 0 { "/a".into() } else { format!("/{{p{bit}}}") })
            .collect()
    };
    let mut matchers: Vec<Matcher> = (0..1 << 12)
        .map(|mask| Matcher {
            headers: vec![header("x-never", Condition::Present(true))],
            ..on(&deep(mask))
        })
        .collect();
    matchers.push(on(&"/a".repeat(200).replace("/a/a", "/a/{p}").replacen("{p}", "a", 99)));
    matchers.extend([on(&("/a".repeat(100) + "/*")), at(&["*.a.a.a"], "/*")]);
    let last = matchers.len() - 1;
    let router = router(matchers);
    assert_eq!(found(&router, &Asked::get("h", &"/a".repeat(12))), None);
    assert_eq!(found(&router, &Asked::get("h", &"/a".repeat(12)).with("x-never", "")), Some(0));
    let long = "/a".repeat(500_000);
    assert_eq!(found(&router, &Asked::get("h", &long)), Some(last - 1));
    assert_eq!(found(&router, &Asked::get("h", &"/".repeat(500_000))), None);
    assert_eq!(found(&router, &Asked::get(&"a.".repeat(500_000), "/")), None);
    assert_eq!(found(&router, &Asked::get(&".a".repeat(500_000), "/")), Some(last));
}

/// The rule of the module's docs, word for word, on all routes.
fn by_rule(matchers: &[Matcher], request: &Request<'_>) -> Option<usize> {
    let mut order: Vec<_> = Vec::new();
    for (index, matcher) in matchers.iter().enumerate() {
        let hosts: Vec<Option<&HostPattern>> = match matcher.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(Some).collect(),
        };
        for host in hosts {
            let conditions = (Reverse(matcher.headers.len()), Reverse(matcher.query.len()));
            let (host_rank, path_rank) = (rank_of_host(host), rank_of_path(&matcher.path));
            let rank = (host_rank, path_rank, matcher.methods.is_empty(), conditions, index);
            order.push((rank, host, matcher));
        }
    }
    order.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let full_match = order.into_iter().find(|(_, host, matcher)| {
        has_host(*host, request.host)
            && has_path(&matcher.path, request.path)
            && matcher.accepts(request)
    });
    full_match.map(|((.., index), ..)| index)
}

fn rank_of_host(host: Option<&HostPattern>) -> (u8, Reverse<usize>) {
    match host {
        Some(HostPattern::Exact(_)) => (0, Reverse(0)),
        Some(HostPattern::Suffix(suffix)) => (1, Reverse(suffix.len())),
        None => (2, Reverse(0)),
    }
}

fn has_host(pattern: Option<&HostPattern>, host: &str) -> bool {
    match pattern {
        Some(HostPattern::Exact(exact)) => host == exact,
        Some(HostPattern::Suffix(suffix)) => host.len() > suffix.len() && host.ends_with(suffix),
        None => true,
    }
}

/// Kind of path; segments of a template, parameters last; length of a prefix.
fn rank_of_path(path: &PathPattern) -> (u8, Vec<bool>, Reverse<usize>) {
    let text = path.pattern();
    match path {
        PathPattern::Exact(_) => (0, vec![], Reverse(0)),
        PathPattern::Template(_) => {
            (1, text.split('/').map(|segment| segment.starts_with('{')).collect(), Reverse(0))
        }
        PathPattern::Prefix(_) => (2, vec![], Reverse(text.len())),
        PathPattern::Regex(_) => (3, vec![], Reverse(0)),
        PathPattern::Any => (4, vec![], Reverse(0)),
    }
}

fn has_path(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Any => true,
        PathPattern::Exact(exact) => path == exact,
        PathPattern::Prefix(_) => {
            let prefix = pattern.pattern().into_owned();
            path.starts_with('/') && format!("{path}/").starts_with(prefix.trim_end_matches('*'))
        }
        PathPattern::Template(_) => {
            let text = pattern.pattern().into_owned();
            let (wanted, given) = (text.split('/'), path.split('/'));
            wanted.clone().count() == given.clone().count()
                && wanted.zip(given).all(|(wanted, given)| {
                    wanted == given || (wanted.starts_with('{') && !given.is_empty())
                })
        }
        PathPattern::Regex(regex) => {
            let found = regex::Regex::new(&format!("^({})$", regex.as_str())).unwrap();
            found.is_match(path)
        }
    }
}

fn some_path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "ab", ""]);
    prop_oneof![
        20 => prop::collection::vec(segment, 1..5).prop_map(|parts| format!("/{}", parts.join("/"))),
        1 => Just("*".to_string()),
    ]
}

fn some_pattern() -> impl Strategy<Value = PathPattern> {
    let segment = prop::sample::select(vec!["a", "b", "ab", "{}", "{}", ""]);
    let segments = prop::collection::vec(segment, 1..5);
    let regexes = vec!["/.", "/a.*", "/(a|b)", "/.*/b", ".*"];
    prop_oneof![
        1 => Just(PathPattern::Any),
        3 => some_path().prop_filter_map("a path", |text| PathPattern::exact(&text).ok()),
        3 => some_path().prop_filter_map("a path", |text| PathPattern::prefix(&text).ok()),
        2 => prop::sample::select(regexes).prop_map(|text| PathPattern::regex(text).unwrap()),
        4 => segments.prop_map(|segments| {
            let named = segments.iter().enumerate();
            let text: String =
                named.map(|(i, part)| format!("/{}", part.replace("{}", &format!("{{p{i}}}")))).collect();
            PathPattern::template(&text).unwrap()
        }),
    ]
}

fn some_matcher() -> impl Strategy<Value = Matcher> {
    let condition = || {
        prop_oneof![
            Just(Condition::Exact("1".into())),
            Just(Condition::Not("1".into())),
            any::<bool>().prop_map(Condition::Present),
            Just(Condition::regex("[12]").unwrap()),
        ]
    };
    let hosts = vec!["a.com", "b.a.com", "*.a.com", "*.com", "*.b.a.com"];
    let host = prop::sample::select(hosts).prop_map(|host| HostPattern::parse(host).unwrap());
    let method = prop::sample::select(vec![Method::GET, Method::POST]);
    let name = prop::sample::select(vec!["x", "y"]);
    let headers = (name.clone(), condition()).prop_map(|(name, condition)| header(name, condition));
    let queries = (name, condition()).prop_map(|(name, condition)| query(name, condition));
    (
        prop::collection::vec(host, 0..3),
        some_pattern(),
        prop::collection::vec(method, 0..2),
        prop::collection::vec(headers, 0..3),
        prop::collection::vec(queries, 0..2),
    )
        .prop_map(|(hosts, path, methods, headers, query)| Matcher {
            hosts,
            path,
            methods,
            headers,
            query,
        })
}

fn some_request() -> impl Strategy<Value = Asked> {
    let hosts = vec!["a.com", "b.a.com", "c.b.a.com", "c.a.com", ".a.com", "other"];
    let fields = prop::collection::vec(
        (prop::sample::select(vec!["x", "y"]), prop::sample::select(vec!["1", "2", "3"])),
        0..3,
    );
    (
        prop::sample::select(hosts),
        some_path(),
        prop::sample::select(vec![Method::GET, Method::POST]),
        fields.clone(),
        fields,
    )
        .prop_map(|(host, path, method, headers, query)| {
            let pairs: Vec<String> =
                query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let asked = Asked::get(host, &format!("{path}?{}", pairs.join("&"))).by(method);
            headers.into_iter().fold(asked, |asked, (name, value)| asked.with(name, value))
        })
}

proptest! {
    #[test]
    fn finds_what_the_rule_says(
        matchers in prop::collection::vec(some_matcher(), 0..25),
        requests in prop::collection::vec(some_request(), 1..20),
    ) {
        let router = router(matchers.clone());
        for asked in &requests {
            let request = asked.request();
            let found = router.find(&request).copied();
            prop_assert_eq!(found, by_rule(&matchers, &request), "{:?}", request);
        }
    }

    #[test]
    fn templates_of_one_shape_stay_apart_by_their_literals(
        patterns in prop::collection::vec(some_pattern(), 1..40),
        path in some_path(),
    ) {
        let matchers: Vec<Matcher> = patterns.into_iter().map(Matcher::path).collect();
        let asked = Asked::get("h", &path);
        let found = router(matchers.clone()).find(&asked.request()).copied();
        prop_assert_eq!(found, by_rule(&matchers, &asked.request()));
    }
}
