//! What happened to orders, told to who wants to know: within a process, or by RabbitMQ.
//!
//! An event is told at least once. Whoever takes events remembers their ids.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use crate::Error;
use crate::web::Problem;

pub const CREATED: &str = "order.created";
pub const CANCELLED: &str = "order.cancelled";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub order_id: String,
    pub user_id: String,
    pub sku: String,
    pub quantity: i64,
}

pub type Handling = Pin<Box<dyn Future<Output = Result<(), Problem>> + Send>>;
/// What is done with an event.
pub type Handler = Arc<dyn Fn(Event) -> Handling + Send + Sync>;

/// Where events are published.
pub enum Bus {
    /// Handed to a function of this process.
    InProcess(Handler),
    RabbitMq(Publisher),
}

impl Bus {
    /// Tells the events in their order. They have arrived when this returns.
    ///
    /// # Errors
    /// Some or all may not have arrived: tell them again.
    pub async fn publish(&self, events: &[Event]) -> Result<(), Error> {
        match self {
            Self::InProcess(handler) => {
                for event in events {
                    match handler(event.clone()).await {
                        // What is refused is refused again; the others go on.
                        Err(problem) if problem.is_refusal() => {
                            eprintln!("event {} is given up: {}", event.id, problem.text);
                        }
                        handled => handled.map_err(|problem| problem.text)?,
                    }
                }
                Ok(())
            }
            Self::RabbitMq(publisher) => publisher.publish(events).await,
        }
    }
}

const EXCHANGE: &str = "order-events";
const QUEUE: &str = "inventory-orders";
const DEAD: &str = "inventory-orders.dead";
/// How often a message is tried before it is put aside, to where somebody looks at it.
const TRIES: i64 = 10;
/// The header that counts them.
const TRIED: &str = "x-tries";
/// The delivery mode of a message that outlives a restart of the broker.
const PERSISTENT: u8 = 2;
/// How long a broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to RabbitMQ that is made when it is needed, and again when it broke.
pub struct Publisher {
    url: String,
    channel: Mutex<Option<Channel>>,
}

impl Publisher {
    pub fn new(url: String) -> Self {
        Self { url, channel: Mutex::new(None) }
    }

    /// A broker that takes a connection and then never answers is no reason to wait for ever.
    async fn publish(&self, events: &[Event]) -> Result<(), Error> {
        let mut slot = self.channel.lock().await;
        // Taken out, so that one that fails is not used again.
        let before = slot.take();
        let channel = timeout(PATIENCE, self.publish_by(before, events)).await??;
        *slot = Some(channel);
        Ok(())
    }

    async fn publish_by(
        &self,
        before: Option<Channel>,
        events: &[Event],
    ) -> Result<Channel, Error> {
        let channel = match before.filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => open(&self.url).await?,
        };
        let mut confirms = Vec::new();
        for event in events {
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_message_id(event.id.as_str().into())
                .with_delivery_mode(PERSISTENT);
            let body = serde_json::to_vec(event)?;
            let options = BasicPublishOptions::default();
            let (to, kind) = (EXCHANGE.into(), event.kind.as_str().into());
            confirms.push(channel.basic_publish(to, kind, options, &body, properties).await?);
        }
        for confirm in confirms {
            confirmed(confirm.await?)?;
        }
        Ok(channel)
    }
}

fn confirmed(confirmation: Confirmation) -> Result<(), Error> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        _ => Err("RabbitMQ did not take an event".into()),
    }
}

/// Hands the inventory's events to `handler`, one after the other, for ever. An event whose handling fails is tried again
/// after the others; after [`TRIES`] it is put aside.
pub async fn consume(url: String, handler: Handler) {
    loop {
        if let Err(error) = consume_once(&url, &handler).await {
            eprintln!("RabbitMQ: {error}; the next try is in a second");
        }
        sleep(Duration::from_millis(fastrand::u64(500..1500))).await;
    }
}

