//! The client and the upstreams of a measurement. They say what they are told and read answers by their
//! length; nothing that they do is counted.

mod http1;
mod http2;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What is said in one direction of an exchange.
pub struct Message {
    /// HTTP/1: request line or status line are made of the pseudo fields.
    pub fields: &'static [(&'static str, &'static str)],
    pub body: &'static [u8],
    pub trailers: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// One end of a connection.
struct Connection {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket that does not block");
        Self { stream, unread: Vec::new() }
    }

    /// Takes what has come.
    fn read(&mut self) {
        match self.stream.read_to_end(&mut self.unread) {
            Ok(_) => panic!("the proxy closed a connection"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the proxy broke a connection: {error}"),
        }
    }

    /// What is in flight fits into the socket's buffer, so this never blocks.
    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("room in the socket");
    }
}

pub struct Client {
    connection: Connection,
    speaks: Speaks,
}

enum Speaks {
    Http1 { request: Vec<u8> },
    Http2(http2::Client),
}

impl Client {
    pub fn new(stream: UnixStream, protocol: Protocol, request: &'static Message) -> Self {
        let speaks = match protocol {
            Protocol::Http1 => Speaks::Http1 { request: http1::request(request) },
            Protocol::Http2 => Speaks::Http2(http2::Client::new(request)),
        };
        Self { connection: Connection::new(stream), speaks }
    }

    pub fn send(&mut self, requests: usize) {
        let bytes = match &mut self.speaks {
            Speaks::Http1 { request } => request.repeat(requests),
            Speaks::Http2(client) => client.requests(requests),
        };
        self.connection.write(&bytes);
    }

    /// How many answers have come in full since the last call.
    pub fn answers(&mut self) -> usize {
        self.connection.read();
        match &mut self.speaks {
            Speaks::Http1 { .. } => {
                let mut answers = 0;
                while let Some(head) = http1::take(&mut self.connection.unread) {
                    assert!(head.starts_with("HTTP/1.1 200 "), "the answer is {head}");
                    answers += 1;
                }
                answers
            }
            Speaks::Http2(client) => client.answers(&mut self.connection),
        }
    }
}

/// A server on a Unix socket that gives the same answer to every request.
pub struct Upstream {
    listener: UnixListener,
    answer: &'static Message,
    protocol: Protocol,
    connections: Vec<(Connection, http2::Server)>,
    pub answered: usize,
}

impl Upstream {
    pub fn new(path: &Path, protocol: Protocol, answer: &'static Message) -> Self {
        let listener = UnixListener::bind(path).expect("a path that is free");
        listener.set_nonblocking(true).expect("a socket that does not block");
        Self { listener, answer, protocol, connections: Vec::new(), answered: 0 }
    }

    /// Answers what has been asked.
    pub fn turn(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.connections.push((Connection::new(stream), http2::Server::new(self.answer)));
        }
        for (connection, server) in &mut self.connections {
            connection.read();
            match self.protocol {
                Protocol::Http1 => {
                    while http1::take(&mut connection.unread).is_some() {
                        connection.write(&http1::response(self.answer));
                        self.answered += 1;
                    }
                }
                Protocol::Http2 => self.answered += server.turn(connection),
            }
        }
    }
}
