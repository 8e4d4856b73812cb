//! Whether an instance still takes connections.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::endpoint::Address;
use crate::upstream::connect::connect;

/// Long enough for one packet to be lost: TCP sends it again after a second.
const LIMIT: Duration = Duration::from_secs(2);
/// Connections at a time.
const AT_ONCE: usize = 64;

/// Those of `addresses` that take no connection.
pub async fn silent(addresses: Vec<Address>) -> Vec<Address> {
    let turns = std::rc::Rc::new(Semaphore::new(AT_ONCE));
    let mut asked = tokio::task::JoinSet::new();
    for address in addresses {
        let turns = turns.clone();
        asked.spawn_local(async move {
            // It is never closed.
            let _turn = turns.acquire().await;
            connect(&address, LIMIT).await.is_err().then_some(address)
        });
    }
    let mut silent = Vec::new();
    while let Some(answer) = asked.join_next().await {
        silent.extend(answer.ok().flatten());
    }
    silent
}
