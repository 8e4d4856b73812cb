//! Bodies and the order of messages.

use crate::listen::guard::{HeadLimits, Messages, Rejection, Scan, Stop};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn scan(input: &str) -> Scan {
    Messages::default().scan(input.as_bytes(), &HeadLimits::default())
}

/// The body passes to its end, and so does the next head.
#[track_caller]
fn body_taken(body: &str) {
    let input = format!("{CHUNKED}{body}{PLAIN}");
    let mut messages = Messages::default();
    let found = messages.scan(input.as_bytes(), &HeadLimits::default());
    assert_eq!(found, Scan { pass: input.len(), stop: Stop::More }, "{body:?}");
    assert_eq!(messages.heads(), 2, "{body:?}");
}

/// `good` bytes of the body pass, no more.
#[track_caller]
fn body_broken(body: &str, good: usize, rejection: Rejection) {
    let found = scan(&format!("{CHUNKED}{body}"));
    let wanted = Scan { pass: CHUNKED.len() + good, stop: Stop::BadBody(rejection) };
    assert_eq!(found, wanted, "{body:?}");
}

#[test]
fn chunked_bodies() {
    body_taken("0\r\n\r\n");
    body_taken("5\r\nhello\r\n0\r\n\r\n");
    body_taken("a\r\n0123456789\r\nA;x=\"y z\"\r\n0123456789\r\n000\r\n\r\n");
    body_taken("0000000000000001\r\nx\r\n0\r\n\r\n");
    body_taken("1;a\tb\r\nx\r\n0;last\r\nx: y\r\nz:\r\n\r\n");
    body_taken(&format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(4096)));
}

#[test]
fn broken_chunk_sizes() {
    body_broken("5\nhello", 1, Rejection::BARE_LF);
    body_broken("0\n\r\n", 1, Rejection::BARE_LF);
    body_broken("5;\nhello", 2, Rejection::BARE_LF);
    body_broken("5\rhello", 2, Rejection::BARE_CR);
    body_broken("5;x\0\r\n", 3, Rejection::BAD_CHUNK_EXTENSION);
    for (body, good) in [
        ("0x5\r\n", 1),
        ("+5\r\n", 0),
        ("-5\r\n", 0),
        ("5_0\r\n", 1),
        (" 5\r\n", 0),
        ("5,a\r\n", 1),
        ("\r\n", 0),
        (";x\r\n", 0),
        ("5 \r\n", 1),
        ("5\t\r\n", 1),
        ("5 ;x\r\n", 1),
        ("g\r\n", 0),
        ("00000000000000001\r\n", 16),
        ("11111111111111111\r\n", 16),
    ] {
        body_broken(body, good, Rejection::BAD_CHUNK_SIZE);
    }
    let long = format!("5;{}\r\n", "e".repeat(20_000));
    body_broken(&long, 2 + 4096, Rejection::CHUNK_EXTENSION_TOO_LONG);
    let many = format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(20);
    let found = scan(&format!("{CHUNKED}{many}"));
    assert_eq!(found.stop, Stop::BadBody(Rejection::CHUNK_EXTENSION_TOO_LONG));
}

#[test]
fn broken_chunk_data() {
    body_broken("5\r\nhellox\r\n", 8, Rejection::BAD_CHUNK_END);
    body_broken("5\r\nhello\n", 8, Rejection::BAD_CHUNK_END);
    body_broken("5\r\nhello\rx", 9, Rejection::BARE_CR);
}

