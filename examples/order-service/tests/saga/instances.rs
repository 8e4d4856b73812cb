//! Two instances on one database.

use testing::relay::Moment::{After, Before};

use crate::shop::{Settings, Shop, Wish};

/// One is killed for good, in the middle of orders: the other finishes them.
#[tokio::test(flavor = "multi_thread")]
async fn one_finishes_what_the_other_began() {
    let shop = Shop::start(Settings { instances: Some(2), ..Settings::default() }).await;
    let kinds = [("reserve", Before), ("reserve", After), ("Charge", Before), ("Charge", After)];
    let wishes = kinds.map(|_| Wish::new("rich", "nail", 2));
    // One after the other, each up to another point.
    let mut held = Vec::new();
    let mut asking = tokio::task::JoinSet::new();
    for ((kind, moment), wish) in kinds.into_iter().zip(&wishes) {
        let hold = shop.relay.hold(kind, 1, moment);
        asking.spawn(shop.ask_for(wish, &shop.services[0]));
        held.push(hold.reached().await);
    }
    shop.services[0].kill();
    drop(held);
    asking.join_all().await;
    let mut orders = Vec::new();
    for id in shop.all().await {
        orders.push(shop.ended(&id).await);
    }
    assert_eq!(orders.len(), kinds.len());
    assert!(orders.iter().all(|order| order["status"] == "confirmed"), "{orders:?}");
    shop.check(&orders).await;
}
