//! The three services, and what has to be true of them in the end.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use common::events;
use inventory_service::Inventory;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection, Row};
use testing::{Answer, Api, Database, Relay, Service, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub const BINARY: &str = env!("CARGO_BIN_EXE_order-service");

pub struct Shop {
    pub relay: Relay,
    /// The instances of the order service.
    pub services: Vec<Service>,
    pub users: Api,
    pub inventory: Api,
    /// The database of the orders.
    pub url: String,
    /// Ids of users, by their names.
    ids: HashMap<&'static str, String>,
    /// The two others, which end with this.
    neighbours: JoinSet<()>,
    handler: events::Handler,
    _sqlite: Database,
}

/// What is not SQLite, 30 seconds, one instance and no RabbitMQ.
#[derive(Default)]
pub struct Settings {
    pub users: Option<String>,
    pub inventory: Option<String>,
    pub orders: Option<String>,
    pub amqp: Option<String>,
    /// Nobody takes the events before [`Shop::consume`].
    pub no_consumer: bool,
    pub deadline: Option<Duration>,
    pub instances: Option<usize>,
}

/// What a user has at first.
const USERS: [(&str, i64); 3] = [("rich", 1_000_000_000), ("thrifty", 100_000), ("poor", 50)];
/// What is there at first, and what it costs.
const STOCK: [(&str, i64, i64); 3] =
    [("nail", 1_000_000, 7), ("oar", 400, 110), ("mast", 500, 999)];

/// An order before it is placed. The key makes it one, however often it is asked for.
#[derive(Clone)]
pub struct Wish {
    pub key: String,
    pub user: &'static str,
    pub sku: &'static str,
    pub quantity: i64,
}

impl Wish {
    pub fn new(user: &'static str, sku: &'static str, quantity: i64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let key = format!("wish-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { key, user, sku, quantity }
    }

    pub fn by_chance(rng: &mut fastrand::Rng) -> Self {
        let (user, _) = *rng.choice(&USERS).expect("some");
        let (sku, ..) = *rng.choice(&STOCK).expect("some");
        Self::new(user, sku, rng.i64(1..5))
    }
}

impl Shop {
    pub async fn start(settings: Settings) -> Self {
        let sqlite = Database::sqlite();
        let mut neighbours = JoinSet::new();
        let url = or_sqlite(settings.users, &sqlite, "users").await;
        let database = open(&url, user_service::MIGRATIONS).await;
        let users = serve(&mut neighbours, user_service::router(database)).await;
        let url = or_sqlite(settings.inventory, &sqlite, "stock").await;
        let inventory = Inventory::new(open(&url, inventory_service::MIGRATIONS).await);
        let handler = inventory.handler();
        let inventory = serve(&mut neighbours, inventory_service::router(inventory)).await;

        let relay =
            Relay::start(&[("user-service", users), ("inventory-service", inventory)]).await;
        let url = or_sqlite(settings.orders, &sqlite, "orders").await;
        let deadline = settings.deadline.unwrap_or(Duration::from_secs(30)).as_millis().to_string();
        let proxy = relay.url();
        let mut environment = vec![
            ("DATABASE_URL", url.as_str()),
            ("ORDER_DEADLINE_MS", &deadline),
            ("http_proxy", &proxy),
        ];
        environment.extend(settings.amqp.as_ref().map(|url| ("AMQP_URL", url.as_str())));
        let mut services = Vec::new();
        for _ in 0..settings.instances.unwrap_or(1) {
            services.push(Service::start(BINARY, &environment).await);
        }
        let (users, inventory) = (Api::new(users), Api::new(inventory));
        let ids = furnish(&users, &inventory).await;
        let _sqlite = sqlite;
        let mut shop =
            Self { relay, services, users, inventory, url, ids, neighbours, handler, _sqlite };
        if let Some(amqp) = settings.amqp.filter(|_| !settings.no_consumer) {
            shop.consume(amqp);
        }
        shop
    }

    /// The inventory begins to take events from RabbitMQ.
    pub fn consume(&mut self, amqp: String) {
        self.neighbours.spawn(events::consume(amqp, self.handler.clone()));
    }

    /// The order service, where there is one.
    pub fn service(&self) -> &Service {
        &self.services[0]
    }

    /// Asks once. None where the service has died meanwhile.
    pub fn ask_for(
        &self,
        wish: &Wish,
        service: &Service,
    ) -> impl Future<Output = Option<Answer>> + Send + 'static {
        let body = json!({
            "user_id": self.ids[wish.user], "sku": wish.sku, "quantity": wish.quantity,
        });
        let (api, key) = (service.api(), wish.key.clone());
        async move { api.ask("POST", "/orders", Some(&key), Some(body)).await }
    }

    /// Ids of all orders that there are, whoever knows of them.
    pub async fn all(&self) -> Vec<String> {
        let mut database = AnyConnection::connect(&self.url).await.expect("the orders");
        let rows = sqlx::query("SELECT id FROM orders ORDER BY id").fetch_all(&mut database).await;
        rows.expect("ids").iter().map(|row| row.get(0)).collect()
    }

    /// None where the service does not answer.
    pub async fn find(&self, id: &str) -> Option<Value> {
        for service in &self.services {
            let answer = service.api().ask("GET", &format!("/orders/{id}"), None, None).await;
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                return Some(answer.body);
            }
        }
        None
    }

    /// The order once it is confirmed or cancelled.
    pub async fn ended(&self, id: &str) -> Value {
        eventually(|| async {
            let order = self.find(id).await?;
            ["confirmed", "cancelled"].contains(&order["status"].as_str()?).then_some(order)
        })
        .await
    }

    pub async fn balance(&self, user: &str) -> i64 {
        let user = self.users.get(&format!("/users/{}", self.ids[user])).await.body;
        user["balance"].as_i64().expect("cents")
    }

    /// `available`, `reserved`, `ordered`, `cancelled` of an article.
    pub async fn stock(&self, sku: &str) -> [i64; 4] {
        let stock = self.inventory.get(&format!("/stock/{sku}")).await.body;
        ["available", "reserved", "ordered", "cancelled"]
            .map(|key| stock[key].as_i64().expect("a number"))
    }

    /// Waits until all events have been told, and checks that money and stock are what `orders`, all that ever were,
    /// say: nothing was lost, done twice, or left.
    pub async fn check(&self, orders: &[Value]) {
        self.has_told_all().await;
        for (sku, available, price) in STOCK {
            let sum = |statuses: &[&str]| sum(orders, "sku", sku, "quantity", statuses);
            let (kept, given_back) = (sum(&["confirmed"]), sum(&["cancelled"]));
            let right = [available - kept, kept, kept + given_back, given_back];
            // An event that RabbitMQ has is not yet counted.
            let last = eventually(|| async {
                let stock = self.stock(sku).await;
                (stock == right || stock[2] > right[2] || stock[3] > right[3]).then_some(stock)
            });
            assert_eq!(last.await, right, "{sku}: available, reserved, ordered, cancelled");
            for order in orders.iter().filter(|order| order["sku"] == sku) {
                let amount = price * order["quantity"].as_i64().expect("a number");
                assert!(order["amount"] == amount || order["status"] == "cancelled", "{order}");
            }
        }
        for (user, balance) in USERS {
            let paid = sum(orders, "user_id", &self.ids[user], "amount", &["confirmed"]);
            assert_eq!(self.balance(user).await, balance - paid, "{user}");
        }
    }

    /// Waits until the outbox is empty.
    pub async fn has_told_all(&self) {
        let mut database = AnyConnection::connect(&self.url).await.expect("the orders");
        let database = tokio::sync::Mutex::new(&mut database);
        eventually(|| async {
            let mut database = database.lock().await;
            let count = sqlx::query("SELECT COUNT(*) FROM outbox").fetch_one(&mut **database).await;
            (count.expect("a number").get::<i64, _>(0) == 0).then_some(())
        })
        .await;
    }
}

