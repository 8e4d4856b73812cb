//! How an attempt can end, and sets of that: what counts as a failure, what is worth another attempt, what
//! has a fallback.

use http::StatusCode;

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A response came; of gRPC with its status, where that is known by the head.
    Answered { status: StatusCode, grpc: Option<u16> },
    /// No connection was made.
    ConnectFailure,
    /// Refused before anything was done (RFC 9113 8.7), or never written.
    RefusedStream,
    /// The connection or stream ended before the response began.
    Reset,
    /// No response in time.
    Timeout,
    /// What came is no HTTP.
    BadResponse,
}

/// A set of ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// A bit for each status from 100 to 611.
    statuses: [u64; 8],
    /// A bit for each gRPC status.
    grpc: u32,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub reset: bool,
    pub timeout: bool,
}

/// gRPC statuses by which a server says that it is the one in trouble.
pub const GRPC_FAILURES: [u16; 6] =
    [UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS];

pub const UNKNOWN: u16 = 2;
pub const DEADLINE_EXCEEDED: u16 = 4;
pub const RESOURCE_EXHAUSTED: u16 = 8;
pub const INTERNAL: u16 = 13;
pub const UNAVAILABLE: u16 = 14;
pub const DATA_LOSS: u16 = 15;

/// gRPC statuses by number.
pub const GRPC_NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl Conditions {
    /// What counts as a failure where nobody says otherwise: no answer, 5xx, and gRPC's counterparts.
    pub fn failures() -> Self {
        let mut all = Self {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            timeout: true,
            ..Self::default()
        };
        all.add_statuses(500..=599);
        GRPC_FAILURES.into_iter().for_each(|code| all.add_grpc(code));
        all
    }

    /// What was provably never processed.
    pub fn never_processed() -> Self {
        Self { connect_failure: true, refused_stream: true, ..Self::default() }
    }

    pub fn add_statuses(&mut self, statuses: impl IntoIterator<Item = u16>) {
        for status in statuses {
            let at = usize::from(status.saturating_sub(100));
            if let Some(word) = self.statuses.get_mut(at / 64) {
                *word |= 1 << (at % 64);
            }
        }
    }

    pub fn add_grpc(&mut self, code: u16) {
        if code < 32 {
            self.grpc |= 1 << code;
        }
    }

    pub fn has_status(&self, status: StatusCode) -> bool {
        let at = usize::from(status.as_u16().saturating_sub(100));
        self.statuses.get(at / 64).is_some_and(|word| word & 1 << (at % 64) != 0)
    }

    pub fn has_grpc(&self, code: u16) -> bool {
        code < 32 && self.grpc & 1 << code != 0
    }

    /// Whether any answer of an upstream is in it.
    pub fn has_answers(&self) -> bool {
        self.grpc != 0 || self.statuses != [0; 8]
    }

    /// Whether it has statuses, and nothing else.
    pub fn is_statuses(&self) -> bool {
        let statuses_alone = Self { statuses: self.statuses, ..Self::default() };
        self.statuses != [0; 8] && *self == statuses_alone
    }

    pub fn contains(&self, end: End) -> bool {
        match end {
            End::Answered { status, grpc } => {
                self.has_status(status) || grpc.is_some_and(|code| self.has_grpc(code))
            }
            End::ConnectFailure => self.connect_failure,
            End::RefusedStream => self.refused_stream,
            // Like a reset: something answered, and nothing that can be used.
            End::Reset | End::BadResponse => self.reset,
            End::Timeout => self.timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, grpc: Option<u16>) -> End {
        End::Answered { status: StatusCode::from_u16(status).expect("a status"), grpc }
    }

    #[test]
    fn failures_are_no_answers_and_answers_that_say_so() {
        let failures = Conditions::failures();
        for end in [
            answered(500, None),
            answered(599, None),
            answered(200, Some(14)),
            answered(200, Some(2)),
            End::ConnectFailure,
            End::RefusedStream,
            End::Reset,
            End::BadResponse,
            End::Timeout,
        ] {
            assert!(failures.contains(end), "{end:?}");
        }
        for end in [
            answered(100, None),
            answered(200, None),
            answered(499, None),
            answered(600, None),
            answered(999, None),
            answered(200, Some(0)),
            answered(200, Some(5)),
            answered(200, Some(40)),
        ] {
            assert!(!failures.contains(end), "{end:?}");
        }
    }

    #[test]
    fn each_status_is_told_apart() {
        for one in 100..=611 {
            let mut set = Conditions::default();
            set.add_statuses([one]);
            let found: Vec<_> =
                (100..1000).filter(|status| set.contains(answered(*status, None))).collect();
            assert_eq!(found, [one]);
        }
    }
}
