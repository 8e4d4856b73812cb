//! What follows of SRV records.

use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::rdata::SRV;

/// One host and port that SRV records name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: Name,
    pub port: u16,
    pub weight: u32,
}

/// Those of the lowest priority number: others are for when none of these can be reached (RFC 2782). Each host and
/// port once. A root target says that the service is decidedly not there.
pub fn targets(records: &[SRV]) -> Vec<Target> {
    let there = || records.iter().filter(|record| !record.target.is_root() && record.port > 0);
    let first = there().map(|record| record.priority).min();
    let mut targets: Vec<Target> = Vec::new();
    for record in there().filter(|record| Some(record.priority) == first) {
        // 0 stands for a very small chance beside others, and for an even one among its like.
        let weight = u32::from(record.weight).max(1);
        targets.push(Target { host: record.target.to_lowercase(), port: record.port, weight });
    }
    targets.sort_by(|one, other| (&one.host, one.port).cmp(&(&other.host, other.port)));
    targets.dedup_by(|one, other| (&one.host, one.port) == (&other.host, other.port));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
    }

    fn chosen(records: &[SRV]) -> Vec<String> {
        let shown = |it: &Target| format!("{}:{} {}", it.host, it.port, it.weight);
        targets(records).iter().map(shown).collect()
    }

    #[test]
    fn the_lowest_priority_is_called_by_weight() {
        let records = [
            record(20, 5, 80, "spare.test."),
            record(10, 60, 80, "b.test."),
            record(10, 0, 81, "A.test."),
            record(10, 60, 80, "b.test."),
        ];
        assert_eq!(chosen(&records), ["a.test.:81 1", "b.test.:80 60"]);
    }

    #[test]
    fn what_is_decidedly_not_there_is_nobody() {
        assert!(chosen(&[record(0, 0, 0, ".")]).is_empty());
        assert!(chosen(&[]).is_empty());
        let beside = [record(0, 0, 0, "."), record(1, 0, 80, "a.test.")];
        assert_eq!(chosen(&beside), ["a.test.:80 1"]);
    }
}
