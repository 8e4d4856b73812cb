//! Delaying and aborting requests on purpose.

use super::attempt::Call;
use super::error::Failure;
use super::report::Report;
use crate::clock::{self, Instant};
use crate::policy::Would;
use crate::policy::fault::{Fault, Injected};

/// What its policy has for a request, if it has something.
pub fn of(call: &Call<'_>, fault: &Fault, report: &Report) -> Option<Injected> {
    let chances = {
        let random = &mut call.worker.random.borrow_mut();
        [random.f64(), random.f64()]
    };
    let injected = fault.decide(&call.parts.headers, report.is_grpc(), chances);
    (injected != Injected::default()).then_some(injected)
}

/// Does it to the request. The time, if it was delayed.
///
/// # Errors
/// It is aborted, or delayed for longer than there is time for it.
pub async fn inject(
    call: &Call<'_>,
    fault: &Fault,
    injected: Injected,
    report: &mut Report,
) -> Result<Option<Instant>, Failure> {
    const DELAY: Would = Would { policy: "fault", act: "delay" };
    const ABORT: Would = Would { policy: "fault", act: "abort" };
    let mut later = None;
    let count = |act| call.worker.recorder.faults.inc([&call.cluster.name, act]);
    if let Some(delay) = injected.delay
        && report.enforced(fault.mode, DELAY)
    {
        count(DELAY.act);
        report.delayed();
        tokio::select! {
            biased;
            () = tokio::time::sleep(delay) => later = Some(clock::now()),
            () = call.over(call.deadline()) => return Err(call.late()),
        }
    }
    match injected.abort {
        Some(aborted) if report.enforced(fault.mode, ABORT) => {
            count(ABORT.act);
            Err(Failure::Fault(aborted))
        }
        _ => Ok(later),
    }
}
