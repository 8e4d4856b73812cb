use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;

use super::{Names, has_upper, is_same};

/// Where the names in a head are.
fn places(head: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    let lines: Vec<_> = head
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| {
            at += line.len();
            (at - line.len(), line)
        })
        .collect();
    let blank = |line: &[u8]| line.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    let start = lines.iter().position(|(_, line)| !blank(line)).unwrap_or(lines.len());
    let fields = lines.into_iter().skip(start + 1);
    fields
        .take_while(|(_, line)| !matches!(*line, b"\r\n" | b"\n"))
        .filter_map(|(at, line)| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            (colon > 0 && !matches!(line[0], b' ' | b'\t')).then_some(at..at + colon)
        })
        .collect()
}

fn names_of(head: &[u8]) -> Names {
    Names::collect(places(head).into_iter().map(|place| &head[place]))
}

/// A head whose names are written as in `names`.
fn restore(names: &Names, head: &mut [u8]) {
    let mut spelling = names.spelling();
    for place in places(head) {
        if let Some(name) = spelling.of(&head[place.clone()]) {
            head[place].copy_from_slice(name);
        }
    }
}

fn restored(names: &Names, head: &str) -> String {
    let mut head = head.as_bytes().to_vec();
    restore(names, &mut head);
    String::from_utf8(head).expect("text")
}

/// The head with its names in lower case.
fn lower(head: &[u8]) -> Vec<u8> {
    let mut head = head.to_vec();
    places(&head).into_iter().for_each(|place| head[place].make_ascii_lowercase());
    head
}

