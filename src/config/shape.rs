//! The JSON Schema, turned into what the checker asks of it: for each kind of YAML node, what is
//! allowed. Branches of a union are merged by kind, so that a mistake is judged by the branch that
//! the user meant: a map is compared with the map, a text with the texts.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde_json::Value;

use super::json_schema::json_schema;
use super::units::{FORMATS, Format};

/// The index of a [`Shape`] in [`Shapes`].
pub(super) type Id = usize;

/// What a node may be. All that is set is allowed.
#[derive(Clone, Default)]
pub(super) struct Shape {
    /// Anything, unchecked.
    pub any: bool,
    /// `true` and `false`.
    pub boolean: bool,
    /// `false`, as another spelling of `off`.
    pub off: bool,
    /// It is `off` where nothing is said, by its description.
    pub is_off_by_default: bool,
    /// These texts, in their order.
    pub literals: Vec<String>,
    /// These whole numbers.
    pub numbers: Vec<i128>,
    /// Whole numbers of this range.
    pub integer: Option<(i128, i128)>,
    /// Other texts.
    pub text: Option<Text>,
    /// A list of these.
    pub list: Option<Id>,
    /// A map.
    pub map: Option<MapShape>,
}

/// Which texts.
#[derive(Clone, Copy)]
pub(super) enum Text {
    /// All.
    Free,
    /// Those that this parser takes; a number counts as the text that it is spelled as.
    Unit(&'static Format),
}

/// What a map may hold.
#[derive(Clone, Default)]
pub(super) struct MapShape {
    /// Keys that have a meaning, and what stands at them.
    pub properties: BTreeMap<String, Id>,
    /// Keys that must be there.
    pub required: Vec<String>,
    /// What stands at other keys, and what these keys must be.
    pub others: Option<(Id, Option<&'static Format>)>,
}

/// All shapes of the schema.
pub(super) struct Shapes {
    all: Vec<Shape>,
    root: Id,
}

impl Shapes {
    /// Those of the whole schema, made once. The schema itself, 300 KB, is not kept.
    pub fn get() -> &'static Self {
        static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::of(&json_schema()));
        &SHAPES
    }

    fn of(schema: &Value) -> Self {
        let mut compiler = Compiler { schema, all: Vec::new(), by_reference: HashMap::new() };
        let root = compiler.id(schema);
        Self { all: compiler.all, root }
    }

    /// The whole document.
    pub fn root(&self) -> &Shape {
        self.shape(self.root)
    }

    /// The shape that an id of these shapes stands for.
    pub fn shape(&self, id: Id) -> &Shape {
        &self.all[id]
    }
}

struct Compiler<'a> {
    schema: &'a Value,
    all: Vec<Shape>,
    by_reference: HashMap<&'a str, Id>,
}

impl<'a> Compiler<'a> {
    /// A definition has one id, which is given before its content is known: it may contain itself.
    fn id(&mut self, schema: &'a Value) -> Id {
        let description = schema.get("description").and_then(Value::as_str);
        let schema = without_null(schema);
        let reference = schema.get("$ref").and_then(Value::as_str);
        if let Some(known) = reference.and_then(|reference| self.by_reference.get(reference)) {
            return *known;
        }
        let id = self.all.len();
        self.all.push(Shape::default());
        if let Some(reference) = reference {
            self.by_reference.insert(reference, id);
        }
        let mut shape = Shape::default();
        self.add(&mut shape, schema);
        shape.is_off_by_default =
            description.is_some_and(|text| text.contains("Default: `off`")) && shape.off;
        self.all[id] = shape;
        id
    }

    /// Allows what `schema` allows.
    fn add(&mut self, shape: &mut Shape, schema: &'a Value) {
        let Some(keywords) = schema.as_object() else {
            shape.any |= schema.as_bool().unwrap_or(false);
            return;
        };
        let branches = ["anyOf", "oneOf"].into_iter().filter_map(|union| keywords.get(union));
        let branches: Vec<_> = branches.filter_map(Value::as_array).flatten().collect();
        let chosen = ["enum", "const"].into_iter().find_map(|key| keywords.get(key));
        if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap_or(reference);
            if let Some(definition) = self.schema.pointer(pointer) {
                self.add(shape, definition);
            }
        } else if !branches.is_empty() {
            branches.into_iter().for_each(|branch| self.add(shape, branch));
        } else if let Some(chosen) = chosen {
            match chosen {
                Value::Array(values) => values.iter().for_each(|value| shape.allow(value)),
                value => shape.allow(value),
            }
        } else {
            let types: Vec<&str> = match keywords.get("type") {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            shape.any |= types.is_empty();
            self.add_types(shape, schema, &types);
        }
    }

