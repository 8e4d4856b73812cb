//! What goes wrong, when, and under which load.

use std::time::Duration;

use pilotfish::clock::Instant;

use crate::world::Health;

/// Five times as long at first: 8 requests a second, of the 20 that are its share.
const COLD: Health = Health::Cold { factor: 5.0, until: 200 };

/// How often one that flaps goes or comes; how long a restart takes.
const FLAP: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// One sentence for the page.
    pub about: &'static str,
    /// Requests a second, of all clients together.
    pub rate: f64,
    /// Proxies that the clients are spread over; they know nothing of each other.
    pub callers: usize,
    pub endpoints: usize,
    /// How many of them are ill, and how.
    pub ill: Vec<(usize, Illness)>,
    pub times: Times,
}

#[derive(Debug, Clone, Copy)]
pub enum Illness {
    /// From the beginning of the trouble to its end.
    Is(Health),
    /// Refuses connections for five seconds, is well for five seconds, and so on.
    Flaps,
    /// Refuses connections for five seconds, and is cold then.
    Restarts,
}

/// Well until `begins`, then trouble until `ends`, then well again until `over`.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub begins: Instant,
    pub ends: Instant,
    pub over: Instant,
}

/// A change of an endpoint's health.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub at: Instant,
    pub endpoint: usize,
    pub to: Health,
}

impl Times {
    pub const fn seconds(begins: u64, ends: u64, over: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            begins: Instant(begins * SECOND),
            ends: Instant(ends * SECOND),
            over: Instant(over * SECOND),
        }
    }
}

impl Scenario {
    /// For each endpoint whether it falls ill.
    pub fn ill(&self) -> Vec<bool> {
        let mut ill = vec![false; self.endpoints];
        self.patients().for_each(|(endpoint, _)| ill[endpoint] = true);
        ill
    }

    /// Everything that changes, not in order.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (endpoint, illness) in self.patients() {
            self.fall_ill(endpoint, illness, &mut changes);
        }
        changes
    }

    /// Who is ill with what, spread over the endpoints: neighbours would be a special case for balancers
    /// that go round.
    fn patients(&self) -> impl Iterator<Item = (usize, Illness)> {
        // A prime that divides no number of endpoints here.
        const STRIDE: usize = 37;
        let each =
            self.ill.iter().flat_map(|(count, illness)| std::iter::repeat_n(*illness, *count));
        each.enumerate().map(|(nth, illness)| (nth * STRIDE % self.endpoints, illness))
    }

    /// The same with a share of the endpoints and of the load.
    pub fn scaled(mut self, divisor: usize) -> Self {
        self.endpoints /= divisor;
        self.rate /= divisor as f64;
        self.ill.iter_mut().for_each(|(count, _)| *count = count.div_ceil(divisor));
        self
    }

    fn fall_ill(&self, endpoint: usize, illness: Illness, changes: &mut Vec<Change>) {
        let Times { begins, ends, .. } = self.times;
        let mut change = |at, to| changes.push(Change { at, endpoint, to });
        match illness {
            Illness::Is(health) => change(begins, health),
            Illness::Restarts => {
                change(begins, Health::Refusing);
                change(begins + FLAP, COLD);
            }
            Illness::Flaps => {
                let (mut at, mut away) = (begins, true);
                while at < ends {
                    change(at, if away { Health::Refusing } else { Health::Well });
                    (at, away) = (at + FLAP, !away);
                }
            }
        }
        change(ends, Health::Well);
    }

    fn of(name: &'static str, about: &'static str, ill: &[(usize, Illness)]) -> Self {
        Self {
            name,
            about,
            rate: 2_000.0,
            callers: 1,
            endpoints: 100,
            ill: ill.to_vec(),
            times: Times::seconds(10, 70, 130),
        }
    }

    pub fn brownout() -> Self {
        let about = "Half of the endpoints take four times as long while the load is a third higher: all \
                     together can do 96 % of it.";
        let slow = Illness::Is(Health::Slow(4.0));
        Self { rate: 2_600.0, ..Self::of("brownout", about, &[(50, slow)]) }
    }

    /// All of them, at full scale.
    pub fn all() -> Vec<Self> {
        use Health::{Gone, Slow, Wrong};
        use Illness::{Flaps, Is, Restarts};
        let of = Self::of;
        let slow = of("slow", "10 endpoints take ten times as long.", &[(10, Is(Slow(10.0)))]);
        let grey = of(
            "grey",
            "10 endpoints answer one request in five with 500, at once.",
            &[(10, Is(Wrong(0.2)))],
        );
        vec![
            of("all well", "Nothing is wrong: no policy should do harm.", &[]),
            slow,
            grey.clone(),
            Self {
                name: "grey, seen by 20",
                about: "The same, but the clients are spread over 20 proxies, each of which sees a \
                        twentieth of it.",
                callers: 20,
                ..grey
            },
            of(
                "bad rollout",
                "20 endpoints answer every request with 500, at once: faster than those that work.",
                &[(20, Is(Wrong(1.0)))],
            ),
            of(
                "flapping",
                "10 endpoints refuse connections for 5 s, are well for 5 s, and so on.",
                &[(10, Flaps)],
            ),
            of(
                "restart",
                "20 endpoints refuse connections for 5 s; then they are cold, and take five times as long at \
                 first, and as long as ever after 200 requests.",
                &[(20, Restarts)],
            ),
            of("gone", "10 endpoints are gone without a packet.", &[(10, Is(Gone))]),
            of(
                "a mix",
                "3 slow, 3 grey, 2 flapping, 2 gone.",
                &[(3, Is(Slow(10.0))), (3, Is(Wrong(0.2))), (2, Flaps), (2, Is(Gone))],
            ),
            Self::brownout(),
        ]
    }
}
