//! Where the configuration comes from, read and compiled in one go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::compile::compile;
use super::report::{lines, render, together};
use super::schema::Config;
use super::snapshot::Snapshot;
use super::units::Name;
use super::{Parsed, parse};

/// A file that is read again on each reload, or what the command line said.
#[derive(Debug, Clone)]
pub enum Origin {
    File(PathBuf),
    /// YAML that was made up from options.
    Text(String),
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub struct Refused {
    /// With excerpts, for a terminal.
    pub pretty: String,
    /// One line a mistake, for a log.
    pub lines: Vec<String>,
}

/// A configuration that can be used.
pub struct Loaded {
    pub text: String,
    pub config: Config,
    pub snapshot: Snapshot,
}

impl Origin {
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    /// Reads, checks and compiles. `demanded` is as for [`compile`].
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong in it.
    pub fn load(
        &self,
        demanded: &BTreeSet<Name>,
        previous: Option<&Snapshot>,
        generation: u64,
        color: bool,
    ) -> Result<Loaded, Refused> {
        let (text, name) = match self {
            Self::Text(text) => (text.clone(), "command line".to_owned()),
            Self::File(path) => {
                let name = path.display().to_string();
                match read(path) {
                    Ok(text) => (text, name),
                    Err(why) => return Err(unreadable(&name, &why)),
                }
            }
        };
        let Parsed { schema, source, mistakes, readable } = parse(&text);
        if readable && mistakes.is_empty() && schema == Config::default() {
            // Most likely a file that is just being written. In force, it would close every door.
            return Err(unreadable(
                &name,
                "it says nothing; begin with `service: { name: ..., port: ... }`",
            ));
        }
        let compiled =
            if readable { compile(&schema, demanded, previous, generation) } else { Err(vec![]) };
        match compiled {
            Ok(snapshot) if mistakes.is_empty() => Ok(Loaded { text, config: schema, snapshot }),
            compiled => {
                let mistakes = together(mistakes, compiled.err().unwrap_or_default());
                Err(Refused {
                    pretty: render(&mistakes, &source, &name, color),
                    lines: lines(&mistakes, &source, &name),
                })
            }
        }
    }
}

/// Reads a regular file of a sane size: anything else could block for ever or take all memory.
///
/// # Errors
/// Why there is no text, and what to do.
pub fn read(path: &Path) -> Result<String, String> {
    const MOST: u64 = 16 << 20;
    let told = |error: std::io::Error| format!("{error}; check the path and its permissions");
    let meta = std::fs::metadata(path).map_err(told)?;
    if !meta.is_file() {
        return Err("it is no regular file; give the path of one".to_owned());
    }
    if meta.len() > MOST {
        return Err(format!("it has {} bytes; the most is {MOST}", meta.len()));
    }
    std::fs::read_to_string(path).map_err(told)
}

fn unreadable(name: &str, why: &str) -> Refused {
    let line = format!("{name}: cannot be used: {why}");
    Refused { pretty: format!("error: {line}\n"), lines: vec![line] }
}
