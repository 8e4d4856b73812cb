//! How the shop ends: nothing stays, and where it cannot begin it says why.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::process::Signal;

use crate::alone;
use crate::launcher::{Launcher, heeding_signals, programs};

#[test]
fn a_signal_at_any_time_leaves_nothing() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    for (signal, code, processes) in
        [(Signal::INT, 130, 1), (Signal::TERM, 143, 6), (Signal::HUP, 129, 11)]
    {
        let mut shop = Launcher::start(&programs, &[]);
        shop.eventually("processes", |it| (it.processes().len() >= processes).then_some(()));
        shop.signal(signal);
        assert_eq!(shop.ended().code(), Some(code), "{}", shop.said());
        shop.left_nothing();
    }
}

#[test]
fn killed_it_leaves_no_process_and_the_next_one_removes_its_files() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let mut shop = Launcher::start(&programs, &[]);
    shop.until_it_says("the first order");
    assert!(shop.processes().len() >= 9, "{}", shop.said());
    shop.signal(Signal::KILL);
    shop.ended();
    gone(&mut shop);
    let left = shop.directories();
    assert_eq!(left.len(), 1);
    let mut next = Launcher::start_in(shop.into_directory(), &programs, &[]);
    next.eventually("its directory", |it| {
        let directories = it.directories();
        (directories.len() == 1 && directories != left).then_some(())
    });
    next.signal(Signal::TERM);
    next.ended();
    next.left_nothing();
}

#[test]
fn it_ends_with_who_has_started_it() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let tmp = tempfile::tempdir().expect("a directory");
    let mut script = heeding_signals("sh");
    script.args(["-c", "\"$0\" --port 0 --base-port 0 --bin-dir \"$1\" & wait"]);
    script.arg(env!("CARGO_BIN_EXE_shop")).arg(&programs);
    let mut script = Launcher::spawn(tmp, script);
    script.until_it_says("the first order");
    script.signal(Signal::KILL);
    script.ended();
    gone(&mut script);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !script.directories().is_empty() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    script.left_nothing();
}

/// Waits until nothing of it runs. It has ended itself.
fn gone(shop: &mut Launcher) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !shop.processes().is_empty() {
        assert!(std::time::Instant::now() < until, "{:?} stay", shop.processes());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_port_that_is_taken_is_named_with_who_holds_it() {
    let Some(programs) = programs() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let mut shop = Launcher::start(&programs, &["--port", &port.to_string()]);
    assert_eq!(shop.ended().code(), Some(1));
    let (told, pid) = (shop.stderr(), std::process::id());
    let begin = format!("shop: port {port}, for the gateway, is in use: pid {pid}, ");
    assert!(told.starts_with(&begin), "{told}");
    assert!(told.contains("choose other ports by --port"), "{told}");
    shop.left_nothing();
}

#[test]
fn what_is_missing_is_named() {
    let empty = tempfile::tempdir().expect("a directory");
    let mut shop = Launcher::start(empty.path(), &["--exit"]);
    assert_eq!(shop.ended().code(), Some(1));
    let told = shop.stderr();
    assert!(told.contains("has no pilotfish, no user-service, no order-service"), "{told}");
    assert!(told.contains("cargo build -p pilotfish -p user-service -p order-service"), "{told}");
    shop.left_nothing();
}

#[test]
fn a_service_that_fails_is_named_with_its_last_words() {
    let (Some(programs), _alone) = (programs(), alone()) else { return };
    let some = tempfile::tempdir().expect("a directory");
    for name in ["pilotfish", "user-service", "inventory-service"] {
        symlink(programs.join(name), some.path().join(name)).expect("a link");
    }
    let broken = some.path().join("order-service");
    fs::write(&broken, "#!/bin/sh\necho 'no database today' >&2\nexit 3\n").expect("a script");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("it may run");
    let mut shop = Launcher::start(some.path(), &[]);
    assert_eq!(shop.ended().code(), Some(1));
    let told = shop.stderr();
    assert!(told.contains("order-service-1 ended with exit code 3 before it was ready"), "{told}");
    assert!(told.contains("\n    no database today\n"), "{told}");
    shop.left_nothing();
}
