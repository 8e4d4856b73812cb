//! Whether a request is sent again after an attempt that did not do, and when. The budget of the service
//! ([`super::Budget`]) is asked afterwards: it counts what is decided here.

use std::time::Duration;

use http::Method;

use super::{Conditions, End};

/// How a route sends again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// How often at most.
    pub max: u32,
    pub on: Conditions,
    /// Whether what may have been processed is sent again for any method, not only for idempotent ones.
    pub any_method: bool,
    /// How long one attempt may take for its answer.
    pub per_try: Option<Duration>,
    pub backoff: Backoff,
    /// A server that asks for a longer pause gets no other attempt.
    pub max_retry_after: Duration,
}

/// Exponential, with full jitter: before the `n`th repetition any time up to `base * 2^(n-1)`, and never more
/// than `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 2,
            on: Conditions::never_processed(),
            any_method: false,
            per_try: None,
            backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            max_retry_after: Duration::from_secs(1),
        }
    }
}

impl Backoff {
    /// Before the `number`th repetition, from 1. `chance` is uniform in 0 to 1.
    pub fn before(self, number: u32, chance: f64) -> Duration {
        let grown =
            self.base.saturating_mul(2_u32.saturating_pow(number.saturating_sub(1).min(20)));
        grown.min(self.max).mul_f64(chance)
    }
}

/// An attempt that did not do, and what it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    pub end: End,
    /// Repetitions so far.
    pub retries: u32,
    /// Processing it twice does no harm: an idempotent method (RFC 9110 9.2.2), or the client said so by
    /// `Idempotency-Key`.
    pub idempotent: bool,
    /// It was the first request on an HTTP/1 connection that had been idle and was closed without a byte of an
    /// answer: most likely its server had closed it before the request came.
    pub stale: bool,
    /// Its body can be sent from the beginning.
    pub replayable: bool,
    /// An endpoint is left that was not tried.
    pub has_other: bool,
    /// What the server asked for by `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Until the request is overdue.
    pub left: Option<Duration>,
}

/// Why a request is not sent again that was sent as often as may be.
pub const LIMIT: &str = "limit";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Again, after this time.
    Again(Duration),
    /// No: it would not help, or is not wanted.
    No,
    /// It was wanted, and is not allowed; for the metric.
    Skip(&'static str),
}

/// Whether and when it is sent again.
pub fn next(retry: &Retry, situation: &Situation, chance: f64) -> Next {
    let Situation { end, retries, .. } = *situation;
    // A connection that was dead already costs one attempt and says nothing about its server.
    let stale = situation.stale && end == End::Reset && retry.max > 0;
    if !retry.on.contains(end) && !stale || retry.max == 0 {
        return Next::No;
    }
    let untouched = matches!(end, End::ConnectFailure | End::RefusedStream);
    let of_grpc = matches!(end, End::Answered { grpc: Some(code), .. } if retry.on.has_grpc(code));
    // A gRPC call is a POST, whatever it does: who lists its statuses has said that it may be repeated.
    if !untouched && !of_grpc && !situation.idempotent && !retry.any_method {
        return if retry.on.contains(end) { Next::Skip("not_idempotent") } else { Next::No };
    }
    // What cannot be reached now cannot be reached in the next moment either.
    if end == End::ConnectFailure && !situation.has_other {
        return Next::No;
    }
    if retries >= retry.max {
        return Next::Skip(LIMIT);
    }
    if !situation.replayable {
        return Next::Skip("body_too_large");
    }
    let at_once = stale || untouched && (situation.has_other || retries == 0);
    let backoff = if at_once { Duration::ZERO } else { retry.backoff.before(retries + 1, chance) };
    let wait = match situation.retry_after {
        Some(asked) if asked > retry.max_retry_after => return Next::Skip("retry_after"),
        Some(asked) => asked.max(backoff),
        None => backoff,
    };
    match situation.left {
        Some(left) if left <= wait => Next::Skip("deadline"),
        _ => Next::Again(wait),
    }
}

