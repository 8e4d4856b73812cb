//! The story that the shop tells: orders flow, an instance is killed, and nobody who orders notices.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::admin;
use crate::customer::{Entrance, Flow, Order, Placed, Tally, Wish, run_id};
use crate::place::{Place, Places, Service};
use crate::process::GLANCE;
use crate::say;
use crate::town::{self, Instance, Town};

/// Orders a second.
const RATE: u32 = 25;
/// What is ordered, and what there has to be of it.
const GOODS: (&str, i64, i64) = ("rope", 1000, 300);
/// Who is killed.
const VICTIM: &str = "user-service-2";
/// What each thing that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells it. Whether everything held.
pub async fn tell(town: &mut Town) -> Result<bool, String> {
    let began = Instant::now();
    let counts = town.settings.places.counts();
    say!("{:<10}  the gateway, {counts}", "starting");
    town.open().await?;
    let (all, took) = (town.size(), began.elapsed().as_secs_f32());
    let what = format!("{all} processes, {} of them sidecars or the gateway", all / 2 + 1);
    say!("{:<10}  {what:<68} {took:>6.1} s", "started");
    say!("\nThe story, in seconds since all was built");
    let told = Teller { began }.tell(town).await?;
    told.print();
    Ok(told.held())
}

struct Teller {
    began: Instant,
}

/// What came of it.
struct Told {
    tally: Tally,
    confirmed: usize,
    /// What the user paid, and what it should be.
    paid: (i64, i64),
    gone: (i64, i64),
    /// `CALLER -> CALLED` of each breaker that opened.
    breakers: Vec<String>,
    retries: f64,
}

impl Teller {
    fn say(&self, what: &str) {
        say!("  {:>5.1}  {what}", self.began.elapsed().as_secs_f32());
    }

    async fn tell(&self, town: &mut Town) -> Result<Told, String> {
        let entrance = Entrance::gateway(town.settings.places.port)?;
        let (sku, enough, price) = GOODS;
        if entrance.available(sku).await? < enough {
            town.stock_up(sku, enough, price).await?;
        }
        let run = run_id();
        let user = entrance.new_user(&format!("joan-{run}"), enough * price).await?;
        let before = (entrance.balance(&user).await?, entrance.available(sku).await?);
        let wish = {
            let user = user.clone();
            move |key| Wish { key: format!("{run}-{key}"), user: user.clone(), sku: sku.to_owned() }
        };
        let mut placed = vec![self.first(&entrance, wish(0)).await?];
        let flow = Flow::start(entrance.clone(), RATE, move |number| wish(number + 1));
        self.say(&format!("{RATE} orders a second come in by the gateway"));
        answered(&flow, flow.answered() + RATE as usize).await?;
        let breakers = self.lose_one(town).await?;
        // Without the one that is gone.
        answered(&flow, flow.answered() + RATE as usize / 2).await?;
        self.have_it_back(town).await?;
        answered(&flow, flow.answered() + RATE as usize).await?;
        placed.extend(flow.end().await);
        self.say("no more orders");
        let orders = entrance.settled(&placed, PATIENCE).await;
        let after = (entrance.balance(&user).await?, entrance.available(sku).await?);
        let retries = retries(town).await?;
        Ok(Told::of(&placed, &orders, before, after, breakers, retries))
    }

    async fn first(&self, entrance: &Entrance, wish: Wish) -> Result<Placed, String> {
        let sent = Instant::now();
        let answer = entrance.place(&wish).await;
        let order = answer.as_ref().map_err(|error| format!("the first order failed: {error}"))?;
        self.say(&format!("the first order, of a rope, is {}", order.status));
        Ok(Placed { wish, took: sent.elapsed(), answer })
    }

