//! The policies of Pilotfish in virtual time: thousands of clients, a hundred endpoints, some of which
//! misbehave. See `docs/simulation.md`, which this program writes.

pub mod caller;
pub mod clock;
pub mod measure;
pub mod run;
pub mod scenario;
pub mod settings;
pub mod world;
