//! Trace contexts: W3C `traceparent` is read first, then B3 (single, then several headers), then
//! Jaeger's `uber-trace-id`; W3C is what is written.
//!
//! `tracestate` and `baggage` are never touched here. A `tracestate` belongs to the `traceparent`
//! that it came with, so whoever forwards the request drops it unless
//! [`Origin::TraceParent`] was returned (W3C Trace Context, 3.3.1).

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const X_B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const UBER_TRACE_ID: HeaderName = HeaderName::from_static("uber-trace-id");

/// The flag bit that says: the caller records this trace.
pub const SAMPLED: u8 = 0x01;
/// Flags with a meaning (`sampled`, `random-trace-id`); the others must be sent as zero.
const KNOWN_FLAGS: u8 = 0x03;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Our own span in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    /// Of our span, which is new; never all zero.
    pub span_id: [u8; 8],
    /// The caller's span, if there is one.
    pub parent_span_id: Option<[u8; 8]>,
    /// As in `traceparent`.
    pub flags: u8,
}

/// Where a trace context came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A valid `traceparent`: its `tracestate` still holds.
    TraceParent,
    B3,
    Jaeger,
    /// No valid context: the trace begins here.
    Begun,
}

impl TraceContext {
    /// Whether this trace is recorded.
    pub const fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The header for the next hop: version 00, 55 characters.
    pub fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id, &mut text[3..35]);
        write_hex(&self.span_id, &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..55]);
        unique(&text)
    }
}

/// Begins a trace, sampled with the probability `sample` (0 to 1).
pub fn begin(random: &mut fastrand::Rng, sample: f64) -> TraceContext {
    TraceContext {
        trace_id: nonzero(random),
        span_id: nonzero(random),
        parent_span_id: None,
        flags: u8::from(random.f64() < sample) * SAMPLED,
    }
}

/// Continues the caller's trace with a new span, or begins one, sampled with the probability
/// `sample` unless the caller has said whether to sample.
pub fn continue_or_begin(
    headers: &HeaderMap,
    random: &mut fastrand::Rng,
    sample: f64,
) -> (TraceContext, Origin) {
    let (incoming, origin) = read(headers);
    let context = match incoming.ids {
        Some((trace_id, parent)) => TraceContext {
            trace_id,
            span_id: nonzero(random),
            parent_span_id: Some(parent),
            flags: incoming.flags.unwrap_or_else(|| u8::from(random.f64() < sample) * SAMPLED),
        },
        None => {
            let begun = begin(random, sample);
            TraceContext { flags: incoming.flags.unwrap_or(begun.flags), ..begun }
        }
    };
    (context, origin)
}

/// A new `x-request-id`: a random UUID (version 4, RFC 9562) in text.
pub fn request_id(random: &mut fastrand::Rng) -> HeaderValue {
    let mut id = random.u128(..).to_be_bytes();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    for (bytes, at) in [(0..4, 0), (4..6, 9), (6..8, 14), (8..10, 19), (10..16, 24)] {
        let length = bytes.len() * 2;
        write_hex(&id[bytes], &mut text[at..at + length]);
    }
    unique(&text)
}

/// A value that no other request has. HTTP/2 shall not put it into its table of values to be used again,
/// which it would only flush (RFC 7541 6.2.3).
fn unique(text: &[u8]) -> HeaderValue {
    let value = HeaderValue::from_bytes(text);
    let mut value = value.expect("hex digits and dashes are a valid header value");
    value.set_sensitive(true);
    value
}

/// Both digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0x0f]];
        byte += 1;
    }
    pairs
};

/// Writes two lower-case digits a byte; `out` is twice as long as `bytes`.
pub(super) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (pair, byte) in out.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
}

/// What the caller's headers say. Each half may be missing: B3 may carry a sampling decision
/// without ids, and ids without a decision.
#[derive(Clone, Copy, Default)]
struct Incoming {
    ids: Option<([u8; 16], [u8; 8])>,
    flags: Option<u8>,
}

fn read(headers: &HeaderMap) -> (Incoming, Origin) {
    if let Some(incoming) = single(headers, &TRACEPARENT).and_then(parse_traceparent) {
        return (incoming, Origin::TraceParent);
    }
    let b3 = single(headers, &B3).and_then(parse_b3).or_else(|| read_b3_headers(headers));
    if let Some(incoming @ Incoming { ids: Some(_), .. }) = b3 {
        return (incoming, Origin::B3);
    }
    if let Some(incoming) = single(headers, &UBER_TRACE_ID).and_then(parse_jaeger) {
        return (incoming, Origin::Jaeger);
    }
    (b3.unwrap_or_default(), Origin::Begun)
}

