//! When an attempt, or the request as a whole, is overdue.

use std::time::Duration;

use super::super::error::Failure;
use super::Call;
use crate::clock::{self, Instant};
use crate::policy::Mode;

/// How long things may take, of what a timeout cuts.
#[derive(Clone, Copy)]
struct Limits {
    request: Option<Duration>,
    per_try: Option<Duration>,
    stream_idle: Option<Duration>,
}

/// What took longer than it may, and how long that is.
enum Late {
    Request(Duration),
    Attempt(Duration),
    /// A body, for which the client is to blame if nobody else is waited for.
    Body {
        after: Duration,
        starved: bool,
    },
}

impl Call<'_> {
    /// When nobody waits for the request any more, as far as that is known before it is sent. `started`: when
    /// it came.
    pub fn deadline(&self, started: Instant) -> Option<Instant> {
        self.time_limit().map(|limit| started + limit)
    }

    pub(super) fn late(&self, after: Duration) -> Failure {
        Failure::Timeout { service: self.cluster.name.to_string(), after }
    }

    /// When the head of the response is overdue, all attempts together; unknown while the request is still
    /// being sent.
    pub(super) fn overdue(&self, started: Instant) -> Option<Instant> {
        self.due(self.time_limit()?, started)
    }

    fn due(&self, limit: Duration, started: Instant) -> Option<Instant> {
        let sent = match &self.upload {
            Some(upload) => upload.finished()?,
            None => started,
        };
        Some(sent + limit)
    }

    /// By the policy or, if that is less, by what the client will wait.
    pub(super) fn time_limit(&self) -> Option<Duration> {
        least(self.own_limit(), self.client_timeout)
    }

    /// By the policy, where it acts.
    fn own_limit(&self) -> Option<Duration> {
        let timeouts = &self.policy.timeouts;
        timeouts.request.filter(|_| timeouts.mode == Mode::Enforce)
    }

    /// What is said to the service of the time that is left, if anything: what the client said, less what has
    /// passed, or our own where that is to travel.
    pub(super) fn left(&self, started: Instant, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(started);
        if !self.policy.deadline.propagate || self.is_grpc {
            // As it stands there already.
            let client = self.client_timeout.filter(|_| !passed.is_zero());
            return client.map(|limit| limit.saturating_sub(passed));
        }
        let limit = self.time_limit().map(|limit| limit.saturating_sub(passed));
        let enforced = self.policy.timeouts.mode == Mode::Enforce;
        least(limit, self.policy.retry.per_try.filter(|_| enforced))
    }

    /// Waits until the attempt that is `sent` here is overdue, or the request with it. What is overdue by
    /// timeouts in shadow mode is noted, and waited for.
    pub(super) async fn expired(&self, started: Instant, sent: Instant) -> Failure {
        let timeouts = &self.policy.timeouts;
        let own = Limits {
            request: timeouts.request,
            per_try: self.policy.retry.per_try,
            stream_idle: timeouts.stream_idle,
        };
        let client = Limits { request: self.client_timeout, per_try: None, stream_idle: None };
        let late = match &self.overrun {
            Some(overrun) if timeouts.mode == Mode::Shadow => {
                // Boxed: it is twice as much as usual, and rare.
                Box::pin(async {
                    let enforced = self.late_by(client, started, sent);
                    tokio::pin!(enforced);
                    let would = tokio::select! {
                        biased;
                        late = &mut enforced => return late,
                        would = self.late_by(own, started, sent) => would,
                    };
                    overrun.note(match would {
                        Late::Request(_) => "request_timeout",
                        Late::Attempt(_) => "per_try_timeout",
                        Late::Body { .. } => "stream_idle_timeout",
                    });
                    enforced.await
                })
                .await
            }
            _ => {
                let limits = Limits { request: self.time_limit(), ..own };
                self.late_by(limits, started, sent).await
            }
        };
        match late {
            // An upstream that takes no more is as late as one that does not answer.
            Late::Body { after, starved: true } => Failure::BodyTimeout { after },
            Late::Request(after) | Late::Attempt(after) | Late::Body { after, .. } => {
                self.late(after)
            }
        }
    }

    /// Waits until the head of the response is overdue. The clock of the request timeout starts when the
    /// request has been sent to its end, so that a long upload or a gRPC stream is not cut; until then only
    /// silence counts. That of an attempt, which is `sent` here, starts then too.
    async fn late_by(&self, limits: Limits, started: Instant, sent: Instant) -> Late {
        let Limits { request, per_try, stream_idle } = limits;
        // While the body goes out, look again at least this often: its end starts the clock.
        const LOOK: Duration = Duration::from_millis(250);
        // Not the present, but nothing is overdue before the first look at the clock.
        let mut now = started;
        loop {
            let wake = match &self.upload {
                Some(upload) if upload.finished().is_none() => {
                    let silent = stream_idle.map(|idle| upload.last_progress() + idle);
                    if let (Some(at), Some(after)) = (silent, stream_idle)
                        && at <= now
                    {
                        return Late::Body { after, starved: upload.is_starved() };
                    }
                    let look = [request, per_try].into_iter().flatten().fold(LOOK, Duration::min);
                    let look = now + look;
                    Some(silent.map_or(look, |at| at.min(look)))
                }
                upload => {
                    let finished = upload.as_ref().and_then(|upload| upload.finished());
                    let sent = finished.map_or(sent, |at| at.max(sent));
                    let attempt = per_try.map(|limit| (sent + limit, Late::Attempt(limit)));
                    let request = request
                        .and_then(|limit| Some((self.due(limit, started)?, Late::Request(limit))));
                    let first = request.into_iter().chain(attempt).min_by_key(|(at, _)| *at);
                    match first {
                        Some((at, late)) if at <= now => return late,
                        first => first.map(|(at, _)| at),
                    }
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

fn least(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
