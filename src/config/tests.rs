//! Wrong files and what is said of them: `golden/*.yaml` against `snapshots/`. Right files: below.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::report;
use super::schema::{Algorithm, LoadBalancer, OrOff, Timeout, ValueMatch};
use super::yaml::{self, Kind, MAX_DEPTH};
use super::*;

fn rendered(text: &str) -> String {
    let parsed = parse(text);
    if parsed.mistakes.is_empty() {
        return "no mistakes\n".to_owned();
    }
    let mut text = render(&parsed.mistakes, &parsed.source, "pilotfish.yaml", false);
    text.push('\n');
    for line in report::lines(&parsed.mistakes, &parsed.source, "pilotfish.yaml") {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[test]
fn golden() {
    let folder = PathBuf::from(file!()).with_file_name("golden");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 30, "the files of {} are gone", folder.display());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            insta::assert_snapshot!(name, rendered(&fs::read_to_string(&file).unwrap()));
        }
    });
}

/// Every key of this release, in every form.
const WHOLE: &str = include_str!("golden/whole.yaml");

#[test]
fn the_whole_shape_is_read() {
    let parsed = parse(WHOLE);
    assert_eq!(rendered(WHOLE), "no mistakes\n");
    let config = &parsed.schema;
    let OrOff::On(inbound) = config.inbound.as_ref().unwrap() else { panic!("inbound is on") };
    let routes = inbound.routes.as_ref().unwrap();
    let headers = routes[0].matches.as_ref().unwrap().headers.as_ref().unwrap();
    let first = headers.iter().next().unwrap();
    assert_eq!(first.0.to_string(), "x-a");
    assert!(matches!(first.1, ValueMatch::Condition(c) if c.regex.as_deref() == Some("^b")));
    let targets = &routes[1].to.as_ref().unwrap().0;
    assert_eq!(targets[0].version.as_deref(), Some("v2"));
    assert_eq!(targets[1].service.as_ref().unwrap().as_str(), "order-service");
    let services = config.services.as_ref().unwrap();
    let defaults = services.defaults.as_ref().unwrap();
    assert_eq!(defaults.load_balancer, Some(LoadBalancer::Algorithm(Algorithm::PeakEwma)));
    let user = &services.by_name["user-service"];
    assert_eq!(user.endpoints.as_ref().unwrap()[0].address.to_string(), "10.0.0.1:3001");
    // A number is the text that it is spelled as.
    assert_eq!(user.endpoints.as_ref().unwrap()[1].version.as_deref(), Some("1.10"));
    let policy = user.policy.as_ref().unwrap();
    assert_eq!(policy.retry, Some(OrOff::Off));
    assert!(matches!(policy.timeout, Some(OrOff::On(Timeout::Each(_)))));
}

#[test]
fn a_dump_is_read_back() {
    let parsed = parse(WHOLE);
    let dump = yaml::to_string(&parsed.schema).unwrap();
    assert_eq!(rendered(&dump), "no mistakes\n", "{dump}");
    assert_eq!(parse(&dump).schema, parsed.schema);
}

#[test]
fn nothing_is_an_empty_configuration() {
    for text in ["", "\n", "# only a comment\n", "---\n", "~", "service:\ninbound:\n"] {
        let parsed = parse(text);
        assert!(parsed.mistakes.is_empty() && parsed.readable, "{text:?}");
        assert_eq!(parsed.schema, schema::Config::default(), "{text:?}");
    }
}

#[test]
fn broken_syntax_is_not_readable() {
    let parsed = parse("service: { name: a\n");
    assert!(!parsed.readable);
    assert_eq!(parsed.mistakes.len(), 1);
}

