//! Events as they come by RabbitMQ.

use serde_json::{Value, json};
use testing::{Api, Database, Kind, RabbitMq, Service, eventually, within};

use crate::{BINARY, article, stock};

const EXCHANGE: &str = "order-events";
const QUEUE: &str = "inventory-orders";
const DEAD: &str = "inventory-orders.dead";

fn event(id: &str, quantity: i64) -> Value {
    json!({
        "id": id, "kind": "order.created", "order_id": id, "user_id": "1", "sku": "flag", "quantity": quantity,
    })
}

async fn tell(rabbitmq: &RabbitMq, event: &Value) {
    let kind = event["kind"].as_str().expect("a kind");
    let kind = if kind.starts_with("order.c") { kind } else { "order.created" };
    rabbitmq.publish(EXCHANGE, kind, event.to_string().as_bytes()).await;
}

async fn start(rabbitmq: &RabbitMq, database: &str) -> Service {
    let environment = [("AMQP_URL", rabbitmq.url()), ("DATABASE_URL", database.to_owned())];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, &value[..])).collect();
    let service = Service::start(BINARY, &environment).await;
    article(&service.api(), "flag", 10, 1).await;
    // It is the one that makes the queue.
    eventually(|| rabbitmq.waiting(QUEUE)).await;
    service
}

async fn ordered(api: &Api) -> i64 {
    stock(api, "flag").await["ordered"].as_i64().expect("a number")
}

async fn has_counted(api: &Api, quantity: i64) {
    eventually(|| async { (ordered(api).await == quantity).then_some(()) }).await;
}

/// All of it on one server: starting one takes longer than any of this.
#[tokio::test]
async fn events_by_rabbitmq() {
    let Some(mut rabbitmq) = RabbitMq::start().await else { return };
    let database = Database::sqlite();
    let url = database.url_of("stock").await;
    let one = start(&rabbitmq, &url).await;
    let two = start(&rabbitmq, &url).await;
    let api = one.api();

    // Each once, whoever takes it, and however often it is told.
    for _ in 0..3 {
        for number in 0..20 {
            tell(&rabbitmq, &event(&number.to_string(), 1)).await;
        }
    }
    has_counted(&api, 20).await;
    assert_eq!(rabbitmq.waiting(DEAD).await, Some(0));

    // One is killed with events in its hands: the other takes them.
    two.freeze();
    for number in 20..60 {
        tell(&rabbitmq, &event(&number.to_string(), 1)).await;
    }
    two.kill();
    has_counted(&api, 60).await;

    // The server goes, and comes again: the consumer finds back, and no event was lost or counted twice.
    for round in 1..=2 {
        rabbitmq.stop();
        assert_eq!(api.get("/health").await.status, 200, "it works without");
        rabbitmq.start_again().await;
        tell(&rabbitmq, &event(&format!("again {round}"), 1)).await;
        has_counted(&api, 60 + round).await;
    }
    poison(&rabbitmq, &api).await;
}

/// What cannot be taken is put aside, and holds nobody up for ever.
async fn poison(rabbitmq: &RabbitMq, api: &Api) {
    let before = ordered(api).await;
    rabbitmq.publish(EXCHANGE, "order.created", b"no JSON").await;
    let mut odd = event("odd", 100);
    odd["kind"] = "order.eaten".into();
    tell(rabbitmq, &odd).await;
    tell(rabbitmq, &event("after the odd one", 1)).await;
    has_counted(api, before + 1).await;
    // Tried often, in ever longer pauses.
    eventually(|| async { (rabbitmq.waiting(DEAD).await == Some(2)).then_some(()) }).await;
    let mut dead = Vec::new();
    while let Some(message) = within(rabbitmq.take(DEAD)).await {
        dead.push(message);
    }
    assert_eq!(dead, [b"no JSON".to_vec(), odd.to_string().into_bytes()]);
    assert_eq!(ordered(api).await, before + 1);
    eventually(|| async { (rabbitmq.waiting(QUEUE).await == Some(0)).then_some(()) }).await;
}

/// An event that comes while the database is away is not at fault.
#[tokio::test]
async fn events_wait_for_the_database() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let Some(mut database) = Database::start(Kind::Postgres).await else { return };
    let url = database.url_of("stock").await;
    let service = start(&rabbitmq, &url).await;
    database.stop();
    for number in 0..10 {
        tell(&rabbitmq, &event(&number.to_string(), 1)).await;
    }
    // It has seen that it is away.
    eventually(|| async { service.log().contains("database:").then_some(()) }).await;
    database.start_again().await;
    has_counted(&service.api(), 10).await;
    assert_eq!(rabbitmq.waiting(DEAD).await, Some(0));
}
