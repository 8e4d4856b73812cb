//! A service behind the server, and a scripted client at the other end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, WriteHalf, duplex,
};

use crate::clock::{self, Instant};
use crate::listen::http1::{
    After, BodyError, Connection, HeadLimits, Incoming, Next, Refused, Shared,
};
use crate::names::Names;

pub const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: a\r\n\r\n";
pub const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
pub const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

/// What one connection's service saw.
#[derive(Default)]
pub struct Script {
    /// `METHOD path body` of each request, or why it was refused.
    pub seen: RefCell<Vec<String>>,
    /// Requests that were begun; the story of one that was dropped is not in `seen`.
    pub begun: RefCell<Vec<String>>,
    /// The names of each request.
    pub names: RefCell<Vec<Names>>,
    pub refused: RefCell<Vec<Refused>>,
    /// When the server proposed to park the connection, and until when.
    pub parking: RefCell<Vec<(Instant, Instant)>>,
    /// How answers are to be written.
    pub answer_names: Names,
}

pub async fn collect<T>(mut body: Incoming<T>) -> Result<(Vec<u8>, HeaderMap), BodyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers.extend(frame.into_trailers().expect("trailers")),
        }
    }
    assert!(body.is_end_stream());
    Ok((data, trailers))
}

impl Script {
    /// What is done depends on the path.
    async fn answer<T>(
        &self,
        shared: &Rc<Shared<T>>,
        request: Request<Incoming<T>>,
    ) -> Response<Full<Bytes>>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let line = format!("{} {}", request.method(), request.uri().path());
        self.begun.borrow_mut().push(line.clone());
        self.names.borrow_mut().push(shared.take_names());
        let mut response = Response::new(Full::from(line.clone()));
        match request.uri().path() {
            "/slow" => tokio::time::sleep(Duration::from_secs(30)).await,
            "/never" => std::future::pending().await,
            "/hint" => {
                let mut headers = HeaderMap::new();
                headers.insert("link", http::HeaderValue::from_static("</x>"));
                shared.interim(StatusCode::EARLY_HINTS, &headers);
            }
            "/upgrade" => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.body_mut() = Full::default();
                return response;
            }
            "/early" => {
                let body = request.into_body();
                tokio::task::spawn_local(collect(body));
                return response;
            }
            "/unread" => return response,
            _ => {}
        }
        let line = match collect(request.into_body()).await {
            Ok((body, _)) => format!("{line} {}", body.escape_ascii()),
            Err(_) => {
                *response.status_mut() = StatusCode::BAD_REQUEST;
                let reason = shared.body_rejection().map_or("none", |found| found.reason);
                response
                    .headers_mut()
                    .insert("connection", http::HeaderValue::from_static("close"));
                format!("{line} broken: {reason}")
            }
        };
        self.seen.borrow_mut().push(line);
        for (name, value) in [("x-own", "aB"), ("via", "x-own"), ("x-own", "c")] {
            if !self.answer_names.is_empty() {
                response.headers_mut().append(name, http::HeaderValue::from_static(value));
            }
        }
        shared.name_answer(self.answer_names.clone());
        response
    }

    fn refuse(&self, refused: Refused) -> Response<Full<Bytes>> {
        let rejection = refused.rejection;
        self.seen.borrow_mut().push(rejection.reason.to_owned());
        self.refused.borrow_mut().push(refused);
        let mut response = Response::new(Full::from(rejection.message));
        *response.status_mut() = rejection.status.try_into().expect("a status");
        response
    }
}

/// Serves the connection until its end.
pub async fn serve<T>(io: T, early: &str, limits: HeadLimits, script: &Script)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let early = Bytes::copy_from_slice(early.as_bytes());
    let mut http = Connection::<Full<Bytes>, T>::new(io, early, limits, clock::now());
    let shared = http.shared().clone();
    loop {
        let response = match poll_fn(|cx| http.poll_next(cx)).await {
            Next::Request(request) => tokio::select! {
                biased;
                response = script.answer(&shared, request) => response,
                () = poll_fn(|cx| http.poll_gone(cx)) => return,
            },
            Next::Refused(refused) => script.refuse(refused),
            Next::Park(until) => {
                script.parking.borrow_mut().push((clock::now(), until));
                continue;
            }
            Next::End => break,
        };
        shared.answer_ends(clock::now());
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        http.answer(response, false);
        match poll_fn(|cx| http.poll_answer(cx)).await {
            After::Broken => return,
            _ if switches => {
                let (io, early) = http.into_stream().expect("the end of the request");
                return echo(io, &early).await;
            }
            After::Next => {}
            After::Close => break,
        }
    }
    poll_fn(|cx| http.poll_close(cx)).await;
}

async fn echo(mut io: impl AsyncRead + AsyncWrite + Unpin, early: &[u8]) {
    io.write_all(early).await.expect("write");
    let mut buffer = [0; 64];
    while let Ok(len @ 1..) = io.read(&mut buffer).await {
        io.write_all(&buffer[..len]).await.expect("write");
    }
}

/// Runs `client` against a server; returns what the client returns and what the service saw.
pub async fn with_client<R>(
    limits: HeadLimits,
    client: impl AsyncFnOnce(DuplexStream, &Script) -> R,
) -> (R, Script) {
    let script = Script::default();
    let (ours, theirs) = duplex(64 * 1024);
    let tasks = tokio::task::LocalSet::new();
    let served = async { tokio::join!(serve(theirs, "", limits, &script), client(ours, &script)) };
    let ((), output) = tasks.run_until(served).await;
    (output, script)
}

/// Sends all of `input`, keeps its side open, and reads until the server closes.
pub async fn exchange(input: impl AsRef<[u8]>) -> (String, Vec<String>) {
    let (output, script) = with_client(HeadLimits::default(), async |io, _| {
        let (mut read, mut write): (_, WriteHalf<_>) = tokio::io::split(io);
        let mut output = Vec::new();
        // It fails once the server has closed.
        let _ = tokio::join!(read.read_to_end(&mut output), write.write_all(input.as_ref()));
        String::from_utf8(output).expect("text")
    })
    .await;
    (output, script.seen.take())
}

pub async fn read_to_end(io: &mut DuplexStream) -> String {
    let mut output = Vec::new();
    let _ = io.read_to_end(&mut output).await;
    String::from_utf8(output).expect("text")
}

/// Reads until `output` ends so.
pub async fn read_until(io: &mut DuplexStream, end: &str) -> String {
    let mut output = Vec::new();
    while !output.ends_with(end.as_bytes()) {
        output.push(io.read_u8().await.expect("more to come"));
    }
    String::from_utf8(output).expect("text")
}

pub fn statuses(output: &str) -> Vec<&str> {
    let codes = output.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]);
    codes.filter(|code| code.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// Lets the server do what it can.
pub async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
