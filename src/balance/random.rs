//! At random, by weight.

use super::was_tried;
use super::weighted::Shares;

pub(super) fn pick(shares: &Shares, random: &mut fastrand::Rng, tried: &[u32]) -> usize {
    shares.sample_except(random, |index| was_tried(tried, index)).unwrap_or(0)
}
