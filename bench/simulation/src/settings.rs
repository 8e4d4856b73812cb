//! What is compared: a balancer and the policies around it, with their numbers.

use std::time::Duration;

use pilotfish::balance::Kind;
use pilotfish::policy::breaker::{BreakerConfig, WindowKind};
use pilotfish::policy::outlier::OutlierConfig;
use pilotfish::policy::retry::{Backoff, Retry};
use pilotfish::policy::{BudgetLimits, BulkheadLimits, Conditions};

#[derive(Debug, Clone)]
pub struct Settings {
    pub group: &'static str,
    pub name: String,
    pub balancer: Kind,
    pub retry: Retry,
    pub bound: RetryBound,
    pub breaker: Option<BreakerConfig>,
    pub outlier: Option<OutlierConfig>,
    /// With a smaller share of the endpoints available, all of them are used.
    pub panic: f64,
    pub bulkhead: BulkheadLimits,
    pub connect_timeout: Duration,
    /// `None`: the client alone has a limit.
    pub request_timeout: Option<Duration>,
    /// An attempt that fails counts for its time, and not for a penalty, in the average of latencies.
    pub failures_are_fast: bool,
}

/// What bounds the retries of all requests together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryBound {
    None,
    Budget(BudgetLimits),
    /// So many at the same time.
    Parallel(u32),
}

const SECOND: Duration = Duration::from_secs(1);

impl Settings {
    /// A balancer and nothing else.
    fn bare(balancer: Kind) -> Self {
        Self {
            group: match balancer {
                Kind::RoundRobin => "round robin",
                Kind::LeastRequest => "least request",
                _ => "peak EWMA",
            },
            name: "bare".into(),
            balancer,
            retry: Retry { max: 0, ..Retry::default() },
            bound: RetryBound::None,
            breaker: None,
            outlier: None,
            panic: 0.5,
            bulkhead: BulkheadLimits::UNLIMITED,
            connect_timeout: SECOND,
            request_timeout: Some(15 * SECOND),
            failures_are_fast: false,
        }
    }

    fn named(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Retries as somebody sets them who wants them for all that goes wrong, of ours: twice, within the budget.
    fn retrying(self) -> Self {
        Self {
            retry: Retry { on: anything(), per_try: Some(SECOND), ..Retry::default() },
            bound: RetryBound::Budget(BudgetLimits::default()),
            ..self
        }
    }

    /// What is on when nobody says anything.
    fn defaults(self) -> Self {
        Self {
            retry: Retry::default(),
            bound: RetryBound::Budget(BudgetLimits::default()),
            outlier: Some(OutlierConfig::default()),
            bulkhead: BulkheadLimits::default(),
            ..self
        }
    }

    fn ours(kind: Kind) -> [Self; 7] {
        let bare = || Self::bare(kind);
        let mut naive = bare().retrying().named("3 retries, no budget");
        (naive.retry.max, naive.bound) = (3, RetryBound::None);
        let breaker = Some(BreakerConfig::of_failure_rate());
        [
            bare(),
            naive,
            bare().retrying().named("retries"),
            Self { breaker: breaker.clone(), ..bare().named("breaker") },
            Self { outlier: Some(OutlierConfig::default()), ..bare().named("outlier detection") },
            bare().defaults().named("**our defaults**"),
            Self { breaker, ..bare().defaults().retrying().named("**all of ours**") },
        ]
    }

    fn envoy(name: &str, balancer: Kind) -> Self {
        Self {
            group: "Envoy",
            bulkhead: BulkheadLimits::default(),
            connect_timeout: 5 * SECOND,
            ..Self::bare(balancer).named(name)
        }
    }

    fn envoys() -> [Self; 2] {
        let mut set = Self::envoy("outlier detection, retries", Kind::LeastRequest);
        set.retry = Retry { max: 1, on: anything(), ..Retry::default() };
        set.bound = RetryBound::Parallel(3);
        set.outlier = Some(OutlierConfig::default());
        [Self::envoy("defaults", Kind::RoundRobin), set]
    }

    fn istios() -> [Self; 2] {
        let mut on = Conditions::never_processed();
        on.add_statuses([503]);
        let defaults = Self {
            group: "Istio",
            retry: Retry { on, ..Retry::default() },
            panic: 0.0,
            connect_timeout: 10 * SECOND,
            request_timeout: None,
            ..Self::bare(Kind::LeastRequest).named("defaults")
        };
        let outlier = OutlierConfig { success_rate: None, ..OutlierConfig::default() };
        let with = Self { outlier: Some(outlier), ..defaults.clone().named("outlier detection") };
        [defaults, with]
    }

    fn linkerds() -> [Self; 2] {
        let defaults = Self {
            group: "Linkerd",
            panic: 0.0,
            request_timeout: None,
            failures_are_fast: true,
            ..Self::bare(Kind::PeakEwma).named("defaults")
        };
        let breaker = BreakerConfig {
            consecutive_failures: Some(7),
            failure_rate: None,
            window: WindowKind::Time(SECOND),
            open_for: SECOND,
            max_open_for: 60 * SECOND,
            ..BreakerConfig::of_failure_rate()
        };
        let backoff = Backoff { base: Duration::ZERO, max: Duration::ZERO };
        let with = Self {
            retry: Retry { max: u32::MAX, on: anything(), backoff, ..Retry::default() },
            bound: RetryBound::Budget(BudgetLimits::default()),
            breaker: Some(breaker),
            ..defaults.clone().named("failure accrual, retries")
        };
        [defaults, with]
    }

    /// The rows of the table.
    pub fn all() -> Vec<Self> {
        let kinds = [Kind::RoundRobin, Kind::LeastRequest, Kind::PeakEwma];
        let ours = kinds.into_iter().flat_map(Self::ours);
        ours.chain(Self::envoys()).chain(Self::istios()).chain(Self::linkerds()).collect()
    }
}

/// 5xx, no answer, no connection.
fn anything() -> Conditions {
    Conditions::failures()
}
