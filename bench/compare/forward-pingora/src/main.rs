//! A bare forwarder: what pingora gives without a filter, endpoints in turn.
//!
//! `forward-pingora --workers 1 --http1 LISTEN --http2 LISTEN --grpc LISTEN --upstream ADDRESS...`
//! `--http1` and `--http2` (h2c) go on by HTTP/1.1, `--grpc` (h2c) by h2c.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use lexopt::prelude::*;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Forward {
    upstreams: Vec<SocketAddr>,
    next: AtomicUsize,
    http2: bool,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _context: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.upstreams.len();
        let mut peer = HttpPeer::new(self.upstreams[at], false, String::new());
        if self.http2 {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = 1000;
        }
        Ok(Box::new(peer))
    }

    /// HTTP/1.1 wants a Host, where HTTP/2 had an authority.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        _context: &mut (),
    ) -> pingora_core::Result<()> {
        if !self.http2
            && !request.headers.contains_key("host")
            && let Some(authority) = request.uri.authority().map(ToString::to_string)
        {
            request.insert_header("host", authority)?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut http, mut grpc, mut upstreams) = (Vec::new(), Vec::new(), Vec::new());
    let mut conf = ServerConf {
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("workers") => conf.threads = arguments.value()?.parse()?,
            Long("upstream") => upstreams.push(arguments.value()?.parse()?),
            Long("http1" | "http2") => http.push(arguments.value()?.string()?),
            Long("grpc") => grpc.push(arguments.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for (listen, http2) in [(http, false), (grpc, true)] {
        let forward = Forward { upstreams: upstreams.clone(), next: AtomicUsize::new(0), http2 };
        let mut service = http_proxy_service(&server.configuration, forward);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        service.app_logic_mut().ok_or("no service")?.server_options = Some(options);
        for address in listen {
            service.add_tcp(&address);
        }
        server.add_service(service);
    }
    server.run_forever()
}
