//! The power of two choices (M. Mitzenmacher 2001): the better of two random ones is nearly as good
//! as the best of all, costs the same for any number of endpoints, and workers that know the same
//! do not all run to the same endpoint.

use super::weighted::Shares;

/// Draws two different endpoints by weight and takes the second if `better(first, second)`. `None`: all
/// are skipped.
///
/// The weight is in the draw: where `better` is indifferent, shares follow the weights.
pub(super) fn pick(
    shares: &Shares,
    random: &mut fastrand::Rng,
    skip: &impl Fn(usize) -> bool,
    better: impl FnOnce(usize, usize) -> bool,
) -> Option<usize> {
    let first = shares.sample_except(random, skip)?;
    let taken = |index| index == first || skip(index);
    Some(match shares.sample_except(random, taken) {
        Some(second) if better(first, second) => second,
        _ => first,
    })
}