/// Whether sending it twice is as good as once (RFC 9110 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// For how long a `Retry-After` asks (RFC 9110 10.2.3). A date counts from `date`, the `Date` of the same answer:
/// two clocks need not agree. Without that it asks for longer than anybody waits.
pub fn retry_after(value: &[u8], date: Option<&[u8]>) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let of = |text: &str| httpdate::parse_http_date(text.trim()).ok();
    let at = of(text)?;
    match date.and_then(|date| of(std::str::from_utf8(date).ok()?)) {
        Some(date) => Some(at.duration_since(date).unwrap_or_default()),
        None => Some(Duration::MAX),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn situation(end: End) -> Situation {
        Situation {
            end,
            retries: 0,
            idempotent: true,
            stale: false,
            replayable: true,
            has_other: true,
            retry_after: None,
            left: Some(15_000 * MS),
        }
    }

    fn status(status: StatusCode) -> End {
        End::Answered { status, grpc: None }
    }

    fn on_503() -> Retry {
        let mut retry = Retry::default();
        retry.on.add_statuses([503]);
        retry
    }

    #[test]
    fn by_default_only_what_was_never_processed() {
        let retry = Retry::default();
        let again = |end| next(&retry, &Situation { idempotent: false, ..situation(end) }, 0.5);
        assert_eq!(again(End::ConnectFailure), Next::Again(Duration::ZERO));
        assert_eq!(again(End::RefusedStream), Next::Again(Duration::ZERO));
        for end in [End::Reset, End::Timeout, End::BadResponse, status(StatusCode::BAD_GATEWAY)] {
            assert_eq!(next(&retry, &situation(end), 0.5), Next::No, "{end:?}");
        }
    }

    #[test]
    fn what_may_have_been_processed_wants_an_idempotent_request() {
        let end = status(StatusCode::SERVICE_UNAVAILABLE);
        let post = Situation { idempotent: false, ..situation(end) };
        assert_eq!(next(&on_503(), &post, 1.0), Next::Skip("not_idempotent"));
        assert_eq!(next(&on_503(), &situation(end), 1.0), Next::Again(25 * MS));
        let any = Retry { any_method: true, ..on_503() };
        assert_eq!(next(&any, &post, 1.0), Next::Again(25 * MS));

        let unavailable = End::Answered { status: StatusCode::OK, grpc: Some(14) };
        let mut retry = Retry::default();
        retry.on.add_grpc(14);
        let call = Situation { idempotent: false, ..situation(unavailable) };
        assert_eq!(next(&retry, &call, 1.0), Next::Again(25 * MS));
    }

    #[test]
    fn a_dead_idle_connection_costs_an_idempotent_request_nothing() {
        let stale = Situation { stale: true, ..situation(End::Reset) };
        assert_eq!(next(&Retry::default(), &stale, 1.0), Next::Again(Duration::ZERO));
        let post = Situation { idempotent: false, ..stale };
        assert_eq!(next(&Retry::default(), &post, 1.0), Next::No);
        assert_eq!(next(&Retry { max: 0, ..Retry::default() }, &stale, 1.0), Next::No);
    }

    #[test]
    fn the_only_endpoint_is_not_dialled_twice() {
        let alone = Situation { has_other: false, ..situation(End::ConnectFailure) };
        assert_eq!(next(&Retry::default(), &alone, 1.0), Next::No);
    }

    #[test]
    fn it_ends_with_the_number_the_body_and_the_time() {
        let end = status(StatusCode::SERVICE_UNAVAILABLE);
        let with = |change: fn(&mut Situation)| {
            let mut situation = situation(end);
            change(&mut situation);
            next(&on_503(), &situation, 1.0)
        };
        assert_eq!(with(|s| s.retries = 1), Next::Again(50 * MS));
        assert_eq!(with(|s| s.retries = 2), Next::Skip(LIMIT));
        assert_eq!(with(|s| s.replayable = false), Next::Skip("body_too_large"));
        assert_eq!(with(|s| s.left = Some(25 * MS)), Next::Skip("deadline"));
        assert_eq!(with(|s| s.left = Some(26 * MS)), Next::Again(25 * MS));
        assert_eq!(with(|s| s.left = None), Next::Again(25 * MS));
    }

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it_or_no_other_attempt() {
        let asked = |wait: Duration| {
            let end = status(StatusCode::SERVICE_UNAVAILABLE);
            next(&on_503(), &Situation { retry_after: Some(wait), ..situation(end) }, 1.0)
        };
        assert_eq!(asked(Duration::ZERO), Next::Again(25 * MS));
        assert_eq!(asked(1000 * MS), Next::Again(1000 * MS));
        assert_eq!(asked(2000 * MS), Next::Skip("retry_after"));
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        assert_eq!(retry_after(b"2", None), Some(2000 * MS));
        assert_eq!(
            retry_after(b"99999999999999999999999", None),
            Some(Duration::from_secs(u64::MAX))
        );
        for bad in ["", "-1", "1.5", "Wed, 21 Oct"] {
            assert_eq!(retry_after(bad.as_bytes(), None), None, "{bad}");
        }
        let at = b"Wed, 21 Oct 2015 07:28:00 GMT";
        for (date, expected) in [
            (Some("Wed, 21 Oct 2015 07:27:57 GMT"), 3000 * MS),
            (Some("Wed, 21 Oct 2015 07:28:09 GMT"), Duration::ZERO),
            (Some("today"), Duration::MAX),
            (None, Duration::MAX),
        ] {
            assert_eq!(retry_after(at, date.map(str::as_bytes)), Some(expected), "{date:?}");
        }
    }

    proptest! {
        #[test]
        fn backoff_grows_to_its_cap_and_spreads_over_all_of_it(
            base in 0_u64..1000,
            max in 0_u64..10_000,
            number in 1_u32..100,
            chance in 0.0..1.0_f64,
        ) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
            let backoff = Backoff { base, max };
            let most = backoff.before(number, 1.0);
            prop_assert!(most <= max);
            prop_assert!(most >= base.min(max));
            prop_assert!(backoff.before(number + 1, 1.0) >= most);
            prop_assert!(backoff.before(number, chance) <= most);
            prop_assert_eq!(backoff.before(number, 0.0), Duration::ZERO);
        }
    }
}
