//! One connection of a client that speaks HTTP/2. Each of its requests is a task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::time::timeout;

use super::connection::{Connection, Ends, closing, until_cut};
use super::incoming::Incoming;
use super::opening::Tunnel;
use super::tunnel::End;
use super::{abandoned, handle};
use crate::drain::Phase;
use crate::http2::{self, Outgoing, TunnelStream};
use crate::listen;
use crate::listen::detect::Prefixed;
use crate::stream::Stream;
use crate::worker::Worker;

/// Serves requests until the connection ends.
pub async fn serve(worker: &Rc<Worker>, ends: &Ends, stream: Prefixed<Stream>) {
    let limits = worker.view().snapshot.limits;
    let opening = listen::http2::Connection::open(stream, limits.max_head);
    let opened = tokio::select! {
        opened = timeout(limits.header_timeout, opening) => opened,
        () = worker.drain.reached(Phase::Cut) => return,
    };
    let Ok(Ok(mut http2)) = opened else { return };
    let connection = Connection::new(ends, None);
    let begin = |request, respond| begin(worker, &connection, request, respond);
    tokio::select! {
        biased;
        () = poll_fn(|cx| http2.poll(cx, begin)) => return,
        () = worker.drain.reached(closing(connection.direction)) => {}
        () = connection.idle(limits.idle_timeout) => {}
    }
    // GOAWAY tells the client which streams still count, so nothing is lost between the two.
    http2.shut_down();
    let mut serving = poll_fn(|cx| http2.poll(cx, begin));
    tokio::select! {
        biased;
        () = until_cut(&worker.drain, &mut serving) => {}
        // A client that does not answer the ping behind the GOAWAY would stay for ever.
        () = connection.idle(limits.header_timeout) => {}
    }
}

/// The client's side of a request, but for its body.
pub struct ClientStream {
    respond: RefCell<SendResponse<Bytes>>,
    /// What the request has become, to begin with its answer.
    tunnel: RefCell<Option<Tunnel>>,
}

impl ClientStream {
    /// Tells the client of an interim answer. One that has left gets none.
    pub fn inform(&self, interim: Response<()>) {
        let _ = self.respond.borrow_mut().send_informational(interim);
    }

    /// Has `tunnel` begin with the answer.
    pub fn become_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Ready when the client wants no answer any more, or has left. Only before the answer.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.borrow_mut().poll_reset(cx).map(drop)
    }
}

/// Begins the task of a request. It is boxed before it is moved: then a pointer moves, not the whole story.
fn begin(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let tunnel = request.method() == Method::CONNECT;
    if tunnel && request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    }
    let respond = RefCell::new(respond);
    let stream = Rc::new(ClientStream { respond, tunnel: RefCell::default() });
    tokio::task::spawn_local(Box::pin(run(worker.clone(), connection.clone(), request, stream)));
}

/// A request from its head to the end of its answer.
async fn run(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<RecvStream>,
    stream: Rc<ClientStream>,
) {
    // One that was opened only to be reset costs no upstream anything.
    if poll_fn(|cx| Poll::Ready(stream.poll_gone(cx).is_ready())).await {
        return abandoned(&worker, &connection, &request.into_parts().0);
    }
    let is_head = request.method() == Method::HEAD;
    // Its room is that of the answer's body afterwards.
    let (response, bytes) = {
        let (parts, body) = request.into_parts();
        let (body, bytes) = match parts.method == Method::CONNECT {
            true => (None, Some(body)),
            false => (Some(http2::Incoming::new(body, &parts.headers)), None),
        };
        let incoming = Incoming::Http2(body, stream.clone());
        let request = Request::from_parts(parts, incoming);
        let mut story = pin!(handle(worker.clone(), connection, request));
        let mut begun = false;
        let answered = poll_fn(|cx| {
            // Before the story, which would take it for a body that broke off.
            if std::mem::replace(&mut begun, true) && stream.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            story.as_mut().poll(cx).map(Some)
        });
        let Some(response) = answered.await else { return };
        (response, bytes)
    };
    answer(&worker, &stream, response, is_head, bytes).await;
}

/// Sends an answer, or what a tunnel carries, to its end.
async fn answer(
    worker: &Worker,
    stream: &ClientStream,
    response: Response<super::body::Body>,
    is_head: bool,
    bytes: Option<RecvStream>,
) {
    let tunnel = stream.tunnel.take();
    let (head, body) = response.into_parts();
    // The upstream knows what a HEAD is.
    let no_body = body.is_end_stream() || is_head && !body.is_upstreams();
    let ends = no_body && tunnel.is_none();
    let sent = stream.respond.borrow_mut().send_response(Response::from_parts(head, ()), ends);
    let Ok(send) = sent else {
        return stream.respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
    };
    match (tunnel, bytes) {
        (Some(tunnel), Some(receive)) => {
            let client = End::multiplexed(TunnelStream::new(send, receive));
            Box::pin(tunnel.run(client, &worker.drain)).await;
        }
        _ if ends => {}
        _ => {
            // Ours are short, and no timer of theirs would notice a client who takes nothing.
            let ahead = if body.is_upstreams() { 0 } else { usize::MAX };
            let mut body = Outgoing::new(send, body, ahead);
            // Why it ended is in the report that the body finishes.
            let _ = poll_fn(|cx| body.poll_send(cx)).await;
        }
    }
}
