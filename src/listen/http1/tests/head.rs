//! One case a row of what must pass and what must not.

use bytes::BytesMut;
use http::{Method, Version};

use super::check;
use crate::listen::http1::head::{Framing, Head, HeadLimits, HeadParser};
use crate::listen::http1::rejection::Rejection;
use crate::listen::http1::syntax::value_end;

fn judge(head: impl AsRef<[u8]>) -> Result<Head, Rejection> {
    check(head.as_ref(), &HeadLimits::default())
}

/// A request whose other lines are fine.
fn with_fields(fields: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

fn with_host(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n")
}

fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: a\r\n\r\n")
}

#[track_caller]
fn refused(head: impl AsRef<[u8]>, wanted: Rejection) {
    let head = head.as_ref();
    assert_eq!(judge(head), Err(wanted), "{}", head.escape_ascii());
}

#[track_caller]
fn taken(head: impl AsRef<[u8]>) -> Head {
    let head = head.as_ref();
    match judge(head) {
        Ok(taken) => {
            assert_eq!(taken.len, head.len());
            taken
        }
        Err(rejection) => panic!("{}: {rejection:?}", head.escape_ascii()),
    }
}

#[test]
fn plain_requests_pass() {
    let head = taken("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.framing, Framing::None);
    assert!(!head.upgrade && !head.expect_continue && !head.version10);
    assert!(taken("GET / HTTP/1.0\r\n\r\n").version10);
    assert_eq!(taken(with_fields("Content-Length: 5")).framing, Framing::Length(5));
    assert_eq!(taken(with_fields("content-length:0")).framing, Framing::None);
    assert!(taken(with_fields("Expect: 100-Continue")).expect_continue);
    let long = with_fields("Content-Length: 9223372036854775807");
    assert_eq!(taken(long).framing, Framing::Length(i64::MAX as u64));
}

#[test]
fn what_follows_the_head_is_not_of_it() {
    let head = judge("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /\n").expect("good");
    assert_eq!(head.len, 27);
}

#[test]
fn length_and_transfer_encoding_exclude_each_other() {
    refused(
        with_fields("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        Rejection::CONFLICTING_LENGTH,
    );
    refused(
        with_fields("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        Rejection::CONFLICTING_LENGTH,
    );
    refused(
        with_fields("Content-Length: 0\r\nTransfer-Encoding: identity"),
        Rejection::CONFLICTING_LENGTH,
    );
}

#[test]
fn one_plain_content_length() {
    for lines in
        ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\ncontent-length: 5"]
    {
        refused(with_fields(lines), Rejection::TWO_LENGTHS);
    }
    for value in [
        "5, 5",
        "5, 6",
        "5,5",
        "+5",
        "-5",
        "0x5",
        "5.0",
        "5 5",
        "5a",
        "1_0",
        "5;q",
        "",
        " ",
        "\u{ff15}",
        "00005",
        "00",
        "18446744073709551616",
        "18446744073709551615",
        "9223372036854775808",
        "99999999999999999999999",
    ] {
        refused(with_fields(&format!("Content-Length: {value}")), Rejection::BAD_LENGTH);
    }
    refused(with_fields("Content-Length: 5\x0b"), Rejection::BAD_FIELD_VALUE);
    refused(with_fields("Content-Length : 5"), Rejection::SPACE_BEFORE_COLON);
    refused(with_fields("Content-Length\t: 5"), Rejection::SPACE_BEFORE_COLON);
    taken(with_fields("Content-Length: \t 5 \t"));
}

#[test]
fn underscore_twins_of_framing_fields_are_refused() {
    for name in ["Content_Length", "content_length", "Transfer_Encoding", "TRANSFER_ENCODING"] {
        refused(with_fields(&format!("{name}: 5")), Rejection::UNDERSCORE_NAME);
    }
    taken(with_fields("x_y: 5"));
}

#[test]
fn transfer_encoding_is_exactly_chunked() {
    for value in ["chunked", "\tchunked", "chunked ", "CHUNKED", "Chunked\t "] {
        let head = taken(with_fields(&format!("Transfer-Encoding:{value}")));
        assert_eq!(head.framing, Framing::Chunked);
    }
    for value in ["gzip, chunked", "GZIP,Chunked", "deflate, gzip, chunked"] {
        let head = with_fields(&format!("Transfer-Encoding: {value}"));
        refused(head, Rejection::UNKNOWN_TRANSFER_CODING);
    }
    for value in [
        "identity",
        "gzip",
        "chunked, gzip",
        "chunked, chunked",
        "gzip, chunked, chunked",
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked;q=1",
        "chunked,",
        ",chunked",
        "foo, chunked",
        "",
        " ",
        "chunk\u{e9}d",
        "identity, chunked",
    ] {
        let head = with_fields(&format!("Transfer-Encoding: {value}"));
        refused(head, Rejection::BAD_TRANSFER_ENCODING);
    }
    for value in ["\x0bchunked", "chunked\0"] {
        let head = with_fields(&format!("Transfer-Encoding: {value}"));
        refused(head, Rejection::BAD_FIELD_VALUE);
    }
    for second in ["chunked", "identity", "gzip"] {
        let lines = format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: {second}");
        refused(with_fields(&lines), Rejection::BAD_TRANSFER_ENCODING);
    }
    refused(with_fields("Transfer-Encoding:\r\n chunked"), Rejection::BAD_TRANSFER_ENCODING);
    refused(with_fields("Transfer-Encoding: chunked\r\n , x"), Rejection::OBS_FOLD);
    refused(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Rejection::BAD_TRANSFER_ENCODING,
    );
}

#[test]
fn lines_end_with_cr_lf() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx: y\nz: q\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx\n: q\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\n / HTTP/1.1\r\n\r\n",
        "GET /\n",
        "GET / HTTP\n",
    ] {
        refused(head, Rejection::BARE_LF);
    }
    for head in [
        "GET / HTTP/1.1\rHost: a\r\r",
        "GET / HTTP/1.1\r\nHost: a\rx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rGET",
        "\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r: a\r\n\r\n",
    ] {
        refused(head, Rejection::BARE_CR);
    }
}

#[test]
fn some_leading_empty_lines_are_overlooked() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    taken(format!("\r\n{request}"));
    taken(format!("{}{request}", "\r\n".repeat(4)));
    refused(format!("{}{request}", "\r\n".repeat(5)), Rejection::BLANK_LINES);
}

