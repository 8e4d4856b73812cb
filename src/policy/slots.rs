//! So many things at the same time and no more, over all workers, and a queue for those that are too many.
//!
//! Taking a slot and giving it back is one atomic write each, as long as nobody waits. The numbers of slots
//! in use and of those who wait share one word, so that who gives a slot back knows whether there is someone
//! to give it to, and who begins to wait cannot miss it.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::queue::{Queue, QueueLimits, Ticket, Verdict};
use crate::clock::{self, Instant};

/// No limit.
pub const UNLIMITED: u32 = u32::MAX;

const ONE_WAITING: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// In use at the same time.
    pub max: u32,
    pub queue: QueueLimits,
}

#[derive(Debug)]
pub struct Slots {
    /// In use in the lower half, waiting in the upper one. Who waits is counted under the lock alone; while
    /// one does, slots are taken under the lock alone.
    counts: AtomicU64,
    /// Written under the lock alone: who begins to wait has seen the newest.
    limit: AtomicU32,
    queue: Mutex<Queue<Waker>>,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// All are in use, and nobody may wait.
    Full,
    /// The queue is full.
    QueueFull,
    /// It waited longer than one may while the queue stands.
    Late,
}

/// What came of asking for a slot.
pub enum Asked<S: Deref<Target = Slots>> {
    Taken(Slot<S>),
    /// One has to wait, at most so long.
    Wait(Turn<S>, Duration),
    Refused(Refused),
}

fn in_use(counts: u64) -> u32 {
    counts as u32
}

fn waiting(counts: u64) -> u32 {
    (counts >> 32) as u32
}

impl Slots {
    pub fn new(limits: SlotLimits) -> Self {
        Self {
            counts: AtomicU64::new(0),
            limit: AtomicU32::new(limits.max),
            queue: Mutex::new(Queue::new(limits.queue)),
        }
    }

    pub fn in_use(&self) -> u32 {
        in_use(self.counts.load(SeqCst))
    }

