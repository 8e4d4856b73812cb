//! From a request to its route.
//!
//! The most specific route wins. In this order, the first difference decides:
//!
//! 1. host: an exact one, then `*.suffix`, the longer first, then any;
//! 2. path: exact; then a template, where at the leftmost difference a literal segment goes before
//!    a parameter; then a prefix, the longer first; then a regular expression; then any;
//! 3. a route that names methods goes before one that does not;
//! 4. more conditions on headers;
//! 5. more conditions on the query;
//! 6. the order in the file.
//!
//! The route is the first in this order of which *all* conditions hold. So a less specific one wins
//! where the method of the more specific one does not fit. With several hosts a route stands in the
//! order once for each.

pub mod condition;
pub mod path;
pub mod pattern;
mod router;
mod trie;

#[cfg(test)]
mod tests;

use http::header::HeaderName;
use http::{HeaderMap, Method};

pub use condition::{Condition, FieldMatch, HeaderMatch, form_decoded};
pub use path::{PathError, normalise};
pub use pattern::{HostPattern, PathPattern, PatternError, Template, WholeRegex};
pub use router::Router;

/// What the choice of a route depends on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Lower case, without a port, an IPv6 address without brackets.
    pub host: &'a str,
    pub method: &'a Method,
    /// As [`normalise`] gives it.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// The conditions of a route. An empty list asks for nothing.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// One of them.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// One of them.
    pub methods: Vec<Method>,
    /// All of them.
    pub headers: Vec<FieldMatch<HeaderName>>,
    /// All of them, of the decoded query.
    pub query: Vec<FieldMatch<String>>,
}

impl Matcher {
    /// Matches what has this path, whatever the rest.
    pub fn path(path: PathPattern) -> Self {
        Self { hosts: vec![], path, methods: vec![], headers: vec![], query: vec![] }
    }

    /// Whether all holds that is not host or path.
    fn accepts(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.headers.iter().all(|field| field.holds(request.headers))
            && self.query.iter().all(|field| field.holds(request.query))
    }
}