#[test]
fn fields_are_name_colon_value() {
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Rejection::OBS_FOLD);
    refused(with_fields("a: b\r\n c"), Rejection::OBS_FOLD);
    refused(with_fields("a: b\r\n\tc: d"), Rejection::OBS_FOLD);
    refused(with_fields("nocolon"), Rejection::NO_COLON);
    refused(with_fields(": x"), Rejection::BAD_FIELD_NAME);
    refused(with_fields("a b: x"), Rejection::SPACE_BEFORE_COLON);
    refused(with_fields("a : x"), Rejection::SPACE_BEFORE_COLON);
    for name in ["a\0b", "a\u{ff}", "a(b", "a/b", "a\x7f", "\"a\"", "a=b", "a@", "{a}"] {
        refused(with_fields(&format!("{name}: x")), Rejection::BAD_FIELD_NAME);
    }
    for value in ["\0", "x\x01y", "\x7f", "aaaaaaaaaaaaaaaa\x1fbbb", "\x0c", "1234567\x0b"] {
        refused(with_fields(&format!("x: {value}")), Rejection::BAD_FIELD_VALUE);
    }
    taken(with_fields("x: a\tb \t c"));
    taken(with_fields("x:"));
    taken(with_fields("!#$%&'*+-.^_`|~09azAZ: x"));
    taken(b"GET / HTTP/1.1\r\nHost: a\r\nx: \x80\xff\xa0\r\n\r\n");
}

