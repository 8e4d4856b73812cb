//! The rate limits that a request meets, and what its client is told of them.

use std::net::IpAddr;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::connection::Connection;
use super::error::Failure;
use super::fields::Fields;
use super::forwarded;
use super::report::Report;
use crate::clock;
use crate::policy::rate_limit::{Decision, Key, KeyOf, Quota, RateLimit, Scope, shared};
use crate::policy::{Mode, Would};
use crate::telemetry::Direction;
use crate::worker::{View, Worker};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

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
    let now = clock::nanos(report.started()).0;
    for limit in limits {
        let key = match &limit.spec.key {
            Key::None => KeyOf::All,
            Key::ClientIp => KeyOf::Client(client_ip(view, connection, headers, fields)),
            Key::Header(name) => {
                KeyOf::Text(headers.get(name).map_or(&[], |value| value.as_bytes()))
            }
        };
        let rate = limit.rate(view.snapshot.instances.load(Relaxed));
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

/// Who sends the request: whom a trusted proxy names, or else who has made the connection.
fn client_ip(view: &View, connection: &Connection, headers: &HeaderMap, fields: Fields) -> IpAddr {
    let peer = connection.peer.ip().to_canonical();
    let trusted = &view.snapshot.inbound.trusted_proxies;
    if trusted.is_empty()
        || connection.direction != Direction::Inbound
        || !fields.has(Fields::CLAIM)
    {
        return peer;
    }
    forwarded::client(headers, peer, |ip| trusted.iter().any(|net| net.contains(&ip)))
}

static LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Says how much is left. What the upstream says of its own limit stays: it may be the narrower one, and it
/// is not ours to widen (draft-ietf-httpapi-ratelimit-headers).
pub fn tell(quota: Quota, headers: &mut HeaderMap) {
    if headers.contains_key(&LIMIT) || headers.contains_key(&REMAINING) {
        return;
    }
    headers.insert(LIMIT.clone(), quota.limit.into());
    headers.insert(REMAINING.clone(), quota.remaining.into());
    headers.insert(RESET.clone(), seconds(quota.reset));
}

/// Says when to come again.
pub fn retry_after(after: Duration, headers: &mut HeaderMap) {
    headers.insert(RETRY_AFTER, seconds(after));
}

/// Whole seconds, rounded up: who comes then is not too early.
fn seconds(time: Duration) -> HeaderValue {
    HeaderValue::from(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}
