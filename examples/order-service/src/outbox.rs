//! Tells the events of the outbox, and takes out what has arrived. A process that dies in between tells them again.

use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::events::{Bus, Event, Publisher};
use common::setting;
use tokio::time::sleep;

use crate::neighbours::Neighbours;
use crate::orders::Orders;

/// RabbitMQ where `AMQP_URL` says so. Without it the one who wants to know is told by a request.
pub fn bus(neighbours: &Neighbours) -> Bus {
    match setting("AMQP_URL") {
        Some(url) => Bus::RabbitMq(Publisher::new(url)),
        None => {
            let neighbours = neighbours.clone();
            Bus::InProcess(Arc::new(move |event| {
                let neighbours = neighbours.clone();
                Box::pin(async move { neighbours.tell(&event).await })
            }))
        }
    }
}

pub async fn relay(orders: Orders, bus: Bus) {
    let mut pause = SOON;
    loop {
        match turn(&orders, &bus).await {
            Ok(FULL) => continue,
            Ok(_) => pause = SOON,
            Err(error) => {
                eprintln!("events are told again in {} ms: {error}", pause.as_millis());
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
        sleep(pause).await;
    }
}

const SOON: Duration = Duration::from_millis(100);
const FULL: usize = 200;

/// How many were told.
async fn turn(orders: &Orders, bus: &Bus) -> Result<usize, Error> {
    let db = &orders.db;
    let sql = "SELECT id, body FROM outbox ORDER BY id LIMIT 200";
    let rows: Vec<(String, String)> = db.query_as(sql).fetch_all(&db.pool).await?;
    let events: Result<Vec<Event>, _> =
        rows.iter().map(|(_, body)| serde_json::from_str(body)).collect();
    bus.publish(&events?).await?;
    let mut tx = db.begin().await?;
    for (id, _) in &rows {
        db.query("DELETE FROM outbox WHERE id = ?").bind(id.clone()).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(rows.len())
}
