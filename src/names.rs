//! How the field names of an HTTP/1 head were written.
//!
//! Names mean the same in any case (RFC 9110 5.1), and between two connections they are in lower case. Some
//! peers are particular nevertheless: a head goes out with the letters that it came with.

mod slot;
#[cfg(test)]
mod tests;

use std::fmt;

use smallvec::SmallVec;

pub use slot::Slot;

/// A longer name is not recorded; there are two bytes for its length.
const MAX_NAME: usize = 0x7fff;
const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// The field names of a head as they were written, in their order. A pointer, so that it costs little to
/// hand it on; nothing where every name was in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names(Option<Box<Record>>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Record {
    /// Each name behind its length: below 0x80 in one byte, else in two with the high bit set.
    names: SmallVec<[u8; 128]>,
    /// One of them has a letter in upper case.
    upper: bool,
}

impl Names {
    /// The names in `head`, an HTTP/1 head with its start line. Where it breaks off, its names end.
    pub fn of(head: &[u8]) -> Self {
        Self::collect(FieldNames::new(head))
    }

    /// The same of names that are told apart already. Allocates only if one of them has upper case.
    pub fn collect<'a>(mut names: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let all = names.clone();
        if names.any(has_upper) { Self::every(all) } else { Self::default() }
    }

    /// For a parser that comes upon its first name in upper case: the names before it, where `head`
    /// breaks off.
    pub fn before(head: &[u8]) -> Self {
        Self::every(FieldNames::new(head))
    }

    fn every<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut all = Self::default();
        names.for_each(|name| all.add(name));
        all
    }

    /// Adds the next name, a token. It is to be called for names in lower case too: of names that differ
    /// in nothing but case, each gets its own.
    pub fn add(&mut self, name: &[u8]) {
        let len = name.len();
        if len == 0 || len > MAX_NAME {
            return;
        }
        debug_assert!(!name.iter().any(|byte| matches!(byte, b':' | b'\n')));
        let record = self.0.get_or_insert_default();
        record.upper = record.upper || has_upper(name);
        if len >= 0x80 {
            record.names.push(0x80 | (len >> 8) as u8);
        }
        record.names.push(len as u8);
        record.names.extend_from_slice(name);
    }

    /// Whether there is nothing to restore: no name has upper case.
    pub fn is_empty(&self) -> bool {
        !self.0.as_ref().is_some_and(|record| record.upper)
    }

    /// Gives the names in `head`, from its start line on, the case that they had, and says where the head
    /// ends, if it does. Nothing but the case of letters in names changes; what is not recorded stays, and
    /// so does all behind the head's empty line.
    pub fn restore(&self, head: &mut [u8]) -> Option<usize> {
        let record = self.bytes();
        // Usually the name of this line is the next recorded one.
        let mut next = 0;
        let mut line = first_field(head);
        loop {
            match head.get(line..)? {
                [b'\r', b'\n', ..] => return Some(line + 2),
                [b'\n', ..] => return Some(line + 1),
                _ => {}
            }
            let expected = entry(record, next).filter(|(name, _)| is_at(head, line, name));
            let mut end = line;
            if let Some((name, after)) = expected {
                end += name.len();
                head[line..end].copy_from_slice(name);
                next = after;
            } else if let Some(len) = name_len(&head[line..]) {
                end += len;
                if let Some((name, after)) = find(record, next, &head[line..end]) {
                    head[line..end].copy_from_slice(name);
                    next = after;
                }
            }
            line = line_feed(head, end)? + 1;
        }
    }

    /// For keeping many: only what is needed.
    pub fn pack(&self) -> Box<[u8]> {
        self.bytes().into()
    }

    /// What [`pack`](Self::pack) made of names that are not empty.
    pub fn unpack(packed: &[u8]) -> Self {
        Self(Some(Box::new(Record { names: SmallVec::from_slice(packed), upper: true })))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |record| &record.names)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries =
            std::iter::successors(entry(self.bytes(), 0), |(_, after)| entry(self.bytes(), *after));
        f.debug_list().entries(entries.map(|(name, _)| name.escape_ascii().to_string())).finish()
    }
}

/// The name recorded at `at`, and where the one after it is.
fn entry(record: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let first = usize::from(*record.get(at)?);
    let (len, begin) = match first {
        0..0x80 => (first, at + 1),
        _ => ((first & 0x7f) << 8 | usize::from(*record.get(at + 1)?), at + 2),
    };
    Some((record.get(begin..begin + len)?, begin + len))
}

