//! Which requests a route takes.

use super::super::schema::{Match, ValueMatch};
use super::super::units;
use super::{Compiler, Mistake, Path};
use crate::route::{Condition, FieldMatch, HostPattern, Matcher, PathPattern, PatternError};

impl Compiler<'_> {
    pub(super) fn matcher(&mut self, typed: Option<&Match>, at: &Path) -> Option<Matcher> {
        let empty = Match::default();
        let typed = typed.unwrap_or(&empty);
        let before = self.mistakes.len();
        let path = self.path_pattern(typed, at);
        if typed.host.is_some() && typed.hosts.is_some() {
            self.mistake(
                Mistake::at_key(at.join("hosts"), "`host` and `hosts` are both given")
                    .help("put all of them under `hosts`"),
            );
        }
        let one = typed.host.iter().map(|host| (host, at.join("host")));
        let several = typed.hosts.iter().flatten().enumerate();
        let several = several.map(|(index, host)| (host, at.join("hosts").join(index)));
        let typed_hosts: Vec<_> = one.chain(several).collect();
        // `*` is any host, as if no other had been named.
        let hosts = if typed_hosts.iter().any(|(host, _)| host.as_str() == "*") {
            Vec::new()
        } else {
            let patterns = typed_hosts.into_iter();
            patterns
                .filter_map(|(host, at)| self.pattern(HostPattern::parse(host.as_str()), at))
                .collect()
        };
        let headers: Vec<_> = typed
            .headers
            .iter()
            .flatten()
            .filter_map(|(name, value): (&units::HeaderName, _)| {
                let condition = self.condition(value, &at.join("headers").join(name))?;
                Some(FieldMatch { name: name.0.clone(), condition })
            })
            .collect();
        let query: Vec<_> = typed
            .query
            .iter()
            .flatten()
            .filter_map(|(name, value): (&String, _)| {
                let condition = self.condition(value, &at.join("query").join(name))?;
                Some(FieldMatch { name: name.clone(), condition })
            })
            .collect();
        let methods = typed.methods.iter().flatten().map(|method| method.0.clone()).collect();
        let path = path?;
        (self.mistakes.len() == before).then_some(Matcher { hosts, path, methods, headers, query })
    }

    fn path_pattern(&mut self, typed: &Match, at: &Path) -> Option<PathPattern> {
        let given = [
            ("path", typed.path.is_some()),
            ("path_prefix", typed.path_prefix.is_some()),
            ("path_regex", typed.path_regex.is_some()),
        ];
        let Some(key) = self.at_most_one(&given, at, "keep one of them")? else {
            return Some(PathPattern::Any);
        };
        let text = |path: &Option<units::UrlPath>| {
            path.as_ref().map(|path| path.as_str().to_owned()).unwrap_or_default()
        };
        let pattern = match key {
            "path" => {
                let text = text(&typed.path);
                if text.contains(['{', '}']) {
                    PathPattern::template(&text)
                } else {
                    PathPattern::exact(&text)
                }
            }
            "path_prefix" => PathPattern::prefix(&text(&typed.path_prefix)),
            _ => PathPattern::regex(typed.path_regex.as_deref().unwrap_or_default()),
        };
        self.pattern(pattern, at.join(key))
    }

    pub(super) fn pattern<T>(&mut self, pattern: Result<T, PatternError>, at: Path) -> Option<T> {
        pattern.map_err(|error| self.mistake(Mistake::at(at, error.to_string()))).ok()
    }

    pub(super) fn condition(&mut self, typed: &ValueMatch, at: &Path) -> Option<Condition> {
        let condition = match typed {
            ValueMatch::Exact(text) => return Some(Condition::Exact(text.clone())),
            ValueMatch::Condition(condition) => condition,
        };
        match (&condition.present, &condition.regex, &condition.not) {
            (Some(present), None, None) => Some(Condition::Present(*present)),
            (None, Some(regex), None) => self.pattern(Condition::regex(regex), at.join("regex")),
            (None, None, Some(not)) => Some(Condition::Not(not.clone())),
            _ => {
                let mistake = Mistake::at(
                    at.clone(),
                    "a condition is exactly one of `present`, `regex`, `not`",
                );
                self.mistake(
                    mistake
                        .help("write the value itself where it has to be equal")
                        .unless_wrong(at.clone()),
                );
                None
            }
        }
    }

    /// Of `keys` the one that is given. `None`, and told, if there are more.
    pub(super) fn at_most_one(
        &mut self,
        keys: &[(&'static str, bool)],
        at: &Path,
        help: &str,
    ) -> Option<Option<&'static str>> {
        let mut given = keys.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
        let (first, second) = (given.next(), given.next());
        if let (Some(first), Some(second)) = (first, second) {
            let message = format!("`{first}` and `{second}` are both given");
            self.mistake(Mistake::at_key(at.join(second), message).help(help));
            return None;
        }
        Some(first)
    }
}