    /// Kills an instance, and waits until callers have noticed: which breakers have opened.
    async fn lose_one(&self, town: &mut Town) -> Result<Vec<String>, String> {
        let victim = victim(town)?;
        let pids: Vec<String> = victim.pids().map(|pid| pid.to_string()).collect();
        self.say(&format!("kill -9 {}: {VICTIM} and its sidecar", pids.join(" ")));
        victim.kill();
        let address = format!("127.0.0.1:{}", victim.place.ports.inbound);
        let until = Instant::now() + PATIENCE;
        loop {
            let mut breakers = Vec::new();
            for caller in callers(&town.settings.places) {
                let known = admin::endpoints(&town.http, caller.ports.admin, Service::User).await?;
                if known.iter().any(|it| it.address == address && it.state == "breaker_open") {
                    breakers.push(caller.name.clone());
                }
            }
            if !breakers.is_empty() {
                let by = breakers.join(" and ");
                self.say(&format!("the breaker for {VICTIM} opens in the sidecar of {by}"));
                return Ok(breakers);
            }
            if Instant::now() >= until {
                self.say("no breaker has opened");
                return Ok(breakers);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Starts it again, and waits until it is called again.
    async fn have_it_back(&self, town: &mut Town) -> Result<(), String> {
        let victim = victim(town)?;
        victim.start_again()?;
        town::listens(&mut victim.app).await?;
        self.say(&format!("{VICTIM} is started again, and says that it is there"));
        let until = Instant::now() + PATIENCE;
        while !all_is_well(town).await? {
            if Instant::now() >= until {
                return Err(format!("{VICTIM} is back, and its callers do not know it"));
            }
            tokio::time::sleep(GLANCE).await;
        }
        self.say(&format!("all breakers are closed, and {VICTIM} is called again"));
        Ok(())
    }
}

fn victim(town: &mut Town) -> Result<&mut Instance, String> {
    let victim = town.instances.iter_mut().find(|it| it.place.name == VICTIM);
    victim.ok_or_else(|| format!("there is no {VICTIM}"))
}

/// Those whose sidecars call the users.
fn callers(places: &Places) -> impl Iterator<Item = &Place> {
    places.of(Service::Order)
}

/// Whether each caller knows both, and no breaker is open or half so.
async fn all_is_well(town: &Town) -> Result<bool, String> {
    let places = &town.settings.places;
    let count = places.of(Service::User).count();
    for Place { ports, .. } in callers(places) {
        let state = "pilotfish_circuit_breaker_state";
        let closed = admin::metric(&town.http, ports.metrics, state, "state=\"closed\"").await?;
        let known = admin::knows(&town.http, ports.admin, Service::User, count).await.is_ok();
        if !known || closed < count as f64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until so many have been answered.
async fn answered(flow: &Flow, count: usize) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while flow.answered() < count {
        if Instant::now() >= until {
            return Err(format!("of {count} orders {} are answered", flow.answered()));
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// What the proxies have sent again.
async fn retries(town: &Town) -> Result<f64, String> {
    let Places { gateway, instances, .. } = &town.settings.places;
    let mut sum = 0.0;
    for ports in [gateway].into_iter().chain(instances.iter().map(|it| &it.ports)) {
        sum += admin::metric(&town.http, ports.metrics, "pilotfish_retries_total", "").await?;
    }
    Ok(sum)
}

impl Told {
    fn of(
        placed: &[Placed],
        orders: &[(Wish, Option<Order>)],
        before: (i64, i64),
        after: (i64, i64),
        breakers: Vec<String>,
        retries: f64,
    ) -> Self {
        let orders = orders.iter().filter_map(|(_, order)| order.as_ref());
        let confirmed: Vec<&Order> = orders.filter(|order| order.is_confirmed()).collect();
        let amount: i64 = confirmed.iter().map(|order| order.amount).sum();
        let quantity: i64 = confirmed.iter().map(|order| order.quantity).sum();
        Self {
            tally: Tally::of(placed),
            confirmed: confirmed.len(),
            paid: (before.0 - after.0, amount),
            gone: (before.1 - after.1, quantity),
            breakers,
            retries,
        }
    }

    fn held(&self) -> bool {
        let all = self.tally.placed;
        let done = self.tally.succeeded == all && self.confirmed == all;
        let adds_up = self.paid.0 == self.paid.1 && self.gone.0 == self.gone.1;
        done && adds_up && !self.breakers.is_empty()
    }

    fn print(&self) {
        let Tally { placed, succeeded, p50, max, failures, .. } = &self.tally;
        let (confirmed, failed) = (self.confirmed, placed - succeeded);
        let (half, all) = (p50.as_millis(), max.as_millis());
        let breakers = match &self.breakers[..] {
            [] => "none has opened, which is wrong".to_owned(),
            callers => format!("{} -> {VICTIM}: opened, closed", callers.join(", ")),
        };
        say!("\nWhat came of it");
        say!("  orders    {placed} placed, {confirmed} confirmed, {failed} failed");
        for (why, count) in failures {
            say!("            {count} x {why}");
        }
        say!("  time      half of them within {half} ms, all within {all} ms");
        say!("  breakers  {breakers}");
        say!("  retries   {}, by sidecars: no service has a line for them", self.retries);
        say!("  money     {} cents paid; the orders say {}", self.paid.0, self.paid.1);
        say!("  stock     {} ropes gone; the orders say {}", self.gone.0, self.gone.1);
    }
}

/// Where everything is, and what one can try.
pub fn print_addresses(town: &Town) {
    let Places { port, gateway, instances, .. } = &town.settings.places;
    let url = format!("http://127.0.0.1:{port}");
    say!("\nTo try");
    say!("  curl {url}/users");
    say!("  curl {url}/stock/rope");
    say!("  curl {url}/orders -H 'content-type: application/json' \\");
    say!(
        "    -H 'idempotency-key: mine-1' -d '{{\"user_id\":\"1\",\"sku\":\"rope\",\"quantity\":1}}'"
    );
    let orders = callers(&town.settings.places).next().map(|it| it.ports.admin).unwrap_or_default();
    let pilotfish = town.settings.programs.pilotfish();
    let own = std::env::current_dir().unwrap_or_default();
    let pilotfish = pilotfish.strip_prefix(own).unwrap_or(&pilotfish).display();
    say!("  {pilotfish} endpoints --admin 127.0.0.1:{orders}");
    say!("  kill -9 any pid: it is started again after a second\n");
    say!("  {:<20}  {:>7}  {:>7}  {:<24}metrics", "", "app", "sidecar", "admin of the sidecar");
    let line = |name: &str, app: &str, sidecar: &str, admin: u16, metrics: u16| {
        let admin = format!("http://127.0.0.1:{admin}");
        say!("  {name:<20}  {app:>7}  {sidecar:>7}  {admin:<24}http://127.0.0.1:{metrics}/metrics");
    };
    let pid = |process: Option<&crate::process::Process>| {
        process.and_then(|it| it.pid()).map_or_else(|| "-".to_owned(), |pid| pid.to_string())
    };
    line("gateway", "", &pid(town.gateway.as_ref()), gateway.admin, gateway.metrics);
    for (Instance { app, sidecar, .. }, Place { name, ports, .. }) in
        town.instances.iter().zip(instances)
    {
        line(name, &pid(Some(app)), &pid(sidecar.as_ref()), ports.admin, ports.metrics);
    }
    say!(
        "\n  Configurations, logs and databases, until Ctrl-C: {}",
        town.directory.path().display()
    );
}

/// Starts again what ends, until that is too often.
pub async fn keep(town: &mut Town) -> Result<Infallible, String> {
    const TOO_OFTEN: usize = 20;
    const A_MINUTE: Duration = Duration::from_secs(60);
    // When, of the last minute.
    let mut ended: Vec<Instant> = Vec::new();
    loop {
        tokio::time::sleep(GLANCE * 10).await;
        let mut lost = town.lost();
        if lost.is_empty() {
            continue;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        lost.extend(town.lost());
        for how in &lost {
            say!("{how}; it is started again");
        }
        ended.retain(|at| at.elapsed() < A_MINUTE);
        ended.extend(lost.iter().map(|_| Instant::now()));
        if ended.len() > TOO_OFTEN {
            return Err("processes end again and again".to_owned());
        }
        town.start_again()?;
    }
}
