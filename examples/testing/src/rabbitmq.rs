//! A real RabbitMQ, with a directory, ports and an epmd of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::program::{Program, absent, find, free_address, log_file, log_of, wait_for};
use crate::within;

pub struct RabbitMq {
    program: Option<Program>,
    _epmd: Program,
    /// Where epmd is.
    names: SocketAddr,
    /// Where other nodes would reach this one.
    others: SocketAddr,
    server: PathBuf,
    address: SocketAddr,
    connection: Mutex<Option<Connection>>,
    dir: TempDir,
}

impl RabbitMq {
    /// None where there is none, which has been said then.
    pub async fn start() -> Option<Self> {
        // Not Debian's on the PATH, which becomes another user and reads the settings of the machine's own server.
        let server = find(&[
            "/usr/lib/rabbitmq/bin/rabbitmq-server",
            "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server",
            "rabbitmq-server",
        ]);
        let (Some(server), Some(epmd)) = (server, find(&["epmd"])) else {
            absent("RabbitMQ (Debian's package rabbitmq-server)");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("plugins"), "[].").expect("a file");
        std::fs::write(dir.path().join("rabbitmq.conf"), CONFIGURATION).expect("a file");
        let (epmd, names) = start_epmd(&epmd, dir.path()).await;
        let (address, others) = (free_address(), free_address());
        let mut rabbitmq = Self {
            program: None,
            _epmd: epmd,
            names,
            others,
            server,
            address,
            connection: Mutex::default(),
            dir,
        };
        // Another process may have taken a port meanwhile.
        while !rabbitmq.try_start().await {
            (rabbitmq.address, rabbitmq.others) = (free_address(), free_address());
        }
        Some(rabbitmq)
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it at once: what it confirmed is kept.
    pub fn stop(&mut self) {
        self.program = None;
    }

    /// Starts it again on its port, with what it kept.
    pub async fn start_again(&mut self) {
        assert!(self.try_start().await, "{}", log_of(&self.dir.path().join("log")));
    }

    /// It keeps its connections and takes new ones, and does nothing.
    pub fn freeze(&self) {
        self.program.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self) {
        self.program.as_ref().expect("it runs").thaw();
    }

    /// Makes a queue that outlives a restart.
    pub async fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = self.channel().await;
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
        declared.await.expect("a queue");
    }

    /// Sends a message, whatever it is, and waits until the server has it.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let channel = self.channel().await;
        let properties = BasicProperties::default().with_delivery_mode(2);
        channel.confirm_select(Default::default()).await.expect("confirms");
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (exchange.into(), key.into());
        let sent = channel.basic_publish(exchange, key, options, body, properties).await;
        let confirmation = within(sent.expect("sent")).await.expect("an answer");
        assert!(confirmation.is_ack(), "{confirmation:?}");
    }

    /// How many messages wait in a queue; none where there is no such queue.
    pub async fn waiting(&self, queue: &str) -> Option<u32> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.channel().await;
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.ok().map(|queue| queue.message_count())
    }

    /// The next message of a queue.
    pub async fn take(&self, queue: &str) -> Option<Vec<u8>> {
        let channel = self.channel().await;
        let options = BasicGetOptions { no_ack: true };
        let message = within(channel.basic_get(queue.into(), options)).await.expect("the queue");
        message.map(|message| message.delivery.data)
    }

    /// On one connection, which is made when it is needed, and again when it broke.
    async fn channel(&self) -> Channel {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection
            && let Ok(channel) = within(connection.create_channel()).await
        {
            return channel;
        }
        let url = self.url();
        let new = Connection::connect(&url, ConnectionProperties::default());
        let new = connection.insert(within(new).await.expect("a connection"));
        within(new.create_channel()).await.expect("a channel")
    }

    /// False where it ends instead of answering.
    async fn try_start(&mut self) -> bool {
        let dir = self.dir.path();
        let mut command = Command::new(&self.server);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        let name = format!("test-{}@localhost", self.address.port());
        // It makes its cookie in there.
        command.env("HOME", dir).env("RABBITMQ_NODENAME", name);
        command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODE_PORT", self.address.port().to_string());
        command.env("RABBITMQ_DIST_PORT", self.others.port().to_string());
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("ERL_EPMD_PORT", self.names.port().to_string());
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1}",
        );
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"));
        command.env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"));
        command.env("RABBITMQ_LOG_BASE", dir.join("logs"));
        let log = dir.join("log");
        command.stdout(log_file(&log)).stderr(log_file(&log));
        self.program = Some(Program::start(&mut command, Signal::KILL, dir));
        let address = self.address;
        let program = self.program.as_mut().expect("started");
        wait_for(program, async || greets(address).await).await
    }
}

/// It is to run on what a small machine has left.
const CONFIGURATION: &str = "disk_free_limit.absolute = 1MB\n";

/// One of its own, which is told nothing of the machine's other nodes. Erlang would start one that outlives all.
async fn start_epmd(epmd: &Path, dir: &Path) -> (Program, SocketAddr) {
    loop {
        let address = free_address();
        let mut command = Command::new(epmd);
        command.args(["-address", "127.0.0.1", "-port", &address.port().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = Program::start(&mut command, Signal::KILL, dir);
        // Another process may have taken the port meanwhile.
        let there =
            wait_for(&mut program, async || TcpStream::connect(address).await.is_ok()).await;
        if there {
            return (program, address);
        }
    }
}

/// Whether it answers as AMQP 0-9-1 has it: with a method of channel 0, after which it is the client's turn.
async fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let mut answer = [0; 3];
    stream.write_all(b"AMQP\0\0\x09\x01").await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && answer == [1, 0, 0]
}