async fn consume_once(url: &str, handler: &Handler) -> Result<(), Error> {
    let begin = async {
        let channel = open(url).await?;
        channel.basic_qos(20, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let table = FieldTable::default();
        let deliveries = channel.basic_consume(QUEUE.into(), "".into(), options, table).await?;
        Ok::<_, Error>((channel, deliveries))
    };
    let (channel, mut deliveries) = timeout(PATIENCE, begin).await??;
    eprintln!("RabbitMQ: events are taken from {QUEUE}");
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let Ok(event) = serde_json::from_slice::<Event>(&delivery.data) else {
            // Nothing would make it better.
            delivery.reject(BasicRejectOptions { requeue: false }).await?;
            continue;
        };
        if let Err(problem) = handled(handler, event).await {
            let tries = tries(&delivery.properties) + 1;
            eprintln!("event: {} (try {tries} of {TRIES})", problem.text);
            if tries >= TRIES {
                delivery.reject(BasicRejectOptions { requeue: false }).await?;
                continue;
            }
            sleep(Duration::from_millis(50 << tries.clamp(0, 5))).await;
            timeout(PATIENCE, again(&channel, &delivery, tries)).await??;
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Err("the connection has ended".into())
}

/// Puts an event behind the others, with its number of tries.
async fn again(channel: &Channel, delivery: &Delivery, tries: i64) -> Result<(), Error> {
    let mut headers = FieldTable::default();
    headers.insert(TRIED.into(), AMQPValue::LongLongInt(tries));
    let properties = delivery.properties.clone().with_headers(headers);
    let options = BasicPublishOptions::default();
    let confirm =
        channel.basic_publish("".into(), QUEUE.into(), options, &delivery.data, properties);
    confirmed(confirm.await?.await?)
}

/// While the database is away no event is at fault: the same one waits for it.
async fn handled(handler: &Handler, event: Event) -> Result<(), Problem> {
    loop {
        match handler(event.clone()).await {
            Err(problem) if problem.status == 503 => {
                sleep(Duration::from_millis(500)).await;
            }
            end => return end,
        }
    }
}

/// How often an event was tried before.
fn tries(properties: &BasicProperties) -> i64 {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(TRIED)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        _ => 0,
    }
}

/// A channel with confirms on, and all that events pass through. Whoever comes first makes it: an event that is told before
/// the inventory ever ran waits for it.
async fn open(url: &str) -> Result<Channel, Error> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let table = FieldTable::default();
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, table).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(DEAD.into(), durable, FieldTable::default()).await?;
    let mut table = FieldTable::default();
    table.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    table.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(DEAD.into()));
    channel.queue_declare(QUEUE.into(), durable, table).await?;
    for kind in [CREATED, CANCELLED] {
        let options = QueueBindOptions::default();
        let table = FieldTable::default();
        channel.queue_bind(QUEUE.into(), EXCHANGE.into(), kind.into(), options, table).await?;
    }
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Lock;

    use axum::http::StatusCode;

    use super::*;

    fn event(id: &str) -> Event {
        let text = |text: &str| text.to_owned();
        let (order_id, user_id, sku) = (text("o"), text("u"), text("s"));
        Event { id: text(id), kind: text(CREATED), order_id, user_id, sku, quantity: 1 }
    }

    /// What became of "first" and "second" when the first is answered with this status.
    async fn published(status: StatusCode) -> (bool, Vec<String>) {
        let told = Arc::new(Lock::new(Vec::new()));
        let seen = told.clone();
        let bus = Bus::InProcess(Arc::new(move |event| {
            let first = event.id == "first";
            seen.lock().expect("whole").push(event.id);
            Box::pin(async move { if first { Err(Problem::new(status, "no")) } else { Ok(()) } })
        }));
        let all = bus.publish(&[event("first"), event("second")]).await.is_ok();
        let told = told.lock().expect("whole").clone();
        (all, told)
    }

    #[tokio::test]
    async fn an_event_that_is_refused_holds_nobody_up_and_one_that_fails_does() {
        let both = vec!["first".to_owned(), "second".to_owned()];
        assert_eq!(published(StatusCode::BAD_REQUEST).await, (true, both));
        let first = vec!["first".to_owned()];
        assert_eq!(published(StatusCode::SERVICE_UNAVAILABLE).await, (false, first));
    }
}
