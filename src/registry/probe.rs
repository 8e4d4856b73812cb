//! Whether an instance still takes connections.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::endpoint::Address;
use crate::upstream::connect::{ConnectErrorKind, connect};

/// Long enough for one packet to be lost: TCP sends it again after a second.
const LIMIT: Duration = Duration::from_secs(2);
/// Connections at a time.
const AT_ONCE: usize = 64;

/// Tries each of `addresses` and tells of it at once; not where we could not even try.
pub async fn each(addresses: Vec<Address>, told: impl Fn(Address, bool) + 'static) {
    let (turns, told) = (Rc::new(Semaphore::new(AT_ONCE)), Rc::new(told));
    let mut asked = tokio::task::JoinSet::new();
    for address in addresses {
        let (turns, told) = (turns.clone(), told.clone());
        asked.spawn_local(async move {
            // It is never closed.
            let _turn = turns.acquire().await;
            match connect(&address, LIMIT).await {
                Ok(_) => told(address, true),
                Err(error) if error.kind == ConnectErrorKind::Exhausted => {}
                Err(_) => told(address, false),
            }
        });
    }
    while asked.join_next().await.is_some() {}
}
