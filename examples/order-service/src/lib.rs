//! Orders: each one is a saga over the stock and the money of other services, and events tell of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::database::Database;
use common::web::{Json, Problem};
use common::{Error, new_id, setting};
use tokio::time::timeout;

mod neighbours;
mod orders;
mod outbox;
mod saga;

use neighbours::Neighbours;
use orders::{NewOrder, Order, Orders};
use saga::Saga;

pub const MIGRATIONS: &[&str] = &[include_str!("../migrations/1_orders.sql")];

/// How long an answer waits for the end of the saga.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service on this database, with all else from the environment. What was left unfinished goes on at once.
///
/// # Errors
/// A URL that is none.
pub async fn start(database: Database) -> Result<Router, Error> {
    let orders = Orders::new(database);
    let neighbours = Neighbours::from_environment()?;
    let deadline = setting("ORDER_DEADLINE_MS").map_or(Ok(30_000), |text| text.parse())?;
    let bus = outbox::bus(&neighbours);
    let saga = Arc::new(Saga::new(orders.clone(), neighbours, deadline));
    tokio::spawn(outbox::relay(orders, bus));
    tokio::spawn(saga::resume(saga.clone()));
    Ok(Router::new()
        .route("/orders", get(list).post(create))
        .route("/orders/{id}", get(one))
        .with_state(saga))
}

async fn list(State(saga): State<Arc<Saga>>) -> Result<Json<Vec<Order>>, Problem> {
    Ok(Json(saga.orders.newest().await?))
}

async fn one(
    State(saga): State<Arc<Saga>>,
    Path(id): Path<String>,
) -> Result<Json<Order>, Problem> {
    Ok(Json(saga.orders.get(&id).await?))
}

/// 201: the saga has ended, well or not. 202: it goes on.
async fn create(
    State(saga): State<Arc<Saga>>,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> Result<Response, Problem> {
    let key = match headers.contains_key("idempotency-key") {
        true => common::web::idempotency_key(&headers)?.to_owned(),
        false => new_id(),
    };
    let order = saga.orders.create(&key, new).await?;
    // A task of its own: the order goes on when the client does not wait for it.
    let ended = tokio::spawn({
        let (saga, id) = (saga.clone(), order.id.clone());
        async move { saga.drive(&id).await }
    });
    let _ = timeout(PATIENCE, ended).await;
    let order = saga.orders.get(&order.id).await?;
    let status = if order.step.is_last() { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    let location = [(header::LOCATION, format!("/orders/{}", order.id))];
    Ok((status, location, Json(order)).into_response())
}
