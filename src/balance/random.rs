//! At random, by weight.

use super::weighted::Shares;

pub(super) fn pick(
    shares: &Shares,
    random: &mut fastrand::Rng,
    skip: &impl Fn(usize) -> bool,
) -> Option<usize> {
    shares.sample_except(random, skip)
}
