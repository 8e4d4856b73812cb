//! From a request to bytes on an upstream connection: dialling and the pool of a worker.
//! Nothing here retries; [`crate::proxy::attempt`] owns that.

pub mod connect;
pub mod http1;
pub mod http2;
pub mod lease;
pub mod pool;

pub use connect::{ConnectError, ConnectErrorKind};
pub use lease::{Lease, Origin, ResponseBody, SendError};
pub use pool::{Pool, PoolLimits, Reuse, Wire};
