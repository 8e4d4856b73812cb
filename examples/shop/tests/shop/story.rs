//! What the shop shows.

use std::time::{Duration, Instant};

use crate::alone;
use crate::launcher::{Launcher, kill, programs};
use rustix::process::Signal;

#[test]
fn an_instance_is_killed_and_no_order_fails() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let mut shop = Launcher::start(&programs, &["--exit"]);
    assert_eq!(shop.ended().code(), Some(0), "{}", shop.said());
    let told = shop.stdout();
    assert!(told.contains(" 0 failed"), "{told}");
    assert!(told.contains("the breaker for user-service-2 opens in the sidecar of order-service-"));
    assert!(told.contains("all breakers are closed, and user-service-2 is called again"), "{told}");
    let first = told.lines().find(|line| line.contains("the first order")).expect("a first order");
    let seconds: f32 = first.split_whitespace().next().and_then(|it| it.parse().ok()).expect("s");
    assert!(seconds <= 5.0, "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    shop.left_nothing();
}

#[test]
fn what_is_printed_can_be_tried_until_ctrl_c() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let mut shop = Launcher::start(&programs, &[]);
    shop.until_it_says("until Ctrl-C");
    // Each sidecar is where it is said to be.
    let told = shop.stdout();
    let urls: Vec<&str> =
        told.split_whitespace().filter(|word| word.starts_with("http:")).collect();
    let metrics: Vec<_> = urls.iter().filter(|url| url.ends_with("/metrics")).collect();
    assert_eq!(metrics.len(), 6, "{told}");
    for url in urls.iter().filter(|url| !url.ends_with("/orders")) {
        assert!(get(url).starts_with("HTTP/1.1 200"), "{url}");
    }
    let users = urls.iter().find(|url| url.ends_with("/users")).expect("users");
    assert!(get(users).to_lowercase().contains("ratelimit-remaining: "));
    // What is in stock is not to be changed from outside, and nothing else of the services is there.
    let stock = urls.iter().find(|url| url.ends_with("/stock/rope")).expect("stock");
    assert!(ask("PUT", stock).starts_with("HTTP/1.1 404"));
    assert!(get(&users.replace("/users", "/charge")).starts_with("HTTP/1.1 404"));

    // What ends is started again.
    let all = shop.processes();
    assert_eq!(all.len(), 11, "{told}");
    kill(all[0], Signal::KILL);
    shop.until_it_says("was ended by signal 9; it is started again");
    shop.eventually("11 processes", |it| (it.processes().len() == 11).then_some(()));
    shop.signal(Signal::INT);
    assert_eq!(shop.ended().code(), Some(0), "{}", shop.said());
    shop.left_nothing();
}

#[test]
fn with_sidecars_chaos_costs_no_order() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let began = Instant::now();
    let mut shop = Launcher::start(&programs, &["chaos", "--seconds", "15", "--rate", "30"]);
    assert_eq!(shop.ended().code(), Some(0), "{}", shop.said());
    assert!(began.elapsed() >= Duration::from_secs(30), "both runs: {}", shop.said());
    let told = shop.stdout();
    let row = |name: &str| {
        let row = told.lines().rev().find_map(|line| line.strip_prefix(name)).expect("a row");
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("orders "), ["450", "450"], "{told}");
    assert_eq!(row("pending a minute later")[0], "0", "{told}");
    assert_eq!(row("money and stock").join(" "), "add up add up", "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    shop.left_nothing();
}

fn get(url: &str) -> String {
    ask("GET", url)
}

/// The answer, head and all.
fn ask(method: &str, url: &str) -> String {
    use std::io::{Read, Write};
    let (host, path) = url
        .strip_prefix("http://")
        .expect("http")
        .split_once('/')
        .unwrap_or((url.strip_prefix("http://").expect("http"), ""));
    let mut stream = std::net::TcpStream::connect(host).expect("it listens");
    let head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
