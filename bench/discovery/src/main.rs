//! What discovery costs, with a real Consul and the real proxy:
//!
//!     cargo build --profile release-ci && cargo run --release -p discovery -- churn    a minute of instances that come and go
//!     cargo build --profile release-ci && cargo run --release -p discovery -- scale    10,000 endpoints, 1,000 services
//!     cargo build --profile release-ci && cargo run --release -p discovery -- outage   a minute without Consul
//!
//! `CONSUL_BIN` names the agent, `PILOTFISH_BIN` the proxy (`target/release-ci/pilotfish` by default).

mod churn;
mod consul;
mod http;
mod instance;
mod outage;
mod proxy;
mod relay;
mod scale;

use std::process::ExitCode;

const USAGE: &str = "usage: discovery churn | scale | outage";

#[tokio::main]
async fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let done = match argument.as_str() {
        "churn" => churn::run().await,
        "scale" => scale::run().await,
        "outage" => outage::run().await,
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The one clock of the benchmark.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// A port that is free now, below those that the kernel gives for 0.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port));
        if tcp.is_ok() && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
