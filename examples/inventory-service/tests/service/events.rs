use serde_json::{Value, json};
use testing::{Api, within};
use tokio::task::JoinSet;

use crate::{Pair, article, stock};

fn event(id: &str, kind: &str, sku: &str, quantity: i64) -> Value {
    json!({
        "id": id, "kind": kind, "order_id": "an order", "user_id": "1", "sku": sku, "quantity": quantity,
    })
}

async fn tell(api: &Api, event: Value) {
    let answer = api.post("/events", event).await;
    assert_eq!((answer.status, answer.body), (204, Value::Null));
}

/// What was ordered, and what of it was cancelled.
async fn counted(api: &Api, sku: &str) -> (i64, i64) {
    let stock = stock(api, sku).await;
    let number = |key: &str| stock[key].as_i64().expect("a number");
    (number("ordered"), number("cancelled"))
}

pub async fn count_once(Pair { one, two, .. }: &Pair) {
    article(one, "flag", 10, 1).await;
    for api in [one, two, one] {
        tell(api, event("flag 1", "order.created", "flag", 4)).await;
        tell(api, event("flag 2", "order.created", "flag", 3)).await;
        tell(api, event("flag 3", "order.cancelled", "flag", 3)).await;
    }
    assert_eq!(counted(two, "flag").await, (7, 3));
    assert_eq!(stock(two, "flag").await["available"], 10, "it only counts");
}

pub async fn at_the_same_time(Pair { one, two, .. }: &Pair) {
    article(one, "bell", 10, 1).await;
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let api = if number % 2 == 0 { one } else { two }.clone();
        let event = event(&format!("bell {}", number / 10), "order.created", "bell", 2);
        calls.spawn(async move { tell(&api, event).await });
    }
    within(calls.join_all()).await;
    assert_eq!(counted(one, "bell").await, (20, 0));
}

pub async fn that_mean_nothing(Pair { one, .. }: &Pair) {
    for (body, status) in
        [(event("odd", "order.eaten", "flag", 1), 422), (json!({ "id": "odd" }), 422)]
    {
        let answer = one.post("/events", body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
    // One of an article that is not there is taken, and counts nowhere.
    tell(one, event("no article", "order.created", "nothing", 1)).await;
    // What was refused was not remembered.
    tell(one, event("odd", "order.created", "flag", 1)).await;
    assert_eq!(counted(one, "flag").await, (8, 3));
}