#[test]
fn what_is_wrong_does_not_hide_the_rest() {
    let text = "
services:
  a:
    endpoints: [10.0.0.1:80, bad, 10.0.0.3:80]
    protocol: http9
  b: [1]
";
    let parsed = parse(text);
    assert_eq!(parsed.mistakes.len(), 3);
    let services = &parsed.schema.services.unwrap().by_name;
    let a = &services["a"];
    assert_eq!(a.endpoints.as_ref().unwrap().len(), 2);
    assert_eq!(a.protocol, None);
    // What refers to `b` must still find it.
    assert!(services.contains_key("b"));
    // Paths are those of the schema: its second endpoint is the third of the text.
    let second = parsed.source.span_of(&report::path_to!["services", "a", "endpoints", 1]);
    assert_eq!(&text[second], "10.0.0.3:80");
}

#[test]
fn places_fall_back_to_what_exists() {
    let text = "service: { name: A }\nservices:\n  User: { endpoints: [a:1] }\n";
    let Parsed { source, schema, .. } = parse(text);
    let name = schema.services.as_ref().unwrap().by_name.keys().next().unwrap();
    let at = |path| &text[source.span_of(&path)];
    let key = |path| &text[source.span_of_key(&path)];
    assert_eq!(at(report::path_to!["services", name, "endpoints", 0]), "a:1");
    assert_eq!(at(report::path_to!["services", name, "endpoints", 0, "address"]), "a:1");
    assert_eq!(at(report::path_to!["services", name, "policy", "retry"]), "{ endpoints: [a:1] }");
    assert_eq!(key(report::path_to!["services", name]), "User");
    assert_eq!(key(report::path_to!["service", "port"]), "service");
    assert_eq!(source.span_of(&Path::root()).start, 0);
    assert_eq!(source.line_and_column(text.len()), (4, 1));
}

#[test]
fn a_mistake_of_the_meaning_has_its_place() {
    let parsed = parse("service: { name: a }\nservices:\n  b: {}\n");
    let mistake = Mistake::at_key(report::path_to!["services", "b"], "`b` has no endpoints")
        .help("add `endpoints:`");
    assert_eq!(
        mistake.line(&parsed.source, "a.yaml"),
        "a.yaml:3:3: `b` has no endpoints; add `endpoints:`"
    );
    let colored = render(&[mistake], &parsed.source, "a.yaml", true);
    assert!(colored.contains("\u{1b}["), "{colored}");
}

#[test]
fn anchors_and_merges() {
    let text = "
services:
  a: &base { protocol: tcp, load_balancer: random }
  b: { <<: *base, protocol: http1 }
  c: *base
  d: { <<: [{ protocol: http2 }, *base] }
  e: { \"<<\": 1 }
";
    let parsed = parse(text);
    // A quoted `<<` is a key like any other.
    assert_eq!(parsed.mistakes.len(), 1);
    let services = parsed.schema.services.unwrap().by_name;
    let of = |name: &str| {
        let service = &services[name];
        (service.protocol.unwrap(), service.load_balancer.clone().unwrap())
    };
    assert_eq!(of("a"), of("c"));
    assert_eq!(of("b"), (schema::Protocol::Http1, LoadBalancer::Algorithm(Algorithm::Random)));
    assert_eq!(of("d"), (schema::Protocol::Http2, LoadBalancer::Algorithm(Algorithm::Random)));
}

#[test]
fn depth_is_bounded() {
    let bodies = [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1)),
        // No text is deep here, but the tree would be.
        (1..200).fold("a0: &a0 [1]\n".to_owned(), |text, n| {
            format!("{text}a{n}: &a{n} [*a{}]\n", n - 1)
        }),
    ];
    for body in bodies {
        let parsed = parse(&body);
        assert!(!parsed.readable);
        let message = &parsed.mistakes[0].message;
        assert!(message.starts_with("more than 64 levels"), "{message}");
    }
    let deepest = format!("{}{}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
    let text = format!("inbound: {{ routes: [{{ respond: {{ json: {deepest} }} }}] }}");
    assert!(!parse(&text).readable);
    let deep = format!("{}{}", "[".repeat(50), "]".repeat(50));
    let text = format!("inbound: {{ routes: [{{ respond: {{ json: {deep} }} }}] }}");
    assert_eq!(rendered(&text), "no mistakes\n");
}

