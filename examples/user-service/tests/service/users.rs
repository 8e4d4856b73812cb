use serde_json::{Value, json};
use testing::proto::{CreateUserRequest, GetUserRequest};
use tonic::Code;

use crate::Pair;

pub async fn by_rest(Pair { one, two, .. }: &Pair) {
    let listed = one.get("/users").await;
    assert_eq!(listed.status, 200);
    for seeded in [
        json!({ "id": "1", "name": "Ada", "email": "ada@example.com", "balance": 100_000 }),
        json!({ "id": "2", "name": "Grace", "email": "grace@example.com", "balance": 500 }),
    ] {
        assert!(listed.body.as_array().expect("a list").contains(&seeded), "{}", listed.body);
    }
    let new = json!({ "name": "Zoë 🚀", "email": "zoe@example.com", "balance": 7 });
    let created = one.post("/users", new.clone()).await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert_eq!(with_id(&new, &created.body), created.body);
    // The other instance has it too.
    let got = two.get(&created.location.expect("Location")).await;
    assert_eq!((got.status, got.body), (200, created.body));
    let poor = one.post("/users", json!({ "name": "Linus", "email": "l@example.com" })).await;
    assert_eq!(poor.body["balance"], 0);
}

fn with_id(new: &Value, created: &Value) -> Value {
    let mut user = new.clone();
    user["id"] = created["id"].clone();
    user
}

pub async fn by_grpc(pair: &mut Pair) {
    let new = CreateUserRequest { name: "Bo".into(), email: "bo@example.com".into(), balance: 3 };
    let created = pair.grpc.create_user(new).await.expect("a user").into_inner();
    assert_eq!((created.name.as_str(), created.balance), ("Bo", 3));
    let request = GetUserRequest { id: created.id.clone() };
    let got = pair.grpc.get_user(request).await.expect("the user").into_inner();
    assert_eq!(got, created);
    let by_rest = pair.two.get(&format!("/users/{}", created.id)).await.body;
    assert_eq!(
        by_rest,
        json!({ "id": created.id, "name": "Bo", "email": "bo@example.com", "balance": 3 })
    );
}

pub async fn that_cannot_be(pair: &mut Pair) {
    let missing = pair.one.get("/users/nobody").await;
    assert_eq!(missing.status, 404);
    assert!(missing.body["error"].is_string(), "{}", missing.body);
    for (new, status) in [
        (json!({ "name": "", "email": "e@example.com" }), 400),
        (json!({ "name": "n", "email": "" }), 400),
        (json!({ "name": "n".repeat(201), "email": "e@example.com" }), 400),
        (json!({ "name": "n", "email": "e@example.com", "balance": -1 }), 400),
        // Not what it reads at all: the web framework's own answer, in the same form.
        (json!({ "name": "n" }), 422),
    ] {
        let answer = pair.one.post("/users", new.clone()).await;
        assert_eq!(answer.status, status, "{new}: {}", answer.body);
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
    let error = pair.grpc.get_user(GetUserRequest { id: "nobody".into() }).await.expect_err("404");
    assert_eq!(error.code(), Code::NotFound);
    let nobody = CreateUserRequest::default();
    let error = pair.grpc.create_user(nobody).await.expect_err("400");
    assert_eq!(error.code(), Code::InvalidArgument);
}