#[test]
fn versions() {
    for version in [
        "HTTP/1.2",
        "HTTP/1.01",
        "http/1.1",
        "HTTP/0.9",
        "HTTP/1.1 ",
        "HTTP/11",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP/1.",
        " HTTP/1.1",
        "HTTP/1.1x",
        "",
    ] {
        refused(with_line(&format!("GET / {version}")), Rejection::BAD_VERSION);
    }
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/2.1"] {
        refused(with_line(&format!("GET / {version}")), Rejection::UNKNOWN_VERSION);
    }
    refused("GET /\r\n", Rejection::BAD_VERSION);
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Rejection::BAD_TARGET);
}

#[test]
fn methods_are_tokens() {
    for method in ["get", "PATCH", "X-Y_Z", "M!#$%&'*+-.^_`|~9"] {
        taken(with_line(&format!("{method} / HTTP/1.1")));
    }
    for method in ["", " GET", "G(T", "GET\t", "G\0T", "G\u{e9}T", "GET/", "\"GET\"", "GET:"] {
        refused(with_line(&format!("{method} / HTTP/1.1")), Rejection::BAD_METHOD);
    }
    taken(with_line(&format!("{} / HTTP/1.1", "M".repeat(32))));
    refused(with_line(&format!("{} / HTTP/1.1", "M".repeat(33))), Rejection::METHOD_TOO_LONG);
}

#[test]
fn targets() {
    for target in [
        "/",
        "//x",
        "/a/../b",
        "/%00",
        "/a?b=c&d=[1]",
        "/{a}|\"b\"",
        "/?q={x}`",
        "/a;b=c",
        "/%zz",
        "/a?b?c",
        "/:@!$&'()*+,;=~^",
    ] {
        taken(with_line(&format!("GET {target} HTTP/1.1")));
    }
    for target in [
        "",
        "x",
        "a:80",
        "?x",
        "/a\\b",
        "/?a\\b",
        "/a\0",
        "/a\x7f",
        "/\u{e9}",
        "/a\tb",
        "/<",
        "/>",
        "*",
        "/a?\"",
        "/`",
        "http:/x",
        "http://",
        "http:///x",
        "http://a?x",
        "http://a:0/",
        "http://a b/",
        "http://[::1/",
        "://a/",
        "a b://c/",
        "http://%61/",
    ] {
        let line = format!("GET {target} HTTP/1.1");
        assert!(judge(with_line(&line)).is_err_and(|r| r.status == 400), "{line}");
    }
    refused(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", Rejection::BAD_TARGET);
    refused(with_line("GET /a#b HTTP/1.1"), Rejection::FRAGMENT);
    refused(with_line("GET /a?b#c HTTP/1.1"), Rejection::FRAGMENT);
    refused(with_line("GET # HTTP/1.1"), Rejection::FRAGMENT);
    taken(with_line("GET http://evil/ HTTP/1.1"));
    taken(with_line("GET HTTP://evil:8080 HTTP/1.1"));
    taken(with_line("GET http://[::1]:80/x?y HTTP/1.1"));
    taken(with_line("GET http://a/x@y HTTP/1.1"));
    refused(with_line("GET http://u@a/ HTTP/1.1"), Rejection::USERINFO);
    refused(with_line("GET http://u:p@a/ HTTP/1.1"), Rejection::USERINFO);
    refused(with_line("GET https://a/ HTTP/1.1"), Rejection::BAD_SCHEME);
    refused(with_line("GET ftp://a/ HTTP/1.1"), Rejection::BAD_SCHEME);
    taken(with_line("OPTIONS * HTTP/1.1"));
    refused(with_line("options * HTTP/1.1"), Rejection::BAD_TARGET);
    refused(with_line("OPTIONS ** HTTP/1.1"), Rejection::BAD_TARGET);
}

#[test]
fn connect_wants_an_authority_and_no_body() {
    assert!(taken(with_line("CONNECT a:443 HTTP/1.1")).upgrade);
    assert!(taken(with_line("CONNECT [::1]:443 HTTP/1.1")).upgrade);
    for target in ["/", "a", "a:", "http://a:443/", "a:443/", "u@a:443", "*", ":443", "a:0443"] {
        refused(with_line(&format!("CONNECT {target} HTTP/1.1")), Rejection::BAD_TARGET);
    }
    let with = |field| format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{field}\r\n\r\n");
    refused(with("Content-Length: 5"), Rejection::CONNECT_WITH_BODY);
    refused(with("Transfer-Encoding: chunked"), Rejection::CONNECT_WITH_BODY);
    taken(with("Content-Length: 0"));
}

#[test]
fn hosts() {
    refused("GET / HTTP/1.1\r\n\r\n", Rejection::NO_HOST);
    refused("GET http://a/ HTTP/1.1\r\n\r\n", Rejection::NO_HOST);
    refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Rejection::TWO_HOSTS);
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Rejection::TWO_HOSTS);
    for host in [
        "",
        " ",
        "a/b",
        "a#x",
        "a?x",
        "a\\b",
        "a b",
        "a\tb",
        "u@a",
        "a,b",
        "a:99999",
        "a:65536",
        "a:80a",
        "a:",
        "a:0",
        "a:080",
        "a:+80",
        "[::1",
        "::1",
        "[::1]80",
        "[::g]",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "%61",
        "a:80:80",
        "..",
        "-",
        "a*",
        "[]",
        "\u{e9}",
    ] {
        refused(with_host(&format!(" {host}")), Rejection::BAD_HOST);
    }
    refused(with_host(&"a".repeat(256)), Rejection::BAD_HOST);
    for host in [
        "a",
        " a.b-c_d.e:80",
        "\t127.0.0.1:65535 ",
        " [::1]",
        " [::ffff:1.2.3.4]:80",
        " A.",
        " 1:1",
        " [1:2:3:4:5:6:7:8]:80",
    ] {
        taken(with_host(host));
    }
}

