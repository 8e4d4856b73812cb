//! Units that count: time, bytes, shares.

use std::fmt;
use std::str::FromStr;
use std::time;

use super::super::report::quote;
use super::{Invalid, Unit, unit};

/// A length of time: `250ms`, `10s`, `5m`, `1m30s`, `1.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);
unit!(Duration);

/// Name and microseconds, from the longest: the order in which they may follow each other.
const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Timers take no more, and nobody means more.
pub(super) const LONGEST_MICROS: u64 = 3650 * 86_400_000_000;

impl Unit for Duration {
    const FORMAT: &'static str = "pilotfish-duration";
    const NOUN: &'static str = "a duration like `250ms`, `10s` or `1m30s`";
    const PATTERN: &'static str = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+$";
}

impl FromStr for Duration {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut rest = text;
        let mut micros = 0_u64;
        let mut allowed = &TIME_UNITS[..];
        loop {
            let (number, after) = split_number(rest);
            let (unit, after) =
                after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
            if number.is_empty() {
                return Err(not_a_duration(text));
            }
            let Some(at) = TIME_UNITS.iter().position(|(name, _)| *name == unit) else {
                return Err(unknown_time_unit(text, number, unit));
            };
            let Some(place) = allowed.iter().position(|(name, _)| *name == unit) else {
                return Err(Invalid::new(
                    format!("{} is not a duration: its units are out of order", quote(text)),
                    "write each unit once, the longest first: `1h30m`",
                ));
            };
            allowed = &allowed[place + 1..];
            micros = scaled(number, TIME_UNITS[at].1)
                .and_then(|part| micros.checked_add(part))
                .filter(|&sum| sum <= LONGEST_MICROS)
                .ok_or_else(|| {
                    Invalid::new(
                        format!("{} is too long a duration", quote(text)),
                        "the longest is `3650d`",
                    )
                })?;
            rest = after;
            if rest.is_empty() {
                return Ok(Self(time::Duration::from_micros(micros)));
            }
        }
    }
}

/// A [`Duration`] in which something can happen: at least a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub time::Duration);
unit!(Period);

impl Unit for Period {
    const FORMAT: &'static str = "pilotfish-period";
    const NOUN: &'static str = Duration::NOUN;
    const PATTERN: &'static str = Duration::PATTERN;
}

impl FromStr for Period {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Duration(time) = text.parse()?;
        if time < time::Duration::from_millis(1) {
            return Err(Invalid::new(
                format!("{} is too short a time", quote(text)),
                "write at least `1ms`; for none at all some keys have `off`",
            ));
        }
        Ok(Self(time))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Duration(self.0).fmt(f)
    }
}

fn not_a_duration(text: &str) -> Invalid {
    Invalid::new(
        format!("{} is not a duration", quote(text)),
        "write a number and its unit: `250ms`, `10s`, `5m`, `1h30m`",
    )
}

