//! Each in its turn, by weight. Exact shares, blind to how endpoints do.

use super::weighted::Shares;
use super::{Cursor, was_tried};

pub(super) fn pick(shares: &Shares, cursor: &mut Cursor, tried: &[u32]) -> usize {
    // Turns that fall on tried ones are lost, as if taken: the order stays a function of the turn.
    for _ in 0..=2 * tried.len() {
        let index = shares.nth(cursor.next());
        if !was_tried(tried, index) {
            return index;
        }
    }
    let start = shares.nth(cursor.next());
    let mut round = (start..shares.len()).chain(0..start);
    round.find(|index| !was_tried(tried, *index)).unwrap_or(start)
}
