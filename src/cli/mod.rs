//! What the command line asks of a proxy that runs.

pub mod endpoints;
