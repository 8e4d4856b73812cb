//! The one form of a path: what policies and routes see, and what is forwarded.

use std::borrow::Cow;

/// Why a path has no safe form. All are a 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    #[error("it does not begin with `/`")]
    NotAbsolute,
    #[error("`%` is not followed by two hexadecimal digits")]
    InvalidEncoding,
    #[error("it contains an encoded NUL (`%00`)")]
    Nul,
    /// `%2f`, `%5c`: some servers take them for separators, others for data.
    #[error("it contains an encoded slash or backslash (`%2f`, `%5c`)")]
    EncodedSeparator,
    #[error("it contains a backslash")]
    Backslash,
}

/// Brings a path to the form in which equal paths are equal bytes (RFC 3986 6.2.2):
///
/// - percent-encoded unreserved characters are decoded, once: `%41` is `A`, `%2541` stays;
/// - other percent-encodings get upper-case digits;
/// - repeated slashes are merged;
/// - then dot segments are removed (RFC 3986 5.2.4), `%2e` included; above the root is the root.
///
/// The empty path is `/`; `*` (of `OPTIONS`) stays. Borrowed if nothing is to be changed.
///
/// # Errors
/// For what the servers behind us could understand in more than one way.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(path.as_bytes())? {
        Ok(Cow::Borrowed(path))
    } else {
        rewrite(path).map(Cow::Owned)
    }
}

/// Whether `rewrite` would change nothing. An error is one of the whole path; none is not yet a
/// promise, since the scan ends at the first thing to change.
fn is_normal(path: &[u8]) -> Result<bool, PathError> {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += match byte {
            b'/' if is_odd_segment(&path[at + 1..]) => return Ok(false),
            b'\\' => return Err(PathError::Backslash),
            b'%' => match decode(&path[at + 1..])? {
                Decoded::Plain(_) => return Ok(false),
                Decoded::Kept(high, low) if path[at + 1..at + 3] != [high, low] => {
                    return Ok(false);
                }
                Decoded::Kept(..) => 3,
            },
            _ => 1,
        };
    }
    Ok(true)
}

/// Whether the segment that `rest` begins with is empty, but not the last, or a dot segment.
fn is_odd_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

fn rewrite(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        push_decoded(&mut out, segment)?;
        let drop_to = match &out[start + 1..] {
            "" | "." => start,
            ".." => out[..start].rfind('/').unwrap_or(0),
            _ => continue,
        };
        out.truncate(drop_to);
        // `/a/`, `/a/.` and `/a/b/..` name what is inside of `a`.
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(out)
}

