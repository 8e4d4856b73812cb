use serde_json::{Value, json};
use testing::{Api, within};
use tokio::task::JoinSet;

use crate::{Pair, article, kept};

async fn reserve(api: &Api, key: &str, sku: &str, quantity: i64) -> u16 {
    let body = json!({ "sku": sku, "quantity": quantity });
    let answer = api.post_once("/reserve", key, body).await;
    if answer.status != 200 {
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
    answer.status
}

async fn release(api: &Api, key: &str) -> i64 {
    let answer = api.post_once("/release", key, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["released"].as_i64().expect("a number")
}

pub async fn are_made_once(Pair { one, two, .. }: &Pair) {
    article(one, "oar", 10, 40).await;
    article(one, "mast", 10, 40).await;
    let wanted = json!({ "sku": "oar", "quantity": 3 });
    for api in [one, two] {
        let answer = api.post_once("/reserve", "once", wanted.clone()).await;
        let reserved = json!({ "sku": "oar", "quantity": 3, "amount": 120 });
        assert_eq!((answer.status, answer.body), (200, reserved));
        // What it costs was said, whatever it costs later.
        article(one, "oar", 7, 50).await;
    }
    assert_eq!(kept(one, "oar").await, (7, 3));
    assert_eq!(reserve(two, "once", "oar", 4).await, 422);
    assert_eq!(reserve(one, "once", "mast", 3).await, 422);
    // Another key, as much as it looks like the first.
    assert_eq!(reserve(one, "Once", "oar", 1).await, 200);
    assert_eq!((kept(two, "oar").await, kept(two, "mast").await), ((6, 4), (10, 0)));
}

pub async fn that_are_refused(Pair { one, two, .. }: &Pair) {
    article(one, "keel", 5, 10).await;
    let wanted = json!({ "sku": "keel", "quantity": 1 });
    assert_eq!(one.post("/reserve", wanted).await.status, 400, "without a key");
    assert_eq!(one.post("/release", Value::Null).await.status, 400, "without a key");
    for key in ["", "a key", &"k".repeat(129)] {
        assert_eq!(reserve(one, key, "keel", 1).await, 400, "{key:?}");
    }
    for quantity in [0, -1, i64::MIN, i64::MAX] {
        assert_eq!(reserve(one, "keels", "keel", quantity).await, 400);
    }
    for api in [one, two] {
        assert_eq!(reserve(api, "many-keels", "keel", 6).await, 409);
        let missing = reserve(api, "no-keels", "keels", 1).await;
        assert!([404, 409].contains(&missing), "{missing}");
    }
    assert_eq!(release(one, "many-keels").await, 0, "nothing was kept");
    // A refusal stands, whatever comes in.
    article(one, "keel", 8, 10).await;
    assert_eq!(reserve(two, "many-keels", "keel", 6).await, 409);
    assert_eq!(kept(one, "keel").await, (8, 0));
}

pub async fn are_given_back_once(Pair { one, two, .. }: &Pair) {
    article(one, "helm", 10, 5).await;
    assert_eq!(reserve(one, "back", "helm", 4).await, 200);
    assert_eq!(release(two, "back").await, 4);
    assert_eq!(release(one, "back").await, 4, "it says the same again");
    assert_eq!(kept(one, "helm").await, (10, 0));
    assert_eq!(reserve(two, "back", "helm", 4).await, 409);
    // The other way round: what was undone is not done any more.
    assert_eq!(release(two, "too-soon").await, 0);
    assert_eq!(reserve(one, "too-soon", "helm", 4).await, 409);
    assert_eq!(release(one, "too-soon").await, 0);
    assert_eq!(kept(two, "helm").await, (10, 0));
}

/// Each of 10 keys 10 times, all at once, half of them by each instance.
pub async fn at_the_same_time(Pair { one, two, .. }: &Pair) {
    article(one, "nail", 1_000, 1).await;
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let api = if number % 2 == 0 { one } else { two }.clone();
        let key = format!("at-once-{}", number / 10);
        calls.spawn(async move { reserve(&api, &key, "nail", 7).await });
    }
    assert_eq!(within(calls.join_all()).await, [200; 100]);
    assert_eq!(kept(one, "nail").await, (1_000 - 70, 70));
}

/// 40 times 7 at once where 100 are there.
pub async fn never_exceed_the_stock(Pair { one, two, .. }: &Pair) {
    article(one, "plank", 100, 1).await;
    let mut calls = JoinSet::new();
    for number in 0..40 {
        let api = if number % 2 == 0 { one } else { two }.clone();
        let key = format!("planks-{number}");
        calls.spawn(async move { reserve(&api, &key, "plank", 7).await });
    }
    let statuses = within(calls.join_all()).await;
    let taken = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(taken, 100 / 7, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert_eq!(kept(one, "plank").await, (2, 98));
}

/// Whichever comes first: nothing is kept in the end.
pub async fn and_releases_at_the_same_time(Pair { one, two, .. }: &Pair) {
    article(one, "hook", 100, 1).await;
    let mut calls = JoinSet::new();
    for number in 0..60 {
        let (one, two) = (one.clone(), two.clone());
        let key = format!("there-and-back-{}", number / 3);
        calls.spawn(async move {
            if number % 3 == 0 {
                release(&two, &key).await;
            } else {
                let status = reserve(&one, &key, "hook", 5).await;
                assert!([200, 409].contains(&status), "{status}");
            }
        });
    }
    within(calls.join_all()).await;
    assert_eq!(kept(one, "hook").await, (100, 0));
}