fn unknown_time_unit(text: &str, number: &str, unit: &str) -> Invalid {
    let meant = match unit.trim().to_lowercase().as_str() {
        "d" | "day" | "days" => Some("d"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "" | "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => Some("ms"),
        "µs" | "us" | "micros" => Some("us"),
        _ => None,
    };
    let message = if unit.is_empty() {
        format!("{} is not a duration: it has no unit", quote(text))
    } else {
        format!("{} is not a duration: {} is not a unit", quote(text), quote(unit.trim()))
    };
    match meant {
        Some(meant) if text.len() == number.len() + unit.len() => {
            Invalid::new(message, format!("write `{number}{meant}`; units are us, ms, s, m, h, d"))
        }
        _ => Invalid::new(message, "units are us, ms, s, m, h, d: `250ms`, `10s`, `1m30s`"),
    }
}

/// Splits off leading digits with at most one point among them.
fn split_number(text: &str) -> (&str, &str) {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits(text);
    if end > 0 && text[end..].starts_with('.') {
        let fraction = digits(&text[end + 1..]);
        if fraction > 0 {
            end += 1 + fraction;
        }
    }
    text.split_at(end)
}

/// `number * scale` without a float, so that `0.1s` is exact. `None`: out of range.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        sum = sum.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(sum)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        // Days are read but not written: `36h` is as clear as `1d12h`.
        for (name, scale) in &TIME_UNITS[1..] {
            if rest >= *scale {
                write!(f, "{}{name}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

/// A number of bytes: `64KiB`, `10MB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);
unit!(Size);

const SIZE_UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Unit for Size {
    const FORMAT: &'static str = "pilotfish-size";
    const NOUN: &'static str = "a size like `64KiB` or `10MB`, or a number of bytes";
    const PATTERN: &'static str = r"^[0-9]+(B|kB|KB|KiB|MB|MiB|GB|GiB)?$";
    const OR_TYPE: Option<&'static str> = Some("integer");
}

impl FromStr for Size {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const UNITS: &str = "units are B, KB, KiB, MB, MiB, GB, GiB: `64KiB`, `10MB`";
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(Invalid::new(format!("{} is not a size", quote(text)), UNITS));
        }
        let scale = match unit {
            "" => Some(1),
            _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale),
        };
        let Some(scale) = scale else {
            let message = if unit.starts_with('.') {
                format!("{} is not a size: it is no whole number", quote(text))
            } else {
                format!("{} is not a size: {} is not a unit", quote(text), quote(unit.trim()))
            };
            let bare: String = unit.trim().to_lowercase();
            let meant = SIZE_UNITS.iter().map(|(name, _)| *name).find(|name| {
                let name = name.to_lowercase();
                name == bare || name.strip_suffix('b') == Some(bare.as_str())
            });
            return Err(match meant {
                Some(meant) => Invalid::new(message, format!("write `{number}{meant}`")),
                None => Invalid::new(message, UNITS),
            });
        };
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).map(Self).ok_or_else(|| {
            Invalid::new(format!("{} is too big a size", quote(text)), "write `off` or less")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits =
            SIZE_UNITS.iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        match fits {
            Some((name, scale)) if *scale > 1 => write!(f, "{}{name}", self.0 / scale),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// A share from 0 to 1: `20%`, `0.2`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(pub f64);
unit!(Ratio);

impl Unit for Ratio {
    const FORMAT: &'static str = "pilotfish-ratio";
    const NOUN: &'static str = "a ratio like `20%` or `0.2`";
    const PATTERN: &'static str = r"^[0-9]*\.?[0-9]+%?$";
    const OR_TYPE: Option<&'static str> = Some("number");
}

impl FromStr for Ratio {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let Some(value) = decimal(number) else {
            return Err(Invalid::new(
                format!("{} is not a ratio", quote(text)),
                "write a share from 0% to 100%: `20%` or `0.2`",
            ));
        };
        let ratio = if percent { value / 100.0 } else { value };
        if ratio > 1.0 {
            let help = if !percent && value <= 100.0 {
                format!("write `{number}%`, or a number from 0 to 1")
            } else {
                "write a share from 0% to 100%".to_owned()
            };
            return Err(Invalid::new(format!("{} is more than the whole", quote(text)), help));
        }
        Ok(Self(ratio))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A plain decimal number: no sign, no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let spelled = text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && text.ends_with(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|_| spelled)
}

/// A multiple above 1, up to 10: `125%`, `1.25`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Factor(pub f64);
unit!(Factor);

impl Unit for Factor {
    const FORMAT: &'static str = "pilotfish-factor";
    const NOUN: &'static str = "a factor like `125%` or `1.25`";
    const PATTERN: &'static str = r"^[0-9]*\.?[0-9]+%?$";
    const OR_TYPE: Option<&'static str> = Some("number");
}

impl FromStr for Factor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const RANGE: &str = "write more than 100%, at most 1000%: `125%` or `1.25`";
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let Some(value) = decimal(number) else {
            return Err(Invalid::new(format!("{} is not a factor", quote(text)), RANGE));
        };
        let factor = if percent { value / 100.0 } else { value };
        if factor <= 1.0 {
            return Err(Invalid::new(format!("{} is not above the mean", quote(text)), RANGE));
        }
        if factor > 10.0 {
            let help = if !percent && factor > 100.0 && factor <= 1000.0 {
                format!("write `{number}%`, or a factor like `1.25`")
            } else {
                RANGE.to_owned()
            };
            return Err(Invalid::new(format!("{} is too high a factor", quote(text)), help));
        }
        Ok(Self(factor))
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number above 0, up to 100: `1.9`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Number(pub f64);
unit!(Number);

impl Unit for Number {
    const FORMAT: &'static str = "pilotfish-number";
    const NOUN: &'static str = "a number like `1.9` or `2`";
    const PATTERN: &'static str = r"^[0-9]*\.?[0-9]+$";
    const OR_TYPE: Option<&'static str> = Some("number");
}

impl FromStr for Number {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const RANGE: &str = "write a number above 0, at most 100: `1.9` or `2`";
        let Some(value) = decimal(text) else {
            return Err(Invalid::new(format!("{} is not a number", quote(text)), RANGE));
        };
        if value <= 0.0 || value > 100.0 {
            return Err(Invalid::new(format!("{} is out of range", quote(text)), RANGE));
        }
        Ok(Self(value))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
