use serde_json::json;

use crate::{Pair, article, kept, stock};

pub async fn is_told_and_set(Pair { one, two, .. }: &Pair) {
    for (sku, available, price) in
        [("anchor", 50, 2_500), ("rope", 1_000, 300), ("lantern", 2, 9_900)]
    {
        let seeded = json!({
            "sku": sku, "available": available, "reserved": 0, "price": price, "ordered": 0, "cancelled": 0,
        });
        assert_eq!(stock(two, sku).await, seeded);
    }
    let new = json!({ "available": 5, "price": 20 });
    let put = one.put("/stock/sail", new.clone()).await;
    let whole = json!({
        "sku": "sail", "available": 5, "reserved": 0, "price": 20, "ordered": 0, "cancelled": 0,
    });
    assert_eq!((put.status, put.body), (200, whole.clone()));
    // The same again, by the other instance.
    assert_eq!(two.put("/stock/sail", new).await.body, whole);
    article(two, "sail", 7, 25).await;
    assert_eq!(
        (stock(one, "sail").await["price"].as_i64(), kept(one, "sail").await.0),
        (Some(25), 7)
    );
}

pub async fn that_cannot_be(Pair { one, .. }: &Pair) {
    let missing = one.get("/stock/nothing").await;
    assert_eq!(missing.status, 404);
    assert!(missing.body["error"].is_string(), "{}", missing.body);
    // Another name, as much as it looks like the first.
    assert_eq!(one.get("/stock/ANCHOR").await.status, 404);
    let long = format!("/stock/{}", "s".repeat(65));
    for (path, body, status) in [
        ("/stock/sail", json!({ "available": -1, "price": 1 }), 400),
        ("/stock/sail", json!({ "available": 1, "price": -1 }), 400),
        (&long, json!({ "available": 1, "price": 1 }), 400),
        // Not what it reads at all: the web framework's own answer, in the same form.
        ("/stock/sail", json!({ "available": 1 }), 422),
    ] {
        let answer = one.put(path, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
}
