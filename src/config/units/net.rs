//! Units that name a place: addresses, networks, services, files.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::super::report::quote;
use super::{Invalid, Unit, unit};

/// Where an endpoint is: `10.0.0.1:3001`, `[::1]:80`, `users.local:80`, `unix:/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and its port, which is never 0.
    Socket(SocketAddr),
    /// A name to be resolved, in lower case, and a port, which is never 0.
    Name {
        /// Host name without its port.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// An absolute path of a Unix domain socket.
    Unix(PathBuf),
}
unit!(Address);

/// `sun_path` has 108 bytes, the last of them zero.
const LONGEST_SOCKET_PATH: usize = 107;

impl Unit for Address {
    const FORMAT: &'static str = "pilotfish-address";
    const NOUN: &'static str = "an address like `10.0.0.1:3001`, `name:80` or `unix:/run/app.sock`";
    const PATTERN: &'static str = r"^(unix:/.+|\[[0-9a-fA-F:.]+\]:[0-9]+|[A-Za-z0-9._-]+:[0-9]+)$";
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_address(text, path);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let rest = rest.trim_end_matches('/');
            return Err(Invalid::new(
                format!("{} is a URL, not an address", quote(text)),
                format!("leave out the {}: {}", quote(&format!("{scheme}://")), quote(rest)),
            ));
        }
        if let Some(ip) = unbracketed(text) {
            return Err(ip);
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Err(Invalid::new(
                format!("{} has no port", quote(text)),
                format!("write `{}`", SocketAddr::new(ip, 80)),
            ));
        }
        let (host, port) = host_and_port(text)?;
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(socket));
        }
        if !is_host_name(host) {
            return Err(not_an_address(text));
        }
        Ok(Self::Name { host: host.to_ascii_lowercase(), port })
    }
}

fn unix_address(text: &str, path: &str) -> Result<Address, Invalid> {
    if !path.starts_with('/') {
        let path = path.trim_start_matches("./");
        return Err(Invalid::new(
            format!("{} is not an absolute path", quote(text)),
            format!("write the path from the root: {}", quote(&format!("unix:/{path}"))),
        ));
    }
    if path.len() > LONGEST_SOCKET_PATH || path.contains('\0') {
        return Err(Invalid::new(
            format!("{} is not the path of a socket", quote(text)),
            format!("the system takes at most {LONGEST_SOCKET_PATH} bytes"),
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn not_an_address(text: &str) -> Invalid {
    Invalid::new(
        format!("{} is not an address", quote(text)),
        "write `10.0.0.1:3001`, `[::1]:3001`, `name:3001` or `unix:/run/app.sock`",
    )
}

/// `::1:80` could be an address without a port as well as one with it.
fn unbracketed(text: &str) -> Option<Invalid> {
    let (host, port) = text.rsplit_once(':')?;
    let (ip, port) = (host.parse::<Ipv6Addr>().ok()?, port.parse::<u16>().ok()?);
    Some(Invalid::new(
        format!("{} is ambiguous", quote(text)),
        format!("put an IPv6 address in brackets: `[{ip}]:{port}`"),
    ))
}

fn host_and_port(text: &str) -> Result<(&str, u16), Invalid> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            Invalid::new(
                format!("{} is only a port", quote(text)),
                format!("write `127.0.0.1:{text}`"),
            )
        } else if is_host_name(text) {
            Invalid::new(
                format!("{} has no port", quote(text)),
                format!("write {}", quote(&format!("{text}:80"))),
            )
        } else {
            not_an_address(text)
        });
    };
    if host.is_empty() {
        return Err(not_an_address(text));
    }
    Ok((host, port.parse::<Port>().map_err(|error| bad_port(text, &error))?.0))
}

fn bad_port(text: &str, error: &Invalid) -> Invalid {
    Invalid::new(format!("{}: {}", quote(text), error.message), error.help.clone())
}

