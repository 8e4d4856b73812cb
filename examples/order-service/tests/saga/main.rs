//! The order service as a process that is killed, and the money and the stock of the two others, which run in this
//! process. Where the sidecar would be a relay stands, which stops a call wherever a test wants.

mod databases;
mod deadlines;
mod instances;
mod moments;
mod orders;
mod rabbitmq;
mod shop;
mod steps;
