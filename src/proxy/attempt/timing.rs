//! When an attempt, or the request as a whole, is overdue.

use std::time::Duration;

use super::super::error::Failure;
use super::Call;
use crate::clock::{self, Instant};

impl Call<'_> {
    /// When nobody waits for the request any more, as far as that is known before it is sent. `started`: when
    /// it came.
    pub fn deadline(&self, started: Instant) -> Option<Instant> {
        self.time_limit().map(|limit| started + limit)
    }

    pub(super) fn late(&self, after: Duration) -> Failure {
        Failure::Timeout { service: self.cluster.name.to_string(), after }
    }

    /// When the head of the response is overdue, all attempts together, and after how long; unknown while the
    /// request is still being sent.
    pub(super) fn overdue(&self, started: Instant) -> Option<(Instant, Duration)> {
        let sent = match &self.upload {
            Some(upload) => upload.finished()?,
            None => started,
        };
        self.time_limit().map(|limit| (sent + limit, limit))
    }

    /// By the policy or, if that is less, by what the client will wait.
    pub(super) fn time_limit(&self) -> Option<Duration> {
        match (self.policy.timeouts.request, self.client_timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Waits until the head of the response is overdue. The clock of the request timeout starts when the
    /// request has been sent to its end, so that a long upload or a gRPC stream is not cut; until then only
    /// silence counts. That of an attempt, which is `sent` here, starts then too.
    pub(super) async fn expired(&self, started: Instant, sent: Instant) -> Failure {
        let timeouts = self.policy.timeouts;
        let request = self.time_limit();
        // While the body goes out, look again at least this often: its end starts the clock.
        const LOOK: Duration = Duration::from_millis(250);
        // Not the present, but nothing is overdue before the first look at the clock.
        let mut now = started;
        loop {
            let wake = match &self.upload {
                Some(upload) if upload.finished().is_none() => {
                    let silent = timeouts.stream_idle.map(|idle| upload.last_progress() + idle);
                    if let (Some(at), Some(after)) = (silent, timeouts.stream_idle)
                        && at <= now
                    {
                        // An upstream that takes no more is as late as one that does not answer.
                        return match upload.is_starved() {
                            true => Failure::BodyTimeout { after },
                            false => self.late(after),
                        };
                    }
                    let per_try = self.policy.retry.per_try;
                    let look = [request, per_try].into_iter().flatten().fold(LOOK, Duration::min);
                    let look = now + look;
                    Some(silent.map_or(look, |at| at.min(look)))
                }
                upload => {
                    let finished = upload.as_ref().and_then(|upload| upload.finished());
                    let per_try = self.policy.retry.per_try;
                    let attempt = per_try
                        .map(|limit| (finished.map_or(sent, |at| at.max(sent)) + limit, limit));
                    let first = [self.overdue(started), attempt].into_iter().flatten().min();
                    if let Some((at, after)) = first
                        && at <= now
                    {
                        return self.late(after);
                    }
                    first.map(|(at, _)| at)
                }
            };
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            now = clock::now();
        }
    }
}
