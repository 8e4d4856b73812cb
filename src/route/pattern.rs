//! What hosts and paths of a route look like, and their texts in the configuration.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::path::{PathError, normalise};

/// A pattern in the configuration that can match nothing, or not what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a path begins with `/`: write `/{0}`")]
    NotAbsolute(String),
    #[error("`{0}` is no path: {1}")]
    InvalidPath(String, #[source] PathError),
    #[error(
        "`{1}` cannot be in the path `{0}`: a query is matched by `query`, \
         and other characters are percent-encoded"
    )]
    Character(String, char),
    #[error("unbalanced `{{` or `}}` in `{0}`")]
    Brace(String),
    #[error("`{0}`: a parameter fills a whole segment, as in `/orders/{{id}}`")]
    PartOfSegment(String),
    #[error(
        "`{0}` is no name of a parameter: letters, digits and `_`, as in `{{id}}`; \
         for any number of segments match a prefix"
    )]
    ParameterName(String),
    #[error("the parameter `{{{0}}}` is there twice")]
    DuplicateParameter(String),
    #[error("`{0}` is no valid regular expression: {1}")]
    Regex(String, String),
    #[error("the host is empty; leave `hosts` out to match any")]
    EmptyHost,
    #[error("a wildcard stands for the first labels alone, as in `*.example.com`, not as in `{0}`")]
    Wildcard(String),
    #[error("`{0}`: a host is matched without its port")]
    Port(String),
    #[error("`{0}` is no host name: labels of letters, digits, `-` and `_`, in punycode (`xn--`)")]
    InvalidHost(String),
}

/// Hosts of a route, lower case, without a port and without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `.example.com`: any host below it, at any depth, but not `example.com` itself.
    Suffix(String),
}

impl HostPattern {
    /// Reads `users`, `api.example.com`, `*.example.com`, `10.0.0.1` or `[::1]`, in any casing.
    ///
    /// # Errors
    /// With what would be right.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let host = text.to_ascii_lowercase();
        if host.is_empty() || host == "*" {
            return Err(PatternError::EmptyHost);
        }
        if let Some(rest) = host.strip_prefix('[') {
            return match rest.split_once(']') {
                Some((_, port)) if port.starts_with(':') => Err(PatternError::Port(text.into())),
                Some((address, "")) if address.parse::<Ipv6Addr>().is_ok() => {
                    Ok(Self::Exact(address.into()))
                }
                _ => Err(PatternError::InvalidHost(text.into())),
            };
        }
        let (suffix, labels) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host.as_str()),
        };
        if labels.contains('*') {
            return Err(PatternError::Wildcard(text.into()));
        }
        if labels.contains(':') {
            return Err(PatternError::Port(text.into()));
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !labels.split('.').all(|label| !label.is_empty() && label.bytes().all(valid)) {
            return Err(PatternError::InvalidHost(text.into()));
        }
        Ok(if suffix { Self::Suffix(host[1..].to_string()) } else { Self::Exact(host) })
    }
}

/// Paths of a route. The constructors bring texts to the form of [`normalise`], in which request
/// paths are.
#[derive(Debug, Clone)]
pub enum PathPattern {
    Any,
    Exact(String),
    /// On segment boundaries: `/users` has `/users`, `/users/` and `/users/1`, not `/users2`. A
    /// slash at the end says nothing; `/` has all.
    Prefix(String),
    Template(Template),
    Regex(WholeRegex),
}

impl PathPattern {
    /// # Errors
    /// If `text` is not a path.
    pub fn exact(text: &str) -> Result<Self, PatternError> {
        Ok(Self::Exact(path_text(text)?.into_owned()))
    }

    /// # Errors
    /// If `text` is not a path.
    pub fn prefix(text: &str) -> Result<Self, PatternError> {
        let mut path = path_text(text)?.into_owned();
        if path.len() > 1 && path.ends_with('/') {
            path.pop();
        }
        Ok(Self::Prefix(path))
    }

    /// See [`Template`].
    ///
    /// # Errors
    /// If `text` is not a path, or for a parameter that is not a whole segment, has no name, or the
    /// name of another one.
    pub fn template(text: &str) -> Result<Self, PatternError> {
        Template::parse(text).map(Self::Template)
    }

