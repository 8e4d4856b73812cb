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
        record.marks |= mark(name);
        record.push(name);
    }

    /// Whether there is nothing to restore: no name has upper case.
    pub fn is_empty(&self) -> bool {
        !self.0.as_ref().is_some_and(|record| record.upper)
    }

    /// Gives the names in `head`, from its start line on, the case that they had, and says where the head
    /// ends, if it does. Nothing but the case of letters in names changes; what is not recorded stays, and
    /// so does all behind the head's empty line.
    pub fn restore(&self, head: &mut [u8]) -> Option<usize> {
        let mut spelling = self.spelling();
        let mut line = first_field(head);
        loop {
            match head.get(line)? {
                b'\n' => return Some(line + 1),
                b'\r' if head.get(line + 1) == Some(&b'\n') => return Some(line + 2),
                _ => {}
            }
            let mut end = line;
            if let Some(name) = spelling.of_line(&head[line..]) {
                end += name.len();
                head[line..end].copy_from_slice(name);
            }
            line = line_feed(head, end)? + 1;
        }
    }

    /// For one who writes the names one by one.
    pub fn spelling(&self) -> Spelling<'_> {
        let marks = self.0.as_ref().map_or(0, |record| record.marks);
        Spelling { record: self.bytes(), marks, next: 0 }
    }

    /// For keeping many: only what is needed.
    pub fn pack(&self) -> Box<[u8]> {
        self.bytes().into()
    }

    /// What [`pack`](Self::pack) made of names that are not empty.
    pub fn unpack(packed: &[u8]) -> Self {
        let more = packed.to_vec();
        Self(Some(Box::new(Record { more, marks: u64::MAX, upper: true, ..Record::default() })))
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

    /// The same for the name that a line begins with.
    fn of_line(&mut self, line: &[u8]) -> Option<&'a [u8]> {
        let fits =
            |name: &[u8]| line.get(name.len()) == Some(&b':') && is_same(name, &line[..name.len()]);
        self.expected(fits).or_else(|| self.search(&line[..name_len(line)?]))
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
    let len = first_of(line, 0, |word| marks_of(word, b':') | marks_of(word, b'\n'))?;
    (line[len] == b':').then_some(len)
}

/// Index of the first LF from `at` on.
fn line_feed(bytes: &[u8], at: usize) -> Option<usize> {
    first_of(bytes, at, |word| marks_of(word, b'\n'))
}

/// Index of the first byte from `at` on that `marks` marks; eight bytes a step.
fn first_of(bytes: &[u8], at: usize, marks: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, rest) = bytes[at..].as_chunks();
    for (index, word) in words.iter().enumerate() {
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(at + 8 * index + marks.trailing_zeros() as usize / 8);
        }
    }
    let index = rest.iter().position(|byte| marks(u64::from(*byte)) & 0x80 != 0)?;
    Some(at + 8 * words.len() + index)
}

/// The high bit of each byte in `word` that is `byte`. A borrow can only mark one above a byte that is
/// truly marked: the lowest mark is exact.
fn marks_of(word: u64, byte: u8) -> u64 {
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & HIGH
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
