//! One finished request as one line of the access log. Pure: bytes are appended to a buffer that
//! the caller owns, and nothing else is allocated.
//!
//! - **Text** is Envoy's default line, and after it one more field, the details, because a line
//!   that says 503 without its reason helps nobody:
//!   `[START] "METHOD PATH PROTOCOL" CODE FLAGS RECEIVED SENT DURATION UPSTREAM_TIME "XFF"
//!   "USER_AGENT" "REQUEST_ID" "AUTHORITY" "UPSTREAM_HOST" DETAILS`
//! - **JSON** has Istio's keys, then `trace_id span_id direction attempts grpc_status`. What is
//!   missing is `null`, numbers are numbers, durations are whole milliseconds.
//!
//! Where a policy in shadow mode would have acted, that is one more field, `shadow`:
//! `rate_limit:reject`, several separated by commas. Where a request was hedged, `hedge` is `won` if the second
//! endpoint was the quicker one, or else `lost`. Where a fallback was answered, `fallback` says for what.
//!
//! What a client sent cannot begin a line, end a field or move a terminal's cursor: control
//! characters, quotes and backslashes are escaped, in text also all that is not ASCII (`\xHH`).

use super::Direction;
use super::flags::Flag;
use super::trace::write_hex;
use crate::policy::Would;
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// What is known of a request once its last byte has gone.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When its head had been read.
    pub start: SystemTime,
    pub direction: Direction,
    pub method: &'a str,
    /// Path and query, as the client sent them.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2`, …
    pub protocol: &'static str,
    /// 0: the client got no answer.
    pub status: u16,
    pub flag: Option<Flag>,
    /// The reason in snake case, or `via_upstream`.
    pub details: &'a str,
    /// Of the request's body.
    pub bytes_received: u64,
    /// Of the response's body.
    pub bytes_sent: u64,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// Until the upstream's response head.
    pub upstream_time: Option<Duration>,
    pub x_forwarded_for: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub request_id: Option<&'a [u8]>,
    pub authority: Option<&'a [u8]>,
    /// Address of the endpoint.
    pub upstream_host: Option<&'a str>,
    /// Name of the service.
    pub upstream_cluster: Option<&'a str>,
    pub route_name: Option<&'a str>,
    pub trace_id: Option<[u8; 16]>,
    pub span_id: Option<[u8; 8]>,
    /// Tries that were made upstream; 0: it was answered here.
    pub attempts: u32,
    pub grpc_status: Option<u16>,
    /// It was not answered well by as many attempts as may be.
    pub exhausted: bool,
    /// What policies did that the rest does not tell, as `policy:act`; several separated by commas.
    pub notes: &'a str,
    /// What policies in shadow mode would have done.
    pub shadow: &'a [Would],
    /// Whether a hedge was quicker, where there was one.
    pub hedge: Option<&'static str>,
    /// For what another answer stands in.
    pub fallback: Option<&'a str>,
}

impl Record<'_> {
    fn flags(&self) -> Cow<'static, str> {
        const EXHAUSTED: &str = Flag::UpstreamRetryLimitExceeded.as_str();
        match (self.flag.map(Flag::as_str), self.exhausted) {
            (None, false) => "-".into(),
            (Some(flag), false) => flag.into(),
            (None, true) => EXHAUSTED.into(),
            (Some(flag), true) => format!("{flag},{EXHAUSTED}").into(),
        }
    }
}

/// Appends one line, with its line feed. `stamp` is that of the line before.
pub fn write(record: &Record<'_>, format: Format, stamp: &mut Stamp, out: &mut Vec<u8>) {
    match format {
        Format::Text => write_text(record, stamp, out),
        Format::Json => write_json(record, stamp, out),
    }
}

