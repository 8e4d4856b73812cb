//! How long an answer is waited for before another endpoint is asked: `100ms`, `p95`.

use std::fmt;
use std::str::FromStr;

use super::super::report::quote;
use super::{Duration, Invalid, Unit, unit};
use crate::policy::percentile::{HIGHEST, LOWEST};

/// A duration, or a percentile of the latencies of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeDelay {
    Time(Duration),
    /// From [`LOWEST`] to [`HIGHEST`].
    Percentile(u8),
}
unit!(HedgeDelay);

impl Unit for HedgeDelay {
    const FORMAT: &'static str = "pilotfish-hedge-delay";
    const NOUN: &'static str = "a duration like `100ms`, or a percentile like `p95`";
    const PATTERN: &'static str = r"^(p[0-9]+|([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+)$";
}

impl FromStr for HedgeDelay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some(number) = text.strip_prefix(['p', 'P']) else {
            return text.parse().map(Self::Time).map_err(|invalid: Invalid| {
                let help = format!("{}; or a percentile, as `p95`", invalid.help);
                Invalid { help, ..invalid }
            });
        };
        match number.parse() {
            Ok(percentile @ LOWEST..=HIGHEST) => Ok(Self::Percentile(percentile)),
            _ => Err(Invalid::new(
                format!("{} is none of the percentiles", quote(text)),
                format!("they go from `p{LOWEST}` to `p{HIGHEST}`: `p95`"),
            )),
        }
    }
}

impl fmt::Display for HedgeDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => time.fmt(f),
            Self::Percentile(percentile) => write!(f, "p{percentile}"),
        }
    }
}
