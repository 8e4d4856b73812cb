//! Customers: they place orders at a steady rate, whatever becomes of them, and ask afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

/// How long a customer waits for an answer.
const DEADLINE: Duration = Duration::from_secs(15);

/// Where customers go: one address, or several in turn.
#[derive(Clone)]
pub struct Entrance {
    http: Client,
    orders: Arc<[u16]>,
    users: u16,
    stock: u16,
    turn: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: String,
    pub quantity: i64,
    pub amount: i64,
    pub status: String,
}

impl Order {
    fn from(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let number = |name: &str| value[name].as_i64();
        let (quantity, amount) = (number("quantity")?, number("amount")?);
        Some(Self { id: text("id")?, quantity, amount, status: text("status")? })
    }

    pub fn is_confirmed(&self) -> bool {
        self.status == "confirmed"
    }

    pub fn has_ended(&self) -> bool {
        self.is_confirmed() || self.status == "cancelled"
    }
}

/// What is ordered: one piece each, so that what is paid can be counted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The Idempotency-Key: the same for whoever asks again.
    pub key: String,
    pub user: String,
    pub sku: String,
}

/// What tells a run from others on the same database.
pub fn run_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since.as_millis())
}

/// An order, and what came of it.
#[derive(Debug, Clone)]
pub struct Placed {
    pub wish: Wish,
    /// From the moment at which it was due.
    pub took: Duration,
    pub answer: Result<Order, String>,
}

impl Entrance {
    /// By the gateway.
    pub fn gateway(port: u16) -> Result<Self, String> {
        Self::direct([port].into(), port, port)
    }

    /// By the services themselves.
    pub fn direct(orders: Arc<[u16]>, users: u16, stock: u16) -> Result<Self, String> {
        // It asks once: whoever else wants to ask again is what this is to show.
        let http = Client::builder().no_proxy().retry(reqwest::retry::never()).timeout(DEADLINE);
        let http = http.build().map_err(|error| error.to_string())?;
        Ok(Self { http, orders, users, stock, turn: Arc::default() })
    }

    fn orders(&self) -> String {
        let port = self.orders[self.turn.fetch_add(1, Relaxed) % self.orders.len()];
        format!("http://127.0.0.1:{port}/orders")
    }

    /// The new user's id.
    pub async fn new_user(&self, name: &str, balance: i64) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/users", self.users);
        let email = format!("{name}@example.com");
        let user = json!({ "name": name, "email": email, "balance": balance });
        let value = answer(self.http.post(url).json(&user)).await?;
        value["id"].as_str().map(str::to_owned).ok_or_else(|| format!("a user without id: {value}"))
    }

    pub async fn balance(&self, user: &str) -> Result<i64, String> {
        let url = format!("http://127.0.0.1:{}/users/{user}", self.users);
        number(&answer(self.http.get(url)).await?, "balance")
    }

    /// How many pieces there are to be had.
    pub async fn available(&self, sku: &str) -> Result<i64, String> {
        let url = format!("http://127.0.0.1:{}/stock/{sku}", self.stock);
        number(&answer(self.http.get(url)).await?, "available")
    }

    pub async fn place(&self, wish: &Wish) -> Result<Order, String> {
        let Wish { key, user, sku } = wish;
        let order = json!({ "user_id": user, "sku": sku, "quantity": 1 });
        let request = self.http.post(self.orders()).header("idempotency-key", key).json(&order);
        let value = answer(request).await?;
        Order::from(&value).ok_or_else(|| format!("no order: {value}"))
    }

    async fn order(&self, id: &str) -> Result<Order, String> {
        let value = answer(self.http.get(format!("{}/{id}", self.orders()))).await?;
        Order::from(&value).ok_or_else(|| format!("no order: {value}"))
    }

    /// What has become of each, at the latest a little after `within`: of those that were never answered by asking
    /// again with their keys. None of whom nobody knows.
    pub async fn settled(&self, placed: &[Placed], within: Duration) -> Vec<(Wish, Option<Order>)> {
        let until = Instant::now() + within;
        let (mut settled, mut over) = (Vec::new(), false);
        let mut open: Vec<_> =
            placed.iter().map(|it| (it.wish.clone(), it.answer.clone().ok())).collect();
        loop {
            let ended =
                |(_, order): &(Wish, Option<Order>)| order.as_ref().is_some_and(Order::has_ended);
            settled.extend(open.extract_if(.., |it| ended(it)));
            if open.is_empty() || over {
                break;
            }
            let mut asked = Vec::new();
            while !open.is_empty() {
                let some = open.drain(..open.len().min(AT_ONCE));
                let each = some.map(|(wish, order)| self.clone().ask(wish, order));
                asked.extend(each.collect::<JoinSet<_>>().join_all().await);
            }
            open = asked;
            over = Instant::now() >= until;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        settled.extend(open);
        settled
    }

    async fn ask(self, wish: Wish, order: Option<Order>) -> (Wish, Option<Order>) {
        let asked = match &order {
            Some(order) => self.order(&order.id).await,
            None => self.place(&wish).await,
        };
        (wish, asked.ok().or(order))
    }
}

