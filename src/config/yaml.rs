//! YAML text to a tree that knows where each of its nodes stands, and values back to YAML.
//!
//! This module alone knows which YAML libraries we use.

use std::ops::Range;

use super::report::{Path, Segment};

mod build;
mod scalar;
mod syntax;

pub(super) use build::{Read, read, twice};

/// Deeper nesting is refused, so that walking a tree may recurse.
pub const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Bytes of the text. A node that came through an alias has the place of its anchor's node.
    pub span: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// The value of a [`Node`], by the core schema of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number, `.inf` and `.nan` among them.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map in the order of the file. No key is there twice.
    Map(Vec<(Key, Node)>),
    /// What cannot be read and has been told already.
    Invalid,
}

/// A key of a map. Keys that are no text are held as they are spelled: `13306`.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Bytes of the text.
    pub span: Range<usize>,
}

/// A text, its tree, and how to find one in the other.
#[derive(Clone, Debug)]
pub struct Source {
    text: String,
    root: Node,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    pub(super) fn new(text: &str, root: Node) -> Self {
        let mut lines = vec![0];
        let bytes = text.as_bytes();
        // YAML also takes a lone carriage return for a line break.
        lines.extend(bytes.iter().enumerate().filter_map(|(at, byte)| match byte {
            b'\n' => Some(at + 1),
            b'\r' if bytes.get(at + 1) != Some(&b'\n') => Some(at + 1),
            _ => None,
        }));
        Self { text: text.to_owned(), root, lines }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tree, without what was found to be wrong.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The bytes of the value at `path`, or of its nearest ancestor that exists.
    pub fn span_of(&self, path: &Path) -> Range<usize> {
        self.walk(path).0.span.clone()
    }

    /// The bytes of the key that `path` ends with; of the value, or of its nearest ancestor, if
    /// there is none.
    pub fn span_of_key(&self, path: &Path) -> Range<usize> {
        let (node, key) = self.walk(path);
        key.map_or_else(|| node.span.clone(), |key| key.span.clone())
    }

    /// The deepest node on the way, and the nearest key above it.
    fn walk(&self, path: &Path) -> (&Node, Option<&Key>) {
        let mut node = &self.root;
        let mut key = None;
        for segment in path.segments() {
            let next = match (&node.kind, segment) {
                // One value may stand for a list of one.
                (Kind::Map(_), Segment::Index(0)) => continue,
                (Kind::Map(entries), Segment::Key(name)) => entries
                    .iter()
                    .find(|(key, _)| key.name == *name)
                    .map(|(key, value)| (value, Some(key))),
                (Kind::Seq(items), Segment::Index(index)) => {
                    items.get(*index).map(|item| (item, None))
                }
                _ => None,
            };
            match next {
                Some(found) => (node, key) = found,
                None => break,
            }
        }
        (node, key)
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let window = self.line_span(line);
        let before = self.text.get(window.start..offset.clamp(window.start, window.end));
        (line, before.unwrap_or_default().chars().count() + 1)
    }

    /// The bytes of a line, counted from 1, without its line break or a byte order mark.
    pub fn line_span(&self, line: usize) -> Range<usize> {
        let mut start = self.lines.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        if start == 0 && self.text.starts_with('\u{feff}') {
            start = '\u{feff}'.len_utf8();
        }
        let body = self.text.get(start..end).unwrap_or_default();
        start..start + body.trim_end_matches(['\r', '\n']).len()
    }
}

/// A value as YAML, for dumps.
pub fn to_string<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}
