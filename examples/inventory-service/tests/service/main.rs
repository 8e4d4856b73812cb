//! The inventory service as processes, on each of its databases.

mod events;
mod rabbitmq;
mod reservations;
mod stock;

use serde_json::{Value, json};
use testing::{Api, Database, Kind, Service, checks};

const BINARY: &str = env!("CARGO_BIN_EXE_inventory-service");

/// Two instances on one database, and their clients.
struct Pair {
    one: Api,
    two: Api,
    _instances: [Service; 2],
}

impl Pair {
    /// Both at once: both want to create the tables.
    async fn start(database: &Database) -> Self {
        let url = database.url_of("stock").await;
        let environment = [("DATABASE_URL", url.as_str())];
        let start = || Service::start(BINARY, &environment);
        let (one, two) = tokio::join!(start(), start());
        Self { one: one.api(), two: two.api(), _instances: [one, two] }
    }
}

/// An article of this case alone.
async fn article(api: &Api, sku: &str, available: i64, price: i64) {
    let body = json!({ "available": available, "price": price });
    let answer = api.put(&format!("/stock/{sku}"), body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn stock(api: &Api, sku: &str) -> Value {
    let answer = api.get(&format!("/stock/{sku}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// What is available and what is reserved.
async fn kept(api: &Api, sku: &str) -> (i64, i64) {
    let stock = stock(api, sku).await;
    let number = |key: &str| stock[key].as_i64().expect("a number");
    (number("available"), number("reserved"))
}

async fn all_on(kind: Kind) {
    let Some(database) = Database::start(kind).await else { return };
    let pair = Pair::start(&database).await;
    stock::is_told_and_set(&pair).await;
    stock::that_cannot_be(&pair).await;
    reservations::are_made_once(&pair).await;
    reservations::that_are_refused(&pair).await;
    reservations::are_given_back_once(&pair).await;
    reservations::at_the_same_time(&pair).await;
    reservations::never_exceed_the_stock(&pair).await;
    reservations::and_releases_at_the_same_time(&pair).await;
    events::count_once(&pair).await;
    events::at_the_same_time(&pair).await;
    events::that_mean_nothing(&pair).await;
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
    checks::lifecycle(BINARY, "inventory-service").await;
}

#[tokio::test]
async fn health_follows_mariadb() {
    checks::outage(BINARY, Kind::MariaDb, &[]).await;
}
