mod answer;
mod chunked;
mod connection;
mod head;
mod names;
mod properties;
mod service;
mod time;

use super::head::{Head, HeadLimits, HeadParser};
use super::rejection::Rejection;

/// Judges one whole head. What follows its empty line is not looked at.
fn check(head: &[u8], limits: &HeadLimits) -> Result<Head, Rejection> {
    HeadParser::default().feed(head, limits)?.ok_or(Rejection::INCOMPLETE_HEAD)
}