fn sum(orders: &[Value], key: &str, value: &str, what: &str, statuses: &[&str]) -> i64 {
    let those = orders.iter().filter(|order| order[key] == value);
    let those = those.filter(|order| statuses.iter().any(|status| order["status"] == *status));
    those.map(|order| order[what].as_i64().expect("a number")).sum()
}

async fn or_sqlite(url: Option<String>, sqlite: &Database, name: &str) -> String {
    match url {
        Some(url) => url,
        None => sqlite.url_of(name).await,
    }
}

async fn open(url: &str, migrations: &[&'static str]) -> common::database::Database {
    common::database::Database::open(url, migrations).await.expect("a database")
}

/// A neighbour in this process, until the set is dropped.
async fn serve(neighbours: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    neighbours.spawn(async move { axum::serve(listener, router).await.expect("for ever") });
    address
}

async fn furnish(users: &Api, inventory: &Api) -> HashMap<&'static str, String> {
    let mut ids = HashMap::new();
    for (name, balance) in USERS {
        let new = json!({ "name": name, "email": "e@example.com", "balance": balance });
        let user = users.post("/users", new).await.body;
        ids.insert(name, user["id"].as_str().expect("an id").to_owned());
    }
    for (sku, available, price) in STOCK {
        let body = json!({ "available": available, "price": price });
        assert_eq!(inventory.put(&format!("/stock/{sku}"), body).await.status, 200);
    }
    ids
}
