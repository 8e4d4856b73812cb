//! What is said of a connection that carried no HTTP, once it has ended.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::attempt::Dialled;
use super::super::error::Failure;
use super::super::tunnel::{Tally, TunnelEnd};
use super::end::shortfall;
use super::{Ending, VIA_UPSTREAM};
use crate::clock::{self, Instant};
use crate::config::snapshot::Destination;
use crate::endpoint::Endpoint;
use crate::endpoint::InFlight;
use crate::policy::Would;
use crate::stream::Stream;
use crate::telemetry::Direction;
use crate::telemetry::access_log::Record;
use crate::telemetry::flags::Flag;
use crate::worker::{View, Worker};

/// What is said of a connection that carried no HTTP.
pub struct TcpReport<'a> {
    worker: &'a Rc<Worker>,
    view: &'a View,
    direction: Direction,
    to: Destination,
    started: Instant,
    wall: SystemTime,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    shadow: Vec<Would>,
    pub tally: Tally,
}

impl<'a> TcpReport<'a> {
    pub fn begin(
        worker: &'a Rc<Worker>,
        view: &'a View,
        direction: Direction,
        to: Destination,
    ) -> Self {
        Self {
            worker,
            view,
            direction,
            to,
            started: clock::now(),
            wall: clock::wall(),
            endpoint: None,
            attempts: 0,
            shadow: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Where it goes. What counts there while it does, and its other end.
    pub fn dialled(&mut self, dialled: Dialled) -> (InFlight, Stream) {
        let Dialled { endpoint, in_flight, stream, attempts, shadow } = dialled;
        self.endpoint = Some(endpoint);
        self.attempts = attempts;
        self.shadow = shadow;
        (in_flight, stream)
    }

    pub fn failed(self, failure: &Failure) {
        self.worker.recorder.rejected.inc([failure.reason()]);
        self.write(failure.flag(), failure.reason());
    }

    pub fn finish(self, end: TunnelEnd) {
        let (flag, reason) = shortfall(Ending::Tunnel(end)).unzip();
        self.write(flag, reason.unwrap_or(VIA_UPSTREAM));
    }

    fn write(self, flag: Option<Flag>, reason: &str) {
        let service = &*self.view.snapshot.cluster(self.to).name;
        let labels = [self.direction.as_str(), service];
        let recorder = &self.worker.recorder;
        recorder.tcp_connections.inc(labels);
        recorder.tcp_sent_bytes.add(labels, self.tally.from_client.get());
        recorder.tcp_received_bytes.add(labels, self.tally.from_server.get());
        let record = Record {
            start: self.wall,
            direction: self.direction,
            method: "-",
            path: "-",
            protocol: "TCP",
            status: 0,
            flag,
            details: reason,
            bytes_received: self.tally.from_client.get(),
            bytes_sent: self.tally.from_server.get(),
            duration: clock::now() - self.started,
            upstream_time: None,
            x_forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: self.endpoint.as_ref().map(|endpoint| &*endpoint.label),
            upstream_cluster: Some(service),
            route_name: None,
            trace_id: None,
            span_id: None,
            attempts: self.attempts,
            grpc_status: None,
            exhausted: false,
            notes: "",
            shadow: &self.shadow,
            hedge: None,
            fallback: None,
        };
        self.worker.write_log(&record);
    }
}
