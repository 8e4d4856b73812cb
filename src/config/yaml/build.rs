//! The events of the parser, made into the tree: anchors, aliases, merges, doubles, limits.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

use super::super::report::{Mistake, Path, quote};
use super::{Key, Kind, MAX_DEPTH, Node, scalar, syntax};

/// How many nodes aliases may add: far more than any real file, far less than a memory.
const MAX_ALIASED_NODES: usize = 100_000;

/// What reading found.
pub(in crate::config) struct Read {
    pub root: Node,
    pub mistakes: Vec<Mistake>,
    /// `false`: the syntax is broken and `root` is an empty map.
    pub complete: bool,
}

/// Reads one document. An empty one is an empty map.
pub(in crate::config) fn read(text: &str) -> Read {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder { text, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => {
                let bracket = builder.open.iter().rev().find(|open| open.flow);
                Err(syntax::mistake(&error, text, bracket.map(|open| open.start)))
            }
        };
        match taken {
            Ok(true) => {}
            Ok(false) => break,
            Err(fatal) => {
                builder.mistakes.push(fatal);
                let root = Node { span: 0..0, kind: Kind::Map(Vec::new()) };
                return Read { root, mistakes: builder.mistakes, complete: false };
            }
        }
    }
    let root = match builder.root {
        Some(Node { span, kind: Kind::Null }) => Node { span, kind: Kind::Map(Vec::new()) },
        Some(root) => root,
        None => Node { span: 0..0, kind: Kind::Map(Vec::new()) },
    };
    Read { root, mistakes: builder.mistakes, complete: true }
}

/// An anchor's node, with what copying it costs.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

/// A list or map whose end has not come yet.
struct Open {
    start: usize,
    anchor: usize,
    content: Content,
    flow: bool,
}

enum Content {
    Seq(Vec<Node>),
    Map { entries: Vec<(Role, Node)>, key: Option<Role> },
}

/// What a key of a map asks for.
enum Role {
    Entry(Key),
    /// `<<`, unquoted.
    Merge(Key),
    /// No text, and told already.
    Invalid,
}

/// Makes the tree of events. It holds its own stack, so depth costs no stack of ours.
#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    aliased: usize,
    root: Option<Node>,
    documents: usize,
    mistakes: Vec<Mistake>,
}

