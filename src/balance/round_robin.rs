//! Each in its turn, by weight. Exact shares, blind to how endpoints do.

use super::Cursor;
use super::weighted::Shares;

/// Turns that are looked at; of more endpoints, as many as there are. Fewer would give what a neighbour in
/// the order cannot take to the one behind it.
const TURNS: usize = 16;

pub(super) fn pick(
    shares: &Shares,
    cursor: &mut Cursor,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    // Turns that fall on skipped ones are lost, as if taken: the order stays a function of the turn.
    for _ in 0..shares.len().max(TURNS) {
        let index = shares.nth(cursor.next());
        if !skip(index) {
            return Some(index);
        }
    }
    // What is left has so small a weight that its turn did not come.
    let start = shares.nth(cursor.next());
    (start..shares.len()).chain(0..start).find(|index| !skip(*index))
}
