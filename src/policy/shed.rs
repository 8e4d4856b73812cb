//! Which requests are refused while the proxy itself has too little: the least important ones first.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

/// How important a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    Sheddable,
    #[default]
    Default,
    /// Never refused for want of anything here.
    Critical,
}

impl Priority {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Default => "default",
            Self::Critical => "critical",
        }
    }

    /// By its name, as a header has it.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Sheddable, Self::Default, Self::Critical]
            .into_iter()
            .find(|priority| name.trim_ascii().eq_ignore_ascii_case(priority.as_str().as_bytes()))
    }
}

/// What there can be too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Time of the worker.
    EventLoopLag,
    Memory,
    Descriptors,
}

impl Signal {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventLoopLag => "event_loop_lag",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Calm,
    /// The sheddable ones are refused.
    High,
    /// All but the critical ones are refused.
    Severe,
}

impl Level {
    pub fn refuses(self, priority: Priority) -> bool {
        match priority {
            Priority::Critical => false,
            Priority::Default => self >= Self::Severe,
            Priority::Sheddable => self >= Self::High,
        }
    }

    fn of_u8(level: u8) -> Self {
        match level {
            0 => Self::Calm,
            1 => Self::High,
            _ => Self::Severe,
        }
    }
}

/// From which value on which requests are refused.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Thresholds<T> {
    pub sheddable: T,
    pub default: T,
}

impl<T: PartialOrd> Thresholds<T> {
    pub fn level(&self, value: &T) -> Level {
        if *value >= self.default {
            Level::Severe
        } else if *value >= self.sheddable {
            Level::High
        } else {
            Level::Calm
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShedLimits {
    pub lag: Option<Thresholds<Duration>>,
    /// Shares of the limit.
    pub memory: Option<Thresholds<f64>>,
    /// What the process may take, where that is not the limit of its cgroup.
    pub memory_limit: Option<u64>,
    pub descriptors: Option<Thresholds<f64>>,
}

impl Default for ShedLimits {
    fn default() -> Self {
        let shares = Thresholds { sheddable: 0.85, default: 0.95 };
        Self {
            lag: Some(Thresholds {
                sheddable: Duration::from_millis(100),
                default: Duration::from_millis(500),
            }),
            memory: Some(shares),
            memory_limit: None,
            descriptors: Some(shares),
        }
    }
}

/// The worst signal, of those that refuse a request of `priority`.
pub fn refused(priority: Priority, levels: [(Signal, Level); 3]) -> Option<Signal> {
    let refusing = levels.into_iter().filter(|(_, level)| level.refuses(priority));
    refusing.max_by_key(|(_, level)| *level).map(|(signal, _)| signal)
}

/// What control measures, for the workers to read.
#[derive(Debug, Default)]
pub struct Pressure {
    memory: AtomicU8,
    descriptors: AtomicU8,
}

impl Pressure {
    pub fn set(&self, memory: Level, descriptors: Level) {
        self.memory.store(memory as u8, Relaxed);
        self.descriptors.store(descriptors as u8, Relaxed);
    }

    pub fn memory(&self) -> Level {
        Level::of_u8(self.memory.load(Relaxed))
    }

    pub fn descriptors(&self) -> Level {
        Level::of_u8(self.descriptors.load(Relaxed))
    }
}

/// How late the timers of a worker are: the least of the last few, because a single one is late by a single
/// long step, which the next request may not meet.
#[derive(Debug, Default)]
pub struct Lag {
    last: [Duration; 3],
    next: usize,
}

impl Lag {
    pub fn observe(&mut self, late: Duration) {
        self.last[self.next] = late;
        self.next = (self.next + 1) % self.last.len();
    }

    pub fn now(&self) -> Duration {
        self.last.into_iter().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEVELS: [Level; 3] = [Level::Calm, Level::High, Level::Severe];

    #[test]
    fn who_is_refused_when() {
        use Priority::{Critical, Default, Sheddable};
        let refused =
            |level: Level| [Sheddable, Default, Critical].map(|priority| level.refuses(priority));
        assert_eq!(refused(Level::Calm), [false, false, false]);
        assert_eq!(refused(Level::High), [true, false, false]);
        assert_eq!(refused(Level::Severe), [true, true, false]);
    }

    #[test]
    fn thresholds_are_reached_at_their_value() {
        let thresholds = Thresholds { sheddable: 0.5, default: 0.9 };
        let levels = [0.49, 0.5, 0.89, 0.9, 7.0].map(|value| thresholds.level(&value));
        use Level::{Calm, High, Severe};
        assert_eq!(levels, [Calm, High, High, Severe, Severe]);
    }

    #[test]
    fn the_worst_signal_is_named() {
        let levels = [
            (Signal::EventLoopLag, Level::High),
            (Signal::Memory, Level::Severe),
            (Signal::Descriptors, Level::Calm),
        ];
        assert_eq!(refused(Priority::Sheddable, levels), Some(Signal::Memory));
        assert_eq!(refused(Priority::Default, levels), Some(Signal::Memory));
        assert_eq!(refused(Priority::Critical, levels), None);
    }

    #[test]
    fn one_late_timer_is_no_lag() {
        let mut lag = Lag::default();
        lag.observe(Duration::from_secs(9));
        assert_eq!(lag.now(), Duration::ZERO);
        (0..3).for_each(|_| lag.observe(Duration::from_secs(2)));
        assert_eq!(lag.now(), Duration::from_secs(2));
        lag.observe(Duration::ZERO);
        assert_eq!(lag.now(), Duration::ZERO);
    }

    #[test]
    fn names() {
        assert_eq!(Priority::named(b" Critical "), Some(Priority::Critical));
        assert_eq!(Priority::named(b"urgent"), None);
    }

    proptest! {
        /// Who is refused at a level is refused at each worse one, and then so is who matters less.
        #[test]
        fn monotonous(levels in prop::array::uniform3(prop::sample::select(&LEVELS[..]))) {
            let named = [Signal::EventLoopLag, Signal::Memory, Signal::Descriptors];
            let levels: [_; 3] = std::array::from_fn(|at| (named[at], levels[at]));
            let sheddable = refused(Priority::Sheddable, levels).is_some();
            let default = refused(Priority::Default, levels).is_some();
            prop_assert!(sheddable || !default);
            prop_assert_eq!(refused(Priority::Critical, levels), None);
            let worst = levels.iter().map(|(_, level)| *level).max().unwrap();
            prop_assert_eq!((sheddable, default), (worst >= Level::High, worst == Level::Severe));
        }
    }
}
