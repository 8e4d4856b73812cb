//! Path patterns by segment.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::pattern::Segment;

/// Paths of segments, some of them parameters, each with the routes that have it. A request visits
/// a node at most once, and no node deeper than its own path.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// Segments of the longest path.
    depth: usize,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    parameter: Option<u32>,
    /// Mostly one: it stands in the node itself.
    routes: SmallVec<[u32; 2]>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], depth: 0 }
    }
}

impl Trie {
    /// Routes of the same path are offered in the order in which they came.
    pub(super) fn insert(&mut self, segments: &[Segment], route: u32) {
        let mut at = 0;
        for segment in segments {
            let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let node = &mut self.nodes[at as usize];
            at = match segment {
                Segment::Literal(text) => {
                    *node.literals.entry(text.as_str().into()).or_insert(next)
                }
                Segment::Parameter => *node.parameter.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at as usize].routes.push(route);
        self.depth = self.depth.max(segments.len());
    }

    /// The first route that `accept`s, of those whose segments are all of the path's: at the
    /// leftmost difference a literal goes before a parameter.
    pub(super) fn whole(&self, path: &str, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let mut segments: SmallVec<[&str; 16]> = SmallVec::new();
        for segment in segments_of(path) {
            // Every pattern is shorter than this path.
            if segments.len() == self.depth {
                return None;
            }
            segments.push(segment);
        }
        let mut open: SmallVec<[(u32, usize); 16]> = SmallVec::new();
        open.push((0, 0));
        while let Some((at, depth)) = open.pop() {
            let node = &self.nodes[at as usize];
            let Some(segment) = segments.get(depth) else {
                match node.routes.iter().find(|route| accept(**route)) {
                    Some(route) => return Some(*route),
                    None => continue,
                }
            };
            // What is pushed last is looked at first.
            if let Some(next) = node.parameter.filter(|_| !segment.is_empty()) {
                open.push((next, depth + 1));
            }
            if let Some(next) = node.literals.get(*segment) {
                open.push((*next, depth + 1));
            }
        }
        None
    }

    /// The first route that `accept`s, of those whose segments begin the path's: longest first. For
    /// a trie without parameters.
    pub(super) fn beginning(&self, path: &str, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let mut passed: SmallVec<[u32; 16]> = SmallVec::new();
        passed.push(0);
        let mut node = &self.nodes[0];
        for segment in segments_of(path) {
            let Some(next) = node.literals.get(segment) else {
                break;
            };
            passed.push(*next);
            node = &self.nodes[*next as usize];
        }
        let mut routes = passed.iter().rev().flat_map(|at| &self.nodes[*at as usize].routes);
        routes.find(|route| accept(**route)).copied()
    }
}

/// Of `/a/b`: `a`, `b`. Of `/`: one that is empty.
pub(super) fn segments_of(path: &str) -> std::str::Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}
