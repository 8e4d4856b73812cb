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
    /// Where the key leads, elsewhere because that one is not available or has its part of the load, without a key.
    Key([Handle; 3]),
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
            balancer
                .key()
                .map(|_| Affinity::Key([sticky("by_key"), sticky("elsewhere"), sticky("no_key")]))
        };
        (zones.is_some() || affinity.is_some()).then_some(Self { zones, affinity })
    }

    /// What is not as it was wished, for the log.
    pub fn count(
        &self,
        balancer: &Balancer,
        picked: usize,
        wish: Option<u64>,
    ) -> Option<&'static str> {
        let mut note = None;
        let mut amiss = |handle: &Handle, what| {
            handle.inc();
            note = Some(what);
        };
        if let (Some([local, other]), Some(is_local)) = (&self.zones, balancer.is_local(picked)) {
            if is_local { local.inc() } else { amiss(other, "other_zone") }
        }
        match (&self.affinity, wish) {
            (None, _) => {}
            (Some(Affinity::Key([by_key, elsewhere, _])), Some(key)) => {
                let is_home = balancer.home(key) == Some(picked);
                if is_home { by_key.inc() } else { amiss(elsewhere, "elsewhere") }
            }
            (Some(Affinity::Key([_, _, no_key])), None) => no_key.inc(),
            (Some(Affinity::Cookie([_, _, new])), None) => new.inc(),
            (Some(Affinity::Cookie([followed, reassigned, _])), wish) => {
                let is_wished = balancer.wished(wish) == Some(picked);
                if is_wished { followed.inc() } else { amiss(reassigned, "reassigned") }
            }
        }
        note
    }
}
