//! Orders as a client has them, and the process.

use serde_json::{Value, json};
use testing::{Kind, checks};

use crate::shop::{BINARY, Settings, Shop, Wish};

#[tokio::test(flavor = "multi_thread")]
async fn are_placed_and_found() {
    let shop = Shop::start(Settings::default()).await;
    let api = shop.service().api();
    assert_eq!(api.get("/orders").await.body, json!([]));
    let mut orders = Vec::new();
    for (wish, status) in [
        (Wish::new("rich", "mast", 2), "confirmed"),
        (Wish::new("poor", "mast", 1), "cancelled"),
        (Wish::new("rich", "oar", 401), "cancelled"),
        (Wish::new("rich", "nail", 1), "confirmed"),
    ] {
        let placed = shop.ask_for(&wish, shop.service()).await.expect("an answer");
        assert_eq!(placed.status, 201, "{}", placed.body);
        let order = placed.body;
        assert_eq!(order["status"], status, "{order}");
        assert_eq!(order["reason"] == "", status == "confirmed", "{order}");
        assert_eq!(order["quantity"], wish.quantity);
        let location = placed.location.expect("Location");
        assert_eq!(location, format!("/orders/{}", order["id"].as_str().expect("an id")));
        assert_eq!(api.get(&location).await.body, order);
        // The same key, the same order.
        assert_eq!(shop.ask_for(&wish, shop.service()).await.expect("an answer").body, order);
        let other = Wish { quantity: wish.quantity + 1, ..wish };
        let answer = shop.ask_for(&other, shop.service()).await.expect("an answer");
        assert_eq!(answer.status, 422, "{}", answer.body);
        orders.insert(0, order);
    }
    assert_eq!(orders[3]["amount"], 2 * 999);
    assert_eq!(api.get("/orders").await.body, Value::Array(orders.clone()), "the newest first");
    shop.check(&orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_make_no_sense_are_none() {
    let shop = Shop::start(Settings::default()).await;
    let api = shop.service().api();
    for (body, status) in [
        (json!({ "user_id": "1", "sku": "nail", "quantity": 0 }), 400),
        (json!({ "user_id": "1", "sku": "nail", "quantity": -1 }), 400),
        (json!({ "user_id": "1", "sku": "nail", "quantity": i64::MAX }), 400),
        (json!({ "user_id": "", "sku": "nail", "quantity": 1 }), 400),
        (json!({ "user_id": "1", "sku": "n".repeat(65), "quantity": 1 }), 400),
        (json!({ "user_id": "1", "sku": "nail" }), 422),
    ] {
        let answer = api.post("/orders", body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
    let body = json!({ "user_id": "1", "sku": "nail", "quantity": 1 });
    assert_eq!(api.post_once("/orders", &"k".repeat(129), body).await.status, 400);
    assert_eq!(api.get("/orders").await.body, json!([]));
    let missing = api.get("/orders/none").await;
    assert_eq!(missing.status, 404);
    assert!(missing.body["error"].is_string(), "{}", missing.body);
    shop.check(&[]).await;
}

/// Of users and articles that are not there, and without a key, twice.
#[tokio::test(flavor = "multi_thread")]
async fn that_cannot_be_are_cancelled() {
    let shop = Shop::start(Settings::default()).await;
    let api = shop.service().api();
    for (user, sku) in [("nobody", "nail"), ("1", "nothing")] {
        let body = json!({ "user_id": user, "sku": sku, "quantity": 1 });
        let (one, two) = (api.post("/orders", body.clone()).await, api.post("/orders", body).await);
        assert_eq!((one.status, two.status), (201, 201));
        assert_eq!(
            (&one.body["status"], &two.body["status"]),
            (&"cancelled".into(), &"cancelled".into())
        );
        assert_ne!(one.body["id"], two.body["id"]);
    }
    shop.has_told_all().await;
    assert_eq!(shop.stock("nail").await, [1_000_000, 0, 2, 2]);
}

#[tokio::test]
async fn a_process_ends_in_good_order() {
    checks::lifecycle(BINARY, "order-service").await;
}

#[tokio::test]
async fn health_follows_postgresql() {
    checks::outage(BINARY, Kind::Postgres, &[]).await;
}
