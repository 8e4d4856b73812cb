//! Orders in the database, and the events that are to be told of them.

use axum::http::StatusCode;
use common::database::{Database, is_new};
use common::events::{CANCELLED, CREATED, Event};
use common::web::{Problem, is_plain};
use common::{new_id, now_ms};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{Any, FromRow, Transaction};

use crate::neighbours::Outcome;
use crate::saga::Step;

/// How long an order is left to who works on it, after the last sign of that.
const CLAIM_MS: i64 = 10_000;

#[derive(Debug, Deserialize)]
pub struct NewOrder {
    user_id: String,
    sku: String,
    quantity: i64,
}

#[derive(Debug, Clone, FromRow)]
pub struct Order {
    pub id: String,
    pub user_id: String,
    pub sku: String,
    pub quantity: i64,
    /// Cents; 0 until the stock is reserved.
    pub amount: i64,
    #[sqlx(try_from = "String")]
    pub step: Step,
    pub reason: String,
    /// Milliseconds since 1970.
    pub created: i64,
}

/// A step that was taken, and what came of it.
pub struct Change {
    to: Step,
    amount: Option<i64>,
    reason: Option<String>,
}

impl Change {
    pub fn to(to: Step, outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done { amount } if to == Step::Charge => {
                Self { to, amount: Some(amount), reason: None }
            }
            Outcome::Done { .. } => Self { to, amount: None, reason: None },
            Outcome::Refused(reason) => Self { to, amount: None, reason: Some(reason) },
            Outcome::Unknown(why) => {
                Self { to, amount: None, reason: Some(format!("it took too long: {why}")) }
            }
        }
    }
}

#[derive(Clone)]
pub struct Orders {
    pub db: Database,
}

