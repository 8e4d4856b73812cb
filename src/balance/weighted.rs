//! Choosing by weight in constant time, at random or in turn, from one table.
//!
//! The alias method (A. J. Walker 1977, built as by M. D. Vose 1991): as many columns as entries,
//! all of the same height, each shared by at most two entries. Whole numbers throughout, so that
//! shares are exact.

/// Shares of entries by weight. Weights above a sum of 2^32 are scaled down, rounded.
#[derive(Debug)]
pub(super) struct Shares {
    len: usize,
    /// `None`: all the same.
    table: Option<Box<Table>>,
}

#[derive(Debug)]
struct Table {
    /// The sum of the weights, which is the height of each column; at most `u32::MAX`.
    height: u64,
    columns: Box<[Column]>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// How much of the height is the entry's own, the rest being that of `other`.
    own: u32,
    other: u32,
}

impl Shares {
    /// At most `u32::MAX` entries. All weights zero count as all the same.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.into_iter().collect();
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self { len: weights.len(), table: (!even).then(|| Box::new(Table::new(&weights))) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One at random. There has to be one.
    pub(super) fn sample(&self, random: &mut fastrand::Rng) -> usize {
        let index = random.usize(..self.len);
        match &self.table {
            None => index,
            Some(table) => {
                let column = table.columns[index];
                let drawn = random.u64(..table.height);
                if drawn < u64::from(column.own) { index } else { column.other as usize }
            }
        }
    }

    /// One at random for which `skip` does not hold, or `None` if it holds for all. The time goes
    /// by the number of those that are skipped, not by the number of entries.
    pub(super) fn sample_except(
        &self,
        random: &mut fastrand::Rng,
        skip: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        const DRAWS: usize = 4;
        for _ in 0..DRAWS {
            let index = self.sample(random);
            if !skip(index) {
                return Some(index);
            }
        }
        // What is skipped has most of the weight: any other one will do.
        let start = random.usize(..self.len);
        (start..self.len).chain(0..start).find(|index| !skip(*index))
    }

    /// The `turn`th in turn. There has to be one.
    ///
    /// Goes round the columns; a column alternates between its two entries as evenly as whole
    /// numbers can (Bresenham), and columns start at different phases so that an entry with many
    /// columns does not get them all in a row. Any [`Shares::period`] turns have exact shares.
    pub(super) fn nth(&self, turn: u64) -> usize {
        let len = self.len as u64;
        #[allow(clippy::cast_possible_truncation)]
        let index = (turn % len) as usize;
        let Some(Table { height, columns }) = self.table.as_deref() else {
            return index;
        };
        let column = columns[index];
        let other = height - u64::from(column.own);
        let round = (turn / len) % height;
        // No overflow: `height` is below 2^32.
        let position = (phase(index, *height) + round * other) % height;
        if position < other { column.other as usize } else { index }
    }

    /// After how many turns [`Shares::nth`] has given everyone their exact share.
    #[cfg(test)]
    fn period(&self) -> u64 {
        self.len as u64 * self.table.as_ref().map_or(1, |table| table.height)
    }
}

/// Multiples of the golden ratio leave the smallest gaps, however many there are.
fn phase(index: usize, height: u64) -> u64 {
    const GOLDEN: u64 = 0x9E37_79B9;
    let fraction = (index as u64).wrapping_mul(GOLDEN) & u64::from(u32::MAX);
    (fraction * height) >> 32
}

impl Table {
    fn new(weights: &[u32]) -> Self {
        let weights = reduced(weights);
        let height: u64 = weights.iter().sum();
        let len = weights.len() as u64;
        let mut rest: Vec<u64> = weights.iter().map(|weight| weight * len).collect();
        #[allow(clippy::cast_possible_truncation)]
        let mut columns: Vec<Column> =
            (0..len).map(|index| Column { own: height as u32, other: index as u32 }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|index| rest[*index] < height);
        // The rest of those that are left always averages `height`: while one is below it, one is
        // above it.
        while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
            #[allow(clippy::cast_possible_truncation)]
            {
                columns[poor] = Column { own: rest[poor] as u32, other: rich as u32 };
            }
            rest[rich] -= height - rest[poor];
            if rest[rich] < height {
                small.push(rich);
            } else {
                large.push(rich);
            }
        }
        Self { height, columns: columns.into() }
    }
}

