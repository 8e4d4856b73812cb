//! The loads: each session asks again as soon as it has been answered, and counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::engine::{End, Session};
use crate::h2::{self, Link};
use crate::http1::{self, Reading};
use crate::websocket;

/// What all sessions of a load did.
#[derive(Default)]
pub struct Tally {
    pub requests: Cell<u64>,
    pub errors: Cell<u64>,
    pub first_error: RefCell<Option<String>>,
}

impl Tally {
    pub fn count(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub fn error(&self, what: &str) -> End {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| what.to_owned());
        End
    }
}

pub enum Client {
    Http1(Http1),
    Grpc(Grpc),
    WebSocket(WebSocket),
    Echo(Echo),
    Sink(Rc<Tally>),
    /// One request by HTTP/2, and then nothing more.
    Idle2(Idle2),
}

impl Session for Client {
    fn opened(&mut self, out: &mut Vec<u8>) {
        match self {
            Client::Http1(http) if http.then == Then::Tell => {}
            Client::Http1(http) => http.ask(out),
            Client::Grpc(grpc) => grpc.open(out),
            Client::WebSocket(_) => out.extend_from_slice(UPGRADE),
            Client::Echo(_) => out.extend_from_slice(&ECHO),
            Client::Sink(_) => {}
            Client::Idle2(idle) => idle.open(out),
        }
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        match self {
            Client::Http1(http) => http.received(input, out),
            Client::Grpc(grpc) => grpc.received(input, out),
            Client::WebSocket(web) => web.received(input, out),
            Client::Echo(echo) => echo.received(input, out),
            Client::Sink(tally) => {
                tally.requests.set(tally.requests.get() + input.len() as u64);
                Ok(input.len())
            }
            Client::Idle2(idle) => idle.received(input, out),
        }
    }

    fn many(&self) -> bool {
        matches!(self, Client::Http1(Http1 { then: Then::Reconnect, .. }))
    }

    fn closed(&mut self) -> Option<Self> {
        match self {
            Client::Http1(http) => http.again().map(Client::Http1),
            _ => {
                self.tally().error("the connection was closed");
                None
            }
        }
    }
}

impl Client {
    fn tally(&self) -> &Tally {
        match self {
            Client::Http1(Http1 { tally, .. })
            | Client::Grpc(Grpc { tally, .. })
            | Client::WebSocket(WebSocket { tally, .. })
            | Client::Echo(Echo { tally, .. })
            | Client::Sink(tally)
            | Client::Idle2(Idle2 { tally, .. }) => tally,
        }
    }
}

/// What an HTTP/1 session does when it has its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request.
    Ask,
    /// The next request, on a connection of its own.
    Reconnect,
    /// Nothing more.
    Wait,
    /// Tells it, and waits until it is told to ask, as it did at the beginning.
    Tell,
}

pub struct Http1 {
    pub tally: Rc<Tally>,
    pub then: Then,
    /// The requests, taken at random.
    pub requests: Rc<Vec<Vec<u8>>>,
    random: u64,
    /// Where it tells which connection it is.
    pub told: Option<(Rc<RefCell<Vec<usize>>>, usize)>,
    asked: bool,
    reading: Option<Reading>,
}

impl Http1 {
    pub fn new(tally: Rc<Tally>, then: Then, requests: Rc<Vec<Vec<u8>>>, seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Http1 { tally, then, requests, random, told: None, asked: false, reading: None }
    }

    pub fn ask(&mut self, out: &mut Vec<u8>) {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        out.extend_from_slice(&self.requests[random as usize % self.requests.len()]);
        self.asked = true;
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        if self.reading.is_none() {
            let Some(head) = http1::head(input)? else { return Ok(0) };
            if !head.line.starts_with(b"HTTP/1.1 200") {
                self.asked = false;
                return Err(self.tally.error(&String::from_utf8_lossy(head.line)));
            }
            used = head.length;
            self.reading = Some(Reading::of(head.body));
        }
        let reading = self.reading.get_or_insert_default();
        used += reading.advance(&input[used..])?;
        if !reading.done() {
            return Ok(used);
        }
        if used < input.len() {
            return Err(self.tally.error("more than one answer"));
        }
        self.reading = None;
        self.asked = false;
        self.tally.count();
        match self.then {
            Then::Ask => self.ask(out),
            // The peer closes: it was asked to.
            Then::Reconnect | Then::Wait => {}
            Then::Tell => {
                if let Some((told, key)) = &self.told {
                    told.borrow_mut().push(*key);
                }
            }
        }
        Ok(used)
    }

    fn again(&mut self) -> Option<Self> {
        if self.asked || self.then != Then::Reconnect {
            self.tally.error("the connection was closed");
        }
        matches!(self.then, Then::Ask | Then::Reconnect)
            .then(|| Http1::new(self.tally.clone(), self.then, self.requests.clone(), self.random))
    }
}

/// The message of gRPC calls: five bytes that say its length, and a hundred.
pub fn message() -> [u8; 105] {
    let mut message = [b'm'; 105];
    message[..5].copy_from_slice(&[0, 0, 0, 0, 100]);
    message
}

/// Streams on which a message goes there and back, for ever.
pub struct Grpc {
    tally: Rc<Tally>,
    link: Link,
    streams: u32,
    /// How much of a message has come, by stream.
    have: Vec<usize>,
}

fn request_block(method: &str, path: &str) -> Vec<u8> {
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "bench")];
    if method == "POST" {
        fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    }
    h2::block(false, &fields)
}

