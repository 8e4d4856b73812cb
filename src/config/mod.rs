//! The configuration: YAML text to typed values, or to all of its mistakes.
//!
//! [`parse`] does what can be judged from the shape alone. It reads the text into a tree that knows
//! its places (`yaml`), compares the tree with the JSON Schema of the types (`check`), takes out
//! what is wrong, and fills the types (`schema`) with the rest, so that whoever checks their meaning
//! can report in the same run. `report` tells the mistakes.

pub mod check;
pub mod compile;
mod de;
pub mod discovered;
pub mod json_schema;
pub mod live;
pub mod load;
pub mod members;
pub mod report;
pub mod schema;
mod shape;
pub mod snapshot;
pub mod units;
pub mod watch;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use check::{Parsed, parse};
pub use json_schema::json_schema;
pub use report::{Mistake, Path, Where, render};
pub use yaml::Source;
