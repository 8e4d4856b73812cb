//! Services that are called and that nobody follows yet: workers ask control for them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

/// A worker wants to call this service.
pub struct Demand {
    pub service: Arc<str>,
    /// Whether it is followed from now on.
    pub followed: oneshot::Sender<bool>,
}

/// Where workers say so.
#[derive(Clone)]
pub struct Demands(mpsc::UnboundedSender<Demand>);

impl Demands {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Demand>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Asks for a service; whether the snapshot that is in force then has it.
    pub async fn follow(&self, service: &str) -> bool {
        let (followed, answer) = oneshot::channel();
        let demand = Demand { service: service.into(), followed };
        // Control that is gone follows nobody.
        self.0.send(demand).is_ok() && answer.await.unwrap_or(false)
    }
}