impl Grpc {
    pub fn new(tally: Rc<Tally>, streams: u32) -> Self {
        Grpc { tally, link: Link::new(), streams, have: vec![0; streams as usize] }
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        static HEAD: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| request_block("POST", "/bench.Echo/Stream"));
        out.extend_from_slice(h2::PREFACE);
        Link::greet(out);
        for stream in (0..self.streams).map(|number| number * 2 + 1) {
            self.link.open(stream);
            self.link.headers(out, stream, &HEAD, 0);
            self.link.data(out, stream, &message(), 0);
        }
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        while let Some((frame, length)) = h2::parse(&input[used..])? {
            used += length;
            if self.link.control(&frame, out)? {
                continue;
            }
            match frame.kind {
                h2::HEADERS if frame.is_200() && !frame.ends_stream() => {}
                h2::DATA if !frame.ends_stream() => {
                    self.message(out, frame.stream, frame.payload)?
                }
                _ => return Err(self.tally.error("a stream ended, or was not answered with 200")),
            }
        }
        Ok(used)
    }

    fn message(&mut self, out: &mut Vec<u8>, stream: u32, mut bytes: &[u8]) -> Result<(), End> {
        let message = message();
        let have = self.have.get_mut(stream as usize / 2).ok_or(End)?;
        while !bytes.is_empty() {
            let take = bytes.len().min(message.len() - *have);
            if bytes[..take] != message[*have..*have + take] {
                return Err(self.tally.error("a message came back changed"));
            }
            *have += take;
            bytes = &bytes[take..];
            if *have == message.len() {
                *have = 0;
                self.tally.count();
                self.link.data(out, stream, &message, 0);
            }
        }
        Ok(())
    }
}

pub struct Idle2 {
    tally: Rc<Tally>,
    link: Link,
}

impl Idle2 {
    pub fn new(tally: Rc<Tally>) -> Self {
        Idle2 { tally, link: Link::new() }
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        static HEAD: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| request_block("GET", "/"));
        out.extend_from_slice(h2::PREFACE);
        Link::greet(out);
        self.link.headers(out, 1, &HEAD, h2::END_STREAM);
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        while let Some((frame, length)) = h2::parse(&input[used..])? {
            used += length;
            if self.link.control(&frame, out)? {
                continue;
            }
            match frame.kind {
                h2::HEADERS if !frame.is_200() => return Err(self.tally.error("not 200")),
                h2::HEADERS | h2::DATA if frame.ends_stream() => self.tally.count(),
                h2::HEADERS | h2::DATA => {}
                _ => return Err(self.tally.error("the stream was reset")),
            }
        }
        Ok(used)
    }
}

const UPGRADE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ECHO: [u8; 64] = [b'e'; 64];

/// A message there and back, for ever.
pub struct WebSocket {
    tally: Rc<Tally>,
    open: bool,
    message: Vec<u8>,
}

impl WebSocket {
    pub fn new(tally: Rc<Tally>) -> Self {
        WebSocket { tally, open: false, message: Vec::new() }
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        let mut used = 0;
        if !self.open {
            let Some(head) = http1::head(input)? else { return Ok(0) };
            if !head.line.starts_with(b"HTTP/1.1 101") {
                return Err(self.tally.error(&String::from_utf8_lossy(head.line)));
            }
            used = head.length;
            self.open = true;
            websocket::put(out, &ECHO, true);
        }
        while let Some(length) = websocket::take(&input[used..], &mut self.message)? {
            if self.message != ECHO {
                return Err(self.tally.error("a message came back changed"));
            }
            used += length;
            self.tally.count();
            websocket::put(out, &ECHO, true);
        }
        Ok(used)
    }
}

/// 64 bytes there and back, for ever.
pub struct Echo {
    tally: Rc<Tally>,
}

impl Echo {
    pub fn new(tally: Rc<Tally>) -> Self {
        Echo { tally }
    }

    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End> {
        if input.len() < ECHO.len() {
            return Ok(0);
        }
        if input != ECHO {
            return Err(self.tally.error("it came back changed"));
        }
        self.tally.count();
        out.extend_from_slice(&ECHO);
        Ok(ECHO.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Role, Server};

    /// A client and an upstream exchange what they send, in pieces of `step` bytes.
    fn talk(client: &mut Client, role: Role, step: usize, until: impl Fn() -> bool) {
        let mut server = Server::new(role);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.opened(&mut up);
        for _ in 0..1000 {
            if until() {
                return;
            }
            pass(&mut server, step, &mut up, &mut down);
            pass(client, step, &mut down, &mut up);
        }
        panic!("nothing came of it");
    }

    fn pass(session: &mut impl Session, step: usize, from: &mut Vec<u8>, to: &mut Vec<u8>) {
        let mut have = 0;
        while have < from.len() {
            have = (have + step).min(from.len());
            let used = session.received(&from[..have], to).unwrap();
            from.drain(..used);
            have -= used;
        }
    }

    #[test]
    fn every_load_understands_every_upstream() {
        let request = Rc::new(vec![b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()]);
        for step in [1, 7, 100_000] {
            let tally = Rc::new(Tally::default());
            let clients = [
                Client::Http1(Http1::new(tally.clone(), Then::Ask, request.clone(), 1)),
                Client::Grpc(Grpc::new(tally.clone(), 3)),
                Client::WebSocket(WebSocket::new(tally.clone())),
                Client::Idle2(Idle2::new(tally.clone())),
            ];
            for mut client in clients {
                let once = matches!(client, Client::Idle2(_));
                let enough = tally.requests.get() + if once { 1 } else { 20 };
                talk(&mut client, Role::Http, step, || tally.requests.get() >= enough);
                assert_eq!(tally.errors.get(), 0);
            }
            let tally = Rc::new(Tally::default());
            let mut client = Client::Echo(Echo::new(tally.clone()));
            talk(&mut client, Role::Echo, step, || tally.requests.get() >= 20);
        }
    }
}
