//! Orders flow while one process after the other is killed or frozen: with sidecars, and the same without.

mod schedule;

use std::time::{Duration, Instant};

use clap::Args;

use crate::customer::{Entrance, Flow, Order, Placed, Tally, Wish, run_id};
use crate::place::Service;
use crate::say;
use crate::town::{Instance, Settings, Town};
use schedule::{Act, Hit, schedule};

/// What is asked for at least, in per cent.
const ENOUGH: f64 = 99.9;
/// How long after the last answer every order has to have ended: longer than an order may take.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, Args)]
pub struct Chaos {
    /// How long orders flow.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How many a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=400))]
    rate: u32,
    /// Another one has other processes hit, in other ways.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of one run.
struct Outcome {
    tally: Tally,
    /// Orders that were neither confirmed nor cancelled when the last answer was there, and a minute later.
    open: usize,
    never_ended: usize,
    confirmed: usize,
    cancelled: usize,
    /// What was paid and what is gone from the stock, beside what the confirmed orders say.
    paid: (i64, i64),
    gone: (i64, i64),
    /// What has ended that nobody has ended.
    lost: Vec<String>,
}

impl Outcome {
    fn adds_up(&self) -> bool {
        self.never_ended == 0 && self.paid.0 == self.paid.1 && self.gone.0 == self.gone.1
    }

    fn is_good(&self) -> bool {
        self.tally.success() >= ENOUGH && self.adds_up() && self.lost.is_empty()
    }
}

/// Both runs. Whether the one with sidecars went well enough.
pub async fn run(
    town: &mut Option<Town>,
    settings: Settings,
    chaos: Chaos,
) -> Result<bool, String> {
    let Chaos { seconds, rate, seed } = chaos;
    let hits = schedule(seed, Duration::from_secs(seconds), settings.places.instances.len());
    let counts = settings.places.counts();
    say!(
        "\n{rate} orders a second for {seconds} s; every 5 s one process is killed or frozen; seed {seed}"
    );
    say!("{counts}");
    say!("\nWith sidecars, by the gateway");
    let with = one(town, settings.clone(), chaos, &hits).await?;
    say!(
        "\nWithout: customers take the order-services in turn, and each of these has one address of"
    );
    say!("each neighbour. What hits sidecars is left out, as there are none.");
    let without = one(town, Settings { governed: false, ..settings }, chaos, &hits).await?;
    print(&with, &without);
    let held = with.is_good();
    say!("\n{}: {ENOUGH} % answered well, all sagas ended, money and stock add up", verdict(held));
    Ok(held)
}

const fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "not held" }
}

async fn one(
    place: &mut Option<Town>,
    settings: Settings,
    chaos: Chaos,
    hits: &[Hit],
) -> Result<Outcome, String> {
    let town = place.insert(Town::prepare(settings)?);
    town.open().await?;
    let customers = Customers::come(town).await?;
    let before = customers.accounts().await?;
    let wishes = customers.clone();
    let flow = Flow::start(customers.entrance.clone(), chaos.rate, move |n| wishes.wish(n));
    let lost = hit(town, hits, Duration::from_secs(chaos.seconds)).await?;
    let placed = flow.end().await;
    let entrance = &customers.entrance;
    let open = entrance.settled(&placed, Duration::ZERO).await;
    let orders = entrance.settled(&placed, SETTLED_WITHIN).await;
    let after = customers.accounts().await?;
    let outcome = outcome(&placed, &open, &orders, before, after, lost);
    town.close().await;
    *place = None;
    Ok(outcome)
}

fn outcome(
    placed: &[Placed],
    open: &[(Wish, Option<Order>)],
    orders: &[(Wish, Option<Order>)],
    before: (i64, i64),
    after: (i64, i64),
    lost: Vec<String>,
) -> Outcome {
    let count = |orders: &[(Wish, Option<Order>)], is: fn(&Order) -> bool| {
        orders.iter().filter(|(_, order)| order.as_ref().is_some_and(is)).count()
    };
    let confirmed = orders.iter().filter_map(|(_, it)| it.as_ref()).filter(|it| it.is_confirmed());
    let (amount, quantity) =
        confirmed.fold((0, 0), |sum, it| (sum.0 + it.amount, sum.1 + it.quantity));
    let (ended, confirmed) = (count(orders, Order::has_ended), count(orders, Order::is_confirmed));
    Outcome {
        tally: Tally::of(placed),
        open: open.len() - count(open, Order::has_ended),
        never_ended: orders.len() - ended,
        confirmed,
        cancelled: ended - confirmed,
        paid: (before.0 - after.0, amount),
        gone: (before.1 - after.1, quantity),
        lost,
    }
}

