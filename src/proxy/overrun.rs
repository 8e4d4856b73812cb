//! What timeouts in shadow mode would have cut.

use std::cell::Cell;
use std::rc::Rc;

use crate::policy::{Mode, Would};
use crate::worker::Worker;

/// Told once for a request, by the first timeout that is over: what would have come behind a cut, nobody knows.
pub struct Overrun {
    worker: Rc<Worker>,
    would: Cell<Option<Would>>,
}

impl Overrun {
    /// Where timeouts are in shadow mode.
    pub fn of(mode: Mode, worker: &Rc<Worker>) -> Option<Rc<Self>> {
        let overrun = || Rc::new(Self { worker: worker.clone(), would: Cell::new(None) });
        (mode == Mode::Shadow).then(overrun)
    }

    /// `act`: the reason that the access log would have had.
    pub fn note(&self, act: &'static str) {
        if self.would.get().is_none() {
            let would = Would { policy: "timeout", act };
            self.worker.recorder.shadow(would);
            self.would.set(Some(would));
        }
    }

    pub fn would(&self) -> Option<Would> {
        self.would.get()
    }
}