fn push_decoded(out: &mut String, segment: &str) -> Result<(), PathError> {
    let mut rest = segment;
    while let Some(at) = rest.find(['%', '\\']) {
        out.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'\\' {
            return Err(PathError::Backslash);
        }
        match decode(&rest.as_bytes()[at + 1..])? {
            Decoded::Plain(byte) => out.push(char::from(byte)),
            Decoded::Kept(high, low) => out.extend(['%', char::from(high), char::from(low)]),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(())
}

enum Decoded {
    /// An unreserved character.
    Plain(u8),
    /// Anything else, by its two digits in upper case.
    Kept(u8, u8),
}

/// `digits` is what follows a `%`.
fn decode(digits: &[u8]) -> Result<Decoded, PathError> {
    let (Some(high), Some(low)) = (hex(digits.first()), hex(digits.get(1))) else {
        return Err(PathError::InvalidEncoding);
    };
    match high << 4 | low {
        0 => Err(PathError::Nul),
        b'/' | b'\\' => Err(PathError::EncodedSeparator),
        byte @ (b'-' | b'.' | b'_' | b'~') => Ok(Decoded::Plain(byte)),
        byte if byte.is_ascii_alphanumeric() => Ok(Decoded::Plain(byte)),
        _ => Ok(Decoded::Kept(digits[0].to_ascii_uppercase(), digits[1].to_ascii_uppercase())),
    }
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: Option<&u8>) -> Option<u8> {
    match *digit? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brings_paths_to_one_form() {
        for (raw, normal) in [
            ("", "/"),
            ("/", "/"),
            ("*", "*"),
            ("//", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/a/", "/a/"),
            ("/a//b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/../b", "/b"),
            ("/../../a", "/a"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%2e", "/"),
            ("/.well-known", "/.well-known"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
            ("/a/..;/b", "/a/..;/b"),
            ("/%41%7a%30%7E", "/Az0~"),
            ("/%2541", "/%2541"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25%34%31", "/%2541"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/%c0%ae", "/%C0%AE"),
            ("/%0d%0a", "/%0D%0A"),
            ("/é/./%41", "/é/A"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for (raw, error) in [
            ("a", PathError::NotAbsolute),
            ("**", PathError::NotAbsolute),
            ("/%", PathError::InvalidEncoding),
            ("/%4", PathError::InvalidEncoding),
            ("/%zz", PathError::InvalidEncoding),
            ("/%4/1", PathError::InvalidEncoding),
            ("/%é", PathError::InvalidEncoding),
            ("/a/../%%41", PathError::InvalidEncoding),
            ("/%00", PathError::Nul),
            ("/./%00", PathError::Nul),
            ("/a%2fb", PathError::EncodedSeparator),
            ("/a%2Fb", PathError::EncodedSeparator),
            ("//a%5cb", PathError::EncodedSeparator),
            ("/a%5Cb", PathError::EncodedSeparator),
            ("/a\\b", PathError::Backslash),
            ("/%41\\b", PathError::Backslash),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn borrows_what_is_normal() {
        for path in ["/", "*", "/a/b/", "/a%20b/%C3%A9", "/.well-known/x..y/..."] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn deep_paths_take_linear_time() {
        let up = "/a".repeat(300_000) + &"/..".repeat(300_000);
        assert_eq!(normalise(&up).as_deref(), Ok("/"));
        let slashes = "/".repeat(1_000_000);
        assert_eq!(normalise(&slashes).as_deref(), Ok("/"));
    }

    fn wild_path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", ".", "..", "%2e", "%2E", "a", "B", "%41", "%", "%2", "25", "%25", "%2f",
            "%c3", "é", "\\", "%00", "%20", ";", "*",
        ]);
        let start = prop::sample::select(vec!["/", "/", "/", "/", ""]);
        (start, prop::collection::vec(piece, 0..12))
            .prop_map(|(start, pieces)| start.to_string() + &pieces.concat())
    }

    /// The definition of RFC 3986 5.2.4, on segments, after one decoding.
    fn by_definition(path: &str) -> String {
        let decoded = path.replace("%2e", ".").replace("%2E", ".").replace("%41", "A");
        let segments: Vec<&str> = decoded.split('/').collect();
        let mut kept: Vec<&str> = Vec::new();
        for segment in &segments {
            match *segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                name => kept.push(name),
            }
        }
        let directory = matches!(segments.last(), Some(&("" | "." | "..")));
        let end = if directory && !kept.is_empty() { "/" } else { "" };
        format!("/{}{end}", kept.join("/"))
    }

    proptest! {
        #[test]
        fn normal_paths_are_safe_and_stay_as_they_are(path in wild_path()) {
            let Ok(normal) = normalise(&path) else { return Ok(()) };
            prop_assert_eq!(normalise(&normal), Ok(normal.clone()));
            prop_assert!(matches!(normalise(&normal), Ok(Cow::Borrowed(_))));
            let closed = format!("{normal}/");
            prop_assert!(!closed.contains("/../") && !closed.contains("/./"), "{}", normal);
            prop_assert!(!normal.contains("//") && !normal.contains('\\'), "{}", normal);
            prop_assert!(!normal.to_lowercase().contains("%2e"), "{}", normal);
            prop_assert!(normal.starts_with('/') || normal == "*");
        }

        #[test]
        fn does_what_the_definition_says(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["/", "/", ".", "..", "%2e", "%2E", "a", "b", "%41", "%C3"]),
                0..12,
            ),
        ) {
            let path = format!("/{}", pieces.concat());
            prop_assert_eq!(normalise(&path).unwrap(), by_definition(&path));
        }

        #[test]
        fn never_panics(path in any::<String>()) {
            let _ = normalise(&format!("/{path}"));
        }
    }
}
