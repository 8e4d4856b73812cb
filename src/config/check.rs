//! The tree against the shapes: every mistake of structure in one walk. What is wrong is taken out
//! of the tree, so that the rest fills the types and can be judged by its meaning in the same run.

use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;

use super::report::{Mistake, Path, Segment, closest, quote};
use super::schema::Config;
use super::shape::{Id, MapShape, Shape, Shapes, Text};
use super::units::{Format, Invalid};
use super::yaml::{self, Key, Kind, Node, Source};

/// What [`parse`] makes of a text.
#[derive(Debug)]
pub struct Parsed {
    /// What could be read. Without mistakes it is all of the text.
    pub schema: Config,
    /// The text, to place further mistakes. Its tree is as `schema`: pruned of what is wrong.
    pub source: Source,
    /// In no order; [`super::render`] sorts them.
    pub mistakes: Vec<Mistake>,
    /// `false`: nothing could be read (the syntax is broken), so `schema` is empty and what it
    /// lacks is no mistake.
    pub readable: bool,
}

/// Reads a configuration, as far as it can be read. Never fails: what is wrong is in `mistakes`.
pub fn parse(text: &str) -> Parsed {
    let yaml::Read { mut root, mut mistakes, complete } = yaml::read(text);
    if !complete {
        let source = Source::new(text, root);
        return Parsed { schema: Config::default(), source, mistakes, readable: false };
    }
    let shapes = Shapes::get();
    let mut checker = Checker { text, shapes, path: Vec::new(), mistakes: Vec::new() };
    let kept = checker.node(&mut root, shapes.root(), None);
    mistakes.append(&mut checker.mistakes);
    let schema = if kept { Config::deserialize(&root) } else { Ok(Config::default()) };
    let schema = schema.unwrap_or_else(|error| {
        // The types and their schema disagree. Whoever typed the file still learns the place.
        let span = error.span.unwrap_or(0..0);
        mistakes.push(Mistake::at(Path::root(), error.message).span(span));
        Config::default()
    });
    Parsed { schema, source: Source::new(text, root), mistakes, readable: kept }
}

/// Messages name what they are about by its last key: the excerpt shows the rest.
struct Checker<'a> {
    text: &'a str,
    shapes: &'static Shapes,
    path: Vec<Segment>,
    mistakes: Vec<Mistake>,
}

