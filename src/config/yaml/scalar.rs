//! What a plain scalar is (YAML 1.2.2, section 10.3.2, the core schema).

use super::Kind;

/// `off`, `yes` and `no` are text here, as they are not in YAML 1.1.
pub(super) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    number(text).unwrap_or_else(|| Kind::String(text.to_owned()))
}

fn number(text: &str) -> Option<Kind> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        let infinity = if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY };
        return Some(Kind::Float(infinity));
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let well_formed = digits(whole)
        && fraction.is_none_or(digits)
        && !(whole.is_empty() && fraction.is_none_or(str::is_empty))
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix(['-', '+']).unwrap_or(e);
            !e.is_empty() && digits(e)
        });
    if !well_formed {
        return None;
    }
    if fraction.is_none()
        && exponent.is_none()
        && let Ok(int) = text.parse()
    {
        return Some(Kind::Int(int));
    }
    text.parse().ok().map(Kind::Float)
}

fn radix(digits: &str, radix: u32) -> Option<Kind> {
    let proper = digits.chars().all(|c| c.is_digit(radix));
    let int = i128::from_str_radix(digits, radix).ok()?;
    proper.then_some(Kind::Int(int))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_schema() {
        for (text, kind) in [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("null", Kind::Null),
            ("True", Kind::Bool(true)),
            ("false", Kind::Bool(false)),
            ("0", Kind::Int(0)),
            ("-19", Kind::Int(-19)),
            ("+12", Kind::Int(12)),
            ("0o14", Kind::Int(12)),
            ("0x1F", Kind::Int(31)),
            ("012", Kind::Int(12)),
            ("0.2", Kind::Float(0.2)),
            (".5", Kind::Float(0.5)),
            ("1.", Kind::Float(1.0)),
            ("12e03", Kind::Float(12_000.0)),
            ("-2E+2", Kind::Float(-200.0)),
            ("-.inf", Kind::Float(f64::NEG_INFINITY)),
            (
                "999999999999999999999999999999999999999999",
                Kind::Float(999_999_999_999_999_999_999_999_999_999_999_999_999_999.0),
            ),
        ] {
            assert_eq!(resolve(text), kind, "{text}");
        }
        assert!(matches!(resolve(".nan"), Kind::Float(f) if f.is_nan()));
    }

    #[test]
    fn what_is_text() {
        for text in [
            "off",
            "yes",
            "No",
            "on",
            "nul",
            "1.2.3",
            "10.0.0.1",
            "10s",
            "0x",
            "0xg",
            "0x-1",
            "-",
            ".",
            "e3",
            "1e",
            "1e+",
            "infinity",
            "NaN",
            "nan",
            "20%",
            "1_000",
            "12:30:45",
            "0b1",
            ".e3",
            "inf",
            "2026-11-22",
            "--1",
            "+-1",
        ] {
            assert_eq!(resolve(text), Kind::String(text.to_owned()), "{text}");
        }
    }
}