/// Letters, digits, `-`, `_` in labels, as resolvers take them (RFC 1123 and the underscore that
/// service names use).
pub(super) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        // `300.0.0.1` is a mistyped IP address rather than a name.
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => write!(f, "{socket}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where we listen: `127.0.0.1:15001`, or `15006` alone for all addresses, v4 and v6. Port 0
/// lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen(pub SocketAddr);
unit!(Listen);

impl Unit for Listen {
    const FORMAT: &'static str = "pilotfish-listen";
    const NOUN: &'static str = "an address to listen on like `127.0.0.1:15001`, or a port alone";
    const PATTERN: &'static str = r"^([0-9]+|[0-9.]+:[0-9]+|\[[0-9a-fA-F:.]+\]:[0-9]+)$";
    const OR_TYPE: Option<&'static str> = Some("integer");
}

impl FromStr for Listen {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = |port| Self(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse::<u16>().map(all).map_err(|_| out_of_range(text));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self(socket));
        }
        if let Some(ambiguous) = unbracketed(text) {
            return Err(ambiguous);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Err(Invalid::new(
                format!("{} has no port", quote(text)),
                format!("write `{}`", SocketAddr::new(ip, 15006)),
            ));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let help = match (host, port.parse::<u16>()) {
            ("" | "*", Ok(port)) => format!("write `{port}` alone for all addresses"),
            ("localhost", Ok(port)) => format!("write `127.0.0.1:{port}` or `[::1]:{port}`"),
            _ => "write an IP address and a port, `127.0.0.1:15001`, or a port alone".to_owned(),
        };
        Err(Invalid::new(format!("{} is not an address to listen on", quote(text)), help))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of IP addresses: `10.0.0.0/8`; one address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub ipnet::IpNet);
unit!(Cidr);

impl Unit for Cidr {
    const FORMAT: &'static str = "pilotfish-cidr";
    const NOUN: &'static str = "a range of addresses like `10.0.0.0/8`";
    const PATTERN: &'static str = r"^[0-9a-fA-F:.]+(/[0-9]+)?$";
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(net) = text.parse::<ipnet::IpNet>() {
            return Ok(Self(net.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(ip.into()));
        }
        let help = match text.split_once('/').and_then(|(ip, _)| ip.parse::<IpAddr>().ok()) {
            Some(IpAddr::V4(_)) => "the length of an IPv4 prefix is 0 to 32: `10.0.0.0/8`",
            Some(IpAddr::V6(_)) => "the length of an IPv6 prefix is 0 to 128: `fd00::/8`",
            None => "write `10.0.0.0/8`, `fd00::/8` or one address",
        };
        Err(Invalid::new(format!("{} is not a range of addresses", quote(text)), help))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a service, in lower case whatever was typed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);
unit!(Name);

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Unit for Name {
    const FORMAT: &'static str = "pilotfish-name";
    const NOUN: &'static str = "the name of a service like `user-service`";
    const PATTERN: &'static str = r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$";
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        if text.len() > 253 {
            return Err(Invalid::new(
                format!("{} is too long for a name", quote(text)),
                "a name has at most 253 characters",
            ));
        }
        if !bytes.iter().copied().all(good) || !ends(bytes.first()) || !ends(bytes.last()) {
            return Err(Invalid::new(
                format!("{} is not a name of a service", quote(text)),
                "use letters, digits, `-`, `.` and `_`; a letter or digit first and last",
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP port that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);
unit!(Port);

impl Unit for Port {
    const FORMAT: &'static str = "pilotfish-port";
    const NOUN: &'static str = "a port from 1 to 65535";
    const PATTERN: &'static str = "^[0-9]+$";
    const OR_TYPE: Option<&'static str> = Some("integer");
}

fn out_of_range(text: &str) -> Invalid {
    Invalid::new(format!("{} is not a port", quote(text)), "a port is a number from 1 to 65535")
}

impl FromStr for Port {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // `u16::from_str` would take `+80`.
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u16>() {
            Ok(port) if port > 0 && digits => Ok(Self(port)),
            _ => Err(out_of_range(text)),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a Redis is: `redis://10.0.0.1:6379` or `unix:/run/redis.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisAddress(pub Address);
unit!(RedisAddress);

const REDIS_PORT: u16 = 6379;

impl Unit for RedisAddress {
    const FORMAT: &'static str = "pilotfish-redis-address";
    const NOUN: &'static str = "a Redis like `redis://10.0.0.1:6379` or `unix:/run/redis.sock`";
    const PATTERN: &'static str =
        r"^(unix:/.+|(redis://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?/?)$";
}

impl FromStr for RedisAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("unix:") {
            return text.parse().map(Self);
        }
        if let Some(rest) = text.strip_prefix("rediss://") {
            return Err(Invalid::new(
                "TLS to Redis is not there yet",
                format!("write {}", quote(&format!("redis://{rest}"))),
            ));
        }
        let rest = text.strip_prefix("redis://").unwrap_or(text);
        if let Some((_, host)) = rest.rsplit_once('@') {
            // What stands before it is not repeated: it is a secret.
            return Err(Invalid::new(
                "a password does not belong in an address",
                format!("write `redis://{host}`, and give `username` and `password_file`"),
            ));
        }
        let rest = match rest.split_once('/') {
            None | Some((_, "")) => rest.trim_end_matches('/'),
            Some((host, database)) => {
                return Err(Invalid::new(
                    format!("{} is more than an address", quote(text)),
                    format!("write `redis://{host}`, and give `database: {database}`"),
                ));
            }
        };
        let has_port = !rest.ends_with(']') && rest.contains(':');
        let address = if has_port { rest.to_owned() } else { format!("{rest}:{REDIS_PORT}") };
        address.parse().map(Self)
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Unix(_) => self.0.fmt(f),
            _ => write!(f, "redis://{}", self.0),
        }
    }
}

/// Where a log goes: `stdout` or the absolute path of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogPath {
    /// Standard output.
    Stdout,
    /// An absolute path.
    File(PathBuf),
}
unit!(LogPath);

impl Unit for LogPath {
    const FORMAT: &'static str = "pilotfish-log-path";
    const NOUN: &'static str = "`stdout` or a file like `/var/log/access.log`";
    const PATTERN: &'static str = "^(stdout|/.+)$";
}

impl FromStr for LogPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "stdout" | "/dev/stdout" => Ok(Self::Stdout),
            _ if Path::new(text).is_absolute() && !text.ends_with('/') => {
                Ok(Self::File(PathBuf::from(text)))
            }
            _ => Err(Invalid::new(
                format!("{} is not a place for a log", quote(text)),
                "write `stdout`, or the whole path of a file: `/var/log/access.log`",
            )),
        }
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