    pub fn waiting(&self) -> u32 {
        waiting(self.counts.load(SeqCst))
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    pub fn is_full(&self) -> bool {
        self.in_use() >= self.limit()
    }

    pub fn set_limits(&self, limits: SlotLimits, now: Instant) {
        let mut queue = self.lock();
        queue.set_limits(limits.queue);
        self.limit.store(limits.max, SeqCst);
        self.serve(&mut queue, now);
    }

    /// Another limit, and the queue as before.
    pub fn set_limit(&self, limit: u32, now: Instant) {
        let mut queue = self.lock();
        self.limit.store(limit, SeqCst);
        self.serve(&mut queue, now);
    }

    /// Takes a slot if one is free and nobody waits for it; of `max` at most, which may be less than the
    /// limit.
    fn take(&self, max: u32) -> bool {
        let mut counts = self.counts.load(SeqCst);
        loop {
            if waiting(counts) > 0 || in_use(counts) >= max {
                return false;
            }
            match self.counts.compare_exchange_weak(counts, counts + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => counts = now,
            }
        }
    }

    fn give_back(&self, now: impl FnOnce() -> Instant) {
        let before = self.counts.fetch_sub(1, SeqCst);
        if waiting(before) > 0 {
            let mut queue = self.lock();
            self.serve(&mut queue, now());
        }
    }

    /// Who waits with `ticket` gives up.
    fn leave(&self, ticket: Ticket, now: Instant) -> Result<(), Option<Verdict>> {
        let mut queue = self.lock();
        let left = queue.leave(ticket, now);
        if left.is_ok() {
            self.counts.fetch_sub(ONE_WAITING, SeqCst);
        }
        left
    }

    /// Gives the slots that are free to those who wait.
    fn serve(&self, queue: &mut Queue<Waker>, now: Instant) {
        loop {
            let counts = self.counts.load(SeqCst);
            if waiting(counts) == 0 || in_use(counts) >= self.limit() {
                return;
            }
            let Some((verdict, waker)) = queue.pop(now) else { return };
            // In one step: were there nobody waiting for a moment, others could take the slot.
            match verdict {
                Verdict::Granted => self.counts.fetch_sub(ONE_WAITING - 1, SeqCst),
                Verdict::Late => self.counts.fetch_sub(ONE_WAITING, SeqCst),
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Waker>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use. `S` leads to the [`Slots`]: an `Arc`, or what has one, so that the usual path need not
/// count references that several threads share.
#[must_use = "the slot is in use only while this lives"]
pub struct Slot<S: Deref<Target = Slots>> {
    slots: S,
    is_given_back: bool,
}

impl<S: Deref<Target = Slots>> Slot<S> {
    /// A slot if one is free.
    pub fn try_take(slots: S) -> Option<Self> {
        let limit = slots.limit();
        Self::try_take_of(slots, limit)
    }

    fn of(slots: S) -> Self {
        Self { slots, is_given_back: false }
    }

    pub fn slots(&self) -> &S {
        &self.slots
    }

    /// Gives it back as dropping it does, where the time is not that of the clock.
    pub fn give_back_at(mut self, now: Instant) {
        self.is_given_back = true;
        self.slots.give_back(|| now);
    }

    /// A slot if fewer than `max` are in use.
    pub fn try_take_of(slots: S, max: u32) -> Option<Self> {
        slots.take(max).then(|| Self::of(slots))
    }

    /// A slot, or a place in the queue.
    pub fn ask(slots: S, now: impl FnOnce() -> Instant) -> Asked<S> {
        if slots.take(slots.limit()) {
            return Asked::Taken(Self::of(slots));
        }
        let joined = {
            let mut queue = slots.lock();
            // The last one may have been given back before the lock was ours.
            if slots.take(slots.limit()) {
                None
            } else {
                let joined = queue.join(now());
                if joined.is_some() {
                    let counts = slots.counts.fetch_add(ONE_WAITING, SeqCst);
                    // Nor must it be given back unseen between that look and this.
                    if in_use(counts) < slots.limit() {
                        slots.serve(&mut queue, clock::now());
                    }
                }
                Some(joined.ok_or(match queue.limits().max {
                    0 => Refused::Full,
                    _ => Refused::QueueFull,
                }))
            }
        };
        match joined {
            None => Asked::Taken(Self::of(slots)),
            Some(Ok((ticket, patience))) => {
                Asked::Wait(Turn { slots: Some(slots), ticket }, patience)
            }
            Some(Err(refused)) => Asked::Refused(refused),
        }
    }
}

impl<S: Deref<Target = Slots>> Drop for Slot<S> {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.slots.give_back(clock::now);
        }
    }
}

/// A place in the queue. Dropped, it is given up, and so is the slot that came meanwhile.
#[must_use = "the place is given up where this is dropped"]
pub struct Turn<S: Deref<Target = Slots>> {
    /// None once it is over.
    slots: Option<S>,
    ticket: Ticket,
}

impl<S: Deref<Target = Slots> + Unpin> Future for Turn<S> {
    type Output = Result<Slot<S>, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.ticket;
        let Some(slots) = &self.slots else { return Poll::Pending };
        let verdict = slots.lock().look(ticket, || cx.waker().clone());
        let Some(verdict) = verdict else { return Poll::Pending };
        let slots = self.slots.take();
        match (verdict, slots) {
            (Verdict::Granted, Some(slots)) => Poll::Ready(Ok(Slot::of(slots))),
            _ => Poll::Ready(Err(Refused::Late)),
        }
    }
}

impl<S: Deref<Target = Slots>> Turn<S> {
    /// Gives it up as dropping it does, where the time is not that of the clock.
    pub fn leave_at(mut self, now: Instant) {
        let Some(slots) = self.slots.take() else { return };
        if slots.leave(self.ticket, now) == Err(Some(Verdict::Granted)) {
            Slot::of(slots).give_back_at(now);
        }
    }
}

impl<S: Deref<Target = Slots>> Drop for Turn<S> {
    fn drop(&mut self) {
        let Some(slots) = self.slots.take() else { return };
        if slots.leave(self.ticket, clock::now()) == Err(Some(Verdict::Granted)) {
            drop(Slot::of(slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use proptest::prelude::*;

    use super::super::codel::CodelLimits;
    use super::*;

    type Shared = Arc<Slots>;

    fn slots(max: u32, pending: u32) -> Shared {
        let queue = QueueLimits { max: pending, timeout: Duration::from_secs(60), codel: None };
        Arc::new(Slots::new(SlotLimits { max, queue }))
    }

    fn ask(slots: &Shared) -> Asked<Shared> {
        Slot::ask(slots.clone(), || Instant(1))
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    enum Held {
        Slot(#[allow(dead_code, reason = "dropped")] Slot<Shared>),
        Turn(Turn<Shared>, Arc<Woken>, bool),
    }

    /// Whether the turn's slot has come; polled like a task would: at first, and when it was woken.
    fn poll(held: &mut Held) -> bool {
        let Held::Turn(turn, woken, polled) = held else { return false };
        if std::mem::replace(polled, true) && woken.0.swap(0, SeqCst) == 0 {
            return false;
        }
        let waker = Waker::from(woken.clone());
        match Pin::new(turn).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(slot)) => {
                *held = Held::Slot(slot);
                true
            }
            Poll::Ready(Err(refused)) => panic!("{refused:?}"),
            Poll::Pending => false,
        }
    }

    #[test]
    fn a_slot_goes_to_who_waits_and_not_to_who_comes() {
        let slots = slots(1, 1);
        let Asked::Taken(first) = ask(&slots) else { panic!("one is free") };
        let Asked::Wait(turn, _) = ask(&slots) else { panic!("one may wait") };
        assert!(matches!(ask(&slots), Asked::Refused(Refused::QueueFull)));
        assert!(Slot::try_take(slots.clone()).is_none());
        drop(first);
        assert_eq!((slots.in_use(), slots.waiting()), (1, 0));
        assert!(Slot::try_take(slots.clone()).is_none(), "it is the other's, who has not looked");
        drop(turn);
        assert_eq!((slots.in_use(), slots.waiting()), (0, 0));
    }

    /// The clock has nothing to do with it: those who waited too long by the times that were told are late.
    #[test]
    fn slots_are_given_back_when_it_is_said() {
        let at = |ms: u64| Instant(ms * 1_000_000);
        let codel = Some(CodelLimits::default());
        let queue = QueueLimits { max: 10, timeout: Duration::from_secs(60), codel };
        let slots: Shared = Arc::new(Slots::new(SlotLimits { max: 1, queue }));
        let Asked::Taken(first) = Slot::ask(slots.clone(), || at(1)) else { panic!("one is free") };
        let wait = |ms| match Slot::ask(slots.clone(), || at(ms)) {
            Asked::Wait(turn, _) => turn,
            _ => panic!("it waits"),
        };
        let (mut second, mut third, gone) = (wait(1), wait(2), wait(3));
        gone.leave_at(at(20));
        assert_eq!(slots.waiting(), 2);
        let context = &mut Context::from_waker(std::task::Waker::noop());
        let mut poll = |turn: &mut Turn<Shared>| Pin::new(turn).poll(context);
        first.give_back_at(at(50));
        let Poll::Ready(Ok(slot)) = poll(&mut second) else {
            panic!("the queue does not stand yet")
        };
        slot.give_back_at(at(120));
        assert!(matches!(poll(&mut third), Poll::Ready(Err(Refused::Late))));
        assert_eq!((slots.in_use(), slots.waiting()), (0, 0));
    }

    #[test]
    fn without_a_queue_it_is_full_at_once() {
        let slots = slots(0, 0);
        assert!(matches!(ask(&slots), Asked::Refused(Refused::Full)));
    }

    #[test]
    fn another_limit_wakes_who_waits() {
        let slots = slots(1, 10);
        let first = ask(&slots);
        let Asked::Wait(turn, _) = ask(&slots) else { panic!("full") };
        let mut held = Held::Turn(turn, Arc::default(), false);
        assert!(!poll(&mut held));
        slots.set_limit(2, Instant(2));
        assert!(poll(&mut held));
        slots.set_limit(1, Instant(3));
        drop(held);
        assert_eq!(slots.in_use(), 1);
        assert!(Slot::try_take(slots.clone()).is_none());
        drop(first);
        assert_eq!(slots.in_use(), 0);
    }

    proptest! {
        /// Whatever comes, goes, waits and gives up: never more than the limit, nobody waits beside a free
        /// slot, and in the end all is free.
        #[test]
        fn counts_are_exact(
            max in 1u32..4,
            pending in 0u32..4,
            events in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 0..200),
        ) {
            let slots = slots(max, pending);
            let mut held: Vec<Held> = Vec::new();
            for (event, which) in events {
                match event {
                    0..3 => match ask(&slots) {
                        Asked::Taken(slot) => held.push(Held::Slot(slot)),
                        Asked::Wait(turn, _) => held.push(Held::Turn(turn, Arc::default(), false)),
                        Asked::Refused(_) => {
                            prop_assert_eq!(slots.waiting(), pending);
                            prop_assert_eq!(slots.in_use(), max);
                        }
                    },
                    3..5 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    _ => held.iter_mut().for_each(|held| {
                        poll(held);
                    }),
                }
                prop_assert!(slots.in_use() <= max);
                prop_assert!(slots.waiting() <= pending);
                prop_assert!(slots.waiting() == 0 || slots.in_use() == max);
            }
            drop(held);
            prop_assert_eq!((slots.in_use(), slots.waiting()), (0, 0));
        }
    }

    /// Workers at the same time, each with its own runtime: nobody waits for ever, and the limit holds.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const THREADS: usize = 4;
        const EACH: usize = 2_000;
        let slots = slots(2, 1000);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (slots, inside, most) = (&slots, &inside, &most);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = { runtime }.enable_time().build().unwrap();
                    runtime.block_on(async {
                        for round in 0..EACH {
                            let slot = match ask(slots) {
                                Asked::Taken(slot) => slot,
                                // Some give up, whether their slot has come or not.
                                Asked::Wait(turn, _) if (round + thread) % 7 == 0 => {
                                    drop(turn);
                                    continue;
                                }
                                Asked::Wait(turn, _) => {
                                    let turn = tokio::time::timeout(Duration::from_secs(20), turn);
                                    turn.await.expect("woken").unwrap_or_else(|r| panic!("{r:?}"))
                                }
                                Asked::Refused(refused) => panic!("{refused:?}"),
                            };
                            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, SeqCst);
                            drop(slot);
                        }
                    });
                });
            }
        });
        assert!(most.into_inner() <= 2);
        assert_eq!((slots.in_use(), slots.waiting()), (0, 0));
    }
}
