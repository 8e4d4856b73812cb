//! What is in stock, and what is kept for orders.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use common::events::Event;
use common::web::{Json, Problem, idempotency_key};
use serde::{Deserialize, Serialize};

mod inventory;

pub use inventory::{Inventory, Stock};

pub const MIGRATIONS: &[&str] = &[include_str!("../migrations/1_stock.sql")];

#[derive(Deserialize)]
struct Delivery {
    available: i64,
    price: i64,
}

#[derive(Deserialize)]
struct Reserve {
    sku: String,
    quantity: i64,
}

#[derive(Serialize)]
struct Reserved {
    sku: String,
    quantity: i64,
    /// What it costs, in cents.
    amount: i64,
}

#[derive(Serialize)]
struct Released {
    released: i64,
}

pub fn router(inventory: Inventory) -> Router {
    Router::new()
        .route("/stock/{sku}", get(stock).put(restock))
        .route("/reserve", post(reserve))
        .route("/release", post(release))
        .route("/events", post(take))
        .with_state(inventory)
}

async fn stock(
    State(inventory): State<Inventory>,
    Path(sku): Path<String>,
) -> Result<Json<Stock>, Problem> {
    Ok(Json(inventory.stock(&sku).await?))
}

async fn restock(
    State(inventory): State<Inventory>,
    Path(sku): Path<String>,
    Json(delivery): Json<Delivery>,
) -> Result<Json<Stock>, Problem> {
    Ok(Json(inventory.restock(&sku, delivery.available, delivery.price).await?))
}

async fn reserve(
    State(inventory): State<Inventory>,
    headers: HeaderMap,
    Json(Reserve { sku, quantity }): Json<Reserve>,
) -> Result<Json<Reserved>, Problem> {
    let amount = inventory.reserve(idempotency_key(&headers)?, &sku, quantity).await?;
    Ok(Json(Reserved { sku, quantity, amount }))
}

async fn release(
    State(inventory): State<Inventory>,
    headers: HeaderMap,
) -> Result<Json<Released>, Problem> {
    Ok(Json(Released { released: inventory.release(idempotency_key(&headers)?).await? }))
}

async fn take(
    State(inventory): State<Inventory>,
    Json(event): Json<Event>,
) -> Result<StatusCode, Problem> {
    inventory.take(&event).await?;
    Ok(StatusCode::NO_CONTENT)
}
