//! SIGKILL at random moments, under orders of several customers, while calls go wrong too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::shop::{Settings, Shop, Wish};
use serde_json::Value;

/// This share of the calls goes wrong.
const FAULTS: f64 = 0.1;

/// Another one may be given, to see whether it holds there as well.
pub fn seed() -> u64 {
    let given = std::env::var("SAGA_SEED").ok();
    given.map_or(6, |seed| seed.parse().expect("SAGA_SEED is a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_200_times() {
    // So that time is up for some.
    let deadline = Some(Duration::from_millis(400));
    let shop = Shop::start(Settings { deadline, ..Settings::default() }).await;
    let orders = storm(&shop, 200, async {}).await;
    shop.check(&orders).await;
    // Else it would prove little.
    let count = |key: &str, what: &str| {
        orders.iter().filter(|order| order[key].as_str().expect("text").contains(what)).count()
    };
    let [confirmed, cancelled] = ["confirmed", "cancelled"].map(|status| count("status", status));
    let late = count("reason", "too long");
    assert!(confirmed > 50 && cancelled > 50 && late > 10, "{confirmed}, {cancelled}, {late}");
}

/// Kills the first instance so many times, and more until `meanwhile` has ended; all orders that there are then, at
/// their end.
pub async fn storm(shop: &Shop, kills: u32, meanwhile: impl Future<Output = ()>) -> Vec<Value> {
    println!("SAGA_SEED={}", seed());
    let mut rng = fastrand::Rng::with_seed(seed());
    shop.relay.misbehave(rng.u64(..), FAULTS);
    let rng_of_troubles = rng.fork();
    let open = AtomicBool::new(true);
    let customers: [_; 4] = std::array::from_fn(|_| customer(shop, rng.fork(), &open));
    let ended = AtomicBool::new(false);
    let meanwhile = async {
        meanwhile.await;
        ended.store(true, Ordering::Relaxed);
    };
    let killing = async {
        let mut killed = 0;
        while killed < kills || !ended.load(Ordering::Relaxed) {
            killed += 1;
            tokio::time::sleep(Duration::from_micros(rng.u64(..150_000))).await;
            shop.service().kill();
            // Now and then before it has begun.
            if rng.u8(..8) == 0 {
                shop.service().die_young(Duration::from_micros(rng.u64(..60_000))).await;
            }
            shop.service().start_again().await;
        }
        open.store(false, Ordering::Relaxed);
    };
    let [one, two, three, four] = customers;
    let troubles = troubles(shop, rng_of_troubles, &open);
    let (_, _, _, one, two, three, four) =
        tokio::join!(killing, meanwhile, troubles, one, two, three, four);
    shop.relay.behave();
    let mut orders = HashMap::new();
    for id in shop.all().await {
        orders.insert(id.clone(), shop.ended(&id).await);
    }
    // Of what was said to a customer nothing was forgotten.
    for id in [one, two, three, four].concat() {
        assert!(orders.contains_key(&id), "{id}");
    }
    orders.into_values().collect()
}

/// For a while nobody answers, or nobody hears the answers: long enough that orders are too late.
async fn troubles(shop: &Shop, mut rng: fastrand::Rng, open: &AtomicBool) {
    let relay = &shop.relay;
    while open.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rng.u64(..2_000))).await;
        let kind = *rng.choice(&["reserve", "Charge", "Refund", "release"]).expect("some");
        let service = *rng.choice(&["user-service", "inventory-service"]).expect("some");
        match rng.bool() {
            true => relay.lose(kind),
            false => relay.away(service),
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(..1_000))).await;
        relay.hear(kind);
        relay.back(service);
    }
}

/// Places one order after the other; those that it was told of.
async fn customer(shop: &Shop, mut rng: fastrand::Rng, open: &AtomicBool) -> Vec<String> {
    let mut ids = Vec::new();
    while open.load(Ordering::Relaxed) {
        let wish = Wish::by_chance(&mut rng);
        // Some ask again, with the same key, where they get no answer; some go away.
        for _ in 0..rng.u8(1..4) {
            let answer = shop.ask_for(&wish, shop.service()).await;
            if let Some(answer) = answer {
                assert!([201, 202, 503].contains(&answer.status), "{answer:?}");
                ids.extend(answer.body["id"].as_str().map(str::to_owned));
                break;
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(..50))).await;
        }
    }
    ids
}
