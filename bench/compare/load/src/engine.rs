//! One thread, one epoll, many connections. A connection's `Session` turns the bytes that came into bytes
//! to send; all reading, writing and back-pressure is here.
//!
//! The upstreams and the load share one core, so every microsecond spent here is missing for showing what
//! a proxy can do: one read and one write for each wake-up of a connection, no allocation.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Beyond this much unsent, nothing more is read from the peer.
const UNSENT_MAX: usize = 1 << 20;
const READ_SIZE: usize = 64 << 10;
const LISTENER: u64 = 1 << 63;

/// What a session can tell about itself when its connection must end.
#[derive(Debug)]
pub struct End;

pub trait Session {
    /// The connection stands.
    fn opened(&mut self, _out: &mut Vec<u8>) {}

    /// Takes from `input` what is complete, and says how many bytes that was; the rest comes again with
    /// what follows it. `Err` closes the connection when `out` is sent.
    fn received(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, End>;

    /// Is what it sent when it was opened to be sent again and again?
    fn repeats(&self) -> bool {
        false
    }

    /// Has it connections by the ten thousand, one after the other? Then closing them must leave nothing
    /// behind: not a port that is in TIME_WAIT, on whichever side.
    fn many(&self) -> bool {
        false
    }

    /// The connection is closed. A session in its place gets a new connection to the same peer.
    fn closed(&mut self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

struct Connection<S> {
    stream: TcpStream,
    peer: SocketAddr,
    session: S,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    interest: EventFlags,
    ending: bool,
}

struct Listener<S> {
    socket: TcpListener,
    session: Box<dyn Fn() -> S>,
}

pub struct Engine<S> {
    epoll: OwnedFd,
    listeners: Vec<Listener<S>>,
    connections: Vec<Option<Connection<S>>>,
    free: Vec<usize>,
    events: Vec<Event>,
    read: Vec<u8>,
}

impl<S: Session> Engine<S> {
    pub fn new() -> io::Result<Self> {
        Ok(Engine {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            listeners: Vec::new(),
            connections: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(256),
            read: vec![0; READ_SIZE],
        })
    }

    pub fn listen(
        &mut self,
        address: SocketAddr,
        session: impl Fn() -> S + 'static,
    ) -> io::Result<()> {
        let socket = TcpListener::bind(address)?;
        // std listens with a backlog of 128: too few for thousands of connections at once.
        rustix::net::listen(&socket, 16_384)?;
        socket.set_nonblocking(true)?;
        let data = EventData::new_u64(LISTENER | self.listeners.len() as u64);
        epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
        self.listeners.push(Listener { socket, session: Box::new(session) });
        Ok(())
    }

    pub fn connect(&mut self, peer: SocketAddr, session: S) -> io::Result<usize> {
        // On loopback the handshake is over when this returns, so that it may block.
        let stream = TcpStream::connect(peer)?;
        self.adopt(stream, peer, session)
    }

    fn adopt(&mut self, stream: TcpStream, peer: SocketAddr, session: S) -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        epoll::add(&self.epoll, &stream, EventData::new_u64(key as u64), EventFlags::IN)?;
        let mut connection = Connection {
            stream,
            peer,
            session,
            input: Vec::new(),
            out: Vec::new(),
            sent: 0,
            interest: EventFlags::IN,
            ending: false,
        };
        connection.session.opened(&mut connection.out);
        self.connections[key] = Some(connection);
        self.flush(key);
        Ok(key)
    }

    /// Lets a session send something of its own accord. Nothing happens if its connection is gone.
    pub fn with(&mut self, key: usize, act: impl FnOnce(&mut S, &mut Vec<u8>)) {
        if let Some(Some(connection)) = self.connections.get_mut(key) {
            act(&mut connection.session, &mut connection.out);
            self.flush(key);
        }
    }

    /// Handles what is ready, or becomes so within `timeout`.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            let data = data.u64();
            if data & LISTENER != 0 {
                self.accept((data & !LISTENER) as usize);
                continue;
            }
            let key = data as usize;
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.readable(key);
            }
            if flags.contains(EventFlags::OUT) {
                self.flush(key);
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self, listener: usize) {
        while let Ok((stream, peer)) = self.listeners[listener].socket.accept() {
            let session = (self.listeners[listener].session)();
            if let Err(error) = self.adopt(stream, peer, session) {
                eprintln!("load: a connection could not be taken: {error}");
            }
        }
    }

    fn readable(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match connection.stream.read(&mut self.read) {
            Ok(0) => self.close(key),
            Ok(n) => {
                if !connection.take(&self.read[..n]) {
                    connection.ending = true;
                }
                self.flush(key);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.close(key),
        }
    }

    fn flush(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match connection.write() {
            Ok(()) if connection.ending && connection.out.is_empty() => return self.close(key),
            Ok(()) => {}
            Err(_) => return self.close(key),
        }
        let unsent = connection.out.len() - connection.sent;
        let mut interest = EventFlags::empty();
        if unsent < UNSENT_MAX && !connection.ending {
            interest |= EventFlags::IN;
        }
        if unsent > 0 {
            interest |= EventFlags::OUT;
        }
        if interest != connection.interest {
            connection.interest = interest;
            let data = EventData::new_u64(key as u64);
            if epoll::modify(&self.epoll, &connection.stream, data, interest).is_err() {
                self.close(key);
            }
        }
    }

    fn close(&mut self, key: usize) {
        let Some(mut connection) = self.connections[key].take() else { return };
        self.free.push(key);
        if connection.session.many() {
            let _ =
                rustix::net::sockopt::set_socket_linger(&connection.stream, Some(Duration::ZERO));
        }
        let again = connection.session.closed();
        let peer = connection.peer;
        drop(connection);
        if let Some(session) = again
            && let Err(error) = self.connect(peer, session)
        {
            eprintln!("load: no new connection to {peer}: {error}");
        }
    }
}

impl<S: Session> Connection<S> {
    /// Feeds the session. False: the connection must end.
    fn take(&mut self, bytes: &[u8]) -> bool {
        if self.input.is_empty() {
            // The common case, a whole request or answer: nothing is copied.
            match self.session.received(bytes, &mut self.out) {
                Ok(used) => self.input.extend_from_slice(&bytes[used..]),
                Err(End) => return false,
            }
        } else {
            self.input.extend_from_slice(bytes);
            match self.session.received(&self.input, &mut self.out) {
                Ok(used) => drop(self.input.drain(..used)),
                Err(End) => return false,
            }
        }
        true
    }

    /// Writes what the socket takes; then `out` is empty, or the rest waits for the socket.
    fn write(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        if !self.session.repeats() {
            self.out.clear();
        }
        Ok(())
    }
}
