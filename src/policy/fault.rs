//! Faults on purpose: requests that are delayed or aborted, so that it is known how callers take it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::Mode;
use crate::route::HeaderMatch;

#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub mode: Mode,
    /// All of them must hold; none: any request.
    pub headers: Vec<HeaderMatch>,
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    pub duration: Duration,
    /// Of the requests, 0 to 1.
    pub share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Abort {
    /// What it is answered with; gRPC calls have `grpc_status` instead, if there is one.
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u16>,
    pub share: f64,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Injected {
    pub delay: Option<Duration>,
    pub abort: Option<Aborted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aborted {
    Http(StatusCode),
    Grpc(u16),
}

impl Fault {
    /// `chances` are two independent numbers of at least 0 and less than 1.
    pub fn decide(&self, headers: &HeaderMap, grpc: bool, chances: [f64; 2]) -> Injected {
        if !self.headers.iter().all(|field| field.holds(headers)) {
            return Injected::default();
        }
        let [delay, abort] = chances;
        let aborted = |abort: &Abort| match (grpc, abort.grpc_status, abort.status) {
            (true, Some(status), _) => Some(Aborted::Grpc(status)),
            (_, _, status) => status.map(Aborted::Http),
        };
        Injected {
            delay: self.delay.filter(|it| delay < it.share).map(|it| it.duration),
            abort: self.abort.as_ref().filter(|it| abort < it.share).and_then(aborted),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::route::Condition;

    const TEAPOT: StatusCode = StatusCode::IM_A_TEAPOT;

    fn fault(delay: f64, abort: f64) -> Fault {
        let delay = Delay { duration: Duration::from_millis(7), share: delay };
        let abort = Abort { status: Some(TEAPOT), grpc_status: Some(14), share: abort };
        Fault { mode: Mode::Enforce, headers: vec![], delay: Some(delay), abort: Some(abort) }
    }

    #[test]
    fn shares_are_of_chance() {
        let headers = HeaderMap::new();
        let injected = |delay, abort, chances| fault(delay, abort).decide(&headers, false, chances);
        assert_eq!(injected(0.0, 0.0, [0.0, 0.0]), Injected::default());
        let all = injected(1.0, 1.0, [0.999, 0.999]);
        assert_eq!(all.delay, Some(Duration::from_millis(7)));
        assert_eq!(all.abort, Some(Aborted::Http(TEAPOT)));
        let one = injected(0.5, 0.5, [0.6, 0.4]);
        assert_eq!((one.delay, one.abort.is_some()), (None, true));
    }

    #[test]
    fn a_grpc_call_has_its_own_status_and_others_have_none_of_it() {
        let mut fault = fault(0.0, 1.0);
        let decide = |fault: &Fault, grpc| fault.decide(&HeaderMap::new(), grpc, [0.5, 0.5]).abort;
        assert_eq!(decide(&fault, true), Some(Aborted::Grpc(14)));
        fault.abort = fault.abort.map(|abort| Abort { status: None, ..abort });
        assert_eq!(decide(&fault, false), None);
        fault.abort =
            fault.abort.map(|abort| Abort { grpc_status: None, status: Some(TEAPOT), ..abort });
        assert_eq!(decide(&fault, true), Some(Aborted::Http(TEAPOT)));
    }

    #[test]
    fn headers_choose() {
        let name = HeaderName::from_static("x-fault");
        let condition = Condition::Exact("yes".into());
        let headers = vec![HeaderMatch { name: name.clone(), condition }];
        let fault = Fault { headers, ..fault(1.0, 1.0) };
        assert_eq!(fault.decide(&HeaderMap::new(), false, [0.0, 0.0]), Injected::default());
        let asked = HeaderMap::from_iter([(name, HeaderValue::from_static("yes"))]);
        assert!(fault.decide(&asked, false, [0.0, 0.0]).delay.is_some());
    }

    proptest! {
        /// Of many requests about the share is hit, and the two are independent.
        #[test]
        fn about_the_share(seed in any::<u64>(), delay in 0.0f64..=1.0, abort in 0.0f64..=1.0) {
            let fault = fault(delay, abort);
            let mut random = fastrand::Rng::with_seed(seed);
            const REQUESTS: u32 = 4_000;
            let (mut delays, mut aborts, mut both) = (0u32, 0u32, 0u32);
            for _ in 0..REQUESTS {
                let chances = [random.f64(), random.f64()];
                let injected = fault.decide(&HeaderMap::new(), false, chances);
                delays += u32::from(injected.delay.is_some());
                aborts += u32::from(injected.abort.is_some());
                both += u32::from(injected.delay.is_some() && injected.abort.is_some());
            }
            let near = |count: u32, share: f64| (f64::from(count) / f64::from(REQUESTS) - share).abs() < 0.05;
            prop_assert!(near(delays, delay) && near(aborts, abort) && near(both, delay * abort));
        }
    }
}