    fn add_types(&mut self, shape: &mut Shape, schema: &'a Value, types: &[&str]) {
        let unit = schema.get("format").and_then(Value::as_str).and_then(format_of);
        let bound = |key| schema.get(key).and_then(Value::as_i64).map(i128::from);
        for kind in types {
            match (*kind, unit) {
                (_, Some(unit)) => shape.text = Some(Text::Unit(unit)),
                ("string", None) => shape.text = Some(Text::Free),
                ("boolean", None) => shape.boolean = true,
                ("integer", None) => {
                    let range = (bound("minimum"), bound("maximum"));
                    let (minimum, maximum) = range;
                    shape.integer = Some((
                        minimum.unwrap_or(i128::from(i64::MIN)),
                        maximum.unwrap_or(i128::from(i64::MAX)),
                    ));
                }
                ("array", None) => shape.list = schema.get("items").map(|items| self.id(items)),
                ("object", None) => shape.map = Some(self.map(schema)),
                _ => {}
            }
        }
    }

    fn map(&mut self, schema: &'a Value) -> MapShape {
        let mut map = MapShape::default();
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, value) in properties {
                map.properties.insert(key.clone(), self.id(value));
            }
        }
        if let Some(required) = schema.get("required").and_then(Value::as_array) {
            map.required = required.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        if let Some(others) = schema.get("additionalProperties").filter(|o| o.is_object()) {
            let keys = schema.get("propertyNames").map(|keys| self.id(keys));
            let unit = keys.and_then(|keys| match self.all[keys].text {
                Some(Text::Unit(unit)) => Some(unit),
                _ => None,
            });
            map.others = Some((self.id(others), unit));
        }
        map
    }
}

impl MapShape {
    /// The keys that have a meaning, for a message.
    pub fn keys(&self) -> String {
        let keys: Vec<String> = self.properties.keys().map(|key| format!("`{key}`")).collect();
        keys.join(", ")
    }
}

impl Shape {
    fn allow(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.literals.push(text.clone()),
            Value::Bool(false) => self.off = true,
            Value::Number(number) => self.numbers.extend(number.as_i64().map(i128::from)),
            _ => {}
        }
    }

    /// What it may be, for a message: "a duration like `10s`, `off` or a map".
    pub fn expected(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        match self.text {
            Some(Text::Free) => parts.push("a text".to_owned()),
            Some(Text::Unit(unit)) => parts.push(unit.noun.to_owned()),
            None => {}
        }
        if self.boolean {
            parts.extend(["`true`".to_owned(), "`false`".to_owned()]);
        }
        parts.extend(self.numbers.iter().map(|number| format!("`{number}`")));
        match self.integer {
            Some((minimum, maximum)) if minimum >= 0 && maximum <= i128::from(u16::MAX) => {
                parts.push(format!("a whole number from {minimum} to {maximum}"));
            }
            Some((minimum, _)) if minimum >= 0 => {
                parts.push(format!("a whole number from {minimum}"));
            }
            Some(_) => parts.push("a whole number".to_owned()),
            None => {}
        }
        parts.extend(self.literals.iter().map(|literal| format!("`{literal}`")));
        if self.list.is_some() {
            parts.push("a list".to_owned());
        }
        if self.map.is_some() {
            parts.push("a map".to_owned());
        }
        match parts.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => "anything".to_owned(),
        }
    }
}

/// An `Option` in Rust is a union with `null`, which stands for "not typed" everywhere.
fn without_null(schema: &Value) -> &Value {
    let null = |branch: &&Value| branch.get("type").and_then(Value::as_str) != Some("null");
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(branches) if branches.len() == 2 => {
            let mut others = branches.iter().filter(null);
            match (others.next(), others.next()) {
                (Some(only), None) => only,
                _ => schema,
            }
        }
        _ => schema,
    }
}

fn format_of(id: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keyword that is not on this list would be silently ignored by the checker.
    #[test]
    fn the_schema_uses_only_what_is_understood() {
        fn walk(root: &Value, schema: &Value) {
            let Some(keywords) = schema.as_object() else {
                return;
            };
            for (key, value) in keywords {
                match key.as_str() {
                    "$schema" | "title" | "description" | "pattern" | "type" | "enum" | "const"
                    | "minimum" | "maximum" | "required" => {}
                    "format" => assert!(
                        value.as_str().and_then(format_of).is_some(),
                        "unknown format {value}"
                    ),
                    "$ref" => {
                        let pointer = value.as_str().unwrap_or_default().trim_start_matches('#');
                        assert!(root.pointer(pointer).is_some(), "dangling {value}");
                    }
                    "properties" | "$defs" => {
                        value
                            .as_object()
                            .into_iter()
                            .flatten()
                            .for_each(|(_, value)| walk(root, value));
                    }
                    "items" | "propertyNames" | "additionalProperties" => walk(root, value),
                    "anyOf" | "oneOf" => {
                        value.as_array().into_iter().flatten().for_each(|value| walk(root, value));
                    }
                    _ => panic!("the checker does not know {key}: {value}"),
                }
            }
        }
        let schema = json_schema();
        walk(&schema, &schema);
    }

    #[test]
    fn every_map_says_what_it_holds() {
        for shape in &Shapes::get().all {
            if let Some(map) = &shape.map {
                assert!(!map.properties.is_empty() || map.others.is_some());
            }
        }
    }
}
