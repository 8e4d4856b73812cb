//! Whether a policy acts, or only tells what it would have done.

/// How a policy that is on is applied. One that is off is not there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// It runs with its own state, and what it would have done is counted and logged.
    Shadow,
}

/// What a policy in shadow mode would have done: one of a closed set, for metrics and the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Would {
    /// As it is called in the configuration.
    pub policy: &'static str,
    /// `reject`, `eject`, `delay`, …
    pub act: &'static str,
}
