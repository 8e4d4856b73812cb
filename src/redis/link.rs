//! The connection of one worker to Redis.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::resp::{self, Reply};
use super::{Redis, Script};
use crate::backoff::Backoff;
use crate::clock;
use crate::stream::Stream;
use crate::upstream::connect::connect;

/// Redis gives no answer that could be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

/// Keeps a connection for as long as it lives.
pub struct Link {
    redis: Arc<Redis>,
    script: &'static Script,
    shared: Rc<Shared>,
    keeper: JoinHandle<()>,
}

/// Between who asks and who carries.
#[derive(Default)]
struct Shared {
    /// None while there is no connection.
    pipe: RefCell<Option<Pipe>>,
    /// How many connections there have been.
    connections: Cell<u64>,
    /// There is something to write.
    asked: Notify,
    /// The pipe was taken away, and why.
    given_up: Notify,
    why: RefCell<String>,
}

/// What is on its way over one connection.
#[derive(Default)]
struct Pipe {
    out: BytesMut,
    /// Who waits for the next reply, and the one after it, and so on. Who waits no more keeps the place.
    waiting: VecDeque<oneshot::Sender<Reply>>,
}

/// A worker does not have more questions open: what comes beyond is no faster than deciding alone.
const MOST_WAITING: usize = 10_000;

impl Link {
    /// Connects, on the runtime of this thread. `probe` are arguments with which `script` changes nothing
    /// that matters: Redis counts as there when it has answered them.
    pub fn start(redis: Arc<Redis>, script: &'static Script, probe: [String; 3]) -> Rc<Self> {
        let shared = Rc::<Shared>::default();
        let keeper = keep(Standing::new(redis.clone()), shared.clone(), script, probe);
        let keeper = tokio::task::spawn_local(keeper);
        Rc::new(Self { redis, script, shared, keeper })
    }

    pub fn redis(&self) -> &Arc<Redis> {
        &self.redis
    }

    /// Runs the script on one key with two arguments.
    ///
    /// # Errors
    /// At once where there is no connection; where no answer comes in time, or another than a number.
    pub async fn eval(&self, arguments: [&str; 3]) -> Result<i64, Away> {
        let answer = async {
            match self.ask(b"EVALSHA", self.script.sha1.as_bytes(), arguments)?.await {
                // It has forgotten its scripts. This one tells it again and runs it.
                Ok(Reply::Error(error)) if error.starts_with("NOSCRIPT") => {
                    let text = self.script.text.as_bytes();
                    self.ask(b"EVAL", text, arguments)?.await.map_err(|_| Away)
                }
                answer => answer.map_err(|_| Away),
            }
        };
        let connection = self.shared.connections.get();
        let answered = timeout(self.redis.settings.timeout, answer).await;
        match answered {
            Ok(Ok(Reply::Integer(number))) => Ok(number),
            Ok(Err(Away)) => Err(Away),
            // It hangs, or is in no state to be asked: who comes next does not wait for it.
            Ok(Ok(reply)) => self.shared.give_up(connection, &format!("it says {reply:?}")),
            Err(_) => self.shared.give_up(connection, &late(self.redis.settings.timeout)),
        }
    }

    fn ask(
        &self,
        command: &[u8],
        script: &[u8],
        [key, first, second]: [&str; 3],
    ) -> Result<oneshot::Receiver<Reply>, Away> {
        let mut pipe = self.shared.pipe.borrow_mut();
        let pipe = pipe.as_mut().filter(|pipe| pipe.waiting.len() < MOST_WAITING).ok_or(Away)?;
        let parts = [command, script, b"1", key.as_bytes(), first.as_bytes(), second.as_bytes()];
        resp::write(&mut pipe.out, &parts);
        let (sender, receiver) = oneshot::channel();
        pipe.waiting.push_back(sender);
        self.shared.asked.notify_one();
        Ok(receiver)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    /// Ends a connection, unless it has ended. All who wait on it learn it at once.
    fn give_up(&self, connection: u64, why: &str) -> Result<i64, Away> {
        if self.connections.get() == connection && self.pipe.borrow_mut().take().is_some() {
            *self.why.borrow_mut() = why.to_owned();
            self.given_up.notify_one();
        }
        Err(Away)
    }
}

/// What one worker has to say of a Redis, in the counts of all workers. The first that loses it and the
/// last that has it back tell.
struct Standing {
    redis: Arc<Redis>,
    now: Option<bool>,
}

impl Standing {
    fn new(redis: Arc<Redis>) -> Self {
        redis.links.fetch_add(1, Relaxed);
        Self { redis, now: None }
    }

