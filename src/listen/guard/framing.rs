//! Follows the messages that a client sends on one HTTP/1 connection: head, body, next head. Says
//! for each piece of input how many of its bytes may pass on.

use smallvec::SmallVec;

use super::chunked::{Chunked, Taken};
use super::head::{Framing, Head, HeadLimits, HeadParser};
use super::rejection::Rejection;
use crate::names::Names;

/// Why the bytes after those that pass must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// They begin a head that is not complete; none is left if all passed. They are to be shown
    /// again, from the first of them on, together with what comes after them.
    More,
    /// The request before them asks for another protocol; see [`Messages::decide`].
    Hold,
    /// They begin a head that is refused. Nothing passes any more.
    BadHead(Rejection),
    /// They break the body of the last head. Nothing passes any more.
    BadBody(Rejection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Bytes from the start of the input that may pass on.
    pub pass: usize,
    pub stop: Stop,
}

/// The state of the client's side of a connection.
#[derive(Debug)]
pub struct Messages {
    state: State,
    /// Heads that passed, and the refused one.
    heads: u64,
    /// The message in progress asks for another protocol.
    upgrade: bool,
    /// The names of heads that passed, with their numbers, unless all are in lower case.
    names: SmallVec<[(u64, Names); 1]>,
}

#[derive(Debug)]
enum State {
    Head(HeadParser),
    Length(u64),
    Chunked(Chunked),
    Hold,
    /// Another protocol: everything passes.
    Opaque,
    Broken(Stop),
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            state: State::Head(HeadParser::default()),
            heads: 0,
            upgrade: false,
            names: SmallVec::new(),
        }
    }
}

impl Messages {
    /// Judges the next bytes. Bytes that did not pass are to be shown again, with more.
    pub fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Scan {
        let mut pass = 0;
        let stop = loop {
            let rest = &input[pass..];
            match &mut self.state {
                State::Head(_) if rest.is_empty() => break Stop::More,
                State::Head(parser) => match parser.feed(rest, limits) {
                    Ok(None) => break Stop::More,
                    Ok(Some(head)) => {
                        pass += head.len;
                        let names = parser.take_names();
                        self.begin_body(&head);
                        if !names.is_empty() {
                            self.names.push((self.heads, names));
                        }
                    }
                    Err(rejection) => break self.refuse_head(rejection),
                },
                State::Length(remaining) => {
                    let body = usize::try_from(*remaining).unwrap_or(usize::MAX).min(rest.len());
                    pass += body;
                    *remaining -= body as u64;
                    if *remaining > 0 {
                        break Stop::More;
                    }
                    self.end_message();
                }
                State::Chunked(body) => match body.take(rest, limits.max_fields) {
                    Taken::All => {
                        pass = input.len();
                        break Stop::More;
                    }
                    Taken::End(taken) => {
                        pass += taken;
                        self.end_message();
                    }
                    Taken::Broken(taken, rejection) => {
                        pass += taken;
                        let stop = Stop::BadBody(rejection);
                        self.state = State::Broken(stop);
                        break stop;
                    }
                },
                State::Hold => break Stop::Hold,
                State::Opaque => {
                    pass = input.len();
                    break Stop::More;
                }
                State::Broken(stop) => break *stop,
            }
        };
        Scan { pass, stop }
    }

    /// Refuses the head that is being waited for, for a reason outside of its bytes.
    pub fn refuse_head(&mut self, rejection: Rejection) -> Stop {
        self.heads += 1;
        let stop = Stop::BadHead(rejection);
        self.state = State::Broken(stop);
        stop
    }

    /// Ends the hold after a request that asked for another protocol: accepted, all that follows
    /// passes; refused, a head follows. Without effect when nothing is held.
    pub fn decide(&mut self, accepted: bool) {
        if self.is_held() {
            self.upgrade = false;
            self.state = if accepted { State::Opaque } else { State::Head(HeadParser::default()) };
        }
    }

    /// Heads that passed so far, and the refused one.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// The names of the heads that passed, each with the number of its head, counted from 1. Not of those
    /// whose names are all in lower case.
    pub fn take_names(&mut self) -> impl Iterator<Item = (u64, Names)> {
        self.names.drain(..)
    }

    /// The message in progress, or the one just before, asks for another protocol and is not
    /// decided.
    pub fn wants_upgrade(&self) -> bool {
        self.upgrade
    }

    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Hold)
    }

    pub fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    /// Whether the body of the last head has not come to its end.
    pub fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_) | State::Broken(Stop::BadBody(_)))
    }

    /// Whether the bytes that had to stay, `held` of them, are the beginning of a head.
    pub fn in_head(&self, held: usize) -> bool {
        matches!(&self.state, State::Head(parser) if parser.has_begun(held))
    }

    fn begin_body(&mut self, head: &Head) {
        self.heads += 1;
        self.upgrade = head.upgrade;
        match head.framing {
            Framing::None => self.end_message(),
            Framing::Length(length) => self.state = State::Length(length),
            Framing::Chunked => self.state = State::Chunked(Chunked::default()),
        }
    }

    fn end_message(&mut self) {
        self.state = if self.upgrade { State::Hold } else { State::Head(HeadParser::default()) };
    }
}
