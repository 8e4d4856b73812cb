//! What the service does, whoever asks.

use axum::http::StatusCode;
use common::database::{Database, is_new};
use common::new_id;
use common::web::{Problem, is_plain};
use serde::Serialize;
use sqlx::FromRow;

#[derive(Clone)]
pub struct Users {
    db: Database,
}

#[derive(Debug, FromRow, Serialize)]
pub struct User {
    pub id: String,
    pub name: String,
    pub email: String,
    /// Cents.
    pub balance: i64,
}

#[derive(Debug, FromRow)]
struct Charge {
    user_id: String,
    amount: i64,
    state: String,
}

impl Users {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }

    pub async fn list(&self) -> Result<Vec<User>, Problem> {
        let sql = "SELECT id, name, email, balance FROM users ORDER BY id LIMIT 100";
        Ok(self.db.query_as(sql).fetch_all(&self.db.pool).await?)
    }

    pub async fn get(&self, id: &str) -> Result<User, Problem> {
        let sql = "SELECT id, name, email, balance FROM users WHERE id = ?";
        let user = self.db.query_as(sql).bind(id.to_owned()).fetch_optional(&self.db.pool).await?;
        user.ok_or_else(|| no_such_user(id))
    }

    pub async fn create(&self, name: String, email: String, balance: i64) -> Result<User, Problem> {
        let fits = |text| is_plain(text, 200);
        if !fits(&name) || !fits(&email) || balance < 0 {
            let text = "a user has a name and an email of 1 to 200 characters, and no debts";
            return Err(Problem::new(StatusCode::BAD_REQUEST, text));
        }
        let user = User { id: new_id(), name, email, balance };
        self.db
            .query("INSERT INTO users (id, name, email, balance) VALUES (?, ?, ?, ?)")
            .bind(user.id.clone())
            .bind(user.name.clone())
            .bind(user.email.clone())
            .bind(user.balance)
            .execute(&self.db.pool)
            .await?;
        Ok(user)
    }

    /// Takes `amount` from the user's balance, once for each key. What was answered once is answered again, a refusal too.
    pub async fn charge(&self, key: &str, user_id: &str, amount: i64) -> Result<(), Problem> {
        if amount < 0 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "an amount is 0 or more"));
        }
        let mut tx = self.db.begin().await?;
        // The key first: of two that charge under it one waits here for the other.
        if !self.take_key(&mut tx, key, user_id, amount, "charged").await? {
            drop(tx);
            return self.answer_again(key, user_id, amount).await;
        }
        let paid = self
            .db
            .query("UPDATE users SET balance = balance - ? WHERE id = ? AND balance >= ?")
            .bind(amount)
            .bind(user_id.to_owned())
            .bind(amount)
            .execute(&mut *tx)
            .await?;
        if paid.rows_affected() == 0 {
            self.db
                .query("UPDATE charges SET state = 'refused' WHERE id = ?")
                .bind(key.to_owned())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        if paid.rows_affected() == 1 { Ok(()) } else { Err(self.why_refused(user_id).await) }
    }

    /// Gives back what was charged under `key`; how much that was. 0: there was nothing, and a charge that comes later is
    /// refused.
    pub async fn refund(&self, key: &str) -> Result<i64, Problem> {
        let mut tx = self.db.begin().await?;
        if self.take_key(&mut tx, key, "", 0, "refunded").await? {
            tx.commit().await?;
            return Ok(0);
        }
        drop(tx);
        let charge = self.charged(key).await?;
        let mut tx = self.db.begin().await?;
        let refunded = self
            .db
            .query("UPDATE charges SET state = 'refunded' WHERE id = ? AND state = 'charged'")
            .bind(key.to_owned())
            .execute(&mut *tx)
            .await?;
        if refunded.rows_affected() == 1 {
            self.db
                .query("UPDATE users SET balance = balance + ? WHERE id = ?")
                .bind(charge.amount)
                .bind(charge.user_id)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(if charge.state == "refused" { 0 } else { charge.amount })
    }

    /// False: the key was used before.
    async fn take_key(
        &self,
        tx: &mut sqlx::Transaction<'static, sqlx::Any>,
        key: &str,
        user_id: &str,
        amount: i64,
        state: &'static str,
    ) -> Result<bool, Problem> {
        let inserted = self
            .db
            .query("INSERT INTO charges (id, user_id, amount, state) VALUES (?, ?, ?, ?)")
            .bind(key.to_owned())
            .bind(user_id.to_owned())
            .bind(amount)
            .bind(state)
            .execute(&mut **tx)
            .await;
        Ok(is_new(inserted)?)
    }

    async fn charged(&self, key: &str) -> Result<Charge, Problem> {
        let sql = "SELECT user_id, amount, state FROM charges WHERE id = ?";
        Ok(self.db.query_as(sql).bind(key.to_owned()).fetch_one(&self.db.pool).await?)
    }

    async fn answer_again(&self, key: &str, user_id: &str, amount: i64) -> Result<(), Problem> {
        let charge = self.charged(key).await?;
        match charge.state.as_str() {
            "refunded" => Err(Problem::new(StatusCode::CONFLICT, "this charge was refunded")),
            _ if charge.user_id != user_id || charge.amount != amount => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for another charge",
            )),
            "refused" => Err(self.why_refused(user_id).await),
            _ => Ok(()),
        }
    }

    async fn why_refused(&self, user_id: &str) -> Problem {
        match self.get(user_id).await {
            Ok(_) => Problem::new(StatusCode::PAYMENT_REQUIRED, "there is not enough money"),
            Err(problem) => problem,
        }
    }
}

fn no_such_user(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no user {id}"))
}