    fn set(&mut self, connected: Option<bool>, why: &str) {
        let redis = &self.redis;
        let address = &redis.settings.address;
        match std::mem::replace(&mut self.now, connected) {
            before if before == connected => return,
            Some(true) => {
                redis.connected.fetch_sub(1, Relaxed);
            }
            Some(false) if redis.failed.fetch_sub(1, Relaxed) == 1 && connected.is_some() => {
                tracing::info!(%address, "Redis answers again");
            }
            Some(false) | None => {}
        }
        match connected {
            Some(true) => {
                redis.connected.fetch_add(1, Relaxed);
            }
            Some(false) if redis.failed.fetch_add(1, Relaxed) == 0 => {
                tracing::warn!(
                    %address,
                    "Redis is away ({why}); each instance keeps to the rate limits on its own"
                );
            }
            Some(false) | None => {}
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.set(None, "");
        self.redis.links.fetch_sub(1, Relaxed);
    }
}

/// Makes the connection, and makes it again, until it is aborted.
async fn keep(
    mut standing: Standing,
    shared: Rc<Shared>,
    script: &'static Script,
    probe: [String; 3],
) {
    let (mut backoff, mut random) = (Backoff::new(FIRST_WAIT, LONGEST_WAIT), fastrand::Rng::new());
    loop {
        let began = clock::now();
        let (why, lived) = match open(&standing.redis, script, &probe).await {
            Ok(stream) => {
                shared.connections.set(shared.connections.get() + 1);
                *shared.pipe.borrow_mut() = Some(Pipe::default());
                standing.set(Some(true), "");
                let why = carry(stream, &shared).await;
                (why, clock::now() - began)
            }
            Err(why) => (why, Duration::ZERO),
        };
        // Who waits learns it by that.
        drop(shared.pipe.borrow_mut().take());
        standing.set(Some(false), &why);
        if lived >= GOOD {
            backoff.reset();
        }
        sleep(backoff.next(&mut random)).await;
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// After which a connection that has ended was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// How long a connection may take to be there, the greetings included.
const CONNECT: Duration = Duration::from_secs(1);

/// A connection over which Redis has run the script as quickly as it has to.
async fn open(redis: &Redis, script: &Script, probe: &[String; 3]) -> Result<Stream, String> {
    let settings = &redis.settings;
    let mut commands: Vec<Vec<&[u8]>> = Vec::new();
    let password = match &settings.password_file {
        None => None,
        Some(path) => Some(tokio::fs::read_to_string(path).await.map_err(|error| {
            format!("the password cannot be read from {}: {error}", path.display())
        })?),
    };
    if let Some(password) = &password {
        let mut auth = vec![&b"AUTH"[..]];
        auth.extend(settings.username.as_ref().map(|name| name.as_bytes()));
        // The newline that editors put at the end of a file is none of the password.
        auth.push(password.trim_end_matches(['\r', '\n']).as_bytes());
        commands.push(auth);
    }
    let database = settings.database.to_string();
    if settings.database != 0 {
        commands.push(vec![b"SELECT", database.as_bytes()]);
    }
    commands.push(vec![b"SCRIPT", b"LOAD", script.text.as_bytes()]);
    let [key, first, second] = probe.each_ref().map(|argument| argument.as_bytes());
    let probe = [b"EVALSHA", script.sha1.as_bytes(), b"1", key, first, second];
    let greeting = async {
        let stream = connect(&settings.address, CONNECT).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        for command in &commands {
            converse(&mut stream, command).await?;
        }
        Ok(stream)
    };
    let mut stream = timeout(CONNECT, greeting).await.unwrap_or_else(|_| Err(late(CONNECT)))?;
    let probed = timeout(settings.timeout, converse(&mut stream, &probe)).await;
    probed.unwrap_or_else(|_| Err(late(settings.timeout)))?;
    Ok(stream)
}

/// One command, and its answer awaited.
async fn converse(stream: &mut Stream, command: &[&[u8]]) -> Result<Reply, String> {
    let mut out = BytesMut::new();
    resp::write(&mut out, command);
    let broken = |error: std::io::Error| error.to_string();
    stream.write_all(&out).await.map_err(broken)?;
    let mut bytes = BytesMut::new();
    loop {
        match resp::read(&bytes).map_err(|malformed| malformed.to_string())? {
            Some((Reply::Error(error), _)) => return Err(error.into()),
            Some((reply, _)) => return Ok(reply),
            None if stream.read_buf(&mut bytes).await.map_err(broken)? == 0 => {
                return Err(CLOSED.to_owned());
            }
            None => {}
        }
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

const CLOSED: &str = "it closed the connection";

/// Carries questions and answers; says why it ended.
async fn carry(stream: Stream, shared: &Shared) -> String {
    let (reading, writing) = tokio::io::split(stream);
    tokio::select! {
        why = answers(reading, shared) => why,
        why = questions(writing, shared) => why,
        () = given_up(shared) => shared.why.take(),
    }
}

async fn given_up(shared: &Shared) {
    // A word that was meant for a connection before is none.
    while shared.pipe.borrow().is_some() {
        shared.given_up.notified().await;
    }
}

async fn questions(mut stream: WriteHalf<Stream>, shared: &Shared) -> String {
    loop {
        let mut out = match &mut *shared.pipe.borrow_mut() {
            Some(pipe) => std::mem::take(&mut pipe.out),
            None => BytesMut::new(),
        };
        if out.is_empty() {
            shared.asked.notified().await;
        } else if let Err(error) = stream.write_all_buf(&mut out).await {
            return error.to_string();
        }
    }
}

async fn answers(mut stream: ReadHalf<Stream>, shared: &Shared) -> String {
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        match stream.read_buf(&mut bytes).await {
            Ok(0) => return CLOSED.to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        loop {
            let (reply, length) = match resp::read(&bytes) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(malformed) => return malformed.to_string(),
            };
            bytes.advance(length);
            let waiting = shared.pipe.borrow_mut().as_mut().and_then(|p| p.waiting.pop_front());
            match waiting {
                // Who waits no more has dropped the other end.
                Some(waiting) => drop(waiting.send(reply)),
                None => return "it says what nobody has asked for".to_owned(),
            }
        }
    }
}
