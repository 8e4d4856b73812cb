use std::time;

use proptest::prelude::*;

use super::amount::LONGEST_MICROS;
use super::*;

fn duration(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<Duration>().map_err(|error| error.to_string())?;
    Ok(u64::try_from(parsed.0.as_micros()).unwrap_or(u64::MAX))
}

#[test]
fn durations() {
    for (text, micros) in [
        ("0s", 0),
        ("250ms", 250_000),
        ("10s", 10_000_000),
        ("5m", 300_000_000),
        ("1m30s", 90_000_000),
        ("1h", 3_600_000_000),
        ("1d12h", 129_600_000_000),
        ("1.5s", 1_500_000),
        ("0.1s", 100_000),
        ("100us", 100),
    ] {
        assert_eq!(duration(text), Ok(micros), "{text}");
    }
    for text in
        ["", "10", "s", "1.s", "1s1s", "1s1m", "1 s", "-1s", "1e3s", "99999999999999999999s"]
    {
        assert!(duration(text).is_err(), "{text}");
    }
    let error = "10".parse::<Duration>().unwrap_err();
    assert_eq!(error.help, "write `10s`; units are us, ms, s, m, h, d");
}

#[test]
fn conditions() {
    for text in ["503", "5xx", "1xx", "gateway_error", "reset", "unavailable", "data_loss"] {
        assert_eq!(text.parse::<Condition>().expect(text).to_string(), text);
    }
    for (text, help) in [
        ("99", "statuses go from 100 to 599, classes from `1xx` to `5xx`"),
        ("6xx", "statuses go from 100 to 599, classes from `1xx` to `5xx`"),
        ("time_out", "did you mean `timeout`?"),
    ] {
        assert_eq!(text.parse::<Condition>().unwrap_err().help, help, "{text}");
    }
    assert!("".parse::<Condition>().is_err());
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("10MB", 10_000_000),
        ("2GiB", 2 << 30),
        ("1kB", 1000),
    ] {
        assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
    }
    for (text, help) in [
        ("64k", "write `64KB`"),
        ("64Ki", "write `64KiB`"),
        ("10 MB", "write `10MB`"),
        ("10mib", "write `10MiB`"),
    ] {
        assert_eq!(text.parse::<Size>().unwrap_err().help, help, "{text}");
    }
    for text in ["", "KiB", "-1", "1.5MiB", "99999999999GiB", "1 2"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}

#[test]
fn ratios() {
    for (text, ratio) in
        [("20%", 0.2), ("0.2", 0.2), (".2", 0.2), ("100%", 1.0), ("1", 1.0), ("0", 0.0)]
    {
        assert_eq!(text.parse::<Ratio>(), Ok(Ratio(ratio)), "{text}");
    }
    for text in ["", "%", "20", "101%", "-1%", "1e-1", "nan", "inf", "20 %"] {
        assert!(text.parse::<Ratio>().is_err(), "{text}");
    }
}

#[test]
fn numbers() {
    for (text, number) in [("1.9", 1.9), ("2", 2.0), (".5", 0.5), ("100", 100.0)] {
        assert_eq!(text.parse::<Number>(), Ok(Number(number)), "{text}");
    }
    for text in ["", "0", "101", "-1", "1e1", "nan", "inf", "2%", "1."] {
        assert!(text.parse::<Number>().is_err(), "{text}");
    }
}

#[test]
fn factors() {
    for (text, factor) in [("125%", 1.25), ("1.5", 1.5), ("10", 10.0), ("1000%", 10.0)] {
        assert_eq!(text.parse::<Factor>(), Ok(Factor(factor)), "{text}");
    }
    for (text, help) in [
        ("125", "write `125%`, or a factor like `1.25`"),
        ("20%", "write more than 100%, at most 1000%: `125%` or `1.25`"),
    ] {
        assert_eq!(text.parse::<Factor>().unwrap_err().help, help);
    }
    for text in ["", "%", "1", "100%", "1001%", "-2", "2e0", "nan", "inf", "125 %"] {
        assert!(text.parse::<Factor>().is_err(), "{text}");
    }
}