/// The same weights in the smallest whole numbers, with a sum of at most `u32::MAX`.
fn reduced(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let mut weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    while weights.iter().sum::<u64>() > u64::from(u32::MAX) {
        for weight in &mut weights {
            // Small ones become 1, not 0: zero means never.
            *weight = weight.div_ceil(2);
        }
    }
    weights
}

pub(super) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(len: usize, picks: impl Iterator<Item = usize>) -> Vec<u64> {
        let mut counts = vec![0; len];
        picks.for_each(|index| counts[index] += 1);
        counts
    }

    #[test]
    fn the_largest_weights_keep_their_shares() {
        let shares = Shares::new([u32::MAX, u32::MAX - 1, 1]);
        let mut random = fastrand::Rng::with_seed(2);
        let counts = counted(3, (0..10_000).map(|_| shares.sample(&mut random)));
        assert!((4700..5300).contains(&counts[0]) && counts[2] < 3, "{counts:?}");
        for turn in [0, 1, u64::MAX - 1, u64::MAX] {
            assert!(shares.nth(turn) < 3);
        }
    }

    #[test]
    fn a_heavy_one_is_interleaved_with_light_ones() {
        let shares = Shares::new([100].into_iter().chain([1; 100]));
        let picks: Vec<usize> = (0..10_000).map(|turn| shares.nth(turn)).collect();
        for window in picks.windows(20) {
            let heavy = window.iter().filter(|index| **index == 0).count();
            assert!((6..=14).contains(&heavy), "{window:?}");
        }
    }

    #[test]
    fn all_but_one_skipped_is_found_whatever_its_weight() {
        let shares = Shares::new([1_000_000, 1, 1_000_000]);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            assert_eq!(shares.sample_except(&mut random, |index| index != 1), Some(1));
            assert_eq!(shares.sample_except(&mut random, |_| true), None);
        }
    }

    proptest! {
        #[test]
        fn turns_are_exact_over_a_period_from_any_start(
            weights in prop::collection::vec(0_u32..9, 1..9),
            start in any::<u32>(),
        ) {
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            prop_assume!(sum > 0);
            let shares = Shares::new(weights.iter().copied());
            let start = u64::from(start);
            let turns = start..start + shares.period();
            let counts = counted(weights.len(), turns.map(|turn| shares.nth(turn)));
            for (weight, count) in weights.iter().zip(counts) {
                prop_assert_eq!(count * sum, u64::from(*weight) * shares.period());
            }
        }

        #[test]
        fn turns_never_stray_far_from_the_shares(
            weights in prop::collection::vec(1_u32..100, 1..20),
        ) {
            let sum: u32 = weights.iter().sum();
            let shares = Shares::new(weights.iter().copied());
            let mut counts = vec![0_u32; weights.len()];
            for turn in 0..2000_u32 {
                counts[shares.nth(u64::from(turn))] += 1;
                for (weight, count) in weights.iter().zip(&counts) {
                    let due = f64::from(turn + 1) * f64::from(*weight) / f64::from(sum);
                    let off = (f64::from(*count) - due).abs();
                    prop_assert!(off <= weights.len() as f64, "{off} after {turn}");
                }
            }
        }

        #[test]
        fn samples_follow_the_weights(
            weights in prop::collection::vec(0_u32..50, 1..9),
            seed in any::<u64>(),
        ) {
            let sum: u32 = weights.iter().sum();
            prop_assume!(sum > 0);
            let shares = Shares::new(weights.iter().copied());
            let mut random = fastrand::Rng::with_seed(seed);
            const PICKS: usize = 20_000;
            let counts = counted(weights.len(), (0..PICKS).map(|_| shares.sample(&mut random)));
            for (weight, count) in weights.iter().zip(counts) {
                let due = PICKS as f64 * f64::from(*weight) / f64::from(sum);
                // Six standard deviations: never by chance.
                let slack = 6.0 * due.sqrt() + 1.0;
                prop_assert!((count as f64 - due).abs() <= slack, "{count} {due}");
            }
        }
    }
}
