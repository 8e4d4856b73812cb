//! Giving memory back. The allocator returns what is free only while it is called for more, which a proxy
//! that has fallen silent does not do: what a thousand connections needed would stay for ever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

/// Collects what connections give back before it is returned at once.
const PAUSE: Duration = Duration::from_secs(2);

/// Returns the memory that this worker no longer needs.
#[derive(Debug, Default)]
pub struct Tidying {
    soon: Cell<bool>,
}

impl Tidying {
    /// To be called when something large was freed: one timer for all of it.
    pub fn soon(self: &Rc<Self>) {
        if self.soon.replace(true) {
            return;
        }
        let tidying = self.clone();
        tokio::task::spawn_local(async move {
            sleep(PAUSE).await;
            tidying.soon.set(false);
            give_back();
        });
    }
}

/// Returns the free memory of this thread to the system.
fn give_back() {
    // SAFETY: it may be called at any time and from any thread. Where another allocator is in use, as in
    // tests, it finds nothing to do.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
