//! What holds for a process of each service.

use std::net::{Ipv4Addr, TcpListener};

use rustix::process::Signal;
use serde_json::json;

use crate::database::{Database, Kind};
use crate::{Service, eventually};

/// It ends when it is asked to, in good order, and says what is wrong where it cannot start.
pub async fn lifecycle(binary: &str, name: &str) {
    for signal in [Signal::TERM, Signal::INT] {
        let service = Service::start(binary, &[]).await;
        assert_eq!(service.first_line(), format!("{name} listens on {}", service.address()));
        assert_eq!(service.api().get("/health").await.body, json!({ "status": "ok" }));
        // With its client's connection open.
        assert_eq!(service.end_by(signal).await.code(), Some(0), "{signal:?}");
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = taken.local_addr().expect("its address").to_string();
    for (variable, value) in [("LISTEN", taken.as_str()), ("DATABASE_URL", "redis://127.0.0.1")] {
        let output = Service::run_to_its_end(binary, &[(variable, value)]).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("one line: {text}") };
        assert!(line.starts_with(name) && line.contains(variable), "{line}");
    }
}

/// While its database is away it says that it cannot work, and works when it is there again.
pub async fn outage(binary: &str, kind: Kind, environment: &[(&str, &str)]) {
    let Some(mut database) = Database::start(kind).await else { return };
    let url = database.url_of("kept").await;
    let environment = [environment, &[("DATABASE_URL", &url)]].concat();
    let service = Service::start(binary, &environment).await;
    let api = service.api();
    let status = async || api.get("/health").await.status;
    assert_eq!(status().await, 200);
    for _ in 0..2 {
        database.stop();
        assert_eq!(status().await, 503);
        database.start_again().await;
        eventually(|| async {
            let status = status().await;
            assert!([200, 503].contains(&status), "{status}");
            (status == 200).then_some(())
        })
        .await;
    }
}
