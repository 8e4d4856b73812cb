//! The same on servers: the users on PostgreSQL, the stock on MariaDB, the orders on either.

use std::time::Duration;

use serde_json::json;
use testing::{Database, Kind};

use crate::moments::storm;
use crate::shop::{Settings, Shop, Wish};

async fn orders_on(kind: Kind) {
    let Some(postgres) = Database::start(Kind::Postgres).await else { return };
    let Some(mariadb) = Database::start(Kind::MariaDb).await else { return };
    let server = if kind == Kind::Postgres { &postgres } else { &mariadb };
    let shop = Shop::start(Settings {
        users: Some(postgres.url_of("users").await),
        inventory: Some(mariadb.url_of("stock").await),
        orders: Some(server.url_of("orders").await),
        deadline: Some(Duration::from_millis(400)),
        ..Settings::default()
    });
    let shop = shop.await;
    let orders = storm(&shop, 25, async {}).await;
    shop.check(&orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_on_postgresql() {
    orders_on(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_on_mariadb() {
    orders_on(Kind::MariaDb).await;
}

/// What one database takes and another does not is no reason to tell nobody of anything any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_taken_holds_nobody_up() {
    let Some(postgres) = Database::start(Kind::Postgres).await else { return };
    let inventory = Some(postgres.url_of("stock").await);
    let deadline = Some(Duration::from_millis(400));
    let shop = Shop::start(Settings { inventory, deadline, ..Settings::default() }).await;
    let api = shop.service().api();
    let body = json!({ "user_id": "1", "sku": "na\0il", "quantity": 1 });
    let answer = api.post("/orders", body).await;
    assert!([201, 400].contains(&answer.status), "{answer:?}");
    let wish = Wish::new("rich", "nail", 3);
    let answer = shop.ask_for(&wish, shop.service()).await.expect("an answer");
    assert_eq!(answer.body["status"], "confirmed", "{answer:?}");
    shop.check(&[answer.body]).await;
}
