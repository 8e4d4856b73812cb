//! The same on servers: the users on PostgreSQL, the stock on MariaDB, the orders on either.

use std::time::Duration;

use testing::{Database, Kind};

use crate::moments::storm;
use crate::shop::{Settings, Shop};

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
