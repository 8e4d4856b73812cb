//! How balancers that have something to hold on to (a zone, a cookie, a key) do: counted for each pick, by
//! handles that are made with the snapshot.

use super::metrics::{Handle, Recorder};
use crate::balance::Balancer;

/// What is counted of one group of endpoints.
pub struct Picks {
    /// Of our zone, and of the others.
    zones: Option<[Handle; 2]>,
    affinity: Option<Affinity>,
}

enum Affinity {
    /// Where the cookie said, elsewhere because that one is not available, without a cookie.
    Cookie([Handle; 3]),
    /// By the key, without one.
    Key([Handle; 2]),
}

impl Picks {
    /// `None`: there is nothing to count.
    pub fn of(recorder: &Recorder, service: &str, balancer: &Balancer) -> Option<Self> {
        let zone = |zone| recorder.zone_picks.handle([service, zone]);
        let sticky = |result| recorder.sticky_picks.handle([service, result]);
        let zones = balancer.is_local(0).map(|_| [zone("local"), zone("other")]);
        let affinity = if balancer.cookie().is_some() {
            Some(Affinity::Cookie([sticky("followed"), sticky("reassigned"), sticky("new")]))
        } else {
            balancer.key().map(|_| Affinity::Key([sticky("by_key"), sticky("no_key")]))
        };
        (zones.is_some() || affinity.is_some()).then_some(Self { zones, affinity })
    }

    pub fn count(&self, balancer: &Balancer, picked: usize, wish: Option<u64>) {
        if let (Some([local, other]), Some(is_local)) = (&self.zones, balancer.is_local(picked)) {
            if is_local { local.inc() } else { other.inc() }
        }
        match (&self.affinity, wish) {
            (None, _) => {}
            (Some(Affinity::Key([by_key, _])), Some(_)) => by_key.inc(),
            (Some(Affinity::Key([_, no_key])), None) => no_key.inc(),
            (Some(Affinity::Cookie([_, _, new])), None) => new.inc(),
            (Some(Affinity::Cookie([followed, reassigned, _])), wish) => {
                let is_wished = balancer.wished(wish) == Some(picked);
                if is_wished { followed.inc() } else { reassigned.inc() }
            }
        }
    }
}