/// Looks for `name` from `from` on, and then from the first one on. Of equal names that are written one
/// behind the other, each is found in its turn.
fn find<'a>(record: &'a [u8], from: usize, name: &[u8]) -> Option<(&'a [u8], usize)> {
    let seek = |mut at: usize, end: usize| {
        while at < end {
            let (found, after) = entry(record, at)?;
            if found.len() == name.len() && is_same(found, name) {
                return Some((found, after));
            }
            at = after;
        }
        None
    };
    seek(from, record.len()).or_else(|| seek(0, from))
}

/// Whether the line that begins at `line` has that name, in whatever case.
fn is_at(head: &[u8], line: usize, name: &[u8]) -> bool {
    let end = line + name.len();
    head.get(end) == Some(&b':') && is_same(&head[line..end], name)
}

/// The names in a head.
#[derive(Clone)]
struct FieldNames<'a> {
    head: &'a [u8],
    line: usize,
}

impl<'a> FieldNames<'a> {
    fn new(head: &'a [u8]) -> Self {
        Self { head, line: first_field(head) }
    }
}

impl<'a> Iterator for FieldNames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = &self.head[self.line..];
            if let [b'\r', b'\n', ..] | [b'\n', ..] = rest {
                return None;
            }
            let len = name_len(rest);
            let end = self.line + len.unwrap_or(0);
            self.line = line_feed(self.head, end).map_or(self.head.len(), |end| end + 1);
            match len {
                Some(len) => return Some(&rest[..len]),
                None if self.line == self.head.len() => return None,
                None => {}
            }
        }
    }
}

/// Where the line after the start line begins. Empty lines before it do not count (RFC 9112 2.2).
fn first_field(head: &[u8]) -> usize {
    let begin = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
    line_feed(head, begin).map_or(head.len(), |end| end + 1)
}

/// Length of the name that a line begins with; `None` for what is not a field, or goes on with the one
/// before.
fn name_len(line: &[u8]) -> Option<usize> {
    if let [b':' | b' ' | b'\t', ..] = line {
        return None;
    }
    let len = line.iter().position(|byte| matches!(byte, b':' | b'\n'))?;
    (line[len] == b':').then_some(len)
}

/// Index of the first LF from `at` on; eight bytes a step.
fn line_feed(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        // A borrow can only mark a byte above one that is truly marked: the lowest mark is exact.
        let marks = word.wrapping_sub(ONES) & !word & HIGH;
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|&byte| byte == b'\n').map(|offset| at + offset)
}

/// Whether two names of the same length differ in nothing but the case of letters.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    fn same(a: u64, b: u64) -> bool {
        (a ^ b) & !case_bits(a) == 0
    }
    if let (Some(a_end), Some(b_end)) = (a.last_chunk(), b.last_chunk()) {
        let (words, _) = a.as_chunks();
        let mut pairs = words.iter().zip(b.as_chunks().0);
        return pairs.all(|(a, b)| same(u64::from_le_bytes(*a), u64::from_le_bytes(*b)))
            && same(u64::from_le_bytes(*a_end), u64::from_le_bytes(*b_end));
    }
    match (ends(a), ends(b)) {
        (Some(a), Some(b)) => same(a, b),
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// Whether a name has a letter in upper case.
pub fn has_upper(name: &[u8]) -> bool {
    fn upper(word: u64) -> bool {
        case_bits(word) & !word != 0
    }
    if name.first().is_some_and(u8::is_ascii_uppercase) {
        return true;
    }
    if let Some(end) = name.last_chunk() {
        let (words, _) = name.as_chunks();
        return words.iter().any(|word| upper(u64::from_le_bytes(*word)))
            || upper(u64::from_le_bytes(*end));
    }
    ends(name).map_or_else(|| name.iter().any(u8::is_ascii_uppercase), upper)
}

/// All of a name of 4 to 8 bytes, those in the middle twice.
fn ends(name: &[u8]) -> Option<u64> {
    let first = u32::from_le_bytes(*name.first_chunk()?);
    let last = u32::from_le_bytes(*name.last_chunk()?);
    (name.len() <= 8).then_some(u64::from(first) | u64::from(last) << 32)
}

/// The bit that makes upper case lower, in each of eight bytes that is an ASCII letter.
fn case_bits(word: u64) -> u64 {
    let lower = (word | ONES * 0x20) & !HIGH;
    // Sums of seven bits each: no carry leaves its byte.
    let from_a = lower + ONES * (0x80 - b'a' as u64);
    let past_z = lower + ONES * (0x7f - b'z' as u64);
    (from_a & !past_z & !word & HIGH) >> 2
}
