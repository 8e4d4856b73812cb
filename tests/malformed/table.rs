//! The cases of malformed HTTP/1, from tables.

pub struct Case {
    /// Its line in the table.
    pub name: String,
    pub status: u16,
    pub reason: String,
    pub bytes: Vec<u8>,
}

/// The cases of `malformed/http1.txt`, and those that are too long for a table.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = lines(include_str!("http1.txt"))
        .map(|(line, words, bytes)| Case {
            name: line.to_owned(),
            status: words[1].parse().expect("a status"),
            reason: words[2].to_owned(),
            bytes: formed(words[3], &bytes),
        })
        .collect();
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = |form, text: String, status, reason: &str| Case {
        name: format!("{form} {text:.20}... {reason}"),
        status,
        reason: reason.to_owned(),
        bytes: formed(form, text.trim_end().as_bytes()),
    };
    cases.extend([
        long("fields", many, 431, "too_many_fields"), // L16
        long("fields", format!("x: {}", "a".repeat(450_000)), 431, "head_too_large"), // L17
        long("target", format!("/{}", "a".repeat(65_535)), 414, "target_too_long"), // L18
        long("raw", "M".repeat(33) + " /bad HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_too_long"),
    ]);
    cases
}

/// The lines of a table: each whole, the words before `|`, and the bytes behind it.
pub fn lines(table: &str) -> impl Iterator<Item = (&str, Vec<&str>, Vec<u8>)> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (words, bytes) = line.split_once('|').expect("a bar");
        (line, words.split_whitespace().collect(), unescaped(bytes))
    })
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, tail) = tail.split_first().expect("an escape");
        rest = tail;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let (digits, tail) = tail.split_at(2);
                rest = tail;
                let digits = std::str::from_utf8(digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("digits")
            }
            other => panic!("\\{}", *other as char),
        });
    }
    bytes
}

pub fn formed(form: &str, bytes: &[u8]) -> Vec<u8> {
    let (before, after) = match form {
        "post" => ("POST /bad HTTP/1.1\r\nHost: a\r\n", "\r\n\r\nhello"),
        "fields" => ("GET /bad HTTP/1.1\r\nHost: a\r\n", "\r\n\r\n"),
        "target" => ("GET ", " HTTP/1.1\r\nHost: a\r\n\r\n"),
        "host" => ("GET /bad HTTP/1.1\r\nHost: ", "\r\n\r\n"),
        "raw" => ("", ""),
        other => panic!("{other}"),
    };
    [before.as_bytes(), bytes, after.as_bytes()].concat()
}