#[test]
fn addresses() {
    let name = |host: &str, port| Address::Name { host: host.to_owned(), port };
    for (text, address) in [
        ("127.0.0.1:80", Address::Socket(([127, 0, 0, 1], 80).into())),
        ("[::1]:80", Address::Socket((std::net::Ipv6Addr::LOCALHOST, 80).into())),
        ("Users.local:80", name("users.local", 80)),
        ("my_db:3306", name("my_db", 3306)),
        ("unix:/run/app.sock", Address::Unix("/run/app.sock".into())),
    ] {
        assert_eq!(text.parse::<Address>(), Ok(address), "{text}");
    }
    for text in [
        "",
        ":",
        ":80",
        "a:",
        "a:0",
        "a:65536",
        "a:+80",
        "127.0.0.1",
        "::1",
        "[::1]",
        "::1:80",
        "http://a:80",
        "a b:80",
        "a..b:80",
        "[a]:80",
        "[::1:80",
        "unix:",
        "unix:app.sock",
        "1.2.3:80",
        "a:80:80",
        "127.0.0.1:0",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
    let long = format!("unix:/{}", "a".repeat(107));
    assert!(long.parse::<Address>().is_err());
}

#[test]
fn listens() {
    let all = std::net::Ipv6Addr::UNSPECIFIED;
    for (text, address) in [
        ("15006", (all, 15006).into()),
        ("0", (all, 0).into()),
        ("127.0.0.1:15001", ([127, 0, 0, 1], 15001).into()),
        ("[::]:1", (all, 1).into()),
    ] {
        assert_eq!(text.parse::<Listen>(), Ok(Listen(address)), "{text}");
    }
    for text in ["", ":15006", "*:15006", "localhost:80", "::1:80", "70000", "+80", "127.0.0.1"] {
        assert!(text.parse::<Listen>().is_err(), "{text}");
    }
}

#[test]
fn networks_are_truncated() {
    for (text, expected) in
        [("10.1.2.3/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("fd00::1/8", "fd00::/8")]
    {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), expected);
    }
    assert!("10.0.0.0/33".parse::<Cidr>().is_err());
}

#[test]
fn names_ignore_case() {
    assert_eq!("User-Service".parse::<Name>().unwrap().as_str(), "user-service");
    assert_eq!("a".parse::<Name>().unwrap().as_str(), "a");
    for text in ["", "-a", "a-", "a b", "a/b", "é", ".", &"a".repeat(254)] {
        assert!(text.parse::<Name>().is_err(), "{text}");
    }
}

#[test]
fn hosts() {
    for text in ["api.example.com", "localhost:8080", "[::1]:80", "[::1]", "10.0.0.1:80"] {
        assert_eq!(text.parse::<Host>().unwrap().as_str(), text);
        assert_eq!(text.parse::<HostPattern>().unwrap().as_str(), text);
    }
    assert_eq!("API.Example.com".parse::<Host>().unwrap().as_str(), "api.example.com");
    for text in ["*", "*.Example.com"] {
        assert_eq!(text.parse::<HostPattern>().unwrap().as_str(), text.to_lowercase());
        assert!(text.parse::<Host>().is_err());
    }
    for text in
        ["", "a b", "http://a", "a/b", "a:0", "a:x", "[a]", "::1", "a..b", "*a.com", "a.*", "*.*"]
    {
        assert!(text.parse::<Host>().is_err(), "{text}");
        assert!(text.parse::<HostPattern>().is_err(), "{text}");
    }
}

#[test]
fn paths_and_methods() {
    for text in ["/", "/users", "/orders/{id}", "/a%20b", "/a;b=c,d"] {
        assert_eq!(text.parse::<UrlPath>().unwrap().as_str(), text);
    }
    for text in ["", "users", "/a b", "/a?b", "/a#b", "/ü", "http://a/"] {
        assert!(text.parse::<UrlPath>().is_err(), "{text}");
    }
    assert_eq!("PURGE".parse::<Method>().unwrap().0.as_str(), "PURGE");
    assert!("get".parse::<Method>().is_err());
    assert!("GE T".parse::<Method>().is_err());
}

#[test]
fn headers() {
    assert_eq!("X-Env".parse::<HeaderName>().unwrap().0.as_str(), "x-env");
    for text in ["", ":path", "a b", "é"] {
        assert!(text.parse::<HeaderName>().is_err(), "{text}");
    }
    assert_eq!("a b".parse::<HeaderValue>().unwrap().to_string(), "a b");
    for text in ["a\nb", "a\rb", " a", "a\t", "\u{0}"] {
        assert!(text.parse::<HeaderValue>().is_err(), "{text:?}");
    }
}

#[test]
fn addresses_of_redis() {
    for (text, written) in [
        ("redis://10.0.0.1:6380", "redis://10.0.0.1:6380"),
        ("redis://Redis.local", "redis://redis.local:6379"),
        ("redis://[::1]/", "redis://[::1]:6379"),
        ("redis://[::1]:80", "redis://[::1]:80"),
        ("127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("unix:/run/redis.sock", "unix:/run/redis.sock"),
    ] {
        assert_eq!(text.parse::<RedisAddress>().unwrap().to_string(), written);
    }
    for text in ["", "redis://", "redis://a:0", "http://a:1", "unix:redis.sock", "redis://a b"] {
        assert!(text.parse::<RedisAddress>().is_err(), "{text}");
    }
    for (text, help) in [
        ("rediss://a:1", "write `redis://a:1`"),
        ("redis://a:1/3", "write `redis://a:1`, and give `database: 3`"),
        ("redis://me:hunter2@a:1", "write `redis://a:1`, and give `username` and `password_file`"),
    ] {
        let error = text.parse::<RedisAddress>().unwrap_err();
        assert_eq!(error.help, help);
        assert!(!error.to_string().contains("hunter2"));
    }
}

/// An editor must not mark what we would accept.
#[test]
fn patterns_take_what_the_parsers_take() {
    fn holds<T: Unit>(texts: &[&str]) {
        let pattern = regex::Regex::new(T::PATTERN).unwrap();
        for text in texts {
            assert!(text.parse::<T>().is_ok(), "{} {text}", T::FORMAT);
            assert!(pattern.is_match(text), "{} {text}", T::FORMAT);
        }
    }
    holds::<Duration>(&["250ms", "1m30s", "1.5s", "0s", "100us", "1d"]);
    holds::<Size>(&["1", "64KiB", "1kB", "1KB", "1B", "1GiB"]);
    holds::<Ratio>(&["20%", "0.2", ".2", "1", "12.5%"]);
    holds::<Number>(&["1.9", "2", "100", "0.1"]);
    holds::<Factor>(&["125%", "1.25", "10", "1000%", "100.1%"]);
    holds::<CookieName>(&["session", "__Host-id", "A.b"]);
    holds::<Address>(&["1.2.3.4:5", "[::1]:5", "[::ffff:1.2.3.4]:5", "a_b.c-d:5", "unix:/a"]);
    holds::<Listen>(&["1", "1.2.3.4:5", "[::]:5"]);
    holds::<Cidr>(&["1.2.3.4", "10.0.0.0/8", "fd00::/8"]);
    holds::<Name>(&["a", "A.b_c-9"]);
    holds::<Port>(&["1", "65535"]);
    holds::<RedisAddress>(&["redis://a:1", "redis://[::1]/", "a.b", "10.0.0.1:1", "unix:/a"]);
    holds::<LogPath>(&["stdout", "/var/log/a.log"]);
    holds::<HeaderName>(&["x-env", "X!#$%&'*+.^_`|~1"]);
    holds::<HeaderValue>(&["", "a b", "é"]);
    holds::<Method>(&["GET", "M-SEARCH"]);
    holds::<Host>(&["a.b:1", "[::1]:1", "1.2.3.4"]);
    holds::<HostPattern>(&["*", "*.a.b", "a", "[::1]"]);
    holds::<UrlPath>(&["/", "/orders/{id}"]);
}

/// What is written is read as the same value.
fn round_trip<T: Unit + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    prop_assert_eq!(&value.to_string().parse::<T>().unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn durations_round_trip(micros in 0..LONGEST_MICROS) {
        round_trip(&Duration(time::Duration::from_micros(micros)))?;
    }

    #[test]
    fn sizes_round_trip(bytes in any::<u64>(), shift in 0..40_u32) {
        round_trip(&Size(bytes))?;
        round_trip(&Size(bytes >> (63 - shift) << (shift % 30)))?;
    }

    #[test]
    fn ratios_round_trip(share in 0.0..=1.0) {
        round_trip(&Ratio(share))?;
    }

    /// No unit panics, and what it calls canonical it calls canonical again.
    #[test]
    fn any_text_is_judged(text in "\\PC{0,20}|[-0-9a-z.:/\\[\\]%* ]{0,12}") {
        for format in FORMATS {
            match (format.canonical)(&text) {
                Ok(canonical) => {
                    let again = (format.canonical)(&canonical);
                    prop_assert_eq!(again.as_ref(), Ok(&canonical), "{}", format.id);
                }
                Err(error) => prop_assert!(!error.help.is_empty() && !error.message.is_empty()),
            }
        }
    }
}
