//! Why a message is refused: a closed set of values that the answer, the log and the metrics share.

/// The verdict on a message that breaks HTTP, or our limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The status to answer with.
    pub status: u16,
    /// Name of the reason, in snake case, for headers, logs and metric labels.
    pub reason: &'static str,
    /// One line for the person who wrote the client: what to do.
    pub message: &'static str,
}

const fn bad(reason: &'static str, message: &'static str) -> Rejection {
    with_status(400, reason, message)
}

const fn with_status(status: u16, reason: &'static str, message: &'static str) -> Rejection {
    Rejection { status, reason, message }
}

/// Lines, which heads and chunked bodies have in common (RFC 9112 2.2, 5).
impl Rejection {
    pub const BARE_LF: Self = bad("bare_lf", "a line ends with LF alone; end lines with CR LF");
    pub const BARE_CR: Self = bad("bare_cr", "a CR stands without LF; end lines with CR LF");
    pub const BLANK_LINES: Self =
        bad("blank_lines", "too many empty lines before the request line; send none");
    pub const OBS_FOLD: Self =
        bad("obs_fold", "a field line begins with white space; put each field on one line");
    pub const SPACE_BEFORE_COLON: Self = bad(
        "space_before_colon",
        "white space in or after a field name; put the colon right after the name",
    );
    pub const NO_COLON: Self = bad("no_colon", "a field line has no colon; write name: value");
    pub const BAD_FIELD_NAME: Self =
        bad("bad_field_name", "a field name is not a token; use letters, digits and hyphens");
    pub const BAD_FIELD_VALUE: Self =
        bad("bad_field_value", "a field value has a control character; remove or encode it");
    pub const INCOMPLETE_HEAD: Self =
        bad("incomplete_head", "the request head breaks off; end it with an empty line");
}

/// The request line (RFC 9112 3).
impl Rejection {
    pub const BAD_METHOD: Self =
        bad("bad_method", "the method is not a token followed by one space; send GET, POST, ...");
    pub const METHOD_TOO_LONG: Self =
        with_status(501, "method_too_long", "the method is longer than 32 bytes; use a known one");
    pub const BAD_TARGET: Self = bad(
        "bad_target",
        "the request target is invalid; percent-encode it and use /path or http://host/path",
    );
    pub const FRAGMENT: Self =
        bad("fragment_in_target", "the request target has a #; cut the fragment or send %23");
    pub const USERINFO: Self =
        bad("userinfo_in_target", "the request target has user information; use Authorization");
    pub const BAD_SCHEME: Self =
        bad("bad_scheme", "only http:// may stand in an absolute request target");
    pub const TARGET_TOO_LONG: Self =
        with_status(414, "target_too_long", "the request target is too long; shorten the query");
    pub const BAD_VERSION: Self =
        bad("bad_version", "the request line does not end with HTTP/1.1 or HTTP/1.0");
    pub const UNKNOWN_VERSION: Self =
        with_status(505, "unknown_version", "speak HTTP/1.1, or HTTP/2 from the first byte");
}

/// Fields that frame or route the message.
impl Rejection {
    pub const NO_HOST: Self = bad("no_host", "HTTP/1.1 needs a Host field; add one");
    pub const TWO_HOSTS: Self = bad("two_hosts", "there is more than one Host field; send one");
    pub const BAD_HOST: Self =
        bad("bad_host", "the Host field is not a host with an optional port; send host:port");
    pub const CONFLICTING_LENGTH: Self = bad(
        "conflicting_length",
        "Content-Length stands beside Transfer-Encoding; send only one of them",
    );
    pub const TWO_LENGTHS: Self =
        bad("two_lengths", "there is more than one Content-Length; send one");
    pub const BAD_LENGTH: Self =
        bad("bad_length", "Content-Length is not a plain decimal number; send digits only");
    pub const BAD_TRANSFER_ENCODING: Self = bad(
        "bad_transfer_encoding",
        "Transfer-Encoding is not exactly chunked, once, in HTTP/1.1; send chunked",
    );
    pub const UNKNOWN_TRANSFER_CODING: Self = with_status(
        501,
        "unknown_transfer_coding",
        "only the transfer coding chunked is taken; compress with Content-Encoding",
    );
    pub const UNDERSCORE_NAME: Self = bad(
        "underscore_name",
        "Content_Length or Transfer_Encoding with an underscore; use the hyphen",
    );
    pub const BAD_CONNECTION: Self = bad(
        "bad_connection",
        "Connection names Host, Content-Length or Transfer-Encoding; remove that option",
    );
    pub const BAD_EXPECTATION: Self =
        with_status(417, "bad_expectation", "only Expect: 100-continue is understood");
    pub const CONNECT_WITH_BODY: Self =
        bad("connect_with_body", "CONNECT has no body; send the data after the answer");
}

/// Limits.
impl Rejection {
    pub const HEADER_TIMEOUT: Self =
        with_status(408, "header_timeout", "the request head took too long; send it at once");
    pub const HEAD_TOO_LARGE: Self =
        with_status(431, "head_too_large", "the request head is too large; send smaller fields");
    pub const TOO_MANY_FIELDS: Self =
        with_status(431, "too_many_fields", "the request has too many fields; send fewer");
}

/// The chunked body (RFC 9112 7.1).
impl Rejection {
    pub const BAD_CHUNK_SIZE: Self =
        bad("bad_chunk_size", "a chunk size is not 1 to 16 hexadecimal digits and CR LF");
    pub const BAD_CHUNK_EXTENSION: Self =
        bad("bad_chunk_extension", "a chunk extension has a control character; send none");
    pub const CHUNK_EXTENSION_TOO_LONG: Self =
        bad("chunk_extension_too_long", "the chunk extensions are too long; send none");
    pub const BAD_CHUNK_END: Self =
        bad("bad_chunk_end", "the data of a chunk is longer than its size says");
    pub const TRAILERS_TOO_LARGE: Self =
        bad("trailers_too_large", "the trailers are too many or too large; send fewer");
}
