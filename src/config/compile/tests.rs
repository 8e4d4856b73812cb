//! Right files and what becomes of them: `golden/good` against `snapshots/good`. Wrong ones and what is
//! said of them: `golden/bad` against `snapshots/bad`. What holds of all: [`properties`].

mod dump;
mod properties;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::super::report::{lines, render, together};
use super::super::{Mistake, Source, parse};
use super::*;

/// The mistakes, and the text to place them in.
type Wrong = Box<(Vec<Mistake>, Source)>;

/// As [`load`](super::super::load) does it.
fn compiled(text: &str, previous: Option<&Snapshot>) -> Result<Snapshot, Wrong> {
    let parsed = parse(text);
    let result = if parsed.readable {
        compile(&parsed.schema, &Default::default(), previous, 1)
    } else {
        Err(vec![])
    };
    match result {
        Ok(snapshot) if parsed.mistakes.is_empty() => Ok(snapshot),
        result => {
            let meaning = result.err().unwrap_or_default();
            Err((together(parsed.mistakes, meaning), parsed.source).into())
        }
    }
}

/// What is meant to be right.
fn right(text: &str, previous: Option<&Snapshot>) -> Snapshot {
    compiled(text, previous).unwrap_or_else(|wrong| {
        let (mistakes, source) = *wrong;
        panic!("{}", render(&mistakes, &source, "pilotfish.yaml", false))
    })
}

fn golden(folder: &str, shown: impl Fn(&str) -> String) {
    let files = PathBuf::from(file!()).with_file_name("golden").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 5, "the golden files are gone");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            insta::assert_snapshot!(name, shown(&fs::read_to_string(&file).unwrap()));
        }
    });
}

#[test]
fn good() {
    golden("good", |text| dump::dump(&right(text, None)));
}

#[test]
fn bad() {
    golden("bad", |text| {
        let Err(wrong) = compiled(text, None) else {
            panic!("no mistake is found in:\n{text}");
        };
        let (mistakes, source) = *wrong;
        let mut shown = render(&mistakes, &source, "pilotfish.yaml", false);
        shown.push('\n');
        let told = lines(&mistakes, &source, "pilotfish.yaml");
        // What is shown is without repetitions anyway; that there are none to hide is the compiler's.
        assert_eq!(told.len(), mistakes.len(), "{told:#?}");
        for line in told {
            let _ = writeln!(shown, "{line}");
        }
        for mistake in &mistakes {
            assert!(mistake.help.is_some() || mistake.message.contains(['`', ':']), "{mistake:?}");
        }
        shown
    });
}

const WITH_REGISTRY: &str = "registry: consul://192.0.2.1\n";

fn called(text: &str, demanded: &[&str], previous: Option<&Snapshot>) -> Snapshot {
    let demanded = demanded.iter().map(|name| name.parse().expect("a name")).collect();
    compile(&parse(text).schema, &demanded, previous, 1).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

#[test]
fn a_name_that_somebody_called_takes_nothing_from_the_configuration() {
    let services = format!("{WITH_REGISTRY}services: {{ users: {{ hosts: [db] }} }}\n");
    let snapshot = called(&services, &["db", PASSTHROUGH, "orders"], None);
    let cluster = |host: &str| {
        let service = snapshot.outbound.hosts.get(host).expect(host);
        &*snapshot.clusters[service.cluster as usize].name
    };
    assert_eq!(cluster("db"), "users");
    assert_eq!(cluster("orders"), "orders");
    assert!(!snapshot.outbound.hosts.contains_key(PASSTHROUGH));
    let off = format!("{WITH_REGISTRY}discovery: {{ on_demand: off }}\n");
    assert!(!called(&off, &["orders"], None).outbound.hosts.contains_key("orders"));
}

#[test]
fn what_is_settled_is_so_from_the_snapshot_on_that_has_it() {
    let text = format!("{WITH_REGISTRY}services: {{ users: {{}} }}\n");
    let before = called(&text, &[], None);
    let place = before.clusters.iter().position(|it| &*it.name == "users").expect("it is there");
    let pending = |snapshot: &Snapshot| snapshot.clusters[place].pending().is_some();
    let after = before.with([(place, vec![])]);
    before.clusters[place].pending().expect("nothing is told").came();
    assert!(pending(&before), "the answer is in the next one");
    assert!(!pending(&after));
    assert!(!pending(&called(&text, &[], Some(&after))), "a reload keeps it");
}

#[test]
fn instances_that_a_registry_told_count_after_a_reload_too() {
    let text = format!("service: {{ name: users, port: 1 }}\n{WITH_REGISTRY}");
    let told = Snapshot { instances: 3, ..called(&text, &[], None) };
    assert_eq!(called(&text, &[], Some(&told)).instances, 3);
    let off = "service: { name: users, port: 1 }\nregistry: off\n";
    assert_eq!(called(off, &[], Some(&told)).instances, 1);
    let typed = format!(
        "{text}services: {{ users: {{ endpoints: [\"192.0.2.1:1\", \"192.0.2.2:1\"] }} }}\n"
    );
    assert_eq!(called(&typed, &[], Some(&told)).instances, 2);
}
