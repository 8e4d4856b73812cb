//! What is counted and logged of a request once it has ended.

use std::time::Duration;

use http::{HeaderValue, StatusCode, Version};

use super::super::tunnel::{Tally, TunnelEnd};
use super::{Ending, NONE, Report};
use crate::clock::{self, Instant};
use crate::policy::End;
use crate::policy::fallback::Cause;
use crate::telemetry::access_log::Record;
use crate::telemetry::flags::Flag;
use crate::telemetry::metrics::{ErrorType, MethodLabel, RequestKey, RequestLabels};

impl Report {
    pub fn finish(mut self: Box<Self>, ending: Ending, now: Instant) {
        self.end(ending, now);
    }

    /// The bytes of a tunnel are those of the request that made it.
    pub fn finish_tunnel(mut self: Box<Self>, tally: &Tally, end: TunnelEnd) {
        self.sent = tally.from_server.get();
        self.write(tally.from_client.get(), Ending::Tunnel(end), clock::now());
    }

    fn end(&mut self, ending: Ending, now: Instant) {
        let received = self.upload.as_ref().map_or(0, |upload| upload.received());
        self.write(received, ending, now);
    }

    fn write(&mut self, received: u64, ending: Ending, now: Instant) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let (Some((flag, reason)), None) = (shortfall(ending), self.flag) {
            self.flag = Some(flag);
            self.reason = reason;
        }
        self.shadow.extend(self.overrun.as_ref().and_then(|overrun| overrun.would()));
        let grpc = self.grpc;
        let end = |head| match ending {
            // A gRPC call without a status: `unknown`.
            Ending::Complete if grpc => {
                Some(End::Answered { status: StatusCode::OK, grpc: Some(2) })
            }
            Ending::Complete => Some(head),
            Ending::ClientGone => Some(head).filter(|_| !grpc),
            Ending::UpstreamBroken => Some(End::Reset),
            Ending::IdleTimeout | Ending::Tunnel(_) => None,
        };
        self.tell_expected(end, || now);
        self.connection.request_ends(now);
        self.count(now - self.started);
        self.log(now - self.started, received);
    }

    fn count(&self, duration: Duration) {
        let error = if self.flag.is_some() { ErrorType(self.reason) } else { ErrorType::NONE };
        let key = RequestKey {
            generation: self.view.snapshot.generation,
            route: self.route.as_ref().map_or(NONE, |route| route.slot),
            service: self.service,
            direction: self.connection.direction,
            method: MethodLabel::of(&self.method),
            status: self.status_code(),
            error,
            grpc_status: self.grpc.then(|| self.grpc_status.map_or(2, |code| code.min(255) as u8)),
        };
        let labels = || RequestLabels {
            route: self.route.as_ref().map_or("", |route| &route.pattern),
            service: self.service_name().unwrap_or_default(),
        };
        self.worker.recorder.record(key, labels, duration);
    }

    /// 0: the client got no answer.
    fn status_code(&self) -> u16 {
        self.status.map_or(0, |status| status.as_u16())
    }

    pub(super) fn service_name(&self) -> Option<&str> {
        self.view.snapshot.clusters.get(self.service as usize).map(|cluster| &*cluster.name)
    }

    fn log(&self, duration: Duration, received: u64) {
        let log = &self.worker.log;
        if !log.enabled() {
            return;
        }
        let fallback = self.fallback.map(Cause::text);
        let record = Record {
            start: self.wall,
            direction: self.connection.direction,
            method: self.method.as_str(),
            path: self.path.as_ref().map_or("", |path| path.as_str()),
            protocol: protocol(self.version),
            status: self.status_code(),
            flag: self.flag.or(self.delayed.then_some(Flag::DelayInjected)),
            details: self.reason,
            bytes_received: received,
            bytes_sent: self.sent,
            duration,
            upstream_time: self.upstream_time,
            x_forwarded_for: self.forwarded_for.as_ref().map(HeaderValue::as_bytes),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            request_id: self.request_id.as_ref().map(HeaderValue::as_bytes),
            authority: self.authority.as_ref().map(HeaderValue::as_bytes),
            upstream_host: self.endpoint.as_ref().map(|endpoint| &*endpoint.label),
            upstream_cluster: self.service_name(),
            route_name: self.route.as_ref().map(|route| &*route.name),
            trace_id: self.trace.map(|trace| trace.trace_id),
            span_id: self.trace.map(|trace| trace.span_id),
            attempts: self.attempts,
            grpc_status: self.grpc_status,
            exhausted: self.exhausted,
            notes: &self.notes,
            shadow: &self.shadow,
            hedge: self.hedge,
            fallback: fallback.as_deref(),
        };
        self.worker.write_log(&record);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Not finished: the client went away while we were still waiting for the upstream.
        if !self.ended {
            self.end(Ending::ClientGone, clock::now());
        }
    }
}

/// The flag and reason of a response that did not reach its end.
pub(super) fn shortfall(ending: Ending) -> Option<(Flag, &'static str)> {
    match ending {
        Ending::Complete | Ending::Tunnel(TunnelEnd::Closed) => None,
        Ending::ClientGone => Some((Flag::DownstreamConnectionTermination, "client_gone")),
        Ending::UpstreamBroken => {
            Some((Flag::UpstreamConnectionTermination, "upstream_reset_in_response"))
        }
        Ending::IdleTimeout | Ending::Tunnel(TunnelEnd::Idle) => {
            Some((Flag::StreamIdleTimeout, "stream_idle_timeout"))
        }
        Ending::Tunnel(TunnelEnd::Cut) => Some((Flag::LocalReset, "drained")),
        Ending::Tunnel(TunnelEnd::Broken) => {
            Some((Flag::UpstreamConnectionTermination, "tunnel_broken"))
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
