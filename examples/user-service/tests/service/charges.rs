use serde_json::{Value, json};
use testing::proto::{ChargeRequest, RefundRequest};
use testing::{Api, within};
use tokio::task::JoinSet;
use tonic::Code;

use crate::Pair;

/// A user of this case alone.
async fn user(api: &Api, balance: i64) -> String {
    let new = json!({ "name": "n", "email": "e@example.com", "balance": balance });
    let created = api.post("/users", new).await;
    created.body["id"].as_str().expect("an id").to_owned()
}

async fn balance(api: &Api, user: &str) -> i64 {
    let user = api.get(&format!("/users/{user}")).await.body;
    user["balance"].as_i64().expect("cents")
}

async fn charge(api: &Api, key: &str, user: &str, amount: i64) -> u16 {
    let answer = api.post_once("/charge", key, json!({ "user_id": user, "amount": amount })).await;
    match answer.status {
        200 => assert_eq!(answer.body, json!({ "user_id": user, "amount": amount })),
        _ => assert!(answer.body["error"].is_string(), "{}", answer.body),
    }
    answer.status
}

async fn refund(api: &Api, key: &str) -> i64 {
    let answer = api.post_once("/refund", key, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["refunded"].as_i64().expect("cents")
}

pub async fn are_taken_once(Pair { one, two, .. }: &Pair) {
    let (ann, ben) = (user(one, 100).await, user(one, 100).await);
    assert_eq!(charge(one, "once", &ann, 30).await, 200);
    assert_eq!(charge(two, "once", &ann, 30).await, 200);
    assert_eq!(balance(one, &ann).await, 70);
    assert_eq!(charge(two, "once", &ann, 31).await, 422);
    assert_eq!(charge(one, "once", &ben, 30).await, 422);
    // Another key, as much as it looks like the first.
    for key in ["Once", "ONCE", "once.", "o"] {
        assert_eq!(charge(one, key, &ann, 10).await, 200, "{key}");
    }
    assert_eq!((balance(two, &ann).await, balance(two, &ben).await), (30, 100));
    assert_eq!(charge(one, &"k".repeat(128), &ann, 30).await, 200);
    assert_eq!(balance(one, &ann).await, 0);
}

pub async fn that_are_refused(Pair { one, two, .. }: &Pair) {
    let ann = user(one, 10).await;
    let body = json!({ "user_id": ann, "amount": 1 });
    assert_eq!(one.post("/charge", body).await.status, 400, "without a key");
    for key in ["", "a key", &"k".repeat(129)] {
        assert_eq!(charge(one, key, &ann, 1).await, 400, "{key:?}");
    }
    for amount in [-1, i64::MIN] {
        assert_eq!(charge(one, "nothing", &ann, amount).await, 400);
    }
    // Nothing stands under that key for that.
    assert_eq!(charge(one, "nothing", &ann, 4).await, 200);
    assert_eq!(charge(one, "free-of-charge", &ann, 0).await, 200);
    for api in [one, two] {
        assert_eq!(charge(api, "poor", &ann, 7).await, 402);
        assert_eq!(charge(api, "all-there-is", &ann, i64::MAX).await, 402);
        assert_eq!(charge(api, "whose", "nobody", 1).await, 404);
    }
    assert_eq!(refund(one, "poor").await, 0, "nothing was taken");
    assert_eq!(one.post("/refund", Value::Null).await.status, 400, "without a key");
    assert_eq!(balance(one, &ann).await, 6);
}

pub async fn are_given_back_once(Pair { one, two, .. }: &Pair) {
    let ann = user(one, 100).await;
    assert_eq!(charge(one, "back", &ann, 60).await, 200);
    assert_eq!(refund(two, "back").await, 60);
    assert_eq!(balance(one, &ann).await, 100);
    assert_eq!(refund(one, "back").await, 60, "it says the same again");
    assert_eq!(balance(one, &ann).await, 100);
    assert_eq!(charge(one, "back", &ann, 60).await, 409);
    // The other way round: what was undone is not done any more.
    assert_eq!(refund(one, "too-soon").await, 0);
    assert_eq!(charge(two, "too-soon", &ann, 60).await, 409);
    assert_eq!(refund(one, "too-soon").await, 0);
    assert_eq!(balance(one, &ann).await, 100);
}

pub async fn by_grpc_and_rest_are_the_same(pair: &mut Pair) {
    let ann = user(&pair.one, 100).await;
    let asked = |key: &str, amount| ChargeRequest {
        idempotency_key: key.into(),
        user_id: ann.clone(),
        amount,
    };
    let reply = pair.grpc.charge(asked("both", 30)).await.expect("charged").into_inner();
    assert_eq!((reply.user_id.as_str(), reply.amount), (ann.as_str(), 30));
    assert_eq!(charge(&pair.two, "both", &ann, 30).await, 200);
    assert_eq!(balance(&pair.two, &ann).await, 70);
    for (key, amount, code) in [
        ("both", 31, Code::AlreadyExists),
        ("more", 71, Code::FailedPrecondition),
        ("none", -1, Code::InvalidArgument),
        ("", 1, Code::InvalidArgument),
    ] {
        let error = pair.grpc.charge(asked(key, amount)).await.expect_err("refused");
        assert_eq!(error.code(), code, "{key}: {}", error.message());
    }
    let whose = ChargeRequest { user_id: "nobody".into(), ..asked("whose-money", 1) };
    assert_eq!(pair.grpc.charge(whose).await.expect_err("refused").code(), Code::NotFound);
    let back = |key: &str| RefundRequest { idempotency_key: key.into() };
    for _ in 0..2 {
        let reply = pair.grpc.refund(back("both")).await.expect("refunded").into_inner();
        assert_eq!(reply.refunded, 30);
    }
    let error = pair.grpc.charge(asked("both", 30)).await.expect_err("refunded");
    assert_eq!(error.code(), Code::FailedPrecondition);
    let error = pair.grpc.refund(back("")).await.expect_err("no key");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(balance(&pair.one, &ann).await, 100);
}

/// Each of 10 keys 10 times, all at once, half of them by each instance.
pub async fn at_the_same_time(Pair { one, two, .. }: &Pair) {
    let ann = user(one, 1_000).await;
    let mut calls = JoinSet::new();
    for number in 0..100 {
        let api = if number % 2 == 0 { one } else { two }.clone();
        let ann = ann.clone();
        let key = format!("at-once-{}", number / 10);
        calls.spawn(async move { charge(&api, &key, &ann, 7).await });
    }
    let statuses = within(calls.join_all()).await;
    assert_eq!(statuses, [200; 100]);
    assert_eq!(balance(one, &ann).await, 1_000 - 10 * 7);
}

/// 40 charges of 7 at once where 100 is there.
pub async fn never_make_debts(Pair { one, two, .. }: &Pair) {
    let ann = user(one, 100).await;
    let mut calls = JoinSet::new();
    for number in 0..40 {
        let api = if number % 2 == 0 { one } else { two }.clone();
        let ann = ann.clone();
        let key = format!("debts-{number}");
        calls.spawn(async move { charge(&api, &key, &ann, 7).await });
    }
    let statuses = within(calls.join_all()).await;
    let taken = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(taken, 100 / 7, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 402].contains(status)), "{statuses:?}");
    assert_eq!(balance(one, &ann).await, 100 % 7);
}

/// Whichever comes first: nothing is taken in the end.
pub async fn and_refunds_at_the_same_time(Pair { one, two, .. }: &Pair) {
    let ann = user(one, 100).await;
    let mut calls = JoinSet::new();
    for number in 0..60 {
        let (one, two) = (one.clone(), two.clone());
        let ann = ann.clone();
        let key = format!("there-and-back-{}", number / 3);
        calls.spawn(async move {
            if number % 3 == 0 {
                refund(&two, &key).await;
            } else {
                let status = charge(&one, &key, &ann, 5).await;
                assert!([200, 409].contains(&status), "{status}");
            }
        });
    }
    within(calls.join_all()).await;
    assert_eq!(balance(one, &ann).await, 100);
}
