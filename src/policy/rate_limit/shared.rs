//! A limit that all instances share: the bucket of [`super::gcra`], kept in Redis and moved by one script a
//! request. The clock is that of Redis, so that the instances' own need not agree.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use super::gcra::{Decision, Rate};
use super::{KeyOf, RateLimit, Spec};
use crate::redis::{Away, Link, Redis, Script};

/// Times are eighths of a microsecond: Lua's numbers hold them exactly until 2059, and a million requests
/// a second is still a whole number of them. What comes back is the debt, negative where the request is
/// refused.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = ((time[1] - 1700000000) * 1000000 + time[2]) * 8
local debt = math.max((tonumber(redis.call('GET', KEYS[1]) or '0') or 0) - now, 0)
if debt > interval * (burst - 1) then
  return -debt
end
debt = debt + interval
redis.call('SET', KEYS[1], string.format('%.0f', now + debt), 'PX', math.ceil(debt / 8000))
return debt
",
    )
});

/// Of which the rates of [`super::Scope::Redis`] have a whole number.
pub const NANOS: u64 = 125;

/// What the script is told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    key: String,
    interval: String,
    burst: String,
}

impl Call {
    fn new(limit: &RateLimit, key: KeyOf<'_>) -> Self {
        let mut text = String::with_capacity(limit.prefix.len() + 40);
        text.push_str(&limit.prefix);
        key.write(&mut text);
        Self::of(text, limit.whole)
    }

    fn of(key: String, rate: Rate) -> Self {
        let interval = rate.interval() / NANOS;
        Self { key, interval: interval.to_string(), burst: rate.burst().to_string() }
    }
}

/// A link to `redis`, on the runtime of this thread. It counts as there when it has run the script, on a
/// key that nothing else uses.
pub fn link(redis: &Arc<Redis>) -> Rc<Link> {
    let key = format!("{}:probe", redis.settings.prefix);
    Link::start(redis.clone(), &SCRIPT, [key, "8".to_owned(), "1000000".to_owned()])
}

/// Takes a token of the bucket that Redis has for `key`.
///
/// # Errors
/// Redis does not answer now.
pub async fn take(link: &Link, limit: &RateLimit, key: KeyOf<'_>) -> Result<Decision, Away> {
    let Call { key, interval, burst } = Call::new(limit, key);
    link.eval([&key, &interval, &burst]).await.map(decision)
}

/// What the script has decided.
fn decision(reply: i64) -> Decision {
    Decision { allowed: reply >= 0, debt: reply.unsigned_abs().saturating_mul(NANOS) }
}

/// The start of the keys of a limit: what all instances of a service have in common, and no other limit.
pub fn prefix(prefix: &str, service: &str, place: &str, spec: &Spec) -> String {
    let mut text = format!("{prefix}:{service}:{place}:");
    let _ = write!(text, "{}/{:?}:", spec.requests, spec.per);
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Scope};
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_come_back_as_they_went() {
        for (requests, nanos) in [(1, 1_000_000_000), (3, 333_333_375), (1_000_000, 1000)] {
            let spec = Spec {
                requests,
                per: Duration::from_secs(1),
                burst: 7,
                key: Key::None,
                scope: Scope::Redis,
                max_keys: 16,
            };
            let call = Call::of("a".to_owned(), spec.whole());
            let decided = decision(call.interval.parse().unwrap());
            assert_eq!(decided, Decision { allowed: true, debt: nanos });
            assert_eq!(decided.quota(spec.whole()).remaining, 6);
        }
        assert_eq!(decision(-8), Decision { allowed: false, debt: 1000 });
        assert_eq!(decision(i64::MIN).debt, u64::MAX);
    }
}
