//! SIGKILL at each boundary between two steps, on either side of it.

use serde_json::Value;
use sqlx::{AnyConnection, Connection, Executor, Row};
use testing::relay::Moment::{self, After, Before};
use testing::{Postgres, eventually};

use crate::shop::{Settings, Shop, Wish};
use std::time::Duration;

/// A shop, and all the orders that it ever had.
struct Story {
    shop: Shop,
    orders: Vec<Value>,
}

impl Story {
    async fn begin(settings: Settings) -> Self {
        Self { shop: Shop::start(settings).await, orders: Vec::new() }
    }

    /// Kills the service at the `nth` call of a kind that this order makes, and starts it again.
    async fn killed_at(&mut self, kind: &str, nth: usize, moment: Moment, wish: Wish, end: &str) {
        let shop = &self.shop;
        let hold = shop.relay.hold(kind, nth, moment);
        let asking = shop.ask_for(&wish, shop.service());
        let killing = async {
            let held = hold.reached().await;
            shop.service().kill();
            held.cut();
        };
        tokio::join!(asking, killing);
        shop.service().start_again().await;
        self.ends(&wish, end, &format!("{moment:?} {kind} {nth}")).await;
    }

    /// The order comes to its end without anybody asking for it again, and the books are right. Whoever asks finds it.
    async fn ends(&mut self, wish: &Wish, end: &str, when: &str) {
        let all = self.shop.all().await;
        assert_eq!(all.len(), self.orders.len() + 1, "{when}");
        let order = self.shop.ended(all.last().expect("one")).await;
        assert_eq!(order["status"], end, "{when}: {order}");
        self.orders.push(order.clone());
        self.shop.check(&self.orders).await;
        let answer = self.shop.ask_for(wish, self.shop.service()).await.expect("an answer");
        assert_eq!((answer.status, answer.body), (201, order), "{when}");
    }
}

fn fine() -> Wish {
    Wish::new("rich", "nail", 3)
}

/// The charge is refused.
fn too_dear() -> Wish {
    Wish::new("poor", "nail", 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_forth() {
    let mut story = Story::begin(Settings::default()).await;
    for moment in [Before, After] {
        for kind in ["reserve", "Charge", "events"] {
            story.killed_at(kind, 1, moment, fine(), "confirmed").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_confirmation() {
    let mut story = Story::begin(Settings::default()).await;
    for attempt in 0..12 {
        let shop = &story.shop;
        let wish = fine();
        let hold = shop.relay.hold("Charge", 1, After);
        let killing = async {
            hold.reached().await.pass();
            // From before it has the answer until after it has told the client.
            tokio::time::sleep(Duration::from_micros(500 * attempt)).await;
            shop.service().kill();
        };
        tokio::join!(shop.ask_for(&wish, shop.service()), killing);
        shop.service().start_again().await;
        story.ends(&wish, "confirmed", &format!("attempt {attempt}")).await;
    }
    // It has said that it is confirmed.
    let wish = fine();
    let answer = story.shop.ask_for(&wish, story.shop.service()).await.expect("an answer");
    assert_eq!(answer.body["status"], "confirmed");
    story.shop.service().kill();
    story.shop.service().start_again().await;
    story.ends(&wish, "confirmed", "afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_back() {
    let mut story = Story::begin(Settings::default()).await;
    for moment in [Before, After] {
        story.killed_at("release", 1, moment, too_dear(), "cancelled").await;
        // The second event tells of the cancellation.
        story.killed_at("events", 2, moment, too_dear(), "cancelled").await;
        // There is nothing to release.
        let too_many = Wish::new("rich", "oar", 401);
        story.killed_at("reserve", 1, moment, too_many, "cancelled").await;
    }
}

/// Nobody hears that the step was taken, until it is too late.
#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_back_from_what_is_not_known() {
    let deadline = Some(Duration::from_millis(300));
    let mut story = Story::begin(Settings { deadline, ..Settings::default() }).await;
    for (lost, kinds) in [("Charge", ["Refund", "release"]), ("reserve", ["release", "release"])] {
        for moment in [Before, After] {
            for kind in kinds {
                story.shop.relay.lose(lost);
                story.killed_at(kind, 1, moment, fine(), "cancelled").await;
                story.shop.relay.behave();
            }
        }
    }
}

/// It is killed while its database has not yet taken what it has to say. PostgreSQL tells that somebody waits.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_is_written_down() {
    let Some(postgres) = Postgres::start().await else { return };
    let deadline = Some(Duration::from_secs(2));
    let orders = Some(postgres.url_of("orders").await);
    let mut story = Story::begin(Settings { orders, deadline, ..Settings::default() }).await;
    created(&mut story).await;
    for (kind, table, wish, end) in [
        ("reserve", "orders", fine(), "confirmed"),
        ("Charge", "orders", fine(), "confirmed"),
        ("events", "outbox", fine(), "confirmed"),
        ("Charge", "orders", too_dear(), "cancelled"),
        ("release", "orders", too_dear(), "cancelled"),
        ("release", "outbox", too_dear(), "cancelled"),
    ] {
        not_written(&mut story, kind, table, wish, end).await;
    }
    story.shop.relay.lose("Charge");
    not_written(&mut story, "Refund", "orders", fine(), "cancelled").await;
    not_written(&mut story, "release", "orders", fine(), "cancelled").await;
}

/// The order itself: there is none then, and nobody has heard of it.
async fn created(story: &mut Story) {
    let wish = fine();
    let mut table = Locked::lock(&story.shop.url, "orders").await;
    let killing = async {
        table.is_waited_for().await;
        story.shop.service().kill();
    };
    tokio::join!(story.shop.ask_for(&wish, story.shop.service()), killing);
    table.unlock().await;
    story.shop.service().start_again().await;
    assert_eq!(story.shop.all().await, [""; 0]);
    story.shop.check(&[]).await;
    // Whoever wants it asks again.
    story.shop.ask_for(&wish, story.shop.service()).await.expect("an answer");
    story.ends(&wish, "confirmed", "not created").await;
}

/// The answer to the first call of a kind is not written down.
async fn not_written(story: &mut Story, kind: &str, table: &str, wish: Wish, end: &str) {
    let shop = &story.shop;
    let hold = shop.relay.hold(kind, 1, After);
    let killing = async {
        let held = hold.reached().await;
        let mut table = Locked::lock(&shop.url, table).await;
        held.pass();
        table.is_waited_for().await;
        shop.service().kill();
        table.unlock().await;
    };
    tokio::join!(shop.ask_for(&wish, shop.service()), killing);
    shop.service().start_again().await;
    story.ends(&wish, end, &format!("{kind} not written to {table}")).await;
}

/// A table of PostgreSQL that nobody else can write to.
struct Locked(AnyConnection);

impl Locked {
    async fn lock(url: &str, table: &str) -> Self {
        let mut connection = AnyConnection::connect(url).await.expect("the orders");
        let lock = match table {
            "orders" => "BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE",
            _ => "BEGIN; LOCK TABLE outbox IN EXCLUSIVE MODE",
        };
        connection.execute(lock).await.expect("the lock");
        Self(connection)
    }

    async fn is_waited_for(&mut self) {
        let connection = tokio::sync::Mutex::new(&mut self.0);
        eventually(|| async {
            let mut connection = connection.lock().await;
            let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
            let row = connection.fetch_one(waiting).await.expect("a number");
            (row.get::<i64, _>(0) > 0).then_some(())
        })
        .await;
    }

    async fn unlock(mut self) {
        self.0.execute("ROLLBACK").await.expect("the lock is gone");
    }
}
