//! The launcher, with real proxies and services. `SHOP_BIN_DIR` says where they are.

mod backends;
mod end;
mod launcher;
mod story;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Eleven processes each: one shop at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
