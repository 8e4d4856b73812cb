//! Each in its turn, by weight. Exact shares, blind to how endpoints do.

use super::Cursor;
use super::weighted::Shares;

/// Turns after which it is taken that most are skipped.
const TURNS: usize = 16;

pub(super) fn pick(
    shares: &Shares,
    cursor: &mut Cursor,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    // Turns that fall on skipped ones are lost, as if taken: the order stays a function of the turn.
    for _ in 0..TURNS {
        let index = shares.nth(cursor.next());
        if !skip(index) {
            return Some(index);
        }
    }
    let start = shares.nth(cursor.next());
    (start..shares.len()).chain(0..start).find(|index| !skip(*index))
}
