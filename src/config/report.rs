//! What is wrong in a configuration, and how it is told.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{
    AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str as normalize,
};

use super::yaml::Source;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// A key of a map.
    Key(String),
    /// A place in a list, from 0.
    Index(usize),
}

impl From<&str> for Segment {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<String> for Segment {
    fn from(key: String) -> Self {
        Self::Key(key)
    }
}

impl From<&String> for Segment {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

macro_rules! segment_of_unit {
    ($($unit:ty),*) => {$(
        impl From<&$unit> for Segment {
            fn from(unit: &$unit) -> Self {
                Self::Key(unit.to_string())
            }
        }
    )*};
}
segment_of_unit!(super::units::Name, super::units::HeaderName, super::units::Port);

/// Where a value is: `services.user-service.endpoints[1]`. Keys are spelled as the schema holds
/// them, so names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The whole document.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path of what stands at `segment` of this.
    #[must_use]
    pub fn join(&self, segment: impl Into<Segment>) -> Self {
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        segments.extend_from_slice(&self.0);
        segments.push(segment.into());
        Self(segments)
    }

    /// Its steps, from the root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether this is `scope` or below it.
    pub fn is_within(&self, scope: &Self) -> bool {
        self.0.starts_with(&scope.0)
    }
}

impl From<Vec<Segment>> for Path {
    fn from(segments: Vec<Segment>) -> Self {
        Self(segments)
    }
}

/// `path_to!["services", name, "endpoints", 1]`: each part is a key, an index or a unit that is a key.
macro_rules! path_to {
    ($($segment:expr),* $(,)?) => {
        $crate::config::report::Path::from(vec![
            $($crate::config::report::Segment::from($segment)),*
        ])
    };
}
pub(crate) use path_to;

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if is_plain(key) => {
                    write!(f, "{}{key}", if at > 0 { "." } else { "" })?;
                }
                Segment::Key(key) => write!(f, "[{:?}]", shortened(key))?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= LONGEST_QUOTE
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Which part of an entry a mistake points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// What stands after the colon, or in the list.
    Value,
    /// What stands before the colon.
    Key,
}

/// One thing that is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What it is about.
    pub path: Path,
    /// Which part of it.
    pub at: Where,
    /// What is wrong: one line, small first letter, no full stop.
    pub message: String,
    /// What would be right, in the same form.
    pub help: Option<String>,
    /// Set where the path would lead to the wrong place: a duplicate, or what has been pruned.
    span: Option<Range<usize>>,
    /// Not told if there is a mistake of form within one of these.
    moot: Box<[Path]>,
}

impl Mistake {
    /// A mistake of the value at `path`.
    pub fn at(path: Path, message: impl Into<String>) -> Self {
        Self {
            path,
            at: Where::Value,
            message: message.into(),
            help: None,
            span: None,
            moot: Box::default(),
        }
    }

    /// A mistake of the key that `path` ends with.
    pub fn at_key(path: Path, message: impl Into<String>) -> Self {
        Self { at: Where::Key, ..Self::at(path, message) }
    }

    /// Adds what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// For what is missed: it may be there, and be pruned for a mistake of form within `scope`. Then
    /// that mistake is told and not this one.
    #[must_use]
    pub fn unless_wrong(mut self, scope: Path) -> Self {
        self.moot = self.moot.into_iter().chain([scope]).collect();
        self
    }