#[test]
fn broken_trailers() {
    body_broken("0\r\n\n", 3, Rejection::BARE_LF);
    body_broken("0\r\n\rx", 4, Rejection::BARE_CR);
    body_broken("0\r\nx: y\n", 7, Rejection::BARE_LF);
    body_broken("0\r\nx: y\rz", 8, Rejection::BARE_CR);
    body_broken("0\r\nx: y\r\n z\r\n\r\n", 9, Rejection::OBS_FOLD);
    body_broken("0\r\n x: y\r\n\r\n", 3, Rejection::OBS_FOLD);
    body_broken("0\r\nx : y\r\n\r\n", 4, Rejection::SPACE_BEFORE_COLON);
    body_broken("0\r\nxy\r\n\r\n", 5, Rejection::NO_COLON);
    body_broken("0\r\n: y\r\n\r\n", 3, Rejection::BAD_FIELD_NAME);
    body_broken("0\r\nx(: y\r\n\r\n", 4, Rejection::BAD_FIELD_NAME);
    body_broken("0\r\nx: \0\r\n\r\n", 6, Rejection::BAD_FIELD_VALUE);
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(101));
    body_broken(&many, 3 + 600, Rejection::TRAILERS_TOO_LARGE);
    body_taken(&format!("0\r\n{}\r\n", "x: y\r\n".repeat(100)));
    let large = format!("0\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    body_broken(&large, 3 + 16 * 1024 - 1, Rejection::TRAILERS_TOO_LARGE);
    let long_name = format!("0\r\n{}: y\r\n\r\n", "x".repeat(20_000));
    body_broken(&long_name, 3 + 16 * 1024 - 1, Rejection::TRAILERS_TOO_LARGE);
}

#[test]
fn an_open_body_is_not_an_end() {
    let mut messages = Messages::default();
    let limits = HeadLimits::default();
    messages.scan(format!("{CHUNKED}5\r\nhel").as_bytes(), &limits);
    assert!(messages.in_body());
    messages.scan(b"lo\r\n0\r\n\r\n", &limits);
    assert!(!messages.in_body());
}

#[test]
fn messages_follow_each_other() {
    let length = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    let good = format!("{PLAIN}{length}GET {CHUNKED}1\r\nx\r\n0\r\n\r\n\r\n{PLAIN}");
    let mut messages = Messages::default();
    let limits = HeadLimits::default();
    let found = messages.scan(good.as_bytes(), &limits);
    assert_eq!(found, Scan { pass: good.len(), stop: Stop::More });
    assert_eq!(messages.heads(), 4);

    let bad = format!("{good}GET / HTTP/1.1\r\n\r\n{PLAIN}");
    let found = scan(&bad);
    assert_eq!(found, Scan { pass: good.len(), stop: Stop::BadHead(Rejection::NO_HOST) });
}

#[test]
fn nothing_passes_after_a_refused_head() {
    let mut messages = Messages::default();
    let limits = HeadLimits::default();
    let refused = Stop::BadHead(Rejection::BARE_LF);
    assert_eq!(messages.scan(b"\n", &limits).stop, refused);
    let again = messages.scan(PLAIN.as_bytes(), &limits);
    assert_eq!(again, Scan { pass: 0, stop: refused });
    assert_eq!(messages.heads(), 1);
}

#[test]
fn an_upgrade_holds_what_follows() {
    let upgrade = "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\
                   Content-Length: 2\r\n\r\nok";
    let limits = HeadLimits::default();
    let input = format!("{upgrade}\x01\x02");
    for accepted in [true, false] {
        let mut messages = Messages::default();
        let found = messages.scan(input.as_bytes(), &limits);
        assert_eq!(found, Scan { pass: upgrade.len(), stop: Stop::Hold });
        assert_eq!(messages.scan(b"\x01\x02", &limits), Scan { pass: 0, stop: Stop::Hold });
        messages.decide(accepted);
        let found = messages.scan(b"\x01\x02", &limits);
        if accepted {
            assert_eq!(found, Scan { pass: 2, stop: Stop::More });
        } else {
            let stop = Stop::BadHead(Rejection::BAD_METHOD);
            assert_eq!(found, Scan { pass: 0, stop });
        }
    }
}

#[test]
fn a_decision_needs_a_hold() {
    let limits = HeadLimits::default();
    let mut messages = Messages::default();
    messages.decide(true);
    assert_eq!(messages.scan(b"\x01", &limits).stop, Stop::BadHead(Rejection::BAD_METHOD));
}

#[test]
fn empty_lines_are_not_a_head() {
    let limits = HeadLimits::default();
    let mut messages = Messages::default();
    assert_eq!(messages.scan(b"\r\n", &limits), Scan { pass: 0, stop: Stop::More });
    assert!(!messages.in_head(2));
    assert_eq!(messages.scan(b"\r\nG", &limits), Scan { pass: 0, stop: Stop::More });
    assert!(messages.in_head(3));
}