impl Checker<'_> {
    /// Checks `node` and what is below. `false`: it is of no use and must be taken out; why has
    /// been told.
    fn node(&mut self, node: &mut Node, shape: &Shape, key: Option<&Range<usize>>) -> bool {
        if shape.any {
            return !matches!(node.kind, Kind::Invalid);
        }
        let spelled = self.text.get(node.span.clone()).unwrap_or_default();
        match &mut node.kind {
            Kind::Invalid => return false,
            Kind::Null => {
                return self.null(node, shape, key);
            }
            Kind::Bool(false) if shape.off => {
                node.kind = Kind::String("off".to_owned());
                return true;
            }
            Kind::Bool(_) if shape.boolean => return true,
            Kind::Int(value) if !shape.numbers.is_empty() || shape.integer.is_some() => {
                let value = *value;
                return self.integer(value, &node.span, shape);
            }
            // `version: 1.10` is the text `1.10`, whatever YAML thinks of it.
            Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) if shape.text.is_some() => {
                let spelled = spelled.to_owned();
                let good = self.text(&spelled, &node.span, shape);
                node.kind = Kind::String(spelled);
                return good;
            }
            Kind::String(text) if shape.text.is_some() || !shape.literals.is_empty() => {
                let text = std::mem::take(text);
                let good = self.text(&text, &node.span, shape);
                node.kind = Kind::String(text);
                return good;
            }
            Kind::Seq(items) => {
                if let Some(of) = shape.list {
                    self.list(items, of);
                    return true;
                }
            }
            Kind::Map(entries) => {
                if let Some(map) = &shape.map {
                    return self.map(entries, map, &node.span, key);
                }
            }
            _ => {}
        }
        self.wrong_kind(node, shape);
        false
    }

    /// A key without a value: of a map that needs nothing, it is that map.
    fn null(&mut self, node: &mut Node, shape: &Shape, key: Option<&Range<usize>>) -> bool {
        if shape.map.as_ref().is_some_and(|map| map.required.is_empty()) && shape.text.is_none() {
            node.kind = Kind::Map(Vec::new());
            return true;
        }
        let place = key.cloned().unwrap_or(node.span.clone());
        let mistake = self.mistake(format!("{} is empty", self.name()));
        self.tell(mistake.help(format!("write {}", shape.expected())), &place);
        false
    }

    fn integer(&mut self, value: i128, span: &Range<usize>, shape: &Shape) -> bool {
        let in_range = shape.integer.is_some_and(|(min, max)| (min..=max).contains(&value));
        if in_range || shape.numbers.contains(&value) {
            return true;
        }
        let message = format!("{} cannot be {value}", self.name());
        let mistake = self.mistake(message).help(match shape.integer {
            Some((min, max)) => format!("write a whole number from {min} to {max}"),
            None => format!("write {}", shape.expected()),
        });
        self.tell(mistake, span);
        false
    }

    fn text(&mut self, text: &str, span: &Range<usize>, shape: &Shape) -> bool {
        if shape.literals.iter().any(|literal| literal == text) {
            return true;
        }
        let refused = match shape.text {
            Some(Text::Free) => return true,
            Some(Text::Unit(unit)) => match (unit.canonical)(text) {
                Ok(_) => return true,
                Err(invalid) => Some(invalid),
            },
            None => None,
        };
        let meant = meant_literal(text, shape);
        let mistake = match (refused, meant) {
            (None, Some(meant)) => {
                let others = shape.expected();
                self.mistake(format!("{} cannot be {}", self.name(), quote(text)))
                    .help(format!("did you mean `{meant}`? It can be {others}"))
            }
            (None, None) => self
                .mistake(format!("{} cannot be {}", self.name(), quote(text)))
                .help(format!("write {}", shape.expected())),
            (Some(Invalid { message, .. }), Some(meant)) => self
                .mistake(format!("{}: {message}", self.name()))
                .help(format!("did you mean `{meant}`?")),
            (Some(Invalid { message, help }), None) => {
                self.mistake(format!("{}: {message}", self.name())).help(help)
            }
        };
        self.tell(mistake, span);
        false
    }

    /// Takes bad items out. The indices of a mistake's path count them still.
    fn list(&mut self, items: &mut Vec<Node>, of: Id) {
        let shape = self.shapes.shape(of);
        let mut index = 0;
        items.retain_mut(|item| {
            self.path.push(Segment::Index(index));
            index += 1;
            let kept = self.node(item, shape, None);
            self.path.pop();
            kept
        });
    }

    fn map(
        &mut self,
        entries: &mut Vec<(Key, Node)>,
        shape: &MapShape,
        span: &Range<usize>,
        at: Option<&Range<usize>>,
    ) -> bool {
        let mut bad = Vec::new();
        let mut there = Vec::new();
        let mut canonical = HashMap::new();
        entries.retain_mut(|(key, value)| {
            if let Some(property) = shape.properties.get(&key.name) {
                // Nothing after the colon is the same as no key at all.
                if value.kind == Kind::Null {
                    return false;
                }
                there.push(key.name.clone());
                let kept = self.entry(key, value, self.shapes.shape(*property));
                if !kept {
                    bad.push(key.name.clone());
                }
                return kept;
            }
            match shape.others {
                Some((others, unit)) => {
                    self.key(key, unit, &mut canonical) && self.other(key, value, others)
                }
                None => {
                    let meant = closest(&key.name, shape.properties.keys().map(String::as_str));
                    let mistake = self.unknown(key, shape, meant);
                    self.tell(mistake, &key.span);
                    // What is only misspelt is not missing as well.
                    there.extend(meant.map(str::to_owned));
                    bad.extend(meant.map(str::to_owned));
                    false
                }
            }
        });
        for required in shape.required.iter().filter(|required| !there.contains(required)) {
            let place = at.cloned().unwrap_or(span.start..span.start);
            let example = shape.properties.get(required).map(|id| self.shapes.shape(*id));
            let what = example.map(Shape::expected).unwrap_or_default();
            let name = self.name();
            let mistake =
                Mistake::at_key(self.path.clone().into(), format!("{name} needs `{required}`"))
                    .help(format!("add `{required}:` with {what}"));
            self.tell(mistake, &place);
        }
        shape.required.iter().all(|required| there.contains(required) && !bad.contains(required))
    }

    fn entry(&mut self, key: &Key, value: &mut Node, shape: &Shape) -> bool {
        self.path.push(Segment::Key(key.name.clone()));
        let kept = self.node(value, shape, Some(&key.span));
        self.path.pop();
        kept
    }

    /// An entry under a name of the user's. If it can be empty it stays, emptied, so that what
    /// refers to it finds it.
    fn other(&mut self, key: &Key, value: &mut Node, shape: Id) -> bool {
        let shape = self.shapes.shape(shape);
        let kept = self.entry(key, value, shape);
        if !kept && shape.map.as_ref().is_some_and(|map| map.required.is_empty()) {
            value.kind = Kind::Map(Vec::new());
            return true;
        }
        kept
    }

    /// Checks a name of the user's and spells it as the types do. `canonical`: the keys so far.
    fn key(
        &mut self,
        key: &mut Key,
        unit: Option<&Format>,
        canonical: &mut HashMap<String, Key>,
    ) -> bool {
        let Some(unit) = unit else { return true };
        match (unit.canonical)(&key.name) {
            Ok(name) => {
                if let Some(first) = canonical.get(&name) {
                    self.mistakes.push(yaml::twice(self.text, first, key));
                    return false;
                }
                canonical.insert(name.clone(), key.clone());
                key.name = name;
                true
            }
            Err(Invalid { message, help }) => {
                let path = self.path_of(key);
                self.tell(Mistake::at_key(path, message).help(help), &key.span);
                false
            }
        }
    }

    fn unknown(&self, key: &Key, shape: &MapShape, meant: Option<&str>) -> Mistake {
        let message = match self.path.last() {
            None => format!("unknown key {}", quote(&key.name)),
            Some(_) => format!("unknown key {} in {}", quote(&key.name), self.name()),
        };
        let mistake = Mistake::at_key(self.path_of(key), message);
        let below = shape.properties.iter().find(|(_, id)| {
            let child = self.shapes.shape(**id).map.as_ref();
            child.is_some_and(|child| child.properties.contains_key(&key.name))
        });
        match (meant, below) {
            (Some(meant), _) => mistake.help(format!("did you mean `{meant}`?")),
            (None, Some((parent, _))) => {
                mistake.help(format!("{} belongs below `{parent}:`", quote(&key.name)))
            }
            (None, None) => mistake.help(format!("the keys here are {}", shape.keys())),
        }
    }

    fn wrong_kind(&mut self, node: &Node, shape: &Shape) {
        let found = match &node.kind {
            Kind::String(text) => format!("the text {}", quote(text)),
            Kind::Seq(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
            _ => quote(self.text.get(node.span.clone()).unwrap_or_default()),
        };
        let message = format!("{} must be {}, not {found}", self.name(), shape.expected());
        let mistake = self.mistake(message);
        let numeric = shape.integer.is_some() || !shape.numbers.is_empty();
        let mistake = match &node.kind {
            Kind::String(text) if numeric && text.parse::<i64>().is_ok() => {
                mistake.help(format!("write `{text}` without quotes"))
            }
            Kind::Map(_) if shape.list.is_some() => {
                mistake.help("begin each item of a list with `- `")
            }
            // Not what is on unless somebody says otherwise.
            Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_)
                if shape.is_off_by_default && shape.map.is_some() =>
            {
                mistake.help(match &shape.map {
                    Some(map) if !map.required.is_empty() => {
                        format!("write a map with `{}`, or `off`", map.required.join("`, `"))
                    }
                    _ => "write a map of what is not as usual (`{}`: nothing), or `off`".to_owned(),
                })
            }
            Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_)
                if shape.list.is_some() =>
            {
                let spelled = self.text.get(node.span.clone()).unwrap_or_default();
                mistake.help(format!("write {}", quote(&format!("[{spelled}]"))))
            }
            Kind::Bool(true) if shape.off => mistake.help("leave it out: it is on by default"),
            Kind::String(text) if shape.boolean => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" => mistake.help("write `true`"),
                "no" | "off" | "n" => mistake.help("write `false`"),
                _ => mistake,
            },
            _ => match &shape.map {
                Some(map) if !map.properties.is_empty() && map.others.is_none() => {
                    mistake.help(format!("the keys of the map are {}", map.keys()))
                }
                _ => mistake,
            },
        };
        self.tell(mistake, &node.span);
    }

    fn mistake(&self, message: String) -> Mistake {
        Mistake::at(self.path.clone().into(), message)
    }

    fn tell(&mut self, mistake: Mistake, span: &Range<usize>) {
        self.mistakes.push(mistake.span(span.clone()));
    }

    fn path_of(&self, key: &Key) -> Path {
        Path::from(self.path.clone()).join(&key.name)
    }

    /// What a message calls the current place: `policy`, `endpoints[1]`.
    fn name(&self) -> String {
        let is_key = |segment: &Segment| matches!(segment, Segment::Key(_));
        match self.path.iter().rposition(is_key) {
            Some(key) => format!("`{}`", Path::from(self.path[key..].to_vec())),
            None => "the configuration".to_owned(),
        }
    }
}

/// The literal that `text` probably meant.
fn meant_literal<'a>(text: &str, shape: &'a Shape) -> Option<&'a str> {
    let off = matches!(
        text.to_ascii_lowercase().as_str(),
        "no" | "none" | "never" | "false" | "disable" | "disabled" | "null" | "-"
    );
    let mut literals = shape.literals.iter().map(String::as_str);
    if off && let Some(off) = literals.clone().find(|literal| *literal == "off") {
        return Some(off);
    }
    // Two letters are near to everything: a text that is no unit is rarely a mistyped `off`.
    closest(text, literals.by_ref())
}
