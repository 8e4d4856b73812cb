//! Timers for what hardly ever happens, such as the timeout of a request. To set one and to take it back costs more
//! than to look at it, so a worker hands them on: whoever takes one over that is set for earlier than need be
//! leaves it so, and sets it again should it fire.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use crate::clock::{self, Instant};

/// The timers of a worker that nobody waits for.
#[derive(Debug, Default)]
pub struct Alarms {
    spare: RefCell<Vec<Timer>>,
}

/// Each keeps the task that waited last in memory, until it fires.
const MAX_SPARE: usize = 32;

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    fires: Instant,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(clock::sleep_until(at)), fires: at }
    }

    fn set(&mut self, at: Instant) {
        clock::reset(self.sleep.as_mut(), at);
        self.fires = at;
    }
}

impl Alarms {
    /// Ready at that instant. No timer is taken before it is polled.
    pub fn at(&self, at: Instant) -> Alarm<'_> {
        Alarm { alarms: self, at, timer: None }
    }

    fn take(&self, at: Instant) -> Timer {
        let Some(mut timer) = self.spare.borrow_mut().pop() else { return Timer::new(at) };
        if timer.fires > at {
            timer.set(at);
        }
        timer
    }
}

#[derive(Debug)]
#[must_use = "it does nothing unless it is polled"]
pub struct Alarm<'a> {
    alarms: &'a Alarms,
    at: Instant,
    timer: Option<Timer>,
}

impl Alarm<'_> {
    /// Ready at that instant, and not at the one before.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
        if let Some(timer) = &mut self.timer
            && timer.fires > at
        {
            timer.set(at);
        }
    }
}

impl Future for Alarm<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { alarms, at, timer } = &mut *self;
        let timer = timer.get_or_insert_with(|| alarms.take(*at));
        loop {
            ready!(timer.sleep.as_mut().poll(cx));
            if timer.fires >= *at {
                return Poll::Ready(());
            }
            timer.set(*at);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take()
            && !timer.sleep.is_elapsed()
        {
            let mut spare = self.alarms.spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(timer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn begin(alarm: &mut Alarm<'_>) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(alarm).poll(&mut cx).is_pending());
    }

    /// Waits for a moment, and no more.
    fn glance(alarms: &Alarms, at: Instant) {
        begin(&mut alarms.at(at));
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_ready_at_its_time_whatever_timer_it_took_over() {
        let alarms = Alarms::default();
        for (first, second) in [(5, 5), (5, 9), (9, 5), (1, 300), (300, 1)] {
            let now = clock::now();
            glance(&alarms, now + first * S);
            alarms.at(now + second * S).await;
            assert_eq!((clock::now() - now).as_secs(), u64::from(second), "{first} {second}");
        }
        // One that fired while nobody waited for it.
        let now = clock::now();
        glance(&alarms, now + S);
        tokio::time::sleep(5 * S).await;
        alarms.at(now + 8 * S).await;
        assert_eq!((clock::now() - now).as_secs(), 8);
        // What is over is ready at once.
        alarms.at(now).await;
        assert_eq!((clock::now() - now).as_secs(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn one_can_be_set_again_while_it_is_waited_for() {
        let alarms = Alarms::default();
        for (first, second) in [(5, 9), (9, 5)] {
            let now = clock::now();
            let mut alarm = alarms.at(now + first * S);
            begin(&mut alarm);
            alarm.set(now + second * S);
            alarm.await;
            assert_eq!((clock::now() - now).as_secs(), u64::from(second));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_handed_on_and_only_so_many_are_kept() {
        let alarms = Alarms::default();
        let at = clock::now() + S;
        glance(&alarms, at);
        assert_eq!(alarms.spare.borrow().len(), 1);
        let mut many: Vec<_> = (0..2 * MAX_SPARE).map(|_| alarms.at(at)).collect();
        many.iter_mut().for_each(begin);
        assert_eq!(alarms.spare.borrow().len(), 0);
        drop(many);
        assert_eq!(alarms.spare.borrow().len(), MAX_SPARE);
    }
}