/// The header's value; nothing when it stands there more than once, since then nobody knows
/// which one is meant.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// `version-traceid-parentid-flags` (W3C Trace Context, 3.2). A version above 00 may have more
/// after a further dash.
fn parse_traceparent(value: &[u8]) -> Option<Incoming> {
    let (head, rest) = value.split_at_checked(55)?;
    if [head[2], head[35], head[52]] != *b"---" {
        return None;
    }
    let [version] = lower_hex::<1>(&head[..2])?;
    match (version, rest.first()) {
        (0xff, _) => return None,
        (_, None) => {}
        (1.., Some(b'-')) => {}
        _ => return None,
    }
    let ids = ids(lower_hex(&head[3..35])?, lower_hex(&head[36..52])?)?;
    let [flags] = lower_hex::<1>(&head[53..])?;
    Some(Incoming { ids: Some(ids), flags: Some(flags & KNOWN_FLAGS) })
}

/// `traceid-spanid[-sampling[-parentid]]`, or a sampling state alone.
fn parse_b3(value: &[u8]) -> Option<Incoming> {
    let mut parts = value.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span_id) = parts.next() else {
        return Some(Incoming { ids: None, flags: Some(b3_sampling(first)?) });
    };
    let ids = ids(b3_trace_id(first)?, padded_hex(span_id, 16)?)?;
    let flags = match parts.next() {
        Some(sampling) => Some(b3_sampling(sampling)?),
        None => None,
    };
    let parent_is_valid = parts.next().is_none_or(|parent| padded_hex::<8>(parent, 16).is_some());
    (parent_is_valid && parts.next().is_none()).then_some(Incoming { ids: Some(ids), flags })
}

fn read_b3_headers(headers: &HeaderMap) -> Option<Incoming> {
    let debug = single(headers, &X_B3_FLAGS) == Some(b"1");
    let flags = match single(headers, &X_B3_SAMPLED) {
        _ if debug => Some(SAMPLED),
        Some(value) => b3_sampling(value),
        None => None,
    };
    let ids = single(headers, &X_B3_TRACE_ID)
        .and_then(b3_trace_id)
        .zip(single(headers, &X_B3_SPAN_ID).and_then(|id| padded_hex(id, 16)))
        .and_then(|(trace_id, span_id)| ids(trace_id, span_id));
    (ids.is_some() || flags.is_some()).then_some(Incoming { ids, flags })
}

fn b3_sampling(value: &[u8]) -> Option<u8> {
    match value {
        b"1" | b"d" | b"true" => Some(SAMPLED),
        b"0" | b"false" => Some(0),
        _ => None,
    }
}

/// 16 or 32 digits; the short form is the lower half.
fn b3_trace_id(value: &[u8]) -> Option<[u8; 16]> {
    matches!(value.len(), 16 | 32).then(|| padded_hex(value, value.len()))?
}

/// `traceid:spanid:parentid:flags`, where ids may lack their leading zeros and some clients write
/// the colon as `%3A`. Bit 0 of the flags is `sampled`, bit 1 `debug`.
fn parse_jaeger(value: &[u8]) -> Option<Incoming> {
    let mut rest = value;
    let mut parts: [&[u8]; 4] = [&[]; 4];
    for (index, part) in parts.iter_mut().enumerate() {
        let (head, tail) = split_colon(rest);
        *part = head;
        match tail {
            Some(tail) if index < 3 => rest = tail,
            None if index == 3 => {}
            _ => return None,
        }
    }
    let [trace_id, span_id, _parent, flags] = parts;
    let within = |part: &[u8], digits: usize| (1..=digits).contains(&part.len());
    if !within(trace_id, 32) || !within(span_id, 16) || !within(flags, 2) {
        return None;
    }
    let ids = ids(padded_hex(trace_id, trace_id.len())?, padded_hex(span_id, span_id.len())?)?;
    let [flags] = padded_hex::<1>(flags, flags.len())?;
    Some(Incoming { ids: Some(ids), flags: Some(u8::from(flags & 0x03 != 0) * SAMPLED) })
}

fn split_colon(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match value.iter().position(|byte| matches!(byte, b':' | b'%')) {
        None => (value, None),
        Some(at) => {
            let (head, tail) = value.split_at(at);
            let separators: [&[u8]; 3] = [b":", b"%3A", b"%3a"];
            match separators.iter().find_map(|separator| tail.strip_prefix(*separator)) {
                Some(tail) => (head, Some(tail)),
                None => (value, None),
            }
        }
    }
}

