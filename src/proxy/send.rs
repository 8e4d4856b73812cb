//! What stands between a request that is ready and the attempts to send it, in its order.

use super::admission;
use super::attempt::Call;
use super::error::Failure;
use super::report::Report;
use super::{fault, mirror};

/// Has a request pass what stands before its service. Its answer is not returned through here: moving it
/// costs more than some steps.
///
/// # Errors
/// Why it does not pass.
pub async fn enter(call: &mut Call<'_>, report: &mut Report) -> Result<(), Failure> {
    let mut began = call.began;
    // For the service itself, so that its bulkhead and its budget see nothing of it.
    if let Some(fault) = &call.policy.fault
        && let Some(injected) = fault::of(call, fault, report)
    {
        let later = Box::pin(fault::inject(call, fault, injected, report)).await?;
        began = later.unwrap_or(began);
    }
    // One slot for all attempts: they are one request.
    let deadline = call.deadline();
    let entered = admission::service(call.worker, call.view, call.cluster_index, deadline).await;
    let (slot, waited) = entered?;
    report.entered(slot);
    call.began = waited.unwrap_or(began);
    // Behind the bulkhead: what is not sent is not copied either.
    if let Some(mirror) = &call.policy.mirror
        && mirror::begin(call, mirror)
    {
        report.note("mirror", "copied");
    }
    Ok(())
}
