//! How long a client will wait, as it says so, and as it is said to the next hop: less what has passed since.
//!
//! gRPC has `grpc-timeout` for it. All else says it in `x-request-deadline`, or in the field that is configured: `250ms`,
//! `2s`, or a number of milliseconds. It is a time that is left, not a time of day, which two clocks would have
//! to agree on.

use std::cell::RefCell;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub static REQUEST_DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How a route speaks of deadlines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deadline {
    pub field: DeadlineField,
    /// Whether the timeout of the policy is told where the client has said nothing. Never by gRPC: its deadline
    /// is that of a whole call, however long its streams, and the timeout ends with the head of the answer.
    pub propagate: bool,
}

/// By which field of plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeadlineField {
    /// `x-request-deadline`, which is looked for anyway.
    #[default]
    Usual,
    Named(HeaderName),
    Off,
}

impl DeadlineField {
    pub fn of(name: &HeaderName) -> Self {
        if *name == REQUEST_DEADLINE { Self::Usual } else { Self::Named(name.clone()) }
    }
}

impl Deadline {
    /// Whether it may stand in a field that nobody else looks for.
    pub fn is_named(&self) -> bool {
        matches!(self.field, DeadlineField::Named(_))
    }

    fn name(&self, grpc: bool) -> Option<&HeaderName> {
        match &self.field {
            _ if grpc => Some(&GRPC_TIMEOUT),
            DeadlineField::Usual => Some(&REQUEST_DEADLINE),
            DeadlineField::Named(name) => Some(name),
            DeadlineField::Off => None,
        }
    }

    /// What a request says; nothing where it says nothing that can be read.
    pub fn read(&self, headers: &HeaderMap, grpc: bool) -> Option<Duration> {
        let text = headers.get(self.name(grpc)?)?.to_str().ok()?;
        if grpc { grpc_timeout(text) } else { request_deadline(text) }
    }

    /// Says that so much is left.
    pub fn write(&self, headers: &mut HeaderMap, left: Duration, grpc: bool) {
        let Some(name) = self.name(grpc) else { return };
        // Rounded down: who is after us shall not wait for longer than who is before us.
        let value = match grpc {
            // At most eight digits.
            true if left < Duration::from_secs(10) => value(format!("{}u", left.as_micros())),
            true => value(format!("{}m", left.as_millis().min(99_999_999))),
            false => milliseconds(left),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

fn value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}

/// The last one is kept: first attempts that nobody kept waiting have all the time that there is.
fn milliseconds(left: Duration) -> Option<HeaderValue> {
    thread_local! {
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let millis = left.as_secs().saturating_mul(1000).saturating_add(left.subsec_millis().into());
    LAST.with_borrow_mut(|last| match last {
        Some((known, value)) if *known == millis => Some(value.clone()),
        _ => {
            *last = value(format!("{millis}ms")).map(|value| (millis, value));
            last.as_ref().map(|(_, value)| value.clone())
        }
    })
}

/// `TimeoutValue TimeoutUnit` of gRPC over HTTP/2.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = number(digits, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn request_deadline(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = number(&text[..text.len() - unit.len()], 10)?;
    match unit {
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "us" => Some(Duration::from_micros(number)),
        _ => None,
    }
}

fn number(digits: &str, most: usize) -> Option<u64> {
    let good =
        !digits.is_empty() && digits.len() <= most && digits.bytes().all(|b| b.is_ascii_digit());
    good.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(name: &HeaderName, value: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        [(name.clone(), value)].into_iter().collect()
    }

    #[test]
    fn grpc_timeouts() {
        for (value, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-5S", None),
            ("5x", None),
            ("5é", None),
        ] {
            let read = Deadline::default().read(&of(&GRPC_TIMEOUT, value), true);
            assert_eq!(read, expected, "{value}");
        }
    }

    #[test]
    fn request_deadlines() {
        for (value, expected) in [
            ("250", Some(Duration::from_millis(250))),
            ("250ms", Some(Duration::from_millis(250))),
            ("2s", Some(Duration::from_secs(2))),
            ("0", Some(Duration::ZERO)),
            ("1.5s", None),
            ("2026-11-23", None),
            ("12345678901", None),
            ("", None),
            ("ms", None),
            ("5é", None),
        ] {
            let read = Deadline::default().read(&of(&REQUEST_DEADLINE, value), false);
            assert_eq!(read, expected, "{value}");
        }
    }

    #[test]
    fn by_another_name_or_not_at_all() {
        let name = HeaderName::from_static("x-timeout-ms");
        let named = Deadline { field: DeadlineField::of(&name), propagate: false };
        let both = |headers: &HeaderMap| {
            let off = Deadline { field: DeadlineField::Off, ..named.clone() };
            [named.read(headers, false), off.read(headers, false)]
        };
        assert_eq!(both(&of(&name, "250")), [Some(Duration::from_millis(250)), None]);
        assert_eq!(both(&of(&REQUEST_DEADLINE, "250")), [None, None]);
        assert_eq!(named.read(&of(&GRPC_TIMEOUT, "1S"), true), Some(Duration::from_secs(1)));

        let mut headers = HeaderMap::new();
        named.write(&mut headers, Duration::from_millis(7), false);
        assert_eq!(headers[&name], "7ms");
        assert_eq!(DeadlineField::of(&REQUEST_DEADLINE), DeadlineField::Usual);
    }

    proptest! {
        #[test]
        fn what_is_said_is_what_is_left_and_never_more(micros in 0_u64..100_000_000_000, grpc: bool) {
            let left = Duration::from_micros(micros);
            let mut headers = HeaderMap::new();
            Deadline::default().write(&mut headers, left, grpc);
            let said = Deadline::default().read(&headers, grpc).expect("readable");
            prop_assert!(said <= left);
            prop_assert!(left - said < Duration::from_millis(1) || said.as_millis() == 99_999_999);
        }
    }
}
