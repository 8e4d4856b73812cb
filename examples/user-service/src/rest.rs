use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use common::web::{Json, Problem, idempotency_key};
use serde::{Deserialize, Serialize};

use crate::users::{User, Users};

#[derive(Deserialize)]
struct NewUser {
    name: String,
    email: String,
    #[serde(default)]
    balance: i64,
}

#[derive(Deserialize, Serialize)]
struct Charge {
    user_id: String,
    amount: i64,
}

#[derive(Serialize)]
struct Refund {
    refunded: i64,
}

pub fn router(users: Users) -> Router {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{id}", get(one))
        .route("/charge", post(charge))
        .route("/refund", post(refund))
        .with_state(users)
}

async fn list(State(users): State<Users>) -> Result<Json<Vec<User>>, Problem> {
    Ok(Json(users.list().await?))
}

async fn one(State(users): State<Users>, Path(id): Path<String>) -> Result<Json<User>, Problem> {
    Ok(Json(users.get(&id).await?))
}

async fn create(
    State(users): State<Users>,
    Json(new): Json<NewUser>,
) -> Result<impl IntoResponse, Problem> {
    let user = users.create(new.name, new.email, new.balance).await?;
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Json(user)))
}

async fn charge(
    State(users): State<Users>,
    headers: HeaderMap,
    Json(charge): Json<Charge>,
) -> Result<Json<Charge>, Problem> {
    users.charge(idempotency_key(&headers)?, &charge.user_id, charge.amount).await?;
    Ok(Json(charge))
}

async fn refund(State(users): State<Users>, headers: HeaderMap) -> Result<Json<Refund>, Problem> {
    Ok(Json(Refund { refunded: users.refund(idempotency_key(&headers)?).await? }))
}
