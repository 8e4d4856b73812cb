//! What a route asks of a header field or of a parameter of the query.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HeaderName;

use super::path::hex;
use super::pattern::{PatternError, WholeRegex};

/// A condition on the values of one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMatch<N> {
    pub name: N,
    pub condition: Condition,
}

/// A field may be there several times: one value that fits is enough. Values are compared as they
/// are, lists in them are not taken apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    Exact(String),
    /// The whole of a value, which has to be UTF-8.
    Regex(WholeRegex),
    /// Whether the field is there, of whatever value.
    Present(bool),
    /// No value is this one; also holds where the field is not there.
    Not(String),
}

impl Condition {
    /// # Errors
    /// If the expression is invalid, or too big when compiled.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        WholeRegex::new(text).map(Self::Regex)
    }

    fn holds<'a>(&self, mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> bool {
        match self {
            Self::Exact(wanted) => values.any(|value| *value == *wanted.as_bytes()),
            Self::Regex(regex) => values
                .any(|value| std::str::from_utf8(&value).is_ok_and(|text| regex.is_match(text))),
            Self::Present(present) => values.next().is_some() == *present,
            Self::Not(unwanted) => values.all(|value| *value != *unwanted.as_bytes()),
        }
    }
}

/// A condition on a header field.
pub type HeaderMatch = FieldMatch<HeaderName>;

impl HeaderMatch {
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(&self.name).iter();
        self.condition.holds(values.map(|value| Cow::Borrowed(value.as_bytes())))
    }
}

impl FieldMatch<String> {
    /// `query` is what follows the `?`: pairs by `&`, percent-encoded, `+` for a space. A parameter
    /// without `=` has an empty value.
    pub(super) fn holds(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let ours = pairs.filter(|(name, _)| *form_decoded(name) == *self.name.as_bytes());
        self.condition.holds(ours.map(|(_, value)| form_decoded(value)))
    }
}

/// A name or value of a query, as it is meant. A `%` that encodes nothing stays.
pub fn form_decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = match byte {
            b'%' => hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2))),
            _ => None,
        };
        match encoded {
            Some((high, low)) => out.push(high << 4 | low),
            None if byte == b'+' => out.push(b' '),
            None => out.push(byte),
        }
        at += if encoded.is_some() { 3 } else { 1 };
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn query(name: &str, condition: Condition, query: &str) -> bool {
        FieldMatch { name: name.to_string(), condition }.holds(Some(query))
    }

    #[test]
    fn one_value_that_fits_is_enough_and_one_too_many_for_not() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("x-b", HeaderValue::from_bytes(b"\xff").unwrap());
        let holds = |name: &'static str, condition: Condition| {
            FieldMatch { name: HeaderName::from_static(name), condition }.holds(&headers)
        };
        assert!(holds("x-a", Condition::Exact("2".into())));
        assert!(!holds("x-a", Condition::Exact("12".into())));
        assert!(holds("x-a", Condition::regex("[2-9]").unwrap()));
        assert!(!holds("x-a", Condition::regex("[3-9]").unwrap()));
        assert!(!holds("x-a", Condition::Not("2".into())));
        assert!(holds("x-a", Condition::Not("3".into())));
        assert!(holds("x-c", Condition::Not("3".into())));
        assert!(holds("x-a", Condition::Present(true)));
        assert!(!holds("x-a", Condition::Present(false)));
        assert!(holds("x-c", Condition::Present(false)));
        assert!(!holds("x-b", Condition::regex("(?s).*").unwrap()));
        assert!(holds("x-b", Condition::Present(true)));
    }

    #[test]
    fn queries_are_decoded() {
        let exact = |text: &str| Condition::Exact(text.into());
        assert!(query("a", exact("1"), "b=2&a=1"));
        assert!(query("a", exact("1"), "a=2&a=1"));
        assert!(query("a", exact("x y&z"), "a=x+y%26z"));
        assert!(query("a b", exact("1"), "a%20b=1"));
        assert!(query("a", exact("%zz%"), "a=%zz%"));
        assert!(query("a", exact("1=2"), "a=1=2"));
        assert!(query("a", exact(""), "a"));
        assert!(query("a", Condition::Present(true), "&&a"));
        assert!(query("a", Condition::Present(false), "aa=1&="));
        assert!(!query("a", Condition::Not("1".into()), "a=%31"));
        assert!(query("a", Condition::regex("[0-9]{2}").unwrap(), "a=1%32"));
        let absent = FieldMatch { name: "a".to_string(), condition: Condition::Present(false) };
        assert!(absent.holds(None));
    }
}
