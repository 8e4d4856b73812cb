//! A real DNS server, dnsmasq, on a port of its own; and one that answers as a test tells it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, Query};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use super::counterpart::{Tool, free_address, freeze, have, thaw};
use super::eventually;

/// Serves `.test`.
pub struct Dnsmasq {
    child: Child,
    dir: TempDir,
    pub address: SocketAddr,
}

impl Dnsmasq {
    /// With these lines of dnsmasq.conf(5). None where there is no dnsmasq, which has been said then.
    pub async fn start(lines: &[&str]) -> Option<Self> {
        if !have(&[Tool::Dnsmasq]).await {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let address = free_address();
        write(&dir, address, lines);
        let server = Self { child: spawn(&dir), dir, address };
        server.is_ready().await;
        Some(server)
    }

    /// Starts it again with other records.
    pub async fn becomes(&mut self, lines: &[&str]) {
        self.kill();
        write(&self.dir, self.address, lines);
        self.child = spawn(&self.dir);
        self.is_ready().await;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("its end");
    }

    /// It keeps its port, and does nothing.
    pub fn hang(&self) {
        freeze(&self.child);
    }

    pub fn go_on(&self) {
        thaw(&self.child);
    }

    async fn is_ready(&self) {
        eventually(|| async {
            let mut server = NameServerConfig::new(self.address.ip(), true, Vec::new());
            let mut udp = ConnectionConfig::new(ProtocolConfig::Udp);
            udp.port = self.address.port();
            server.connections.push(udp);
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().timeout = Duration::from_millis(300);
            let resolver = builder.build().expect("a resolver");
            resolver.ipv4_lookup("ready.test.").await.ok()
        })
        .await;
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.kill();
    }
}

fn write(dir: &TempDir, address: SocketAddr, lines: &[&str]) {
    let (ip, port) = (address.ip(), address.port());
    let all = format!(
        "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\npid-file=\nuser=root\nlocal=/test/\nlocal-ttl=1\nhost-record=ready.test,127.0.0.1\n{}\n",
        lines.join("\n")
    );
    std::fs::write(dir.path().join("dnsmasq.conf"), all).expect("its configuration");
}

fn spawn(dir: &TempDir) -> Child {
    let mut command = Command::new("dnsmasq");
    command.arg("--keep-in-foreground");
    command.arg(format!("--conf-file={}", dir.path().join("dnsmasq.conf").display()));
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
}

/// What a scripted server does with a question.
pub enum Says {
    Message(Box<Message>),
    Bytes(Vec<u8>),
    Nothing,
}

/// A server that answers as it is told, by UDP and TCP.
pub struct Scripted {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Scripted {
    /// `answer` gets the question, to be made an answer of, and whether it came by TCP.
    pub async fn start(
        answer: impl Fn(&Query, Message, bool) -> Says + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = udp.local_addr().expect("its address");
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("its address");
        let asked = Arc::<AtomicUsize>::default();
        let (count, answer) = (asked.clone(), Arc::new(answer));
        let told = move |bytes: &[u8], is_tcp: bool| {
            let question = Message::from_vec(bytes).expect("a question");
            let query = question.queries.first().expect("a question").clone();
            count.fetch_add(1, SeqCst);
            let mut reply = Message::response(question.id, question.op_code);
            reply.add_query(query.clone());
            match answer(&query, reply, is_tcp) {
                Says::Message(message) => Some(message.to_vec().expect("a message")),
                Says::Bytes(bytes) => Some(bytes),
                Says::Nothing => None,
            }
        };
        let by_udp = told.clone();
        let udp = tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut bytes).await {
                if let Some(answer) = by_udp(&bytes[..length], false) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let tcp = tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut bytes = vec![0; length.into()];
                        if stream.read_exact(&mut bytes).await.is_err() {
                            return;
                        }
                        if let Some(answer) = told(&bytes, true) {
                            let length = (answer.len() as u16).to_be_bytes();
                            let _ = stream.write_all(&[&length[..], &answer].concat()).await;
                        }
                    }
                });
            }
        });
        Self { address, asked, tasks: [udp, tcp] }
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
