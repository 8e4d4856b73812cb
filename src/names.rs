//! How the field names of an HTTP/1 head were written.
//!
//! Names mean the same in any case (RFC 9110 5.1), and between two connections they are in lower case. Some
//! peers are particular nevertheless: a head goes out with the letters that it came with.

#[cfg(test)]
mod tests;

use std::fmt;

/// A longer name is not recorded; there are two bytes for its length.
const MAX_NAME: usize = 0x7fff;
/// Bytes of names that need no memory but that of the record.
const ROOM: usize = 128;
const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// The field names of a head as they were written, in their order. A pointer, so that it costs little to
/// hand it on; nothing where every name was in lower case.
#[derive(Clone, Default)]
pub struct Names(Option<Box<Record>>);

/// Each name stands behind its length: below 0x80 in one byte, else in two with the high bit set.
#[derive(Clone)]
struct Record {
    names: [u8; ROOM],
    len: usize,
    /// All of them, where there is no room in `names`.
    more: Vec<u8>,
    /// The [`mark`] of each name: most fields that others add are told by it.
    marks: u64,
    /// One of them has a letter in upper case.
    upper: bool,
}

impl Names {
    /// Those of a head. Allocates only if one of them has upper case.
    pub fn collect<'a>(mut names: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let all = names.clone();
        let mut found = Self::default();
        if names.any(has_upper) {
            all.for_each(|name| found.add(name));
        }
        found
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
        record.marks |= mark(name);
        record.push(name);
    }

    /// Whether there is nothing to restore: no name has upper case.
    pub fn is_empty(&self) -> bool {
        !self.0.as_ref().is_some_and(|record| record.upper)
    }

    /// For one who writes the names one by one.
    pub fn spelling(&self) -> Spelling<'_> {
        let marks = self.0.as_ref().map_or(0, |record| record.marks);
        Spelling { record: self.bytes(), marks, next: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |record| record.bytes())
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Record {
    fn push(&mut self, name: &[u8]) {
        let len = name.len();
        if len < 0x80
            && self.more.is_empty()
            && let Some([first, room @ ..]) = self.names.get_mut(self.len..self.len + 1 + len)
        {
            *first = len as u8;
            room.copy_from_slice(name);
            self.len += 1 + len;
        } else {
            self.push_more(name);
        }
    }

    #[cold]
    fn push_more(&mut self, name: &[u8]) {
        if self.more.is_empty() {
            self.more.reserve(4 * ROOM);
            self.more.extend_from_slice(&self.names[..self.len]);
        }
        let len = name.len();
        if len >= 0x80 {
            self.more.push(0x80 | (len >> 8) as u8);
        }
        self.more.push(len as u8);
        self.more.extend_from_slice(name);
    }

    fn bytes(&self) -> &[u8] {
        if self.more.is_empty() { &self.names[..self.len] } else { &self.more }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { names: [0; ROOM], len: 0, more: Vec::new(), marks: 0, upper: false }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries =
            std::iter::successors(entry(self.bytes(), 0), |(_, after)| entry(self.bytes(), *after));
        f.debug_list().entries(entries.map(|(name, _)| name.escape_ascii().to_string())).finish()
    }
}

/// One bit for the length and the first letter of a name.
fn mark(name: &[u8]) -> u64 {
    let first = name.first().map_or(0, |byte| usize::from(byte | 0x20));
    1 << ((first * 5 + name.len()) % 64)
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

/// How names are written, asked in the order in which they stand in a head.
#[derive(Debug)]
pub struct Spelling<'a> {
    record: &'a [u8],
    marks: u64,
    /// Usually the name that is asked for is the next recorded one.
    next: usize,
}

impl<'a> Spelling<'a> {
    /// How `name` is written, if that was recorded. Of equal names each gets its own.
    pub fn of(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        let fits = |found: &[u8]| found.len() == name.len() && is_same(found, name);
        self.expected(fits).or_else(|| self.search(name))
    }

    fn expected(&mut self, fits: impl Fn(&[u8]) -> bool) -> Option<&'a [u8]> {
        let (name, after) = entry(self.record, self.next).filter(|(name, _)| fits(name))?;
        self.next = after;
        Some(name)
    }

    /// Looks behind the last one that was found, and then among those before it.
    fn search(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        if self.marks & mark(name) == 0 {
            return None;
        }
        let seek = |mut at: usize, end: usize| {
            while at < end {
                let (found, after) = entry(self.record, at)?;
                if found.len() == name.len() && is_same(found, name) {
                    return Some((found, after));
                }
                at = after;
            }
            None
        };
        let found = seek(self.next, self.record.len()).or_else(|| seek(0, self.next));
        let (found, after) = found?;
        self.next = after;
        Some(found)
    }
}

/// Whether two names of the same length differ in nothing but the case of letters.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    fn same(a: &[u8; 8], b: &[u8; 8]) -> bool {
        let (a, b) = (u64::from_le_bytes(*a), u64::from_le_bytes(*b));
        (a ^ b) & !case_bits(a) == 0
    }
    let (Some(a_end), Some(b_end)) = (a.last_chunk(), b.last_chunk()) else {
        return match (ends(a), ends(b)) {
            (Some(a), Some(b)) => same(&a, &b),
            _ => a.eq_ignore_ascii_case(b),
        };
    };
    let (mut a, mut b) = (a, b);
    while let (Some((a_word, a_rest)), Some((b_word, b_rest))) =
        (a.split_first_chunk(), b.split_first_chunk())
    {
        if !same(a_word, b_word) {
            return false;
        }
        (a, b) = (a_rest, b_rest);
    }
    a.is_empty() || same(a_end, b_end)
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
    name.iter().any(u8::is_ascii_uppercase)
}

/// All of a name of 4 to 8 bytes, those in the middle twice.
fn ends(name: &[u8]) -> Option<[u8; 8]> {
    let [a, b, c, d] = *name.first_chunk()?;
    let [e, f, g, h] = *name.last_chunk()?;
    (name.len() <= 8).then_some([a, b, c, d, e, f, g, h])
}

/// The bit that makes upper case lower, in each of eight bytes that is an ASCII letter.
fn case_bits(word: u64) -> u64 {
    let lower = (word | (ONES * 0x20)) & !HIGH;
    // Sums of seven bits each: no carry leaves its byte.
    let from_a = lower + ONES * (0x80 - b'a' as u64);
    let past_z = lower + ONES * (0x7f - b'z' as u64);
    (from_a & !past_z & !word & HIGH) >> 2
}
