//! What is done to whom, and when: the same for the same seed.

use std::time::Duration;

use fastrand::Rng;

use crate::town::Part;

/// How often something is hit.
const EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL, and it is started again.
    Kill,
    /// SIGSTOP and SIGCONT.
    Freeze,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// From the beginning on.
    pub at: Duration,
    /// Which of the instances.
    pub instance: usize,
    pub part: Part,
    pub act: Act,
    /// How long until it is back.
    pub lasts: Duration,
}

/// One hit after the other; the last one is over before `length` is. All that can be done to all is done, in an
/// order by chance, and then again in another one.
pub fn schedule(seed: u64, length: Duration, instances: usize) -> Vec<Hit> {
    let mut rng = Rng::with_seed(seed);
    let mut left = Vec::new();
    let times = (1..).map(|number| EVERY * number).take_while(|at| *at + EVERY <= length);
    let hit = |at| {
        if left.is_empty() {
            left = everything(instances);
            rng.shuffle(&mut left);
        }
        let (instance, part, act) = left.pop()?;
        let least = match act {
            Act::Kill => 1500,
            Act::Freeze => 2000,
        };
        let lasts = Duration::from_millis(least + rng.u64(..1000));
        Some(Hit { at, instance, part, act, lasts })
    };
    times.map_while(hit).collect()
}

fn everything(instances: usize) -> Vec<(usize, Part, Act)> {
    let mut all = Vec::new();
    for instance in 0..instances {
        for part in [Part::App, Part::Sidecar] {
            all.extend([Act::Kill, Act::Freeze].map(|act| (instance, part, act)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_does_the_same() {
        let of = |seed| schedule(seed, Duration::from_secs(120), 5);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn one_is_hit_every_five_seconds_and_back_before_the_next_one() {
        let hits = schedule(1, Duration::from_secs(120), 5);
        assert_eq!(hits.len(), 23);
        for (number, hit) in (1..).zip(&hits) {
            assert_eq!(hit.at, EVERY * number);
            assert!(hit.instance < 5 && hit.lasts <= Duration::from_secs(3), "{hit:?}");
        }
        assert_eq!(schedule(1, Duration::from_secs(9), 5), []);
    }

    #[test]
    fn everybody_is_hit_in_every_way() {
        let hits = schedule(1, Duration::from_secs(105), 5);
        assert_eq!(hits.len(), 20);
        for instance in 0..5 {
            for part in [Part::App, Part::Sidecar] {
                for act in [Act::Kill, Act::Freeze] {
                    let is =
                        |hit: &&Hit| (hit.instance, hit.part, hit.act) == (instance, part, act);
                    assert!(hits.iter().any(|hit| is(&hit)), "{instance} {part:?} {act:?}");
                }
            }
        }
    }
}
