//! What the service does, whoever asks.

use std::sync::Arc;

use axum::http::StatusCode;
use common::database::{Database, is_new};
use common::events::{CANCELLED, CREATED, Event, Handler};
use common::web::{Problem, is_plain};
use serde::{Deserialize, Serialize};
use sqlx::{Any, FromRow, Transaction};

#[derive(Clone)]
pub struct Inventory {
    db: Database,
}

#[derive(Debug, FromRow, Serialize, Deserialize)]
pub struct Stock {
    pub sku: String,
    pub available: i64,
    /// Kept for orders.
    pub reserved: i64,
    /// Cents.
    pub price: i64,
    /// How much was ever ordered, and how much of that was cancelled, as events tell.
    pub ordered: i64,
    pub cancelled: i64,
}

#[derive(Debug, FromRow)]
struct Reservation {
    sku: String,
    quantity: i64,
    amount: i64,
    state: String,
}

impl Inventory {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }

    pub async fn stock(&self, sku: &str) -> Result<Stock, Problem> {
        self.find(sku).await?.ok_or_else(|| {
            Problem::new(StatusCode::NOT_FOUND, format!("there is no article {sku}"))
        })
    }

    /// Sets what is there beside what is kept for orders.
    pub async fn restock(&self, sku: &str, available: i64, price: i64) -> Result<Stock, Problem> {
        if !is_plain(sku, 64) || available < 0 || price < 0 {
            let text =
                "a name has up to 64 characters, and what is available and its price are 0 or more";
            return Err(Problem::new(StatusCode::BAD_REQUEST, text));
        }
        if !self.set(sku, available, price).await? {
            let inserted = self
                .db
                .query(
                    "INSERT INTO stock (sku, available, reserved, price, ordered, cancelled) \
                     VALUES (?, ?, 0, ?, 0, 0)",
                )
                .bind(sku.to_owned())
                .bind(available)
                .bind(price)
                .execute(&self.db.pool)
                .await;
            if !is_new(inserted)? {
                // Somebody else was first.
                self.set(sku, available, price).await?;
            }
        }
        self.stock(sku).await
    }

    /// Whether the article was there.
    async fn set(&self, sku: &str, available: i64, price: i64) -> Result<bool, Problem> {
        let updated = self
            .db
            .query("UPDATE stock SET available = ?, price = ? WHERE sku = ?")
            .bind(available)
            .bind(price)
            .bind(sku.to_owned())
            .execute(&self.db.pool)
            .await?;
        Ok(updated.rows_affected() == 1)
    }

    /// Keeps `quantity` for an order, once for each key; what it costs. What was answered once is answered again, a refusal
    /// too.
    pub async fn reserve(&self, key: &str, sku: &str, quantity: i64) -> Result<i64, Problem> {
        let price = self.find(sku).await?.map(|stock| stock.price);
        let amount = price.unwrap_or(0).checked_mul(quantity);
        let Some(amount) = amount.filter(|_| quantity >= 1) else {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "nobody orders so little, or so much",
            ));
        };
        let mut tx = self.db.begin().await?;
        // The key first: of two that reserve under it one waits here for the other.
        if !self.take_key(&mut tx, key, sku, quantity, amount, "reserved").await? {
            drop(tx);
            return answer_again(&self.reservation(key).await?, sku, quantity);
        }
        let kept = self
            .db
            .query(
                "UPDATE stock SET available = available - ?, reserved = reserved + ? \
                 WHERE sku = ? AND available >= ?",
            )
            .bind(quantity)
            .bind(quantity)
            .bind(sku.to_owned())
            .bind(quantity)
            .execute(&mut *tx)
            .await?;
        // An article that came only now has no price in `amount`. Nothing is written down, so that this is no answer for good.
        if kept.rows_affected() == 1 && price.is_none() {
            let text = "this article is only just there; ask again";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        if kept.rows_affected() == 0 {
            self.db
                .query("UPDATE reservations SET state = 'refused' WHERE id = ?")
                .bind(key.to_owned())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        if kept.rows_affected() == 1 { Ok(amount) } else { Err(not_enough(sku)) }
    }

    /// Gives back what is kept under `key`; how much that was. 0: there was nothing, and a reservation that comes later is
    /// refused.
    pub async fn release(&self, key: &str) -> Result<i64, Problem> {
        let mut tx = self.db.begin().await?;
        if self.take_key(&mut tx, key, "", 0, 0, "released").await? {
            tx.commit().await?;
            return Ok(0);
        }
        drop(tx);
        let reservation = self.reservation(key).await?;
        let mut tx = self.db.begin().await?;
        let released = self
            .db
            .query("UPDATE reservations SET state = 'released' WHERE id = ? AND state = 'reserved'")
            .bind(key.to_owned())
            .execute(&mut *tx)
            .await?;
        if released.rows_affected() == 1 {
            self.db
                .query(
                    "UPDATE stock SET available = available + ?, reserved = reserved - ? \
                     WHERE sku = ?",
                )
                .bind(reservation.quantity)
                .bind(reservation.quantity)
                .bind(reservation.sku)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(if reservation.state == "refused" { 0 } else { reservation.quantity })
    }

    /// Counts what an event tells, once for each event.
    pub async fn take(&self, event: &Event) -> Result<(), Problem> {
        let count = match event.kind.as_str() {
            CREATED => "UPDATE stock SET ordered = ordered + ? WHERE sku = ?",
            CANCELLED => "UPDATE stock SET cancelled = cancelled + ? WHERE sku = ?",
            kind => {
                let text = format!("{kind} is no event of the inventory");
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
            }
        };
        let mut tx = self.db.begin().await?;
        let first = self
            .db
            .query("INSERT INTO events (id) VALUES (?)")
            .bind(event.id.clone())
            .execute(&mut *tx)
            .await;
        if !is_new(first)? {
            return Ok(());
        }
        self.db.query(count).bind(event.quantity).bind(event.sku.clone()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What RabbitMQ's events are handed to.
    pub fn handler(&self) -> Handler {
        let inventory = self.clone();
        Arc::new(move |event| {
            let inventory = inventory.clone();
            Box::pin(async move { inventory.take(&event).await })
        })
    }

    async fn find(&self, sku: &str) -> Result<Option<Stock>, Problem> {
        let sql =
            "SELECT sku, available, reserved, price, ordered, cancelled FROM stock WHERE sku = ?";
        Ok(self.db.query_as(sql).bind(sku.to_owned()).fetch_optional(&self.db.pool).await?)
    }

    /// False: the key was used before.
    async fn take_key(
        &self,
        tx: &mut Transaction<'static, Any>,
        key: &str,
        sku: &str,
        quantity: i64,
        amount: i64,
        state: &'static str,
    ) -> Result<bool, Problem> {
        let inserted = self
            .db
            .query(
                "INSERT INTO reservations (id, sku, quantity, amount, state) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(key.to_owned())
            .bind(sku.to_owned())
            .bind(quantity)
            .bind(amount)
            .bind(state)
            .execute(&mut **tx)
            .await;
        Ok(is_new(inserted)?)
    }

    async fn reservation(&self, key: &str) -> Result<Reservation, Problem> {
        let sql = "SELECT sku, quantity, amount, state FROM reservations WHERE id = ?";
        Ok(self.db.query_as(sql).bind(key.to_owned()).fetch_one(&self.db.pool).await?)
    }
}

fn answer_again(reservation: &Reservation, sku: &str, quantity: i64) -> Result<i64, Problem> {
    match reservation.state.as_str() {
        "released" => Err(Problem::new(StatusCode::CONFLICT, "this reservation was released")),
        _ if reservation.sku != sku || reservation.quantity != quantity => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used for another reservation",
        )),
        "refused" => Err(not_enough(sku)),
        _ => Ok(reservation.amount),
    }
}

fn not_enough(sku: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, format!("there is not enough of {sku}"))
}
