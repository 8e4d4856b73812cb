//! Events by RabbitMQ, which comes and goes.

use std::time::Duration;

use serde_json::Value;
use testing::RabbitMq;

use crate::moments::storm;
use crate::shop::{Settings, Shop, Wish};

/// The order service is killed 50 times and more, and RabbitMQ twice.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_rabbitmq_is_restarted() {
    let Some(mut rabbitmq) = RabbitMq::start().await else { return };
    let shop = Shop::start(Settings {
        amqp: Some(rabbitmq.url()),
        deadline: Some(Duration::from_millis(400)),
        ..Settings::default()
    });
    let shop = shop.await;
    let restarts = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            rabbitmq.stop();
            tokio::time::sleep(Duration::from_millis(700)).await;
            rabbitmq.start_again().await;
        }
    };
    let orders = storm(&shop, 50, restarts).await;
    shop.check(&orders).await;
    assert_eq!(rabbitmq.waiting("inventory-orders").await, Some(0));
    assert_eq!(rabbitmq.waiting("inventory-orders.dead").await, Some(0));
}

/// Orders do not wait for it, and their events do. It keeps them for an inventory that is away, too.
#[tokio::test(flavor = "multi_thread")]
async fn orders_go_on_without_rabbitmq() {
    let Some(mut rabbitmq) = RabbitMq::start().await else { return };
    let amqp = Some(rabbitmq.url());
    let mut shop = Shop::start(Settings { amqp, no_consumer: true, ..Settings::default() }).await;
    let mut orders = vec![order(&shop).await];
    shop.has_told_all().await;
    rabbitmq.stop();
    orders.push(order(&shop).await);
    rabbitmq.start_again().await;
    shop.consume(rabbitmq.url());
    shop.check(&orders).await;

    // It takes what it is sent, and does not say so before the service is dead.
    rabbitmq.freeze();
    orders.push(order(&shop).await);
    shop.service().kill();
    rabbitmq.thaw();
    shop.service().start_again().await;
    shop.check(&orders).await;
}

async fn order(shop: &Shop) -> Value {
    let wish = Wish::new("rich", "nail", 3);
    let answer = shop.ask_for(&wish, shop.service()).await.expect("an answer");
    assert_eq!((answer.status, &answer.body["status"]), (201, &"confirmed".into()));
    answer.body
}
