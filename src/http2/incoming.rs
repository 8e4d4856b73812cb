//! A body that comes on a stream.

use std::cell::Cell;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

/// Each frame makes room for as much as it takes, once it is taken: a peer sends no more than is wanted.
pub struct Incoming {
    stream: RecvStream,
    /// What is left of an announced length. That the data has this length, `h2` sees to.
    left: Option<u64>,
    /// Only trailers may still come.
    data_done: bool,
    /// The stream was seen to have ended, which it need not be asked again.
    ended: Cell<bool>,
}

impl Incoming {
    /// `headers` are those that `stream` came with.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let ended = stream.is_end_stream();
        let left = match content_length(headers) {
            None if ended => Some(0),
            length => length,
        };
        Self { stream, left, data_done: false, ended: Cell::new(ended) }
    }

    /// A reset is no end, whatever it says: one behind the end of an answer (RFC 9113 8.1) `h2` does not tell of.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It fails only for a stream that is gone, which the next poll tells.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    /// Whether nothing more comes: no byte, no trailers, no end.
    pub fn is_end_stream(&self) -> bool {
        if !self.ended.get() {
            self.ended.set(self.stream.is_end_stream());
        }
        self.ended.get()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The stream itself, for what is no message.
    pub fn into_stream(self) -> RecvStream {
        self.stream
    }
}

/// `h2` has seen to it that all of them are numbers, and the same.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use h2::Reason;
    use http::Request;

    use super::*;

    #[tokio::test]
    async fn a_request_that_is_reset_is_not_whole_whatever_the_reason() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let client = async {
            let (mut requests, connection) = h2::client::handshake(theirs).await.unwrap();
            tokio::spawn(connection);
            let (_response, mut stream) = requests
                .send_request(Request::post("http://app/").body(()).unwrap(), false)
                .unwrap();
            stream.send_data(Bytes::from_static(b"part"), false).unwrap();
            stream
        };
        let (mut stream, server) = tokio::join!(client, h2::server::handshake(ours));
        let mut server = server.unwrap();
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let (head, body) = request.into_parts();
        let mut body = Incoming::new(body, &head.headers);
        let part = poll_fn(|cx| body.poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(part.into_data().unwrap(), "part");
        stream.send_reset(Reason::NO_ERROR);
        assert!(poll_fn(|cx| body.poll_frame(cx)).await.is_some_and(|end| end.is_err()));
    }
}