#[test]
fn ten_thousand_endpoints() {
    let mut text = "services:\n  a:\n    endpoints:\n".to_owned();
    for n in 0..10_000 {
        let _ =
            writeln!(text, "      - {{ address: \"10.0.{}.{}:80\", weight: 2 }}", n / 256, n % 256);
    }
    let parsed = parse(&text);
    assert!(parsed.mistakes.is_empty());
    let services = parsed.schema.services.unwrap().by_name;
    assert_eq!(services["a"].endpoints.as_ref().unwrap().len(), 10_000);
}

#[test]
fn as_many_mistakes_as_there_are() {
    let endpoints = "x, ".repeat(1000);
    let parsed = parse(&format!("services: {{ a: {{ endpoints: [{endpoints}] }} }}"));
    assert_eq!(parsed.mistakes.len(), 1000);
    let lines = report::lines(&parsed.mistakes, &parsed.source, "a.yaml");
    assert_eq!(lines.len(), 1000);
    assert!(lines[999].contains("endpoints[999]"));
}

#[test]
fn a_carriage_return_alone_breaks_lines_too() {
    let lines = rendered("service: { name: a }\rlimits: { x: 1 }\r");
    assert!(lines.contains("pilotfish.yaml:2:11: unknown key `x`"), "{lines}");
}

#[test]
fn the_json_schema_says_it_all() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "Pilotfish configuration");
    fn walk(at: &str, schema: &serde_json::Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let described = property.get("description").is_some();
            assert!(described || name == "defaults", "{at}.{name} has no description");
        }
        if schema["type"] == "object" {
            assert!(schema.get("additionalProperties").is_some(), "{at} takes anything");
        }
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            walk(name, definition);
        }
    }
    walk("root", &schema);
}

mod any_text {
    const ESCAPE: char = '\u{1b}';

    use proptest::prelude::*;

    use super::*;

    /// Pieces that make nearly valid files nearly always.
    fn piece() -> impl Strategy<Value = String> {
        let words = [
            "service",
            "name",
            ": ",
            ":",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "a",
            "&x ",
            "*x",
            "<<",
            "off",
            "10",
            "1.5s",
            "\"",
            "'",
            "\t",
            "\r\n",
            "#",
            "---\n",
            "!!str ",
            "|",
            ">",
            "? ",
            "é",
            "\u{feff}",
            "\u{1b}",
            "services",
            "inbound",
            "routes",
            "timeout",
            "policy",
            "endpoints",
            "%",
            "@",
            "null",
            "~",
            "\u{85}",
            "\u{2028}",
        ];
        prop_oneof![9 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn is_read_or_told(pieces in prop::collection::vec(piece(), 0..40)) {
            let text = pieces.concat();
            let parsed = parse(&text);
            prop_assert!(parsed.readable || !parsed.mistakes.is_empty());
            for mistake in &parsed.mistakes {
                let span = mistake.span_in(&parsed.source);
                prop_assert!(text.get(span.clone()).is_some(), "{span:?} of {text:?}");
            }
            let told = render(&parsed.mistakes, &parsed.source, "a.yaml", false);
            prop_assert_eq!(told.is_empty(), parsed.mistakes.is_empty());
            prop_assert!(!told.chars().any(|c| c == ESCAPE));
            // Types and schema agree: what passes the check always fits.
            let clash = |m: &Mistake| m.message.contains("did not match any variant");
            prop_assert!(!parsed.mistakes.iter().any(clash), "{told}");
        }
    }

    fn walk(node: &yaml::Node, text: &str) -> bool {
        text.get(node.span.clone()).is_some()
            && match &node.kind {
                Kind::Seq(items) => items.iter().all(|item| walk(item, text)),
                Kind::Map(entries) => entries.iter().all(|(_, value)| walk(value, text)),
                _ => true,
            }
    }

    #[test]
    fn spans_are_pieces_of_the_text() {
        assert!(walk(parse(WHOLE).source.root(), WHOLE));
    }
}