impl Builder<'_> {
    /// `Ok(false)`: nothing that follows matters. `Err`: nothing that came matters either.
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<bool, Mistake> {
        let bytes = span.byte_range().unwrap_or(0..0);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let mistake = Mistake::at(Path::root(), "a second document begins here")
                        .help("write one document: remove this `---` and what follows");
                    self.mistakes.push(mistake.span(bytes));
                    return Ok(false);
                }
            }
            Event::Scalar(value, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let kind = match tag {
                    Some(tag) if tag.is_yaml_core_schema_tag("str") => {
                        Kind::String(value.into_owned())
                    }
                    Some(tag) => self.unknown_tag(&tag.original(), span),
                    None if plain => scalar::resolve(&value),
                    None => Kind::String(value.into_owned()),
                };
                self.finished(Node { span: bytes, kind }, anchor);
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "seq", span);
                self.begin(bytes, anchor, style, Content::Seq(Vec::new()))?;
            }
            Event::MappingStart(style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "map", span);
                let content = Content::Map { entries: Vec::new(), key: None };
                self.begin(bytes, anchor, style, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(bytes.end),
            Event::Alias(id) => self.alias(id, bytes)?,
            Event::UnresolvedAlias(name) => {
                let text = format!("*{name}");
                self.mistakes.push(
                    Mistake::at(Path::root(), format!("no anchor is called {}", quote(&name)))
                        .help(format!("if you mean the text, put it in quotes: `\"{text}\"`"))
                        .span(bytes.clone()),
                );
                self.finished(Node { span: bytes, kind: Kind::Invalid }, 0);
            }
            _ => {}
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        bytes: Range<usize>,
        anchor: usize,
        style: StructureStyle,
        content: Content,
    ) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep().span(bytes));
        }
        let flow = style == StructureStyle::Flow;
        self.open.push(Open { start: bytes.start, anchor, content, flow });
        Ok(())
    }

    fn end(&mut self, end: usize) {
        let Some(open) = self.open.pop() else { return };
        let last = match &open.content {
            Content::Seq(items) => items.last().map(|item| item.span.end),
            Content::Map { entries, .. } => entries.last().map(|(_, value)| value.span.end),
        };
        // A block ends for the parser where the next token begins, maybe many lines below.
        let end = if open.flow { end } else { last.unwrap_or(open.start) };
        let kind = match open.content {
            Content::Seq(items) => Kind::Seq(items),
            Content::Map { entries, .. } => Kind::Map(self.map(entries)),
        };
        self.finished(Node { span: open.start..end.max(open.start), kind }, open.anchor);
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    /// Hangs a whole node where it belongs.
    fn finished(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            let (nodes, height) = measure(&node);
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
        }
        let role = if self.wants_key() { Some(self.role(&node)) } else { None };
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::Seq(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(role) => entries.push((role, node)),
                None => *key = role,
            },
        }
    }

    fn role(&mut self, node: &Node) -> Role {
        let spelled = self.text.get(node.span.clone()).unwrap_or_default();
        let name = match &node.kind {
            Kind::String(name) if name == "<<" && spelled == "<<" => {
                return Role::Merge(Key { name: name.clone(), span: node.span.clone() });
            }
            Kind::String(name) => name.clone(),
            Kind::Invalid => return Role::Invalid,
            Kind::Null if spelled.is_empty() => return self.no_text(node),
            Kind::Seq(_) | Kind::Map(_) => return self.no_text(node),
            Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => spelled.to_owned(),
        };
        Role::Entry(Key { name, span: node.span.clone() })
    }

    fn no_text(&mut self, node: &Node) -> Role {
        let mistake = Mistake::at(Path::root(), "a key must be a text")
            .help("write `key: value`; a text with `{` or `[` needs quotes");
        self.mistakes.push(mistake.span(node.span.clone()));
        Role::Invalid
    }

    /// Resolves doubles and merges.
    fn map(&mut self, entries: Vec<(Role, Node)>) -> Vec<(Key, Node)> {
        let mut seen: HashMap<String, usize> = HashMap::with_capacity(entries.len());
        let mut map: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        let mut merges = Vec::new();
        for (role, value) in entries {
            match role {
                Role::Invalid => {}
                Role::Merge(key) => merges.push((key, value)),
                Role::Entry(key) => match seen.get(&key.name) {
                    Some(first) => self.mistakes.push(twice(self.text, &map[*first].0, &key)),
                    None => {
                        seen.insert(key.name.clone(), map.len());
                        map.push((key, value));
                    }
                },
            }
        }
        for (key, value) in merges {
            for (key, value) in self.merged(&key, value) {
                if !seen.contains_key(&key.name) {
                    seen.insert(key.name.clone(), map.len());
                    map.push((key, value));
                }
            }
        }
        map
    }

    /// What a `<<` brings in; of several maps the first has precedence.
    fn merged(&mut self, key: &Key, value: Node) -> Vec<(Key, Node)> {
        match value.kind {
            Kind::Map(entries) => entries,
            Kind::Seq(items) => items.into_iter().flat_map(|item| self.merged(key, item)).collect(),
            Kind::Invalid => Vec::new(),
            _ => {
                let mistake = Mistake::at_key(Path::root(), "`<<` merges a map, and this is none")
                    .help("write `<<: *anchor`, where the anchor is before a map");
                self.mistakes.push(mistake.span(key.span.clone()));
                Vec::new()
            }
        }
    }

    fn alias(&mut self, id: usize, bytes: Range<usize>) -> Result<(), Mistake> {
        let Some(anchored) = self.anchors.get(&id) else {
            let mistake = Mistake::at(Path::root(), "this alias stands inside of its own anchor");
            self.mistakes.push(mistake.help("write the value out").span(bytes.clone()));
            self.finished(Node { span: bytes, kind: Kind::Invalid }, 0);
            return Ok(());
        };
        self.aliased += anchored.nodes;
        if self.aliased > MAX_ALIASED_NODES {
            let message = format!("the aliases stand for more than {MAX_ALIASED_NODES} values");
            let mistake = Mistake::at(Path::root(), message);
            return Err(mistake.help("write the values out, or generate the file").span(bytes));
        }
        if self.open.len() + anchored.height > MAX_DEPTH {
            return Err(too_deep().span(bytes));
        }
        let mut node = anchored.node.clone();
        // A key is shown where it stands, not where its anchor does.
        if self.wants_key() {
            node.span = bytes;
        }
        self.finished(node, 0);
        Ok(())
    }

    fn refuse_tag(&mut self, tag: Option<&granit_parser::Tag>, own: &str, span: &Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(own)) {
            self.unknown_tag(&tag.original(), span);
        }
    }

    fn unknown_tag(&mut self, tag: &str, span: &Span) -> Kind {
        let place = span.tag_span().unwrap_or(*span).byte_range().unwrap_or(0..0);
        let mistake = Mistake::at(Path::root(), format!("the tag {} is not known", quote(tag)))
            .help("remove it; to make a text of a number, put it in quotes");
        self.mistakes.push(mistake.span(place));
        Kind::Invalid
    }
}

/// That `again` is the same key as `first`.
pub(in crate::config) fn twice(text: &str, first: &Key, again: &Key) -> Mistake {
    let line = text[..first.span.start].matches('\n').count() + 1;
    Mistake::at_key(Path::root(), format!("the key {} is there twice", quote(&again.name)))
        .help(format!("the first is on line {line}: merge the two, or remove one"))
        .span(again.span.clone())
}

pub(super) fn too_deep() -> Mistake {
    Mistake::at(Path::root(), format!("more than {MAX_DEPTH} levels of nesting"))
        .help("no configuration is that deep: is a bracket or an indentation wrong above?")
}

/// How many nodes, and how many levels of lists and maps.
fn measure(node: &Node) -> (usize, usize) {
    let children: Box<dyn Iterator<Item = &Node>> = match &node.kind {
        Kind::Seq(items) => Box::new(items.iter()),
        Kind::Map(entries) => Box::new(entries.iter().map(|(_, value)| value)),
        _ => return (1, 0),
    };
    let (nodes, height) =
        children.map(measure).fold((0, 0), |(nodes, height), (n, h)| (nodes + n, height.max(h)));
    (nodes + 1, height + 1)
}