/// Users and goods of which there is more than enough, so that no order has a reason of its own to fail.
#[derive(Clone)]
struct Customers {
    entrance: Entrance,
    users: Vec<String>,
    goods: Vec<String>,
    run: String,
}

impl Customers {
    async fn come(town: &Town) -> Result<Self, String> {
        const ENOUGH: i64 = 1_000_000_000;
        let places = &town.settings.places;
        let app = |service| places.of(service).map(|it| it.ports.app).next().unwrap_or_default();
        let entrance = match town.settings.governed {
            true => Entrance::gateway(places.port)?,
            false => {
                let orders = places.of(Service::Order).map(|it| it.ports.app).collect();
                Entrance::direct(orders, app(Service::User), app(Service::Inventory))?
            }
        };
        let run = run_id();
        let mut users = Vec::new();
        for number in 1..=20 {
            users.push(entrance.new_user(&format!("customer-{number}-{run}"), ENOUGH).await?);
        }
        let goods: Vec<String> = (1..=5).map(|number| format!("goods-{number}")).collect();
        for sku in &goods {
            town.stock_up(sku, ENOUGH, 100).await?;
        }
        Ok(Self { entrance, users, goods, run })
    }

    fn wish(&self, number: usize) -> Wish {
        Wish {
            key: format!("{}-{number}", self.run),
            user: self.users[number % self.users.len()].clone(),
            sku: self.goods[number % self.goods.len()].clone(),
        }
    }

    /// All money, and all goods that are there.
    async fn accounts(&self) -> Result<(i64, i64), String> {
        let (mut money, mut stock) = (0, 0);
        for user in &self.users {
            money += self.entrance.balance(user).await?;
        }
        for sku in &self.goods {
            stock += self.entrance.available(sku).await?;
        }
        Ok((money, stock))
    }
}

/// Does what the schedule says, until `length` is over.
async fn hit(town: &mut Town, hits: &[Hit], length: Duration) -> Result<Vec<String>, String> {
    let began = Instant::now();
    let until = |at: Duration| tokio::time::sleep_until((began + at).into());
    let mut lost = Vec::new();
    for Hit { at, instance, part, act, lasts } in hits {
        until(*at).await;
        lost.extend(town.lost());
        town.start_again()?;
        let Instance { place, .. } = &town.instances[*instance];
        let name = place.name.clone();
        let Some(process) = town.instances[*instance].part(*part) else { continue };
        match act {
            Act::Kill => process.kill(),
            Act::Freeze => process.freeze(),
        }
        let (at, for_so_long) = (at.as_secs_f32(), lasts.as_secs_f32());
        let part = format!("{part:?}").to_lowercase();
        let act_name = format!("{act:?}").to_lowercase();
        say!("{at:>6.1} s  {act_name:<6}  {name:<19}  {part:<7}  {for_so_long:.1} s");
        tokio::time::sleep(*lasts).await;
        match act {
            Act::Kill => process.start_again()?,
            Act::Freeze => process.thaw(),
        }
    }
    until(length).await;
    Ok(lost)
}

fn print(with: &Outcome, without: &Outcome) {
    let line = |name: &str, of: &dyn Fn(&Outcome) -> String| {
        say!("{name:<24} {:>16} {:>16}", of(with), of(without));
    };
    say!("\n{:<24} {:>16} {:>16}", "", "with sidecars", "without");
    line("orders", &|it| it.tally.placed.to_string());
    line("succeeded", &|it| it.tally.succeeded.to_string());
    line("success", &|it| format!("{:.2} %", it.tally.success()));
    line("p50", &|it| milliseconds(it.tally.p50));
    line("p99", &|it| milliseconds(it.tally.p99));
    line("max", &|it| milliseconds(it.tally.max));
    line("pending at the end", &|it| it.open.to_string());
    line("pending a minute later", &|it| it.never_ended.to_string());
    line("confirmed", &|it| it.confirmed.to_string());
    line("cancelled", &|it| it.cancelled.to_string());
    line("money and stock", &|it| if it.adds_up() { "add up" } else { "do not add up" }.to_owned());
    for (name, outcome) in [("with sidecars", with), ("without", without)] {
        for (why, count) in &outcome.tally.failures {
            say!("failed, {name}: {count} x {why}");
        }
        outcome.lost.iter().for_each(|it| say!("{name}: {it}"));
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
