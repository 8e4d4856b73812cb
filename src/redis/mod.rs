//! A Redis that the workers ask: each over one connection of its own, on which its questions follow each
//! other without waiting. The connection is made and made again beside the requests; while there is none, or
//! no answer in time, [`Link::eval`] says so at once and its caller decides without Redis.

mod link;
mod resp;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sha1::{Digest, Sha1};

use crate::endpoint::Address;
pub use link::{Away, Link};

/// Where a Redis is and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub address: Address,
    pub username: Option<Box<str>>,
    /// Read for each connection.
    pub password_file: Option<PathBuf>,
    pub database: u32,
    /// With which all keys begin.
    pub prefix: Box<str>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// One Redis, and how it does, shared by the workers and kept across reloads that did not change it.
#[derive(Debug)]
pub struct Redis {
    pub settings: Settings,
    /// Workers that want to ask it.
    links: AtomicUsize,
    /// Of which are connected.
    connected: AtomicUsize,
    /// And which could not connect, or have lost their connection.
    failed: AtomicUsize,
}

impl Redis {
    pub fn new(settings: Settings) -> Self {
        let [links, connected, failed] = Default::default();
        Self { settings, links, connected, failed }
    }

    /// Whether it answers every worker that wants to ask it.
    pub fn is_up(&self) -> bool {
        let links = self.links.load(Relaxed);
        links > 0 && self.connected.load(Relaxed) == links
    }
}

/// A script, and the name that Redis gives it.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    sha1: String,
}

impl Script {
    pub fn new(text: &'static str) -> Self {
        let mut sha1 = String::with_capacity(40);
        for byte in Sha1::digest(text) {
            // Writing to a String does not fail.
            let _ = write!(sha1, "{byte:02x}");
        }
        Self { text, sha1 }
    }
}