/// How many are asked about at the same time.
const AT_ONCE: usize = 16;

/// The body of an answer of 2xx; else what was wrong, in a few words.
async fn answer(request: RequestBuilder) -> Result<Value, String> {
    let response = request.send().await.map_err(|error| brief(&error))?;
    let status = response.status();
    let reason = response.headers().get("x-pilotfish-reason").cloned();
    if status.is_success() {
        return response.json().await.map_err(|error| brief(&error));
    }
    let reason = reason.as_ref().and_then(|reason| reason.to_str().ok());
    Err(told(status, reason))
}

fn told(status: StatusCode, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => format!("{} by the service", status.as_u16()),
    }
}

fn brief(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    what.to_owned()
}

fn number(value: &Value, name: &str) -> Result<i64, String> {
    value[name].as_i64().ok_or_else(|| format!("no {name} in {value}"))
}

/// Orders that flow, until they are told to end.
pub struct Flow {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<Vec<Placed>>,
}

impl Flow {
    /// Each is sent when it is due, also where the ones before it are not answered yet.
    pub fn start(
        entrance: Entrance,
        rate: u32,
        wish: impl Fn(usize) -> Wish + Send + 'static,
    ) -> Self {
        let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (end, count) = (ends.clone(), answered.clone());
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let mut under_way = JoinSet::new();
            for number in 0.. {
                let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
                tokio::time::sleep_until(due.into()).await;
                if end.load(Relaxed) {
                    break;
                }
                let (entrance, wish, count) = (entrance.clone(), wish(number), count.clone());
                under_way.spawn(async move {
                    let answer = entrance.place(&wish).await;
                    count.fetch_add(1, Relaxed);
                    Placed { wish, took: due.elapsed(), answer }
                });
            }
            under_way.join_all().await
        });
        Self { ends, answered, task }
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Places no more orders, and waits for the answers.
    pub async fn end(mut self) -> Vec<Placed> {
        self.ends.store(true, Relaxed);
        (&mut self.task).await.unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What came of orders, in numbers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub placed: usize,
    /// Answered with 2xx in time.
    pub succeeded: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    /// Why the others were not, and how many.
    pub failures: BTreeMap<String, usize>,
}

impl Tally {
    pub fn of(placed: &[Placed]) -> Self {
        let mut times: Vec<Duration> = placed.iter().map(|it| it.took).collect();
        times.sort_unstable();
        let mut failures = BTreeMap::new();
        for error in placed.iter().filter_map(|it| it.answer.as_ref().err()) {
            *failures.entry(error.clone()).or_insert(0) += 1;
        }
        Self {
            placed: placed.len(),
            succeeded: placed.iter().filter(|it| it.answer.is_ok()).count(),
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            max: percentile(&times, 100),
            failures,
        }
    }

    /// In per cent.
    pub fn success(&self) -> f64 {
        100.0 * self.succeeded as f64 / self.placed.max(1) as f64
    }
}

/// Of sorted times the least that so many per cent do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let at = |percent| percentile(&times, percent).as_millis();
        assert_eq!((at(50), at(99), at(100)), (100, 198, 200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
        assert_eq!(percentile(&times[..1], 1).as_millis(), 1);
    }

    #[test]
    fn failures_are_counted_by_their_reasons() {
        let wish = Wish { key: String::new(), user: String::new(), sku: String::new() };
        let failed = |why: &str, ms| Placed {
            wish: wish.clone(),
            took: Duration::from_millis(ms),
            answer: Err(why.to_owned()),
        };
        let tally = Tally::of(&[failed("a", 1), failed("b", 3), failed("a", 2)]);
        assert_eq!((tally.placed, tally.succeeded, tally.p50.as_millis()), (3, 0, 2));
        assert_eq!(tally.failures, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        assert!(tally.success() < f64::EPSILON);
    }

    #[test]
    fn an_order_is_read_and_has_ended_or_not() {
        let read = |status| {
            Order::from(&json!({ "id": "7", "quantity": 1, "amount": 300, "status": status }))
        };
        let order = read("cancelling").expect("an order");
        assert!(!order.has_ended());
        assert!(read("cancelled").expect("an order").has_ended());
        assert!(read("confirmed").expect("an order").is_confirmed());
        assert_eq!(Order::from(&json!({ "error": "no" })), None);
    }
}