#[test]
fn connection_must_not_name_what_frames_or_routes() {
    for value in ["Host", "close, content-length", "Transfer-Encoding", "x,\thost ,y"] {
        refused(with_fields(&format!("Connection: {value}")), Rejection::BAD_CONNECTION);
    }
    for value in ["close", "foo, Close", "X-Auth", "", "hostx", "keep-alive, Upgrade"] {
        taken(with_fields(&format!("Connection: {value}")));
    }
}

#[test]
fn upgrade_counts_if_connection_names_it() {
    let upgrade = |fields: &str| taken(with_fields(fields)).upgrade;
    assert!(upgrade("Connection: Upgrade\r\nUpgrade: websocket"));
    assert!(upgrade("Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: x,upgrade"));
    assert!(!upgrade("Upgrade: websocket"));
    assert!(!upgrade("Connection: upgrade"));
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(!taken(old).upgrade);
}

#[test]
fn expectations() {
    for value in ["y 100-continue", "", "100-continue, x", "200-ok", "100-continue;x"] {
        refused(with_fields(&format!("Expect: {value}")), Rejection::BAD_EXPECTATION);
    }
    assert!(!taken("GET / HTTP/1.0\r\nExpect: x\r\n\r\n").expect_continue);
}

#[test]
fn limits() {
    let limits = HeadLimits::default();
    let fields = |count: usize| {
        let lines: Vec<_> = (1..count).map(|n| format!("x{n}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines.concat())
    };
    taken(fields(100));
    refused(fields(101), Rejection::TOO_MANY_FIELDS);

    let sized = |len: usize| {
        let frame = with_fields("x: ").len();
        with_fields(&format!("x: {}", "y".repeat(len - frame)))
    };
    taken(sized(limits.max_head));
    refused(sized(limits.max_head + 1), Rejection::HEAD_TOO_LARGE);
    refused(sized(500_000), Rejection::HEAD_TOO_LARGE);
    // Without an end, too.
    refused(&sized(500_000)[..limits.max_head], Rejection::HEAD_TOO_LARGE);
    refused(&sized(500_000)[..limits.max_head - 1], Rejection::INCOMPLETE_HEAD);

    let target = |len: usize| with_line(&format!("GET /{} HTTP/1.1", "a".repeat(len - 1)));
    taken(target(limits.max_target));
    refused(target(limits.max_target + 1), Rejection::TARGET_TOO_LONG);
    refused(target(65_535), Rejection::TARGET_TOO_LONG);
    refused(target(500_000), Rejection::TARGET_TOO_LONG);

    taken(with_fields(&format!("{}: x", "n".repeat(256))));
    refused(with_fields(&format!("{}: x", "n".repeat(257))), Rejection::HEAD_TOO_LARGE);
}

#[test]
fn values_are_scanned_alike_at_every_alignment() {
    for byte in 0..=255_u8 {
        for offset in 0..20 {
            let mut value = vec![b'a'; 20];
            value[offset] = byte;
            let clean = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
            let wanted = if clean { 20 } else { offset };
            assert_eq!(value_end(&value, 0), wanted, "byte {byte} at {offset}");
        }
    }
}

#[test]
fn a_head_that_passed_is_a_request() {
    let text =
        "\r\nPUT /a?b HTTP/1.1\r\nHost: a:80\r\nx-b: \t 1 \r\nX-B:\r\nx-b:\u{e9}2\r\n\r\nrest";
    let (mut bytes, mut parser) = (BytesMut::from(text), HeadParser::default());
    let head = parser.feed(&bytes, &HeadLimits::default()).expect("good").expect("whole");
    let (request, names) = parser.take(&mut bytes, &head).expect("a request");
    assert_eq!(bytes, "rest");
    assert_eq!((request.method(), request.version()), (&Method::PUT, Version::HTTP_11));
    assert_eq!(request.uri(), "/a?b");
    let fields: Vec<_> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let b = |value: &'static str| ("x-b", value.as_bytes());
    assert_eq!(fields, [("host", &b"a:80"[..]), b("1"), b(""), b("\u{e9}2")]);
    assert_eq!(format!("{names:?}"), r#"["Host", "x-b", "X-B", "x-b"]"#);

    // The parser takes the next one.
    for (text, uri) in [
        ("CONNECT a:443 HTTP/1.0\r\n\r\n", "a:443"),
        ("OPTIONS * HTTP/1.0\r\n\r\n", "*"),
        ("GET http://b/c HTTP/1.0\r\n\r\n", "http://b/c"),
    ] {
        let mut bytes = BytesMut::from(text);
        let head = parser.feed(&bytes, &HeadLimits::default()).expect("good").expect("whole");
        let (request, names) = parser.take(&mut bytes, &head).expect("a request");
        assert_eq!(request.uri(), uri);
        assert_eq!((request.version(), request.headers().len()), (Version::HTTP_10, 0));
        assert!(names.is_empty() && bytes.is_empty());
    }
}

#[test]
fn whether_the_client_goes_on_and_takes_trailers() {
    let kept = |fields: &str| taken(with_fields(fields)).keep_alive;
    assert!(kept("x: close") && kept("Connection: x") && kept("Connection: keep-alive"));
    assert!(!kept("Connection: x, Close") && !kept("Connection: close\r\nConnection: keep-alive"));
    let old = |fields: &str| taken(format!("GET / HTTP/1.0\r\n{fields}\r\n\r\n")).keep_alive;
    assert!(old("Connection: Keep-Alive"));
    assert!(!old("x: y") && !old("Connection: keep-alive, close"));

    let trailers = |fields: &str| taken(with_fields(fields)).trailers;
    assert!(trailers("TE: trailers") && trailers("te: gzip, Trailers"));
    assert!(!trailers("te: trailer") && !trailers("x: trailers") && !trailers("te: gzip"));
}
