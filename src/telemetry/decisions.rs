//! What is said of an endpoint that there was a cause to eject, by a worker at once, by control after an
//! interval; and of what policies in shadow mode would have done.

use super::metrics::Recorder;
use crate::endpoint::Endpoint;
use crate::policy::Would;
use crate::policy::outlier::{Cause, Ruling};

impl Recorder {
    /// What a policy in shadow mode would have done.
    pub fn shadow(&self, would: Would) {
        self.shadow_decisions.inc([would.policy, would.act]);
    }

    pub fn ruled(&self, service: &str, endpoint: &Endpoint, cause: Cause, ruling: Ruling) {
        let cause = cause.as_str();
        let count = |result| self.ejections.inc([service, cause, result]);
        let endpoint = &*endpoint.label;
        match ruling {
            Ruling::Ejected(lasts) => {
                count("ejected");
                tracing::warn!(service, endpoint, cause, ?lasts, "endpoint ejected");
            }
            Ruling::WouldEject(lasts) => {
                count("would_eject");
                tracing::warn!(service, endpoint, cause, ?lasts, "endpoint would be ejected");
            }
            Ruling::Spared => {
                count("spared");
                tracing::debug!(
                    service,
                    endpoint,
                    cause,
                    "endpoint not ejected: as many are as may be"
                );
            }
            Ruling::Gone => {}
        }
    }
}
