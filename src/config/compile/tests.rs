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