/// Ids that are all zero are invalid in every format.
fn ids(trace_id: [u8; 16], span_id: [u8; 8]) -> Option<([u8; 16], [u8; 8])> {
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id))
}

/// Exactly `2 * N` digits, lower case only.
fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    padded_hex(digits, 2 * N)
}

/// Exactly `length` digits of either case, filled up with zeros on the left.
fn padded_hex<const N: usize>(digits: &[u8], length: usize) -> Option<[u8; N]> {
    if digits.len() != length || length > 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (place, digit) in digits.iter().rev().enumerate() {
        let value = char::from(*digit).to_digit(16)? as u8;
        bytes[N - 1 - place / 2] |= value << (4 * (place % 2));
    }
    Some(bytes)
}

fn nonzero<const N: usize>(random: &mut fastrand::Rng) -> [u8; N] {
    loop {
        let mut id = [0; N];
        random.fill(&mut id);
        if id != [0; N] {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn hex(bytes: &[u8]) -> String {
        let mut text = vec![0; bytes.len() * 2];
        write_hex(bytes, &mut text);
        String::from_utf8(text).unwrap()
    }

    fn run(pairs: &[(&'static str, &str)], sample: f64) -> (TraceContext, Origin) {
        continue_or_begin(&headers(pairs), &mut fastrand::Rng::with_seed(7), sample)
    }

    /// The trace id, the parent and the flags of what was continued.
    fn continued(pairs: &[(&'static str, &str)]) -> Option<(String, String, u8, Origin)> {
        let (context, origin) = run(pairs, 0.0);
        let parent = context.parent_span_id?;
        assert_ne!(context.span_id, parent);
        Some((hex(&context.trace_id), hex(&parent), context.flags, origin))
    }

    #[test]
    fn a_valid_traceparent_is_continued() {
        let cases = [
            (format!("00-{TRACE}-{SPAN}-01"), 1),
            (format!("00-{TRACE}-{SPAN}-00"), 0),
            (format!("00-{TRACE}-{SPAN}-03"), 3),
            // Flags without a meaning go out as zero.
            (format!("00-{TRACE}-{SPAN}-ff"), 3),
            // Later versions: the known part counts.
            (format!("01-{TRACE}-{SPAN}-01"), 1),
            (format!("cc-{TRACE}-{SPAN}-01-what-ever"), 1),
            (format!("cc-{TRACE}-{SPAN}-01-"), 1),
        ];
        for (value, flags) in cases {
            let expected = Some((TRACE.to_owned(), SPAN.to_owned(), flags, Origin::TraceParent));
            assert_eq!(continued(&[("traceparent", &value)]), expected, "{value}");
        }
    }

    #[test]
    fn an_invalid_traceparent_begins_a_trace() {
        let cases = [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", "g".repeat(32)),
        ];
        for value in cases {
            let (context, origin) = run(&[("traceparent", &value)], 1.0);
            assert_eq!(origin, Origin::Begun, "{value}");
            assert_eq!(context.parent_span_id, None);
            assert_ne!(hex(&context.trace_id), TRACE);
            assert!(context.sampled());
        }
        let value = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(continued(&[("traceparent", &value), ("traceparent", &value)]), None);
    }

    #[test]
    fn other_formats_are_read_in_their_order() {
        let b3 = |flags| Some((TRACE.to_owned(), SPAN.to_owned(), flags, Origin::B3));
        let short = format!("{}{}", "0".repeat(16), &TRACE[16..]);
        let cases: Vec<(Vec<(&'static str, String)>, _)> = vec![
            (vec![("b3", format!("{TRACE}-{SPAN}-1"))], b3(1)),
            (vec![("b3", format!("{TRACE}-{SPAN}-d"))], b3(1)),
            (vec![("b3", format!("{TRACE}-{SPAN}-0"))], b3(0)),
            (vec![("b3", format!("{TRACE}-{SPAN}"))], b3(0)),
            (vec![("b3", format!("{TRACE}-{SPAN}-1-{SPAN}"))], b3(1)),
            (vec![("b3", format!("{TRACE}-{SPAN}-1-{SPAN}-1"))], None),
            (vec![("b3", format!("{TRACE}-{SPAN}-x"))], None),
            (vec![("b3", format!("{TRACE}-{}", "0".repeat(16)))], None),
            (
                vec![("b3", format!("{}-{SPAN}-1", &TRACE[16..]))],
                Some((short, SPAN.to_owned(), 1, Origin::B3)),
            ),
            (vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into())], b3(0)),
            (
                vec![
                    ("x-b3-traceid", TRACE.into()),
                    ("x-b3-spanid", SPAN.into()),
                    ("x-b3-sampled", "1".into()),
                ],
                b3(1),
            ),
            (
                vec![
                    ("x-b3-traceid", TRACE.into()),
                    ("x-b3-spanid", SPAN.into()),
                    ("x-b3-sampled", "0".into()),
                    ("x-b3-flags", "1".into()),
                ],
                b3(1),
            ),
            (vec![("x-b3-traceid", TRACE.into())], None),
            (vec![("b3", format!("{TRACE}-{SPAN}-1")), ("uber-trace-id", "1:2:0:0".into())], b3(1)),
            (
                vec![("uber-trace-id", format!("{TRACE}:{SPAN}:0:1"))],
                Some((TRACE.to_owned(), SPAN.to_owned(), 1, Origin::Jaeger)),
            ),
            (
                vec![("uber-trace-id", format!("{TRACE}%3A{SPAN}%3a0%3A0"))],
                Some((TRACE.to_owned(), SPAN.to_owned(), 0, Origin::Jaeger)),
            ),
            (
                vec![("uber-trace-id", "a1:b2::3".into())],
                Some((format!("{:0>32}", "a1"), format!("{:0>16}", "b2"), 1, Origin::Jaeger)),
            ),
            (vec![("uber-trace-id", "0:b2:0:1".into())], None),
            (vec![("uber-trace-id", "a1:b2:0".into())], None),
            (vec![("uber-trace-id", "a1:b2:0:1:1".into())], None),
            (vec![("uber-trace-id", format!("1{TRACE}:{SPAN}:0:1"))], None),
        ];
        for (pairs, expected) in cases {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(continued(&pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn the_callers_decision_alone_is_kept() {
        for (pairs, sample, sampled) in [
            ([("b3", "0")], 1.0, false),
            ([("b3", "1")], 0.0, true),
            ([("x-b3-sampled", "0")], 1.0, false),
            ([("x-b3-flags", "1")], 0.0, true),
        ] {
            let (context, origin) = run(&pairs, sample);
            assert_eq!((context.sampled(), origin), (sampled, Origin::Begun), "{pairs:?}");
        }
    }

    #[test]
    fn samples_the_share_that_was_asked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        let none = HeaderMap::new();
        let mut share = |sample| {
            let sampled = (0..10_000)
                .filter(|_| continue_or_begin(&none, &mut random, sample).0.sampled())
                .count();
            sampled as f64 / 10_000.0
        };
        assert_eq!(share(0.0), 0.0);
        assert_eq!(share(1.0), 1.0);
        assert_eq!(share(f64::NAN), 0.0);
        assert!((share(0.1) - 0.1).abs() < 0.02);
    }

    #[test]
    fn request_ids_are_version_4_and_differ() {
        let mut random = fastrand::Rng::with_seed(3);
        let first = request_id(&mut random);
        let text = first.to_str().unwrap();
        let lengths: Vec<_> = text.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&text[14..15], "4");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert!(text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
        assert_ne!(first, request_id(&mut random));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            trace_id in any::<[u8; 16]>(),
            span_id in any::<[u8; 8]>(),
            flags in 0u8..4,
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let sent = TraceContext { trace_id, span_id, parent_span_id: None, flags };
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, sent.traceparent());
            let (read, origin) =
                continue_or_begin(&headers, &mut fastrand::Rng::with_seed(1), 0.5);
            prop_assert_eq!(origin, Origin::TraceParent);
            prop_assert_eq!(read.trace_id, trace_id);
            prop_assert_eq!(read.parent_span_id, Some(span_id));
            prop_assert_eq!(read.flags, flags);
        }

        #[test]
        fn any_header_gives_a_valid_context(
            name in prop::sample::select(
                vec!["traceparent", "b3", "x-b3-traceid", "x-b3-sampled", "uber-trace-id"],
            ),
            value in "[ -~]{0,70}|[0-9a-fA-F:%-]{0,70}",
        ) {
            let headers = headers(&[(name, &value)]);
            let (context, _) =
                continue_or_begin(&headers, &mut fastrand::Rng::with_seed(1), 0.5);
            prop_assert_ne!(context.trace_id, [0; 16]);
            prop_assert_ne!(context.span_id, [0; 8]);
            prop_assert_eq!(context.flags & !KNOWN_FLAGS, 0);
        }
    }
}
