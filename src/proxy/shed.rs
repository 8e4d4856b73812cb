//! Refusing what matters least while the proxy itself has too little.

use http::HeaderMap;

use super::error::Failure;
use crate::policy::Policy;
use crate::policy::shed::{Level, Priority, Signal, refused};
use crate::telemetry::Direction;
use crate::worker::{View, Worker};

/// Whether there is enough of everything for a request to this path, or for a tunnel, which has none.
///
/// # Errors
/// There is too little of something, and the request is not important enough.
pub fn check(
    worker: &Worker,
    view: &View,
    direction: Direction,
    policy: &Policy,
    headers: &HeaderMap,
    path: Option<&str>,
) -> Result<(), Failure> {
    let Some(limits) = &view.snapshot.shed else { return Ok(()) };
    let lag = limits.lag.map_or(Level::Calm, |limits| limits.level(&worker.lag.now()));
    let (memory, descriptors) = (worker.pressure.memory(), worker.pressure.descriptors());
    if lag.max(memory).max(descriptors) == Level::Calm {
        return Ok(());
    }
    let levels =
        [(Signal::EventLoopLag, lag), (Signal::Memory, memory), (Signal::Descriptors, descriptors)];
    let priority = match path.is_some_and(|path| is_health_check(path, direction, view)) {
        true => Priority::Critical,
        false => policy.priority.of(headers),
    };
    match refused(priority, levels) {
        None => Ok(()),
        Some(signal) => {
            worker.recorder.shed.inc([priority.as_str(), signal.as_str()]);
            Err(Failure::Shed { priority, signal })
        }
    }
}

/// Who asks whether the app is well must not hear that it is not because the proxy has much to do: an
/// orchestrator would start it anew. Of others we know only what gRPC's protocol calls it.
fn is_health_check(path: &str, direction: Direction, view: &View) -> bool {
    matches!(path, "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch")
        || (direction == Direction::Inbound && view.snapshot.health_path() == Some(path))
}
