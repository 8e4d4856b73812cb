//! What the tests of the examples share: real PostgreSQL, MariaDB and RabbitMQ, services as processes, and a relay that
//! stands where a sidecar would and can stop a call wherever a test wants.

pub mod api;
pub mod checks;
pub mod database;
pub mod mariadb;
pub mod postgres;
pub mod program;
pub mod rabbitmq;
pub mod relay;
pub mod service;

pub use api::{Answer, Api};
pub use database::{Database, Kind};
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;
pub use relay::Relay;
pub use service::Service;

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

/// The user service by gRPC, as any client has it.
#[allow(clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("shop.v1");
}

/// What no step of a test may take longer than. It fails the test, it never makes one pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test where `future` takes longer than [`PATIENCE`].
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let here = Location::caller();
    async move {
        let output = tokio::time::timeout(PATIENCE, future).await;
        output.unwrap_or_else(|_| panic!("it takes too long: {here}"))
    }
}

/// Asks again until there is an answer, for what becomes true without telling.
#[track_caller]
pub fn eventually<T, F: Future<Output = Option<T>>>(
    mut ask: impl FnMut() -> F,
) -> impl Future<Output = T> {
    within(async move {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}