    /// Matches the whole path, see [`WholeRegex`].
    ///
    /// # Errors
    /// If the expression is invalid, or too big when compiled.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        WholeRegex::new(text).map(Self::Regex)
    }

    /// The text by which metrics and logs name the route: never a raw path.
    pub fn pattern(&self) -> Cow<'_, str> {
        match self {
            Self::Any => "/*".into(),
            Self::Exact(path) => path.into(),
            Self::Prefix(path) => format!("{}/*", path.trim_end_matches('/')).into(),
            Self::Template(template) => template.text.as_str().into(),
            Self::Regex(regex) => regex.as_str().into(),
        }
    }
}

/// Segments of which some are parameters: `/orders/{id}/items`. A parameter fills exactly one
/// segment that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    Parameter,
}

impl Template {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let text = path_text(text)?.into_owned();
        let mut names: Vec<&str> = Vec::new();
        let mut segments = Vec::new();
        for segment in text[1..].split('/') {
            let Some(name) = parameter(segment, &text)? else {
                segments.push(Segment::Literal(segment.into()));
                continue;
            };
            if names.contains(&name) {
                return Err(PatternError::DuplicateParameter(name.into()));
            }
            names.push(name);
            segments.push(Segment::Parameter);
        }
        Ok(Self { text, segments })
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// The name in `{name}`; `None` for a literal segment.
fn parameter<'a>(segment: &'a str, text: &str) -> Result<Option<&'a str>, PatternError> {
    let mut depth = 0_i32;
    for byte in segment.bytes() {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        if !(0..=1).contains(&depth) {
            return Err(PatternError::Brace(text.into()));
        }
    }
    if depth != 0 {
        return Err(PatternError::Brace(text.into()));
    }
    if !segment.contains('{') {
        return Ok(None);
    }
    let name = segment
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .filter(|name| !name.contains('{'))
        .ok_or_else(|| PatternError::PartOfSegment(segment.into()))?;
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(valid) {
        return Err(PatternError::ParameterName(segment.into()));
    }
    Ok(Some(name))
}

fn path_text(text: &str) -> Result<Cow<'_, str>, PatternError> {
    if !text.starts_with('/') {
        return Err(PatternError::NotAbsolute(text.into()));
    }
    let strange = |c: char| !c.is_ascii_graphic() || matches!(c, '?' | '#');
    if let Some(c) = text.chars().find(|c| strange(*c)) {
        return Err(PatternError::Character(text.into(), c));
    }
    normalise(text).map_err(|error| PatternError::InvalidPath(text.into(), error))
}

/// A regular expression that has to match the whole of a text, as Envoy's `safe_regex`. Linear in
/// the text, and bounded in size.
#[derive(Debug, Clone)]
pub struct WholeRegex {
    source: Box<str>,
    compiled: regex::Regex,
}

impl PartialEq for WholeRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl WholeRegex {
    /// Of one expression when compiled, in bytes.
    pub(super) const SIZE_LIMIT: usize = 1 << 20;