    /// Fixes the place, as bytes of the text.
    #[must_use]
    pub(super) fn span(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Where it is, as bytes of the text.
    pub fn span_in(&self, source: &Source) -> Range<usize> {
        match (&self.span, self.at) {
            (Some(span), _) => span.clone(),
            (None, Where::Value) => source.span_of(&self.path),
            (None, Where::Key) => source.span_of_key(&self.path),
        }
    }

    /// One line for a log: `file:line:column: message; help`.
    pub fn line(&self, source: &Source, file_name: &str) -> String {
        let (line, column) = source.line_and_column(self.span_in(source).start);
        let mut text = format!("{file_name}:{line}:{column}: {}", one_line(&self.message));
        if let Some(help) = &self.help {
            text.push_str("; ");
            text.push_str(&one_line(help));
        }
        text
    }
}

/// The mistakes of form and of meaning, without those of meaning that only follow from one of form.
pub fn together(form: Vec<Mistake>, meaning: Vec<Mistake>) -> Vec<Mistake> {
    let follows = |mistake: &Mistake| {
        let mut scopes = mistake.moot.iter();
        scopes.any(|scope| form.iter().any(|form| form.path.is_within(scope)))
    };
    let meaning: Vec<_> = meaning.into_iter().filter(|m| !follows(m)).collect();
    form.into_iter().chain(meaning).collect()
}

/// Nobody reads more of them in one go.
const MOST_TOLD: usize = 1000;

/// A line a mistake, in the order of the file; the first thousand.
pub fn lines(mistakes: &[Mistake], source: &Source, file_name: &str) -> Vec<String> {
    let all = in_order(mistakes, source);
    let told = all.iter().take(MOST_TOLD).map(|(_, m)| m.line(source, file_name));
    let more = all.len().saturating_sub(MOST_TOLD);
    told.chain((more > 0).then(|| format!("{file_name}: and {more} more"))).collect()
}

/// The mistakes with their excerpts, in the order of the file, the first thousand. `color` adds ANSI sequences. What
/// the file contains cannot: control characters are replaced.
pub fn render(mistakes: &[Mistake], source: &Source, file_name: &str, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    let all = in_order(mistakes, source);
    let more = all.len().saturating_sub(MOST_TOLD);
    for (span, mistake) in all.into_iter().take(MOST_TOLD) {
        if !text.is_empty() {
            text.push('\n');
        }
        // A mistake is shown on its first line alone; a window of one line also spares mapping the
        // whole file for each mistake.
        let (line, _) = source.line_and_column(span.start);
        let window = source.line_span(line);
        let start = span.start.clamp(window.start, window.end) - window.start;
        let end = span.end.clamp(window.start, window.end) - window.start;
        let snippet = Snippet::source(&source.text()[window])
            .line_start(line)
            .path(file_name)
            .annotation(AnnotationKind::Primary.span(start..end.max(start)));
        let mut group = Group::with_title(Level::ERROR.primary_title(one_line(&mistake.message)))
            .element(snippet);
        if let Some(help) = &mistake.help {
            group = group.element(Level::HELP.message(one_line(help)));
        }
        text.push_str(&renderer.render(&[group]));
        text.push('\n');
    }
    if more > 0 {
        text.push_str(&format!("\nand {more} more\n"));
    }
    text
}

/// By position; what an alias repeats is told once.
fn in_order<'a>(mistakes: &'a [Mistake], source: &Source) -> Vec<(Range<usize>, &'a Mistake)> {
    let mut placed: Vec<_> = mistakes.iter().map(|m| (m.span_in(source), m)).collect();
    placed.sort_by_key(|(span, _)| (span.start, span.end));
    placed.dedup_by(|(span, a), (earlier, b)| {
        span == earlier && a.message == b.message && a.help == b.help
    });
    placed
}

const LONGEST_QUOTE: usize = 60;

/// A piece of the user's text for a message: in backticks, short, on one line.
pub fn quote(text: &str) -> String {
    format!("`{}`", one_line(&shortened(text)))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    normalize(&text.replace("\r\n", " ").replace(['\n', '\r'], " "))
}

/// The candidate that was probably meant by `typed`, if one is near enough.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // `loadBalancer` and `load-balancer` are `load_balancer`.
    let bare = |text: &str| -> Vec<char> {
        let kept = text.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
        kept.flat_map(char::to_lowercase).take(LONGEST_QUOTE).collect()
    };
    let typed = bare(typed);
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, &bare(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(typed.len()) / 3).max(1))
        .filter(|(distance, candidate)| *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Damerau-Levenshtein, in its form of optimal string alignment: insertions, deletions,
/// replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    #[test]
    fn distance_counts_edits_and_swaps() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("endpoint", "endpoints", 1),
            ("polciy", "policy", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(&chars(a), &chars(b)), expected, "{a} {b}");
            assert_eq!(distance(&chars(b), &chars(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn closest_wants_nearness() {
        let keys = ["timeout", "retry", "max_body", "to"];
        assert_eq!(closest("timout", keys), Some("timeout"));
        assert_eq!(closest("maxBody", keys), Some("max_body"));
        assert_eq!(closest("max-body", keys), Some("max_body"));
        assert_eq!(closest("retries", keys), None);
        assert_eq!(closest("cb", keys), None);
        assert_eq!(closest("", keys), None);
    }

    #[test]
    fn a_path_reads_as_it_is_typed() {
        let path = path_to!["services", "user-service", "endpoints", 1];
        assert_eq!(path.to_string(), "services.user-service.endpoints[1]");
        assert_eq!(path_to!["a.b", 0, "c d"].to_string(), r#"["a.b"][0]["c d"]"#);
        assert_eq!(Path::root().to_string(), "");
    }

    #[test]
    fn quotes_are_short_and_harmless() {
        assert_eq!(quote("a\nb\u{1b}[31m"), "`a b␛[31m`");
        assert_eq!(quote(&"é".repeat(100)).chars().count(), LONGEST_QUOTE + 3);
    }
}