impl Orders {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }

    /// A new order, once for each key: whoever asks again gets the same one.
    ///
    /// # Errors
    /// 400 for what nobody can order, 422 where the key was used for another order.
    pub async fn create(&self, key: &str, new: NewOrder) -> Result<Order, Problem> {
        let fits = |text| is_plain(text, 64);
        if !fits(&new.user_id) || !fits(&new.sku) || !(1..=1_000_000).contains(&new.quantity) {
            let text = "an order has a user_id, a sku, and a quantity from 1 to 1000000";
            return Err(Problem::new(StatusCode::BAD_REQUEST, text));
        }
        let order = Order {
            id: new_id(),
            user_id: new.user_id,
            sku: new.sku,
            quantity: new.quantity,
            amount: 0,
            step: Step::Reserve,
            reason: String::new(),
            created: now_ms(),
        };
        let mut tx = self.db.begin().await?;
        let inserted = self
            .db
            .query(
                "INSERT INTO orders (id, idempotency_key, user_id, sku, quantity, amount, step, \
                 reason, created, claimed_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(order.id.clone())
            .bind(key.to_owned())
            .bind(order.user_id.clone())
            .bind(order.sku.clone())
            .bind(order.quantity)
            .bind(order.amount)
            .bind(order.step.name())
            .bind(order.reason.clone())
            .bind(order.created)
            .bind(order.created + CLAIM_MS)
            .execute(&mut *tx)
            .await;
        if !is_new(inserted)? {
            drop(tx);
            return self.same(key, &order).await;
        }
        self.tell(&mut tx, CREATED, &order).await?;
        tx.commit().await?;
        Ok(order)
    }

    /// The order that `key` made, if it is for the same as `wanted`.
    async fn same(&self, key: &str, wanted: &Order) -> Result<Order, Problem> {
        let sql = "SELECT id, user_id, sku, quantity, amount, step, reason, created FROM orders \
                   WHERE idempotency_key = ?";
        let order: Order =
            self.db.query_as(sql).bind(key.to_owned()).fetch_one(&self.db.pool).await?;
        let what = |order: &Order| (order.user_id.clone(), order.sku.clone(), order.quantity);
        if what(&order) == what(wanted) {
            Ok(order)
        } else {
            let text = "this Idempotency-Key was used for another order";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text))
        }
    }

    pub async fn get(&self, id: &str) -> Result<Order, Problem> {
        let sql = "SELECT id, user_id, sku, quantity, amount, step, reason, created FROM orders \
                   WHERE id = ?";
        let order = self.db.query_as(sql).bind(id.to_owned()).fetch_optional(&self.db.pool).await?;
        order.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no order {id}")))
    }

    pub async fn newest(&self) -> Result<Vec<Order>, Problem> {
        let sql = "SELECT id, user_id, sku, quantity, amount, step, reason, created FROM orders \
                   ORDER BY id DESC LIMIT 100";
        Ok(self.db.query_as(sql).fetch_all(&self.db.pool).await?)
    }

    /// Notes that a step was taken. Where somebody else has noted it before, that counts.
    pub async fn advance(&self, order: &Order, change: Change) -> Result<(), Problem> {
        let reason = change.reason.unwrap_or_else(|| order.reason.clone());
        let mut tx = self.db.begin().await?;
        let advanced = self
            .db
            .query(
                "UPDATE orders SET step = ?, amount = ?, reason = ?, claimed_until = ? \
                 WHERE id = ? AND step = ?",
            )
            .bind(change.to.name())
            .bind(change.amount.unwrap_or(order.amount))
            .bind(reason.chars().take(200).collect::<String>())
            .bind(now_ms() + CLAIM_MS)
            .bind(order.id.clone())
            .bind(order.step.name())
            .execute(&mut *tx)
            .await?;
        if advanced.rows_affected() == 1 && change.to == Step::Cancelled {
            self.tell(&mut tx, CANCELLED, order).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Puts an event into the outbox, in the transaction of what it tells of.
    async fn tell(
        &self,
        tx: &mut Transaction<'static, Any>,
        kind: &str,
        order: &Order,
    ) -> Result<(), Problem> {
        let event = Event {
            id: new_id(),
            kind: kind.to_owned(),
            order_id: order.id.clone(),
            user_id: order.user_id.clone(),
            sku: order.sku.clone(),
            quantity: order.quantity,
        };
        self.db
            .query("INSERT INTO outbox (id, body) VALUES (?, ?)")
            .bind(event.id.clone())
            .bind(serde_json::to_string(&event).unwrap_or_default())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Says that the order is still worked on.
    pub async fn keep(&self, id: &str) -> Result<(), Problem> {
        self.db
            .query("UPDATE orders SET claimed_until = ? WHERE id = ?")
            .bind(now_ms() + CLAIM_MS)
            .bind(id.to_owned())
            .execute(&self.db.pool)
            .await?;
        Ok(())
    }

    /// Unfinished orders that nobody works on, which the caller does from now on. `all`: those of others too, which is
    /// more than is needed and harms nobody.
    pub async fn claim(&self, all: bool) -> Result<Vec<String>, Problem> {
        let now = now_ms();
        let unclaimed = if all { i64::MAX } else { now };
        let sql = "SELECT id FROM orders WHERE step IN ('reserve', 'charge', 'refund', 'release') \
                   AND claimed_until < ? ORDER BY id LIMIT 1000";
        let found: Vec<(String,)> =
            self.db.query_as(sql).bind(unclaimed).fetch_all(&self.db.pool).await?;
        let mut claimed = Vec::new();
        for (id,) in found {
            let taken = self
                .db
                .query("UPDATE orders SET claimed_until = ? WHERE id = ? AND claimed_until < ?")
                .bind(now + CLAIM_MS)
                .bind(id.clone())
                .bind(unclaimed)
                .execute(&self.db.pool)
                .await?;
            if taken.rows_affected() == 1 {
                claimed.push(id);
            }
        }
        Ok(claimed)
    }
}

/// What others see of an order.
impl Serialize for Order {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let status = match self.step {
            Step::Reserve | Step::Charge => "pending",
            Step::Refund | Step::Release => "cancelling",
            Step::Confirmed => "confirmed",
            Step::Cancelled => "cancelled",
        };
        let mut order = serializer.serialize_struct("Order", 7)?;
        order.serialize_field("id", &self.id)?;
        order.serialize_field("user_id", &self.user_id)?;
        order.serialize_field("sku", &self.sku)?;
        order.serialize_field("quantity", &self.quantity)?;
        order.serialize_field("amount", &self.amount)?;
        order.serialize_field("status", status)?;
        order.serialize_field("reason", &self.reason)?;
        order.end()
    }
}