    /// # Errors
    /// If the expression is invalid, or too big when compiled.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let build = |text: &str| {
            regex::RegexBuilder::new(text).size_limit(Self::SIZE_LIMIT).build().map_err(|error| {
                // A syntax error is a drawing of several lines; the last one tells.
                let text = error.to_string();
                let told = text.rsplit("error: ").next().unwrap_or(&text);
                PatternError::Regex(source.into(), told.to_owned())
            })
        };
        // By itself first: the parentheses of ours must not complete it (`a)|(b`).
        build(source)?;
        Ok(Self { source: source.into(), compiled: build(&format!(r"\A(?:{source})\z"))? })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// With its anchors, for a set of several.
    pub(super) fn anchored(&self) -> &str {
        self.compiled.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        for (text, host) in [
            ("users", HostPattern::Exact("users".into())),
            ("API.Example.com", HostPattern::Exact("api.example.com".into())),
            ("10.0.0.1", HostPattern::Exact("10.0.0.1".into())),
            ("[::1]", HostPattern::Exact("::1".into())),
            ("*.Example.com", HostPattern::Suffix(".example.com".into())),
            ("*.svc_a", HostPattern::Suffix(".svc_a".into())),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(host), "{text}");
        }
    }

    #[test]
    fn wrong_hosts_are_explained() {
        let error = |text: &str| HostPattern::parse(text).unwrap_err();
        assert_eq!(error(""), PatternError::EmptyHost);
        assert_eq!(error("*"), PatternError::EmptyHost);
        for text in ["a.*.com", "*a.com", "*.*.com", "a*"] {
            assert_eq!(error(text), PatternError::Wildcard(text.into()));
        }
        for text in ["users:80", "[::1]:80"] {
            assert_eq!(error(text), PatternError::Port(text.into()));
        }
        for text in ["a..b", ".a", "a.", "*.", "a/b", "ü.de", "a b", "[::1", "[x]", "[::1]x"] {
            assert_eq!(error(text), PatternError::InvalidHost(text.into()));
        }
    }

    #[test]
    fn paths_are_brought_to_the_form_of_requests() {
        let text = |pattern: Result<PathPattern, _>| pattern.unwrap().pattern().into_owned();
        assert_eq!(text(PathPattern::exact("/a//%7eb/%c3/")), "/a/~b/%C3/");
        assert_eq!(text(PathPattern::prefix("/users/")), "/users/*");
        assert_eq!(text(PathPattern::prefix("/users")), "/users/*");
        assert_eq!(text(PathPattern::prefix("/")), "/*");
        assert_eq!(text(PathPattern::template("/orders//{id}")), "/orders/{id}");
        assert_eq!(text(PathPattern::regex("/a|/b")), "/a|/b");
        assert_eq!(PathPattern::Any.pattern(), "/*");
    }

    #[test]
    fn wrong_paths_are_explained() {
        let exact = |text: &str| PathPattern::exact(text).unwrap_err();
        assert_eq!(exact("users").to_string(), "a path begins with `/`: write `/users`");
        assert_eq!(exact("/a?b=c"), PatternError::Character("/a?b=c".into(), '?'));
        assert_eq!(exact("/a b"), PatternError::Character("/a b".into(), ' '));
        assert_eq!(exact("/é"), PatternError::Character("/é".into(), 'é'));
        assert_eq!(
            exact("/%zz"),
            PatternError::InvalidPath("/%zz".into(), PathError::InvalidEncoding)
        );
        let template = |text: &str| PathPattern::template(text).unwrap_err();
        for text in ["/{", "/}", "/{a", "/a}", "/}{", "/{{a}}", "/{a/b}"] {
            assert_eq!(template(text), PatternError::Brace(text.into()));
        }
        for text in ["v{a}", "{a}.json", "{a}{b}"] {
            let error = template(&format!("/x/{text}"));
            assert_eq!(error, PatternError::PartOfSegment(text.into()));
        }
        for text in ["{}", "{*rest}", "{a-b}"] {
            let error = template(&format!("/x/{text}"));
            assert_eq!(error, PatternError::ParameterName(text.into()));
        }
        assert_eq!(template("/{id}/x/{id}"), PatternError::DuplicateParameter("id".into()));
        assert_eq!(
            template("/x/{*rest}").to_string(),
            "`{*rest}` is no name of a parameter: letters, digits and `_`, as in `{id}`; \
             for any number of segments match a prefix"
        );
    }

    #[test]
    fn expressions_match_the_whole_text() {
        let matches = |source: &str, text: &str| WholeRegex::new(source).unwrap().is_match(text);
        assert!(matches("/a|/ab", "/ab"));
        assert!(!matches("/a|/b", "/ab"));
        assert!(!matches("(?m)^/a$", "/a\n/b"));
        assert!(matches("/v[0-9]+", "/v12"));
        assert!(!matches("/v[0-9]+", "/v12/"));
    }

    #[test]
    fn wrong_expressions_are_refused() {
        for source in ["(", "a)|(b", "[", r"(?:\w{100}){100}", "(?x) a # note"] {
            let error = WholeRegex::new(source).unwrap_err();
            assert!(matches!(error, PatternError::Regex(text, _) if text == source), "{source}");
        }
    }
}
