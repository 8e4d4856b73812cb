//! The endpoints as they are: servers with a queue, that can be slow, wrong or away. Callers know nothing of
//! this but the answers.

use std::collections::VecDeque;
use std::time::Duration;

use http::StatusCode;
use pilotfish::policy::End;
use pilotfish::policy::health::Finding;

use crate::clock::Attempt;

/// Requests that an endpoint works on at the same time.
pub const SERVERS: usize = 2;
/// Requests that wait for one of its servers; more are answered with 503 at once.
pub const QUEUE: usize = 100;
/// How long a server works on a request in the mean. The distribution is lognormal.
pub const SERVICE: Duration = Duration::from_millis(50);
/// The standard deviation of its logarithm: one in a hundred takes three times as long as the median.
const SIGMA: f64 = 0.5;
/// Even of an endpoint that is well, one answer in a thousand is a 500.
const BACKGROUND: f64 = 0.001;
/// An error is made sooner than an answer.
const ERROR: Duration = Duration::from_millis(2);
const REFUSAL: Duration = Duration::from_micros(500);

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Health {
    #[default]
    Well,
    /// Works so many times as long on each request.
    Slow(f64),
    /// Has just started: works so many times as long at first, and as long as ever after so many requests.
    Cold { factor: f64, until: u32 },
    /// Answers this share of the requests with 500, at once.
    Wrong(f64),
    /// No process listens; what it had begun is reset.
    Refusing,
    /// No packet comes back.
    Gone,
}

#[derive(Debug, Default)]
pub struct Endpoint {
    pub health: Health,
    serving: Vec<Attempt>,
    waiting: VecDeque<Attempt>,
    /// Requests that it has worked on since its health changed.
    done: u32,
}

/// What becomes of an attempt that reaches an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reception {
    /// It ends so, after so long.
    Ends(End, Duration),
    /// A server works on it for so long.
    Begun(Duration),
    /// All servers are busy.
    Waits,
    /// No connection comes about.
    Silence,
}

/// An answer with that status.
pub fn answer(status: StatusCode) -> End {
    End::Answered { status, grpc: None }
}

impl Endpoint {
    pub fn receive(&mut self, attempt: Attempt, random: &mut fastrand::Rng) -> Reception {
        match self.health {
            Health::Refusing => return Reception::Ends(End::ConnectFailure, REFUSAL),
            Health::Gone => return Reception::Silence,
            Health::Well | Health::Slow(_) | Health::Cold { .. } | Health::Wrong(_) => {}
        }
        let wrong = if let Health::Wrong(share) = self.health { share } else { BACKGROUND };
        if random.f64() < wrong {
            return Reception::Ends(answer(StatusCode::INTERNAL_SERVER_ERROR), ERROR);
        }
        if self.serving.len() < SERVERS {
            self.serving.push(attempt);
            Reception::Begun(self.work(random))
        } else if self.waiting.len() < QUEUE {
            self.waiting.push_back(attempt);
            Reception::Waits
        } else {
            Reception::Ends(answer(StatusCode::SERVICE_UNAVAILABLE), ERROR)
        }
    }

    /// A server has worked on `attempt` to its end: whether that is so, and what it works on next, for how
    /// long. It does not know that a caller may have gone meanwhile.
    pub fn served(
        &mut self,
        attempt: Attempt,
        random: &mut fastrand::Rng,
    ) -> (bool, Option<(Attempt, Duration)>) {
        let Some(place) = self.serving.iter().position(|served| *served == attempt) else {
            return (false, None);
        };
        self.serving.swap_remove(place);
        self.done += 1;
        let next = self.waiting.pop_front().map(|next| {
            self.serving.push(next);
            (next, self.work(random))
        });
        (true, next)
    }

    /// Its health changes; returned is what it loses by that.
    pub fn turn(&mut self, health: Health) -> Vec<Attempt> {
        self.health = health;
        self.done = 0;
        match health {
            Health::Refusing | Health::Gone => {
                self.serving.drain(..).chain(self.waiting.drain(..)).collect()
            }
            Health::Well | Health::Slow(_) | Health::Cold { .. } | Health::Wrong(_) => Vec::new(),
        }
    }

    /// What an active check finds, and after how long. It asks what requests ask, but stands in no queue;
    /// nobody answers within `timeout` where it is gone.
    pub fn check(&self, timeout: Duration, random: &mut fastrand::Rng) -> (Finding, Duration) {
        match self.health {
            Health::Gone => (Finding::Failed, timeout),
            Health::Refusing => (Finding::Failed, REFUSAL),
            Health::Wrong(share) if random.f64() < share => (Finding::Failed, ERROR),
            Health::Well | Health::Slow(_) | Health::Cold { .. } | Health::Wrong(_) => {
                (Finding::Passed, ERROR)
            }
        }
    }

    fn work(&self, random: &mut fastrand::Rng) -> Duration {
        let factor = match self.health {
            Health::Slow(factor) => factor,
            Health::Cold { factor, until } => {
                let left = f64::from(until.saturating_sub(self.done)) / f64::from(until);
                1.0 + (factor - 1.0) * left
            }
            Health::Well | Health::Wrong(_) | Health::Refusing | Health::Gone => 1.0,
        };
        // The mean of a lognormal distribution is exp(mu + sigma^2 / 2).
        SERVICE.mul_f64(factor * (SIGMA * normal(random) - SIGMA * SIGMA / 2.0).exp())
    }
}

/// Box and Muller's.
fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

/// The time to the next of events that come independently of each other, `rate` a second.
pub fn exponential(rate: f64, random: &mut fastrand::Rng) -> Duration {
    Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate)
}
