//! An order is done in steps that other services take. What has been done of it is undone, in reverse, when one of them
//! refuses, or when time is up. (Garcia-Molina and Salem, *Sagas*, 1987.)
//!
//! ```text
//! reserve ──► charge ──► confirmed
//!    │ refused   │ refused
//!    │           └───────────────┐
//!    │ late      │ late          ▼
//!    │           └──► refund ──► release ──► cancelled
//!    └──────────────────────────►
//! ```
//!
//! How far an order is stands in the database, and each step may be taken twice: it bears the order's id as its key. So a
//! process that dies at any point is made good by whoever reads the database next. A step whose end is not known is taken
//! again until it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::now_ms;
use common::web::Problem;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::neighbours::{Neighbours, Outcome};
use crate::orders::{Change, Orders};

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Reserve,
    Charge,
    Refund,
    Release,
    Confirmed,
    Cancelled,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Reserve,
        Self::Charge,
        Self::Refund,
        Self::Release,
        Self::Confirmed,
        Self::Cancelled,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::Release => "release",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_last(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }
}

impl TryFrom<String> for Step {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let step = Self::ALL.into_iter().find(|step| step.name() == name);
        step.ok_or_else(|| format!("{name} is no step of an order"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What follows from what became of a step. `late`: the order's time is up. None: the same step again.
fn next(step: Step, outcome: &Outcome, late: bool) -> Option<Step> {
    match (step, outcome) {
        (Step::Reserve, Outcome::Done { .. }) => Some(Step::Charge),
        // Nothing is kept for it then.
        (Step::Reserve, Outcome::Refused(_)) => Some(Step::Cancelled),
        (Step::Charge, Outcome::Done { .. }) => Some(Step::Confirmed),
        (Step::Charge, Outcome::Refused(_)) => Some(Step::Release),
        // What was not heard of may have been done, or may be done yet: undoing it forbids that too.
        (Step::Reserve, Outcome::Unknown(_)) if late => Some(Step::Release),
        (Step::Charge, Outcome::Unknown(_)) if late => Some(Step::Refund),
        (Step::Refund, Outcome::Done { .. }) => Some(Step::Release),
        (Step::Release, Outcome::Done { .. }) => Some(Step::Cancelled),
        _ => None,
    }
}

pub struct Saga {
    pub orders: Orders,
    neighbours: Neighbours,
    /// How long an order may take, in milliseconds, before it is cancelled.
    deadline: i64,
}

impl Saga {
    pub const fn new(orders: Orders, neighbours: Neighbours, deadline: i64) -> Self {
        Self { orders, neighbours, deadline }
    }

    /// Takes the order's steps until the last one.
    ///
    /// # Errors
    /// Its database fails: somebody goes on with it later.
    pub async fn drive(&self, id: &str) -> Result<(), Problem> {
        let mut pause = Duration::from_millis(50);
        loop {
            let order = self.orders.get(id).await?;
            let outcome = match order.step {
                Step::Reserve => self.neighbours.reserve(&order).await,
                Step::Charge => self.neighbours.charge(&order).await,
                Step::Refund => self.neighbours.refund(&order).await,
                Step::Release => self.neighbours.release(&order).await,
                Step::Confirmed | Step::Cancelled => return Ok(()),
            };
            let late = now_ms() - order.created > self.deadline;
            if let Some(step) = next(order.step, &outcome, late) {
                self.orders.advance(&order, Change::to(step, outcome)).await?;
                continue;
            }
            eprintln!("order {id}: {} is tried again: {}", order.step, outcome.why());
            self.orders.keep(id).await?;
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

/// Goes on with what nobody goes on with: at the start all that is unfinished, later what another instance has left.
pub async fn resume(saga: Arc<Saga>) {
    let places = Arc::new(Semaphore::new(16));
    let mut started = false;
    loop {
        match saga.orders.claim(!started).await {
            Ok(ids) => {
                started = true;
                for id in ids {
                    let place = places.clone().acquire_owned().await;
                    let saga = saga.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        let _ = saga.drive(&id).await;
                    });
                }
            }
            Err(problem) => eprintln!("unfinished orders: {}", problem.text),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Outcome = Outcome::Done { amount: 1 };

    fn refused() -> Outcome {
        Outcome::Refused("no".to_owned())
    }

    fn unknown() -> Outcome {
        Outcome::Unknown("lost".to_owned())
    }

    #[test]
    fn the_way_forth() {
        assert_eq!(next(Step::Reserve, &DONE, false), Some(Step::Charge));
        assert_eq!(next(Step::Charge, &DONE, false), Some(Step::Confirmed));
    }

    #[test]
    fn a_step_that_is_done_counts_even_if_it_is_late() {
        assert_eq!(next(Step::Charge, &DONE, true), Some(Step::Confirmed));
    }

    #[test]
    fn the_way_back() {
        assert_eq!(next(Step::Reserve, &refused(), false), Some(Step::Cancelled));
        assert_eq!(next(Step::Charge, &refused(), false), Some(Step::Release));
        assert_eq!(next(Step::Refund, &DONE, true), Some(Step::Release));
        assert_eq!(next(Step::Release, &DONE, true), Some(Step::Cancelled));
    }

    #[test]
    fn what_is_not_known_is_tried_again_and_undone_when_it_is_late() {
        assert_eq!(next(Step::Reserve, &unknown(), false), None);
        assert_eq!(next(Step::Charge, &unknown(), false), None);
        assert_eq!(next(Step::Reserve, &unknown(), true), Some(Step::Release));
        assert_eq!(next(Step::Charge, &unknown(), true), Some(Step::Refund));
    }

    #[test]
    fn undoing_never_gives_up() {
        for step in [Step::Refund, Step::Release] {
            for outcome in [refused(), unknown()] {
                assert_eq!(next(step, &outcome, true), None);
            }
        }
    }

    #[test]
    fn names_lead_back_to_steps() {
        for step in Step::ALL {
            assert_eq!(Step::try_from(step.to_string()), Ok(step));
        }
    }
}
