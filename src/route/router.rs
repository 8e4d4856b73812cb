//! The table of routes, and the choice from it in a time that does not grow with their number.

use std::collections::HashMap;

use regex::{RegexSet, RegexSetBuilder};
use smallvec::SmallVec;

use super::pattern::{HostPattern, PathPattern, Segment, WholeRegex};
use super::trie::{Trie, segments_of};
use super::{Matcher, Request};

type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// Routes, most specific first, see [`crate::route`]. Immutable, shared by the workers.
#[derive(Debug)]
pub struct Router<T> {
    /// In the order of what is not host or path, so that routes of the same host and path are
    /// tried in the order in which they are here.
    routes: Vec<Route<T>>,
    exact: Map<Scope>,
    /// By `.example.com`.
    suffixes: Map<Scope>,
    longest_suffix: usize,
    any: Scope,
}

#[derive(Debug)]
struct Route<T> {
    /// It asks for nothing besides host and path, which the index has: the matcher need not be looked at.
    plain: bool,
    target: T,
    matcher: Box<Matcher>,
}

impl<T> Route<T> {
    fn new(matcher: Matcher, target: T) -> Self {
        let plain =
            matcher.methods.is_empty() && matcher.headers.is_empty() && matcher.query.is_empty();
        Self { plain, target, matcher: Box::new(matcher) }
    }

    fn accepts(&self, request: &Request<'_>) -> bool {
        self.plain || self.matcher.accepts(request)
    }
}

/// The routes of one host pattern, by their paths. The numbers are indices of `Router::routes`.
#[derive(Debug, Default)]
struct Scope {
    exact: Map<SmallVec<[u32; 2]>>,
    templates: Trie,
    prefixes: Trie,
    regexes: Regexes,
    any: Vec<u32>,
}

/// One expression a route, in the order of the routes.
#[derive(Debug, Default)]
struct Regexes {
    routes: Vec<u32>,
    /// Made when all routes are known, for more than one.
    set: Option<RegexSet>,
}

impl<T> Router<T> {
    /// The order of `routes` decides between those that are equally specific.
    pub fn new(routes: Vec<(Matcher, T)>) -> Self {
        let mut routes: Vec<Route<T>> =
            routes.into_iter().map(|(matcher, target)| Route::new(matcher, target)).collect();
        // Stable: the order of the file stays where all else is equal.
        routes.sort_by_key(|route| {
            let matcher = &route.matcher;
            let fewer = |count: usize| usize::MAX - count;
            (matcher.methods.is_empty(), fewer(matcher.headers.len()), fewer(matcher.query.len()))
        });
        let mut router = Self {
            routes,
            exact: Map::default(),
            suffixes: Map::default(),
            longest_suffix: 0,
            any: Scope::default(),
        };
        for (index, route) in (0..).zip(&router.routes) {
            let matcher = &route.matcher;
            for host in &matcher.hosts {
                let scope = match host {
                    HostPattern::Exact(host) => router.exact.entry(host.as_str().into()),
                    HostPattern::Suffix(suffix) => {
                        router.longest_suffix = router.longest_suffix.max(suffix.len());
                        router.suffixes.entry(suffix.as_str().into())
                    }
                };
                scope.or_default().insert(&matcher.path, index);
            }
            if matcher.hosts.is_empty() {
                router.any.insert(&matcher.path, index);
            }
        }
        let named = router.exact.values_mut().chain(router.suffixes.values_mut());
        for scope in named.chain([&mut router.any]) {
            scope.regexes.seal(&router.routes);
        }
        router
    }

    /// Every route. Of those with the same host and path, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = (&Matcher, &T)> {
        self.routes.iter().map(|route| (&*route.matcher, &route.target))
    }

    /// The most specific route of which all conditions hold.
    pub fn find(&self, request: &Request<'_>) -> Option<&T> {
        let index = self.find_index(request)?;
        Some(&self.routes[index as usize].target)
    }

    fn find_index(&self, request: &Request<'_>) -> Option<u32> {
        if let Some(scope) = self.exact.get(request.host)
            && let Some(found) = scope.find(&self.routes, request)
        {
            return Some(found);
        }
        if !self.suffixes.is_empty() {
            // What is longer than the longest suffix need not be looked up, however long the host.
            let from = request.host.len().saturating_sub(self.longest_suffix).max(1);
            let host = request.host.as_bytes();
            let dots = (from..host.len()).filter(|at| host[*at] == b'.');
            for scope in dots.filter_map(|at| self.suffixes.get(&request.host[at..])) {
                if let Some(found) = scope.find(&self.routes, request) {
                    return Some(found);
                }
            }
        }
        self.any.find(&self.routes, request)
    }
}

impl Scope {
    fn insert(&mut self, path: &PathPattern, route: u32) {
        match path {
            PathPattern::Any => self.any.push(route),
            PathPattern::Exact(path) => {
                self.exact.entry(path.as_str().into()).or_default().push(route);
            }
            PathPattern::Prefix(path) => {
                let literal = |text: &str| Segment::Literal(text.into());
                let path = path.trim_end_matches('/');
                let segments: Vec<Segment> =
                    if path.is_empty() { vec![] } else { segments_of(path).map(literal).collect() };
                self.prefixes.insert(&segments, route);
            }
            PathPattern::Template(template) => self.templates.insert(template.segments(), route),
            PathPattern::Regex(_) => self.regexes.routes.push(route),
        }
    }

    fn find<T>(&self, routes: &[Route<T>], request: &Request<'_>) -> Option<u32> {
        let accept = |route: u32| routes[route as usize].accepts(request);
        let first = |list: &[u32]| list.iter().copied().find(|route| accept(*route));
        let path = request.path;
        // Not so `*` of `OPTIONS`, which is no path of segments.
        let segmented = path.starts_with('/');
        let by_segment = || {
            let template = self.templates.whole(path, accept);
            template.or_else(|| self.prefixes.beginning(path, accept))
        };
        let exact = self.exact.get(path).and_then(|list| first(list));
        exact
            .or_else(|| if segmented { by_segment() } else { None })
            .or_else(|| self.regexes.find(routes, path, accept))
            .or_else(|| first(&self.any))
    }
}

impl Regexes {
    /// The set has all the expressions of a scope in one automaton. Should it be too big for that,
    /// they are tried one by one.
    fn seal<T>(&mut self, routes: &[Route<T>]) {
        if self.routes.len() < 2 {
            return;
        }
        let expressions = self.routes.iter().filter_map(|route| regex_of(&routes[*route as usize]));
        self.set = RegexSetBuilder::new(expressions.map(WholeRegex::anchored))
            .size_limit(WholeRegex::SIZE_LIMIT.saturating_mul(self.routes.len()))
            .build()
            .ok();
    }

    fn find<T>(
        &self,
        routes: &[Route<T>],
        path: &str,
        accept: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        match &self.set {
            None => self.routes.iter().copied().find(|route| {
                regex_of(&routes[*route as usize]).is_some_and(|regex| regex.is_match(path))
                    && accept(*route)
            }),
            // `matches` allocates, `is_match` does not: most requests are of other routes.
            Some(set) if set.is_match(path) => {
                let matches = set.matches(path);
                matches.iter().map(|at| self.routes[at]).find(|route| accept(*route))
            }
            Some(_) => None,
        }
    }
}

fn regex_of<T>(route: &Route<T>) -> Option<&WholeRegex> {
    match &route.matcher.path {
        PathPattern::Regex(regex) => Some(regex),
        _ => None,
    }
}
