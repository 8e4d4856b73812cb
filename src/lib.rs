//! Pilotfish, a sidecar proxy. ARCHITECTURE.md tells the whole: the path of a request through these
//! modules, and who owns what.

pub mod worker;

mod alarm;
mod backoff;
pub mod balance;
pub mod endpoint;
mod http1;
mod http2;
mod lag;
pub mod listen;
pub mod memory;
pub mod names;
pub mod policy;
pub mod proxy;
pub mod redis;
pub mod registry;
pub mod route;
pub mod stream;
pub mod upstream;

pub mod config;
pub mod telemetry;

pub mod admin;
pub mod app;
pub mod clock;
mod control;
pub mod drain;