fn write_text(record: &Record<'_>, stamp: &mut Stamp, out: &mut Vec<u8>) {
    out.push(b'[');
    out.extend_from_slice(stamp.of(record.start));
    out.extend_from_slice(b"] \"");
    text_field(record.method.as_bytes(), out);
    out.push(b' ');
    text_field(record.path.as_bytes(), out);
    out.push(b' ');
    text_field(record.protocol.as_bytes(), out);
    out.extend_from_slice(b"\" ");
    number(record.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(record.flags().as_bytes());
    out.push(b' ');
    number(record.bytes_received, out);
    out.push(b' ');
    number(record.bytes_sent, out);
    out.push(b' ');
    number(milliseconds(record.duration), out);
    out.push(b' ');
    match record.upstream_time {
        Some(time) => number(milliseconds(time), out),
        None => out.push(b'-'),
    }
    for field in [
        record.x_forwarded_for,
        record.user_agent,
        record.request_id,
        record.authority,
        record.upstream_host.map(str::as_bytes),
    ] {
        out.extend_from_slice(b" \"");
        text_field(field.unwrap_or_default(), out);
        out.push(b'"');
    }
    out.push(b' ');
    text_field(record.details.as_bytes(), out);
    if record.attempts > 1 {
        out.extend_from_slice(b" attempts=");
        number(record.attempts.into(), out);
    }
    if !record.notes.is_empty() {
        out.extend_from_slice(b" notes=");
        text_field(record.notes.as_bytes(), out);
    }
    if !record.shadow.is_empty() {
        out.extend_from_slice(b" shadow=");
        shadow(record.shadow, out);
    }
    if let Some(result) = record.hedge {
        out.extend_from_slice(b" hedge=");
        out.extend_from_slice(result.as_bytes());
    }
    if let Some(cause) = record.fallback {
        out.extend_from_slice(b" fallback=");
        out.extend_from_slice(cause.as_bytes());
    }
    out.push(b'\n');
}

fn write_json(record: &Record<'_>, stamp: &mut Stamp, out: &mut Vec<u8>) {
    // Room for a usual line at once, so that its fields need not grow the buffer one by one.
    out.reserve(1024);
    out.extend_from_slice(b"{\"start_time\":\"");
    out.extend_from_slice(stamp.of(record.start));
    out.push(b'"');
    json_text(b",\"method\":", Some(record.method.as_bytes()), out);
    json_text(b",\"path\":", Some(record.path.as_bytes()), out);
    json_text(b",\"protocol\":", Some(record.protocol.as_bytes()), out);
    json_number(b",\"response_code\":", Some(record.status.into()), out);
    json_text(b",\"response_flags\":", Some(record.flags().as_bytes()), out);
    json_text(b",\"response_code_details\":", Some(record.details.as_bytes()), out);
    json_number(b",\"bytes_received\":", Some(record.bytes_received), out);
    json_number(b",\"bytes_sent\":", Some(record.bytes_sent), out);
    json_number(b",\"duration\":", Some(milliseconds(record.duration)), out);
    json_number(b",\"upstream_service_time\":", record.upstream_time.map(milliseconds), out);
    json_text(b",\"x_forwarded_for\":", record.x_forwarded_for, out);
    json_text(b",\"user_agent\":", record.user_agent, out);
    json_text(b",\"request_id\":", record.request_id, out);
    json_text(b",\"authority\":", record.authority, out);
    json_text(b",\"upstream_host\":", record.upstream_host.map(str::as_bytes), out);
    json_text(b",\"upstream_cluster\":", record.upstream_cluster.map(str::as_bytes), out);
    json_text(b",\"route_name\":", record.route_name.map(str::as_bytes), out);
    json_hex(b",\"trace_id\":", record.trace_id, out);
    json_hex(b",\"span_id\":", record.span_id, out);
    json_text(b",\"direction\":", Some(record.direction.as_str().as_bytes()), out);
    json_number(b",\"attempts\":", Some(record.attempts.into()), out);
    json_number(b",\"grpc_status\":", record.grpc_status.map(u64::from), out);
    if !record.notes.is_empty() {
        json_text(b",\"notes\":", Some(record.notes.as_bytes()), out);
    }
    if !record.shadow.is_empty() {
        out.extend_from_slice(b",\"shadow\":\"");
        shadow(record.shadow, out);
        out.push(b'"');
    }
    if record.hedge.is_some() {
        json_text(b",\"hedge\":", record.hedge.map(str::as_bytes), out);
    }
    if record.fallback.is_some() {
        json_text(b",\"fallback\":", record.fallback.map(str::as_bytes), out);
    }
    out.extend_from_slice(b"}\n");
}

/// Names of ours, which need no escape.
fn shadow(would: &[Would], out: &mut Vec<u8>) {
    for (index, Would { policy, act }) in would.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(policy.as_bytes());
        out.push(b':');
        out.extend_from_slice(act.as_bytes());
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json_number(key: &[u8], value: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => number(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn json_text(key: &[u8], value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    let Some(value) = value else {
        return out.extend_from_slice(b"null");
    };
    out.push(b'"');
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        json_string(value, out);
    }
    out.push(b'"');
}

fn json_hex<const N: usize>(key: &[u8], value: Option<[u8; N]>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    let Some(value) = value else {
        return out.extend_from_slice(b"null");
    };
    out.push(b'"');
    let start = out.len();
    out.resize(start + N * 2, 0);
    write_hex(&value, &mut out[start..]);
    out.push(b'"');
}

/// A field of the text format, `-` if empty.
fn text_field(value: &[u8], out: &mut Vec<u8>) {
    if value.is_empty() {
        return out.push(b'-');
    }
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| needs_text_escape(*byte)) {
        out.extend_from_slice(&rest[..at]);
        let mut escape = *b"\\x00";
        write_hex(&rest[at..=at], &mut escape[2..]);
        out.extend_from_slice(&escape);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

const fn needs_text_escape(byte: u8) -> bool {
    byte < b' ' || byte > b'~' || byte == b'"' || byte == b'\\'
}

/// The inside of a JSON string (RFC 8259, 7). What is not UTF-8 becomes U+FFFD.
fn json_string(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut copied = 0;
        let mut at = 0;
        while at < valid.len() {
            if !JSON_SPECIAL[usize::from(valid[at])] {
                at += 1;
                continue;
            }
            out.extend_from_slice(&valid[copied..at]);
            at += json_escape(&valid[at..], out);
            copied = at;
        }
        out.extend_from_slice(&valid[copied..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Whether a JSON string can be made of `value` without a further look: ASCII that needs no escape. Eight
/// bytes at a time, since this is asked of a dozen values of every line.
fn is_plain(value: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let special = |word: u64| {
        // A borrow can only mark a byte above one that is truly marked.
        let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit));
        let is = |byte: u8| (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
        let marks = below(0x20) | is(b'"') | is(b'\\') | is(0x7f) | word;
        // What lies beyond ASCII has its high bit set, and is marked by `word` itself.
        (marks & HIGH) != 0
    };
    let (words, rest) = value.as_chunks();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).all(|word| !special(u64::from_le_bytes(*word)))
}

/// Bytes at which a string cannot simply be copied: controls, `"`, `\`, DEL, and 0xC2, with which
/// the C1 controls (U+0080 to U+009F) begin.
const JSON_SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        special[byte] = byte < 0x20 || matches!(byte as u8, b'"' | b'\\' | 0x7f | 0xc2);
        byte += 1;
    }
    special
};

/// Writes the special character that `rest`, valid UTF-8, begins with; returns its length.
fn json_escape(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let (code, length) = match *rest {
        [b'"', ..] => return escaped(b"\\\"", out),
        [b'\\', ..] => return escaped(b"\\\\", out),
        [b'\n', ..] => return escaped(b"\\n", out),
        [b'\r', ..] => return escaped(b"\\r", out),
        [b'\t', ..] => return escaped(b"\\t", out),
        [0xc2, next @ 0x80..=0x9f, ..] => (next, 2),
        [0xc2, next, ..] => {
            out.extend_from_slice(&[0xc2, next]);
            return 2;
        }
        [byte, ..] => (byte, 1),
        [] => return 0,
    };
    let mut escape = *b"\\u0000";
    write_hex(&[code], &mut escape[4..]);
    out.extend_from_slice(&escape);
    length
}

fn escaped(escape: &[u8], out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(escape);
    1
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    if value < 10 {
        return out.push(b'0' + value as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// The text of a time, like `2016-04-15T20:17:00.310Z` (RFC 3339, UTC). A time before 1970 is written as
/// 1970, one after 9999 as its last millisecond. Remembers its second, which the next line mostly has too.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    second: u64,
    text: [u8; 24],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Stamp {
    fn of(&mut self, time: SystemTime) -> &[u8] {
        const LAST: u64 = 253_402_300_799_999;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = milliseconds(since).min(LAST);
        let (second, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil(second / 86_400);
            digits(year, &mut self.text[0..4]);
            digits(month, &mut self.text[5..7]);
            digits(day, &mut self.text[8..10]);
            digits(second / 3600 % 24, &mut self.text[11..13]);
            digits(second / 60 % 60, &mut self.text[14..16]);
            digits(second % 60, &mut self.text[17..19]);
        }
        digits(milliseconds, &mut self.text[20..23]);
        &self.text
    }
}

/// Writes the last digits of a number, as many as there is room for.
fn digits(mut value: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month (1 to 12) and day (1 to 31) of a day since 1970-01-01, in the Gregorian calendar.
/// Years are counted from March, so that a leap day is a year's last.
const fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // 0000-03-01 is day 0 of the first 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month =
        if months_since_march < 10 { months_since_march + 3 } else { months_since_march - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn record() -> Record<'static> {
        Record {
            start: UNIX_EPOCH + Duration::from_millis(1_460_751_420_310),
            direction: Direction::Inbound,
            method: "POST",
            path: "/api/v1/locations?x=1",
            protocol: "HTTP/2",
            status: 204,
            flag: None,
            details: "via_upstream",
            bytes_received: 154,
            bytes_sent: 0,
            duration: Duration::from_micros(226_900),
            upstream_time: Some(Duration::from_millis(100)),
            x_forwarded_for: Some(b"10.0.35.28"),
            user_agent: Some(b"nsq2http"),
            request_id: Some(b"cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2"),
            authority: Some(b"locations"),
            upstream_host: Some("10.0.2.1:80"),
            upstream_cluster: Some("locations"),
            route_name: Some("/api"),
            trace_id: Some([0xab; 16]),
            span_id: Some([1, 2, 3, 4, 5, 6, 7, 8]),
            attempts: 1,
            grpc_status: None,
            exhausted: false,
            notes: "",
            shadow: &[],
            hedge: None,
            fallback: None,
        }
    }

    fn line(record: &Record<'_>, format: Format) -> String {
        let mut out = Vec::new();
        write(record, format, &mut Stamp::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_envoys_line_and_the_details() {
        assert_eq!(
            line(&record(), Format::Text),
            "[2016-04-15T20:17:00.310Z] \"POST /api/v1/locations?x=1 HTTP/2\" 204 - 154 0 226 100 \
             \"10.0.35.28\" \"nsq2http\" \"cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2\" \"locations\" \
             \"10.0.2.1:80\" via_upstream\n"
        );
    }

    #[test]
    fn what_is_missing_is_a_dash_in_text() {
        let bare = Record {
            status: 0,
            flag: Some(Flag::DownstreamConnectionTermination),
            details: "client_disconnected",
            upstream_time: None,
            x_forwarded_for: None,
            user_agent: Some(b""),
            request_id: None,
            authority: None,
            upstream_host: None,
            ..record()
        };
        assert_eq!(
            line(&bare, Format::Text),
            "[2016-04-15T20:17:00.310Z] \"POST /api/v1/locations?x=1 HTTP/2\" 0 DC 154 0 226 - \
             \"-\" \"-\" \"-\" \"-\" \"-\" client_disconnected\n"
        );
    }

    #[test]
    fn what_shadows_would_have_done_is_told() {
        let would = [
            Would { policy: "rate_limit", act: "reject" },
            Would { policy: "circuit_breaker", act: "open" },
        ];
        let record = Record { shadow: &would, ..record() };
        let text = line(&record, Format::Text);
        assert!(text.ends_with(" shadow=rate_limit:reject,circuit_breaker:open\n"), "{text}");
        let json = line(&record, Format::Json);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["shadow"], "rate_limit:reject,circuit_breaker:open");
    }

    #[test]
    fn what_policies_did_is_told() {
        let record = Record {
            attempts: 3,
            exhausted: true,
            flag: Some(Flag::UpstreamTimeout),
            notes: "mirror:copy,retry:limit",
            ..record()
        };
        let text = line(&record, Format::Text);
        assert!(text.ends_with(" attempts=3 notes=mirror:copy,retry:limit\n"), "{text}");
        assert!(text.contains(" UT,URX "), "{text}");
        let json = line(&record, Format::Json);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["notes"], "mirror:copy,retry:limit");
        assert_eq!(json["response_flags"], "UT,URX");
        let bare = Record { flag: None, ..record };
        assert!(line(&bare, Format::Text).contains(" URX "));
    }

    #[test]
    fn a_hedge_is_told() {
        let record = Record { hedge: Some("won"), ..record() };
        assert!(line(&record, Format::Text).ends_with(" hedge=won\n"));
        let json: serde_json::Value =
            serde_json::from_str(&line(&record, Format::Json)).expect("JSON");
        assert_eq!(json["hedge"], "won");
    }

    #[test]
    fn a_fallback_is_told() {
        let record = Record { fallback: Some("timeout"), ..record() };
        assert!(line(&record, Format::Text).ends_with(" fallback=timeout\n"));
        let json: serde_json::Value =
            serde_json::from_str(&line(&record, Format::Json)).expect("JSON");
        assert_eq!(json["fallback"], "timeout");
    }

    #[test]
    fn json_has_istios_keys() {
        let bare = Record { upstream_time: None, route_name: None, trace_id: None, ..record() };
        let with_status = Record { grpc_status: Some(14), ..bare };
        assert_eq!(
            line(&with_status, Format::Json),
            concat!(
                r#"{"start_time":"2016-04-15T20:17:00.310Z","method":"POST","#,
                r#""path":"/api/v1/locations?x=1","protocol":"HTTP/2","response_code":204,"#,
                r#""response_flags":"-","response_code_details":"via_upstream","#,
                r#""bytes_received":154,"bytes_sent":0,"duration":226,"#,
                r#""upstream_service_time":null,"x_forwarded_for":"10.0.35.28","#,
                r#""user_agent":"nsq2http","request_id":"cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2","#,
                r#""authority":"locations","upstream_host":"10.0.2.1:80","#,
                r#""upstream_cluster":"locations","route_name":null,"trace_id":null,"#,
                r#""span_id":"0102030405060708","direction":"inbound","attempts":1,"#,
                r#""grpc_status":14}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_a_field() {
        let attack = b"x\" 200\r\n[2016] \x1b[2J\\ \xff \xc2\x9b2J \xc3\xa9";
        let forged = Record { user_agent: Some(attack), ..record() };
        let text = line(&forged, Format::Text);
        assert!(
            text.contains(
                r#""x\x22 200\x0d\x0a[2016] \x1b[2J\x5c \xff \xc2\x9b2J \xc3\xa9" "cc21"#
            ),
            "{text}"
        );
        let json = line(&forged, Format::Json);
        assert!(
            json.contains(r#""x\" 200\r\n[2016] \u001b[2J\\ "#.trim_end())
                && json.contains(r"\u009b2J é"),
            "{json}"
        );
    }

    #[test]
    fn each_byte_is_plain_or_not_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for length in 1..20 {
                for at in 0..length {
                    let mut value = vec![b'~'; length];
                    value[at] = byte;
                    assert_eq!(
                        is_plain(&value),
                        !needs_text_escape(byte),
                        "{byte:#x} {at} {length}"
                    );
                }
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn timestamps() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        ];
        // One after the other: what is remembered of a second must not show in another.
        let mut stamp = Stamp::default();
        for (milliseconds, expected) in cases {
            let mut out = Vec::new();
            out.extend_from_slice(stamp.of(UNIX_EPOCH + Duration::from_millis(milliseconds)));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        out.extend_from_slice(stamp.of(UNIX_EPOCH - Duration::from_secs(1)));
        assert_eq!(out, b"1970-01-01T00:00:00.000Z");
    }

    /// The days of 800 years, counted one by one.
    #[test]
    fn the_calendar_agrees_with_counting() {
        let leap = |year: u64| {
            u64::is_multiple_of(year, 4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..292_194 {
            assert_eq!(civil(days), (year, month, day));
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    proptest! {
        #[test]
        fn every_json_line_is_valid_and_reads_back(
            path in any::<String>(),
            user_agent in prop::collection::vec(any::<u8>(), 0..60),
            authority in "[\u{0}-\u{ff}]{0,30}",
            (status, received, duration) in (any::<u16>(), any::<u64>(), any::<u64>()),
        ) {
            let record = Record {
                path: &path,
                user_agent: Some(&user_agent),
                authority: Some(authority.as_bytes()),
                status,
                bytes_received: received,
                duration: Duration::from_millis(duration),
                ..record()
            };
            let mut out = Vec::new();
            write(&record, Format::Json, &mut Stamp::default(), &mut out);
            let (end, body) = out.split_last().unwrap();
            prop_assert_eq!(*end, b'\n');
            prop_assert!(body.iter().all(|byte| *byte >= b' ' && *byte != 0x7f));
            let value: Value = serde_json::from_slice(body).unwrap();
            prop_assert_eq!(&value["path"], &Value::from(path.as_str()));
            let lossy = String::from_utf8_lossy(&user_agent);
            prop_assert_eq!(&value["user_agent"], &Value::from(lossy.as_ref()));
            prop_assert_eq!(&value["authority"], &Value::from(authority.as_str()));
            prop_assert_eq!(&value["response_code"], &Value::from(status));
            prop_assert_eq!(&value["bytes_received"], &Value::from(received));
            prop_assert_eq!(&value["duration"], &Value::from(duration));
        }

        #[test]
        fn every_text_line_has_its_quotes_and_one_end(
            path in any::<String>(),
            user_agent in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let record = Record { path: &path, user_agent: Some(&user_agent), ..record() };
            let text = line(&record, Format::Text);
            prop_assert_eq!(text.matches('"').count(), 12);
            let body = text.strip_suffix('\n').unwrap();
            prop_assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
