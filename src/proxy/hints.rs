//! Interim answers (1xx) on their way from an upstream connection to a client's.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode, Version};

use super::connection::Connection;
use super::fields::Fields;
use super::gate::Gate;
use super::headers::strip_hop_by_hop;
use super::http2::ClientStream;

/// More of them for one attempt than this are dropped.
const MAX: u32 = 20;

/// Where the interim answers of one attempt go: `100` opens the gate of the body, the others go to a
/// client of HTTP/1.1 or HTTP/2. Older ones do not know them.
pub struct Hints<'a> {
    client: Option<&'a Connection>,
    stream: Option<&'a ClientStream>,
    gate: Option<&'a Gate>,
    passed: u32,
}

impl<'a> Hints<'a> {
    /// `stream` is the client's on HTTP/2.
    pub fn new(
        version: Version,
        client: &'a Connection,
        stream: Option<&'a ClientStream>,
        gate: Option<&'a Gate>,
    ) -> Self {
        let client = (version == Version::HTTP_11).then_some(client);
        Self { client, stream, gate, passed: 0 }
    }

    pub fn pass_on(&mut self, status: StatusCode, mut headers: HeaderMap) {
        if status == StatusCode::CONTINUE {
            if let Some(gate) = self.gate {
                gate.open();
            }
            return;
        }
        self.passed += 1;
        if self.passed > MAX {
            return;
        }
        let fields = Fields::of(&headers);
        strip_hop_by_hop(&mut headers, fields);
        // It has none, whatever it says (RFC 9110 8.6).
        headers.remove(CONTENT_LENGTH);
        if let Some(stream) = self.stream {
            let mut interim = Response::new(());
            *interim.status_mut() = status;
            *interim.headers_mut() = headers;
            stream.inform(interim);
        } else if let Some(http1) = self.client.and_then(|client| client.http1.as_ref()) {
            http1.interim(status, &headers);
        }
    }
}
