//! What becomes of an order when others do not answer, or nobody hears them.

use std::time::{Duration, Instant};

use testing::eventually;
use testing::relay::Moment::{After, Before};

use crate::shop::{Settings, Shop, Wish};

const DEADLINE: Duration = Duration::from_millis(500);

async fn shop() -> Shop {
    Shop::start(Settings { deadline: Some(DEADLINE), ..Settings::default() }).await
}

fn wish() -> Wish {
    Wish::new("rich", "oar", 4)
}

/// Nobody can say whether the money was taken, so that is asked before the stock is given back.
#[tokio::test(flavor = "multi_thread")]
async fn the_user_service_is_away() {
    let shop = shop().await;
    shop.relay.away("user-service");
    let began = Instant::now();
    let asked = shop.ask_for(&wish(), shop.service());
    let given_up = async {
        eventually(|| async {
            let orders = shop.service().api().get("/orders").await.body;
            (orders[0]["status"] == "cancelling").then_some(())
        })
        .await;
        assert!(began.elapsed() > DEADLINE, "{:?}", began.elapsed());
        assert_eq!(shop.stock("oar").await, [396, 4, 4, 0], "reserved as before");
        shop.relay.back("user-service");
    };
    let (answer, ()) = tokio::join!(asked, given_up);
    let answer = answer.expect("an answer");
    let order = shop.ended(answer.body["id"].as_str().expect("an id")).await;
    assert_eq!(order["status"], "cancelled");
    assert_ne!(order["reason"], "", "{order}");
    shop.check(&[order]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_nobody_heard_of_is_refunded() {
    let shop = shop().await;
    let before = shop.balance("rich").await;
    shop.relay.lose("Charge");
    let hold = shop.relay.hold("Refund", 1, After);
    let charged = async {
        // It has given up hope, and has the answer in a moment.
        let held = hold.reached().await;
        assert_eq!(shop.balance("rich").await, before, "given back");
        held.pass();
    };
    let wish = wish();
    let asked = shop.ask_for(&wish, shop.service());
    let (answer, ()) = tokio::join!(asked, charged);
    let order = shop.ended(answer.expect("an answer").body["id"].as_str().expect("an id")).await;
    assert_eq!(order["status"], "cancelled");
    shop.check(&[order]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_nobody_heard_of_is_released() {
    let shop = shop().await;
    shop.relay.lose("reserve");
    let answer = shop.ask_for(&wish(), shop.service()).await.expect("an answer");
    let order = shop.ended(answer.body["id"].as_str().expect("an id")).await;
    assert_eq!(order["status"], "cancelled");
    shop.check(&[order]).await;
}

/// A neighbour that takes a call and never answers: the order goes on when the call's time is up, and its client is
/// told before that it takes longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_made_again() {
    let shop = Shop::start(Settings::default()).await;
    let hold = shop.relay.hold("Charge", 1, After);
    let asked = shop.ask_for(&wish(), shop.service());
    let (answer, held) = tokio::join!(asked, hold.reached());
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.body["status"]), (202, &"pending".into()));
    let order = shop.ended(&answer.location.expect("Location")["/orders/".len()..]).await;
    assert_eq!(order["status"], "confirmed");
    shop.check(&[order]).await;
    held.cut();
}

/// A charge that was long on its way arrives when all has been undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_comes_too_late_is_refused() {
    let shop = shop().await;
    let hold = shop.relay.hold("Charge", 1, Before);
    let asked = shop.ask_for(&wish(), shop.service());
    let (answer, held) = tokio::join!(asked, hold.reached());
    let order = shop.ended(answer.expect("an answer").body["id"].as_str().expect("an id")).await;
    assert_eq!(order["status"], "cancelled");
    let hold = shop.relay.hold("Charge", 1, After);
    held.pass();
    // It has been answered, though nobody hears it.
    hold.reached().await.pass();
    shop.check(&[order]).await;
}
