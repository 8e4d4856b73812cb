//! Who waits for a slot, in the order in which they came. Only decides; [`super::slots`] takes the slots.

use std::collections::BTreeMap;
use std::time::Duration;

use super::codel::{Codel, CodelLimits};
use crate::clock::Instant;

/// How many may wait, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    pub max: u32,
    pub timeout: Duration,
    pub codel: Option<CodelLimits>,
}

/// A place in the queue.
pub type Ticket = u64;

/// What became of one who waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has a slot.
    Granted,
    /// It waited longer than one may while the queue stands.
    Late,
}

/// `W` wakes who waits.
#[derive(Debug)]
pub struct Queue<W> {
    limits: QueueLimits,
    next: Ticket,
    waiting: BTreeMap<Ticket, (Instant, Option<W>)>,
    /// Of those who have not looked yet.
    decided: BTreeMap<Ticket, Verdict>,
    codel: Codel,
}

impl<W> Queue<W> {
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            next: 0,
            waiting: BTreeMap::new(),
            decided: BTreeMap::new(),
            codel: Codel::default(),
        }
    }

    pub fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    pub fn limits(&self) -> QueueLimits {
        self.limits
    }

    /// A place at the end, and how long one may wait there; none where the queue is full.
    pub fn join(&mut self, now: Instant) -> Option<(Ticket, Duration)> {
        if self.waiting.len() >= self.limits.max as usize {
            return None;
        }
        let timeout = self.limits.timeout;
        let patience = match self.limits.codel {
            Some(limits) => self.codel.patience(limits, now, timeout),
            None => timeout,
        };
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, (now, None));
        Some((ticket, patience))
    }

    /// Whom a free slot goes to: the first one, unless it has waited for too long. Both are woken.
    pub fn pop(&mut self, now: Instant) -> Option<(Verdict, Option<W>)> {
        let (ticket, (since, waker)) = self.waiting.pop_first()?;
        let waited = now.saturating_duration_since(since);
        let verdict = match self.limits.codel {
            Some(limits) if waited > self.codel.patience(limits, now, self.limits.timeout) => {
                Verdict::Late
            }
            _ => Verdict::Granted,
        };
        self.left(now, waited);
        self.decided.insert(ticket, verdict);
        Some((verdict, waker))
    }

    /// What became of a ticket; while it waits, `waker` is kept. What was told is forgotten.
    pub fn look(&mut self, ticket: Ticket, waker: impl FnOnce() -> W) -> Option<Verdict> {
        match self.waiting.get_mut(&ticket) {
            Some((_, known)) => {
                *known = Some(waker());
                None
            }
            None => self.decided.remove(&ticket),
        }
    }

    /// Gives a place up. Whether it was still waiting; or the verdict that it did not see.
    pub fn leave(&mut self, ticket: Ticket, now: Instant) -> Result<(), Option<Verdict>> {
        match self.waiting.remove(&ticket) {
            Some((since, _)) => {
                self.left(now, now.saturating_duration_since(since));
                Ok(())
            }
            None => Err(self.decided.remove(&ticket)),
        }
    }

    fn left(&mut self, now: Instant, waited: Duration) {
        if let Some(limits) = self.limits.codel {
            let waited = if self.waiting.is_empty() { Duration::ZERO } else { waited };
            self.codel.observe(limits, now, waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits =
        QueueLimits { max: 2, timeout: Duration::from_secs(1), codel: None };

    #[test]
    fn first_come_first_served() {
        let mut queue = Queue::new(LIMITS);
        let (first, _) = queue.join(Instant(1)).unwrap();
        let (second, _) = queue.join(Instant(2)).unwrap();
        assert_eq!(queue.join(Instant(3)), None, "full");
        assert_eq!(queue.look(first, || "first"), None);
        assert_eq!(queue.look(second, || "second"), None);
        assert_eq!(queue.pop(Instant(4)), Some((Verdict::Granted, Some("first"))));
        assert_eq!(queue.look(second, || "again"), None);
        assert_eq!(queue.look(first, || ""), Some(Verdict::Granted));
        assert_eq!(queue.pop(Instant(5)), Some((Verdict::Granted, Some("again"))));
        assert_eq!(queue.leave(second, Instant(6)), Err(Some(Verdict::Granted)), "not seen");
        assert_eq!(queue.pop(Instant(7)), None);
    }

    #[test]
    fn who_leaves_is_passed_over() {
        let mut queue = Queue::<()>::new(LIMITS);
        let (first, _) = queue.join(Instant(1)).unwrap();
        let (second, _) = queue.join(Instant(2)).unwrap();
        assert_eq!(queue.leave(first, Instant(3)), Ok(()));
        assert_eq!(queue.pop(Instant(4)), Some((Verdict::Granted, None)));
        assert_eq!(queue.look(second, || ()), Some(Verdict::Granted));
    }

    #[test]
    fn a_queue_that_stands_turns_those_away_who_waited_long() {
        let codel =
            CodelLimits { target: Duration::from_millis(5), interval: Duration::from_millis(100) };
        let mut queue = Queue::<()>::new(QueueLimits { max: 500, codel: Some(codel), ..LIMITS });
        let at = |ms: u64| Instant(ms * 1_000_000);
        // One comes and one goes each millisecond, behind fifty others.
        let mut verdicts = Vec::new();
        for time in 1..400 {
            queue.join(at(time)).unwrap();
            if time > 50 {
                let (verdict, _) = queue.pop(at(time)).unwrap();
                verdicts.push(verdict);
            }
        }
        assert_eq!(verdicts[0], Verdict::Granted);
        assert!(verdicts.contains(&Verdict::Late));
        assert_eq!(queue.join(at(400)).unwrap().1, Duration::from_millis(10));
    }
}
