//! The user service as processes, by REST and gRPC, on each of its databases.

mod charges;
mod users;

use testing::proto::user_service_client::UserServiceClient;
use testing::{Api, Database, Kind, Service, checks};
use tonic::transport::{Channel, Endpoint};

const BINARY: &str = env!("CARGO_BIN_EXE_user-service");

/// Two instances on one database, and their clients.
struct Pair {
    one: Api,
    two: Api,
    grpc: UserServiceClient<Channel>,
    _instances: [Service; 2],
}

impl Pair {
    /// Both at once: both want to create the tables.
    async fn start(database: &Database) -> Self {
        let url = database.url_of("users").await;
        let environment = [("DATABASE_URL", url.as_str())];
        let start = || Service::start(BINARY, &environment);
        let (one, two) = tokio::join!(start(), start());
        let endpoint = Endpoint::from_shared(format!("http://{}", one.address()));
        let grpc = UserServiceClient::new(endpoint.expect("a URL").connect_lazy());
        Self { one: one.api(), two: two.api(), grpc, _instances: [one, two] }
    }
}

async fn all_on(kind: Kind) {
    let Some(database) = Database::start(kind).await else { return };
    let mut pair = Pair::start(&database).await;
    users::by_rest(&pair).await;
    users::by_grpc(&mut pair).await;
    users::that_cannot_be(&mut pair).await;
    charges::are_taken_once(&pair).await;
    charges::that_are_refused(&pair).await;
    charges::are_given_back_once(&pair).await;
    charges::by_grpc_and_rest_are_the_same(&mut pair).await;
    charges::at_the_same_time(&pair).await;
    charges::never_make_debts(&pair).await;
    charges::and_refunds_at_the_same_time(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    all_on(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    all_on(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    all_on(Kind::MariaDb).await;
}

#[tokio::test]
async fn a_process_ends_in_good_order() {
    checks::lifecycle(BINARY, "user-service").await;
}

#[tokio::test]
async fn health_follows_postgresql() {
    checks::outage(BINARY, Kind::Postgres, &[]).await;
}

#[tokio::test]
async fn health_follows_mariadb() {
    checks::outage(BINARY, Kind::MariaDb, &[]).await;
}
