//! When an attempt, or the request as a whole, is overdue.

use std::time::Duration;

use super::super::error::{Failure, TimeLimit};
use super::super::overrun::Overrun;
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

/// Whether something is overdue, and if not, when to look again.
enum Look {
    Late(Late),
    Again(Instant),
    Never,
}

impl Call<'_> {
    /// When nobody waits for the request any more, as far as that is known before it is sent.
    pub fn deadline(&self) -> Option<Instant> {
        self.time_limit().map(|limit| self.started + limit)
    }

    /// The time for the request as a whole is up.
    pub fn late(&self) -> Failure {
        self.timeout(self.time_limit().unwrap_or_default(), TimeLimit::Request)
    }

    fn timeout(&self, after: Duration, of: TimeLimit) -> Failure {
        let by_client = of == TimeLimit::Request && Some(after) == self.client_timeout;
        let of = if by_client { TimeLimit::Client } else { of };
        Failure::Timeout { service: self.cluster.name.to_string(), after, of }
    }

    /// How long one attempt may take, where that acts.
    pub(super) fn per_try(&self) -> Option<Duration> {
        self.policy.retry.per_try.filter(|_| self.policy.timeouts.mode == Mode::Enforce)
    }

    /// When the head of the response is overdue, all attempts together; unknown while the request is still
    /// being sent.
    pub(super) fn overdue(&self) -> Option<Instant> {
        self.due(self.time_limit()?)
    }

    /// Whether nobody waits for it any more, as far as that is known.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.time_limit() {
            None => false,
            Some(limit) => limit.is_zero() || self.due(limit).is_some_and(|at| at <= now),
        }
    }

    /// Ready once nobody waits for it any more.
    pub async fn over(&self, deadline: Option<Instant>) {
        match deadline {
            Some(at) => self.worker.alarms.at(at).await,
            None => std::future::pending().await,
        }
    }

    fn due(&self, limit: Duration) -> Option<Instant> {
        let sent = match &self.upload {
            // Of a fallback it may have been sent before.
            Some(upload) if upload.asked_for() => upload.finished()?.max(self.started),
            Some(_) | None => self.started,
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
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let propagate = self.policy.deadline.propagate && !self.is_grpc;
        if !propagate && self.client_timeout.is_none() {
            return None;
        }
        let passed = now.saturating_duration_since(self.started);
        if !propagate {
            // As it stands there already.
            let client = self.client_timeout.filter(|_| !passed.is_zero());
            return client.map(|limit| limit.saturating_sub(passed));
        }
        let limit = self.time_limit().map(|limit| limit.saturating_sub(passed));
        least(limit, self.per_try())
    }

    /// Waits until the attempt that is `sent` here is overdue, or the request with it. What is overdue by
    /// timeouts in shadow mode is noted, and waited for.
    pub(super) async fn expired(&self, sent: Instant) -> Failure {
        let timeouts = &self.policy.timeouts;
        let mut limits = Limits {
            request: least(timeouts.request, self.client_timeout),
            per_try: self.policy.retry.per_try,
            stream_idle: timeouts.stream_idle,
        };
        // Not the present, but nothing is overdue before the first look at the clock.
        let mut now = self.started;
        loop {
            match self.look(limits, sent, now) {
                Look::Late(late) => {
                    let Some(overrun) = self.shadowed(&late) else { return self.cut(&late) };
                    overrun.note(match late {
                        Late::Request(_) => "request_timeout",
                        Late::Attempt(_) => "per_try_timeout",
                        Late::Body { .. } => "stream_idle_timeout",
                    });
                    let request = self.client_timeout;
                    limits = Limits { request, per_try: None, stream_idle: None };
                }
                Look::Again(at) => {
                    self.worker.alarms.at(at).await;
                    now = clock::now();
                }
                Look::Never => std::future::pending().await,
            }
        }
    }

    /// Where it is noted, if it is nothing to be cut: the client's own limit always is.
    fn shadowed(&self, late: &Late) -> Option<&Overrun> {
        let by_client = matches!(late, Late::Request(after) if Some(*after) == self.client_timeout);
        let shadow = self.policy.timeouts.mode == Mode::Shadow;
        self.overrun.as_deref().filter(|_| shadow && !by_client)
    }

    fn cut(&self, late: &Late) -> Failure {
        match *late {
            // An upstream that takes no more is as late as one that does not answer.
            Late::Body { after, starved: true } => Failure::BodyTimeout { after },
            Late::Request(after) | Late::Body { after, .. } => {
                self.timeout(after, TimeLimit::Request)
            }
            Late::Attempt(after) => self.timeout(after, TimeLimit::Attempt),
        }
    }

    /// Whether the head of the response is overdue. The clock of the request timeout starts when the request
    /// has been sent to its end, so that a long upload or a gRPC stream is not cut; until then only
    /// silence counts. That of an attempt, which is `sent` here, starts then too.
    fn look(&self, limits: Limits, sent: Instant, now: Instant) -> Look {
        let Limits { request, per_try, stream_idle } = limits;
        // While the body goes out, look again at least this often: its end starts the clock.
        const LOOK: Duration = Duration::from_millis(250);
        match &self.upload {
            Some(upload) if upload.finished().is_none() => {
                let silent = stream_idle.map(|idle| upload.last_progress() + idle);
                if let (Some(at), Some(after)) = (silent, stream_idle)
                    && at <= now
                {
                    return Look::Late(Late::Body { after, starved: upload.is_starved() });
                }
                let look = [request, per_try].into_iter().flatten().fold(LOOK, Duration::min);
                let look = now + look;
                Look::Again(silent.map_or(look, |at| at.min(look)))
            }
            upload => {
                let finished = upload.as_ref().and_then(|upload| upload.finished());
                let attempt = per_try.map(|limit| {
                    (finished.map_or(sent, |at| at.max(sent)) + limit, Late::Attempt(limit))
                });
                let request =
                    request.and_then(|limit| Some((self.due(limit)?, Late::Request(limit))));
                match request.into_iter().chain(attempt).min_by_key(|(at, _)| *at) {
                    Some((at, late)) if at <= now => Look::Late(late),
                    Some((at, _)) => Look::Again(at),
                    None => Look::Never,
                }
            }
        }
    }
}

fn least(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
