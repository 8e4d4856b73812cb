//! The rate limits that a request meets, and what its client is told of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::report::Report;
use super::{forwarded, identity};
use crate::policy::rate_limit::{Decision, Key, KeyOf, Quota, RateLimit, Scope, shared};
use crate::policy::{Mode, Would};
use crate::worker::{View, Worker};

/// Takes a token of each limit, in their order. One that refuses ends it: those after it have not been
/// asked, those before it have counted the request.
///
/// # Errors
/// A limit is reached.
pub async fn admit(
    worker: &Worker,
    view: &View,
    connection: &Connection,
    limits: &[Arc<RateLimit>],
    headers: &HeaderMap,
    fields: Fields,
    report: &mut Report,
) -> Result<(), Failure> {
    let now = report.started().0;
    for limit in limits {
        let key = match &limit.spec.key {
            Key::None => KeyOf::All,
            Key::ClientIp => KeyOf::Client(client_ip(view, connection, headers, fields)),
            Key::Identity => KeyOf::Text(identity(view, connection, headers, fields)),
            Key::Header(name) => {
                KeyOf::Text(headers.get(name).map_or(&[], |value| value.as_bytes()))
            }
        };
        let rate = limit.rate(view.snapshot.instances);
        let decision = match limit.spec.scope {
            Scope::Instance | Scope::Service => limit.state.take(key, rate, now),
            // Boxed: else each request would have room for it.
            Scope::Redis => match Box::pin(ask(view, limit, key)).await {
                Some(decision) => decision,
                None => {
                    worker.recorder.rate_limit_fallbacks.inc([&limit.name]);
                    limit.state.take(key, rate, now)
                }
            },
        };
        let counts = view.limit_counts(limit);
        let refused = !decision.allowed
            && report.enforced(limit.mode, Would { policy: "rate_limit", act: "reject" });
        match (decision.allowed, limit.mode) {
            (true, _) => counts.allowed.inc(),
            (false, Mode::Shadow) => counts.would_limit.inc(),
            (false, _) => counts.limited.inc(),
        }
        if limit.headers && limit.mode == Mode::Enforce {
            report.quota(decision.quota(rate));
        }
        if refused {
            let after = decision.quota(rate).retry_after.unwrap_or_default();
            return Err(Failure::RateLimited { limit: limit.clone(), after });
        }
    }
    Ok(())
}

/// What Redis decides, if it answers in time.
async fn ask(view: &View, limit: &RateLimit, key: KeyOf<'_>) -> Option<Decision> {
    shared::take(view.redis.as_ref()?, limit, key).await.ok()
}

/// The address of the client: the one that a trusted proxy names, or else who has made the connection.
fn client_ip(view: &View, connection: &Connection, headers: &HeaderMap, fields: Fields) -> IpAddr {
    let peer = connection.peer.ip().to_canonical();
    if !fields.has(Fields::CLAIM) {
        return peer;
    }
    forwarded::client(headers, peer, connection.trusted(view))
}

/// Who a trusted proxy says that the client is; empty for all of whom none says anything.
fn identity<'a>(
    view: &View,
    connection: &Connection,
    headers: &'a HeaderMap,
    fields: Fields,
) -> &'a [u8] {
    let told = fields.has(Fields::CLAIM) && connection.is_trusted(view);
    told.then(|| identity::client(headers)).flatten().unwrap_or_default()
}

static LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Says how much is left. What the upstream says of its own limit stays: it may be the narrower one, and it
/// is not ours to widen (draft-ietf-httpapi-ratelimit-headers).
pub fn tell(quota: Quota, headers: &mut HeaderMap) {
    if headers.contains_key(&LIMIT) {
        return;
    }
    headers.insert(LIMIT.clone(), number(quota.limit.into()));
    headers.insert(REMAINING.clone(), number(quota.remaining.into()));
    headers.insert(RESET.clone(), seconds(quota.reset));
}

/// Says when to come again.
pub fn retry_after(after: Duration, headers: &mut HeaderMap) {
    headers.insert(RETRY_AFTER, seconds(after));
}

/// Whole seconds, rounded up: who comes then is not too early.
fn seconds(time: Duration) -> HeaderValue {
    number(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// Three digits of each number below 1000: most that is told is among them, and needs no memory.
static DIGITS: [u8; 3000] = {
    let mut digits = [0; 3000];
    let mut at = 0;
    while at < 1000 {
        digits[3 * at] = b'0' + (at / 100) as u8;
        digits[3 * at + 1] = b'0' + (at / 10 % 10) as u8;
        digits[3 * at + 2] = b'0' + (at % 10) as u8;
        at += 1;
    }
    digits
};

fn number(number: u64) -> HeaderValue {
    let skipped = match number {
        0..10 => 2,
        10..100 => 1,
        100..1000 => 0,
        _ => return HeaderValue::from(number),
    };
    let at = 3 * number as usize;
    let text = std::str::from_utf8(&DIGITS[at + skipped..at + 3]).unwrap_or_default();
    HeaderValue::from_static(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for value in (0..2000).chain([u64::MAX]) {
            assert_eq!(number(value), value.to_string());
        }
        for (millis, told) in [(0, "0"), (1, "1"), (1000, "1"), (1001, "2"), (3_600_000, "3600")] {
            assert_eq!(seconds(Duration::from_millis(millis)), told);
        }
    }
}
