//! How an attempt can end, as it is listed: `5xx`, `503`, `connect_failure`, `unavailable`.

use std::fmt;
use std::str::FromStr;

use super::super::report::{closest, quote};
use super::{Invalid, Unit, unit};
use crate::policy::{Conditions, GRPC_NAMES};

/// A status, a class of them, a gRPC status by its name, or the lack of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    kind: Kind,
}
unit!(Condition);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Status(u16),
    /// The first digit.
    Class(u16),
    Grpc(u16),
    /// 502, 503, 504.
    GatewayError,
    ConnectFailure,
    RefusedStream,
    Reset,
    Timeout,
}

const NAMES: [(&str, Kind); 5] = [
    ("gateway_error", Kind::GatewayError),
    ("connect_failure", Kind::ConnectFailure),
    ("refused_stream", Kind::RefusedStream),
    ("reset", Kind::Reset),
    ("timeout", Kind::Timeout),
];

impl Condition {
    pub fn add_to(&self, set: &mut Conditions) {
        match self.kind {
            Kind::Status(status) => set.add_statuses([status]),
            Kind::Class(digit) => set.add_statuses(digit * 100..digit * 100 + 100),
            Kind::Grpc(code) => set.add_grpc(code),
            Kind::GatewayError => set.add_statuses([502, 503, 504]),
            Kind::ConnectFailure => set.connect_failure = true,
            Kind::RefusedStream => set.refused_stream = true,
            Kind::Reset => set.reset = true,
            Kind::Timeout => set.timeout = true,
        }
    }
}

impl Unit for Condition {
    const FORMAT: &'static str = "pilotfish-condition";
    const NOUN: &'static str =
        "how an attempt ends, as `5xx`, `503`, `connect_failure` or, of gRPC, `unavailable`";
    const PATTERN: &'static str = "^([1-5]xx|[1-5][0-9][0-9]|[a-z_]+)$";
    const OR_TYPE: Option<&'static str> = Some("integer");
}

impl FromStr for Condition {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let class = || text.strip_suffix("xx")?.parse::<u16>().ok().map(Kind::Class);
        let status = || text.parse::<u16>().ok().map(Kind::Status);
        let named = || NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        let grpc =
            || GRPC_NAMES.iter().position(|name| *name == text).map(|at| Kind::Grpc(at as u16));
        let kind = class().or_else(status).or_else(named).or_else(grpc);
        match kind {
            Some(kind @ (Kind::Class(1..=5) | Kind::Status(100..=599))) => Ok(Self { kind }),
            Some(Kind::Class(_) | Kind::Status(_)) => Err(Invalid::new(
                format!("{} is not a status", quote(text)),
                "statuses go from 100 to 599, classes from `1xx` to `5xx`",
            )),
            Some(kind) => Ok(Self { kind }),
            None => {
                let names = NAMES.iter().map(|(name, _)| *name).chain(GRPC_NAMES);
                let help = match closest(text, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "write a status (`503`, `5xx`), one of {}, or a gRPC status (`unavailable`)",
                        NAMES.map(|(name, _)| format!("`{name}`")).join(", ")
                    ),
                };
                Err(Invalid::new(format!("{} is not how an attempt can end", quote(text)), help))
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Status(status) => write!(f, "{status}"),
            Kind::Class(digit) => write!(f, "{digit}xx"),
            Kind::Grpc(code) => f.write_str(GRPC_NAMES[usize::from(code)]),
            kind => {
                let name = NAMES.iter().find(|(_, named)| *named == kind);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}
