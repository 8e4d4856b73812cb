//! The files in `config/` are right, and together they show every key that there is. So do the YAML in the
//! documentation and its reference.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use pilotfish::config::json_schema;
use pilotfish::config::load::Origin;
use serde_json::Value;

fn examples() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = fs::read_dir(folder).expect("config/");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

#[test]
fn each_compiles() {
    for file in examples() {
        if let Err(refused) = Origin::File(file).load(&Default::default(), None, 1, false) {
            panic!("{}", refused.pretty);
        }
    }
}

#[test]
fn every_key_is_shown() {
    let schema = json_schema();
    let mut shown = BTreeSet::new();
    for file in examples() {
        let text = fs::read_to_string(file).expect("an example");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        mark(&schema, "#", &schema, &value, &mut shown);
    }
    let mut missing = keys("#", &schema);
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        missing.extend(keys(&format!("#/$defs/{name}"), definition));
    }
    assert!(missing.len() > 80, "the schema has another form: {missing:?}");
    missing.retain(|key| !shown.contains(key));
    assert!(missing.is_empty(), "no example has {missing:#?}");
}

fn documentation() -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("docs/");
    let mut files: Vec<_> = docs.map(|file| file.expect("a file").path()).collect();
    files.push(root.join("README.md"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).expect("a page");
        (file, text)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn yaml_in_the_documentation_compiles() {
    let mut blocks = 0;
    for (file, text) in documentation() {
        for block in text.split("```yaml\n").skip(1) {
            let (yaml, _) = block.split_once("```").expect("an end of the block");
            if let Err(refused) =
                Origin::Text(yaml.to_owned()).load(&Default::default(), None, 1, false)
            {
                panic!("{}: {}", file.display(), refused.pretty);
            }
            blocks += 1;
        }
    }
    assert!(blocks > 2, "the blocks are marked in another way");
}

#[test]
fn every_key_is_in_the_reference() {
    let (_, reference) = documentation()
        .into_iter()
        .find(|(file, _)| file.ends_with("configuration.md"))
        .expect("the reference");
    let words: BTreeSet<&str> =
        reference.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let schema = json_schema();
    let mut keys = keys("#", &schema);
    for definition in schema["$defs"].as_object().expect("definitions").values() {
        keys.extend(self::keys("#", definition));
    }
    keys.retain(|key| !words.contains(key.trim_start_matches("# ")));
    assert!(keys.is_empty(), "docs/configuration.md lacks {keys:?}");
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    for (file, text) in documentation() {
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = file.parent().expect("a folder").join(target);
            assert!(path.exists(), "{} links to {target}", file.display());
        }
    }
}

/// `#/$defs/Policy timeout`: the keys that a schema names.
fn keys(at: &str, schema: &Value) -> BTreeSet<String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let keys = properties.into_iter().flat_map(|properties| properties.keys());
    keys.map(|key| format!("{at} {key}")).collect()
}

/// Notes the keys of `value`, which fits `schema` or one of its alternatives.
fn mark(root: &Value, at: &str, schema: &Value, value: &Value, shown: &mut BTreeSet<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(&reference[1..]).expect("a definition");
        return mark(root, reference, target, value, shown);
    }
    for choice in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        mark(root, at, choice, value, shown);
    }
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                if let Some(of) = schema.get("properties").and_then(|all| all.get(key)) {
                    shown.insert(format!("{at} {key}"));
                    mark(root, "", of, value, shown);
                } else if let Some(of) = schema.get("additionalProperties") {
                    mark(root, "", of, value, shown);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                items.iter().for_each(|item| mark(root, "", of, item, shown));
            }
        }
        _ => {}
    }
}