#[test]
fn names_get_their_case_back() {
    let head = "GET /Path?Q HTTP/1.1\r\nHost: A\r\nX-B3-TraceId: Ab\r\nETag:\"X\"\r\nsoap: Y\r\n\r\nBody: X";
    let names = names_of(head.as_bytes());
    assert!(!names.is_empty());
    assert_eq!(format!("{names:?}"), r#"["Host", "X-B3-TraceId", "ETag", "soap"]"#);
    let written = "GET /Path?Q HTTP/1.1\r\nhost: A\r\nx-b3-traceid: Ab\r\netag:\"X\"\r\nsoap: Y\r\n\r\nbody: X";
    assert_eq!(restored(&names, written), head.replace("Body", "body"));
}

#[test]
fn fields_may_come_go_and_move() {
    let names =
        names_of(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nX-A: 1\r\nX-Bb: 2\r\n\r\n");
    let written =
        "GET / HTTP/1.1\r\nnew: 1\r\nx-a: 1\r\nvia: q\r\nhost: a\r\nx-bb: 2\r\nx-cc: 3\r\n\r\n";
    let wanted =
        "GET / HTTP/1.1\r\nnew: 1\r\nX-A: 1\r\nvia: q\r\nHost: a\r\nX-Bb: 2\r\nx-cc: 3\r\n\r\n";
    assert_eq!(restored(&names, written), wanted);
}

#[test]
fn each_of_equal_names_gets_its_own_case() {
    let names = names_of(b"GET / HTTP/1.1\r\nx-a: 1\r\nHost: a\r\nX-A: 2\r\nX-a: 3\r\n\r\n");
    let lower = "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2\r\nx-a: 3\r\nx-a: 4\r\n\r\n";
    let found = restored(&names, lower);
    // The search goes on behind the host.
    assert_eq!(found, "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-a: 2\r\nx-a: 3\r\nX-A: 4\r\n\r\n");
    let grouped = "GET / HTTP/1.1\r\nx-a: 1\r\nx-a: 2\r\nx-a: 3\r\nhost: a\r\n\r\n";
    let found = restored(&names, grouped);
    assert_eq!(found, "GET / HTTP/1.1\r\nx-a: 1\r\nX-A: 2\r\nX-a: 3\r\nHost: a\r\n\r\n");
}

#[test]
fn spelling_is_asked_name_by_name() {
    let names = names_of(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nETag: 3\r\n\r\n");
    let mut spelling = names.spelling();
    let asked = ["etag", "x-a", "hosts", "x-a", "tage", "host", "x-forwarded-for"];
    let found = asked.map(|name| spelling.of(name.as_bytes()).unwrap_or(name.as_bytes()));
    let wanted = ["ETag", "X-A", "hosts", "x-a", "tage", "Host", "x-forwarded-for"];
    assert_eq!(found, wanted.map(str::as_bytes));
    assert_eq!(Names::default().spelling().of(b"host"), None);
}

#[test]
fn lower_case_keeps_nothing() {
    let names = names_of(b"GET /A HTTP/1.1\r\nhost: A\r\nx-a: B\r\n\r\nHost: x");
    assert!(names.is_empty() && names.0.is_none());
    let mut names = Names::default();
    names.add(b"host");
    assert!(names.is_empty());
    names.add(b"Te");
    assert!(!names.is_empty());
}

#[test]
fn names_of_any_length() {
    for len in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 127, 128, 129, 255, 256, 300, 0x7fff] {
        let name = format!("{}Z", "x".repeat(len - 1));
        let head = format!("GET / HTTP/1.1\r\na: b\r\n{name}: V\r\nQ: b\r\n\r\n");
        let names = names_of(head.as_bytes());
        assert_eq!(
            restored(
                &names,
                &head.to_lowercase().replace("get / http", "GET / HTTP").replace(": v", ": V")
            ),
            head
        );
    }
    // Too long to be recorded, which the others do not notice.
    let head = format!("GET / HTTP/1.1\r\n{}: b\r\nQ: b\r\n\r\n", "X".repeat(0x8000));
    assert!(
        restored(&names_of(head.as_bytes()), &head.to_lowercase())
            .ends_with("x: b\r\nQ: b\r\n\r\n")
    );
}

#[test]
fn case_is_of_letters_only() {
    // Pairs that differ in the same bit: only those of letters are the same.
    for byte in 0..=255_u8 {
        let name = [byte; 8];
        assert_eq!(has_upper(&name), byte.is_ascii_uppercase(), "{byte}");
        for other in 0..=255_u8 {
            for len in [1, 4, 8] {
                let other = [other; 8];
                let wanted = name.eq_ignore_ascii_case(&other);
                assert_eq!(is_same(&name[..len], &other[..len]), wanted, "{name:?} {other:?}");
            }
        }
    }
}

const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "Host: a\r\n",
    "host: B\r\n",
    "X-A:b\n",
    "x-a: C\r\n",
    "X-a:\r\n",
    "\r\n",
    "\n",
    "\r",
    ": x\r\n",
    " Fold: x\r\n",
    "NoColon\r\n",
    "A b: C\r\n",
    "Content-Length: 5\r\n",
    "\0Q\u{e9}Z: \0\r\n",
    "A",
    ":",
    " ",
    "Accept-Encoding-Which-Is-Longer: GZIP\r\n",
];

fn head() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(select(PIECES), 0..16)
            .prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..80),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_lowered_comes_back(head in head()) {
        let mut found = lower(&head);
        restore(&names_of(&head), &mut found);
        prop_assert_eq!(found.escape_ascii().to_string(), head.escape_ascii().to_string());
    }

    #[test]
    fn nothing_changes_but_the_case_of_names(head in head(), other in head()) {
        let mut found = other.clone();
        restore(&names_of(&head), &mut found);
        prop_assert_eq!(lower(&found).escape_ascii().to_string(), lower(&other).escape_ascii().to_string());
        // Alone in lower case, too, which is how a head is written here.
        let mut found = lower(&other);
        restore(&names_of(&head), &mut found);
        prop_assert_eq!(lower(&found), lower(&other));
    }

    #[test]
    fn comparison_is_that_of_ascii(a in "[!-~]{0,20}", flips in prop::collection::vec(any::<bool>(), 20)) {
        let flipped: Vec<u8> = a.bytes().zip(flips).map(|(byte, flip)| byte ^ u8::from(flip) << 5).collect();
        prop_assert_eq!(is_same(a.as_bytes(), &flipped), a.as_bytes().eq_ignore_ascii_case(&flipped));
        prop_assert_eq!(has_upper(a.as_bytes()), a.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
}
