//! The policies of Pilotfish in virtual time: thousands of clients, a hundred endpoints, some of which
//! misbehave. What comes out is `docs/simulation.md`, which also says what it means.

pub mod call;
pub mod caller;
pub mod clock;
pub mod measure;
pub mod plot;
pub mod report;
pub mod run;
pub mod scenario;
pub mod settings;
pub mod sweep;
pub mod world;

#[cfg(test)]
mod tests;
