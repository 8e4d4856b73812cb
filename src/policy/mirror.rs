//! Copies of requests for another service, whose answers nobody sees.

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The service that gets the copies, by its name.
    pub service: Arc<str>,
    /// Of the requests, 0 to 1.
    pub share: f64,
    /// Copies of all workers at the same time; more are dropped.
    pub max_in_flight: u32,
    /// Requests with a longer body are not copied.
    pub max_body: usize,
}

impl Mirror {
    /// `chance` is at least 0 and less than 1.
    pub fn takes(&self, chance: f64) -> bool {
        chance < self.share
    }
}
