//! How late a worker is: a timer that measures how much later than asked it is woken. It runs while requests
//! come, and ends when none do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::clock;
use crate::policy::shed::Lag;

const EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct LagProbe {
    runs: Cell<bool>,
    /// A request came since the timer was looked at.
    used: Cell<bool>,
    lag: RefCell<Lag>,
}

impl LagProbe {
    /// To be called with each request. What was measured last.
    pub fn now(self: &Rc<Self>) -> Duration {
        self.used.set(true);
        if !self.runs.replace(true) {
            tokio::task::spawn_local(self.clone().run());
        }
        self.lag.borrow().now()
    }

    async fn run(self: Rc<Self>) {
        while self.used.replace(false) {
            let due = clock::now() + EVERY;
            clock::sleep_until(due).await;
            self.lag.borrow_mut().observe(clock::now().saturating_duration_since(due));
        }
        // What was measured last says nothing of the next request, whenever that comes.
        self.lag.take();
        self.runs.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn it_sees_a_worker_that_stands_and_forgets_it_in_silence() {
        let probe = Rc::<LagProbe>::default();
        for _ in 0..3 {
            assert_eq!(probe.now(), Duration::ZERO);
            tokio::task::yield_now().await;
            // A request while it waits: it goes on.
            probe.now();
            // Nobody is woken while the time passes.
            tokio::time::advance(Duration::from_millis(250)).await;
            tokio::task::yield_now().await;
        }
        let late = probe.now();
        assert!(late >= Duration::from_millis(190), "{late:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!probe.runs.get());
        assert_eq!(probe.now(), Duration::ZERO);
    }
}
