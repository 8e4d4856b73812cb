use std::time::Duration;

use proptest::prelude::*;

use super::super::Reason;
use super::super::settings::{OnDemand, Removal};
use super::*;

fn discovery() -> Discovery {
    Discovery {
        first_answer: Duration::from_secs(2),
        on_demand: Some(OnDemand { max_services: 10, idle: Duration::from_secs(60) }),
        debounce: Duration::from_millis(100),
        removal: Some(Removal { above: 0.5, hold: Duration::from_secs(300) }),
        expire_after: Duration::from_secs(3600),
        state_dir: None,
    }
}

fn at(seconds: u64) -> Instant {
    Instant(0) + Duration::from_secs(1000 + seconds)
}

fn address(port: u16) -> Address {
    Address::Socket(([10, 0, 0, 1], port).into())
}

fn instances(ports: impl IntoIterator<Item = u16>) -> Vec<Instance> {
    ports.into_iter().map(|port| address(port).into()).collect()
}

/// `ports` that may be called, and `out` that may not.
fn some_out(
    ports: impl IntoIterator<Item = u16>,
    out: impl IntoIterator<Item = u16>,
) -> Vec<Instance> {
    let mut all = instances(ports);
    all.extend(out.into_iter().map(|port| Instance::out(address(port))));
    all
}

fn on_disk(ports: impl IntoIterator<Item = u16>) -> Option<Restored> {
    Some(Restored { instances: instances(ports), is_old: true, age: Duration::ZERO })
}

fn told_before(hours: u64) -> Restored {
    Restored { instances: instances([1, 2]), is_old: true, age: Duration::from_secs(hours * 3600) }
}

fn error() -> Error {
    Error::new(Reason::Unreachable, "away")
}

fn ports(known: &Known) -> Vec<u16> {
    let port = |instance: &Instance| match &instance.address {
        Address::Socket(address) => address.port(),
        other => panic!("{other}"),
    };
    let mut ports: Vec<u16> = known.instances().iter().map(port).collect();
    ports.sort_unstable();
    ports
}

fn known(registries: usize) -> Known {
    Known::new(registries, None, &discovery(), at(0))
}

#[test]
fn nothing_is_known_until_somebody_speaks_or_time_is_up() {
    let mut known = known(1);
    assert_eq!(known.state(&discovery(), at(1)), State::Pending);
    assert!(!known.is_settled(at(1)));
    assert!(known.is_settled(at(2)));
    known.told(0, vec![], &discovery(), at(1));
    assert!(known.is_settled(at(1)), "an empty answer is an answer");
    assert_eq!(known.state(&discovery(), at(1)), State::Fresh);
}

#[test]
fn a_failure_empties_nothing() {
    let mut known = known(1);
    known.told(0, instances(1..4), &discovery(), at(1));
    known.failed(0, error(), &discovery(), at(2));
    assert_eq!(ports(&known), [1, 2, 3]);
    assert_eq!(known.state(&discovery(), at(2)), State::Stale);
    assert_eq!(known.told_at(), at(1));
    known.told(0, instances(1..4), &discovery(), at(3));
    assert_eq!(known.state(&discovery(), at(3)), State::Fresh);
}

#[test]
fn the_first_registry_that_has_an_instance_tells() {
    let mut known = known(2);
    known.told(1, instances(5..7), &discovery(), at(0));
    assert!(!known.is_settled(at(0)), "the first may have some");
    known.told(0, vec![], &discovery(), at(0));
    assert!(known.is_settled(at(0)));
    assert_eq!(ports(&known), [5, 6]);
    known.told(0, instances(1..3), &discovery(), at(1));
    assert_eq!(known.source(), Some(0));
    assert_eq!(ports(&known), [1, 2], "those of the second are its own, and not lost");
    known.failed(0, error(), &discovery(), at(1001));
    assert_eq!(ports(&known), [1, 2], "it fails, and is the first still");
}

#[test]
fn a_registry_that_fails_from_the_beginning_leaves_it_to_the_next() {
    let mut known = known(2);
    known.failed(0, error(), &discovery(), at(0));
    known.told(1, instances(5..7), &discovery(), at(0));
    assert!(known.is_settled(at(0)));
    assert_eq!(ports(&known), [5, 6]);
}

#[test]
fn many_that_go_at_once_are_held_as_long_as_they_answer() {
    let mut known = known(1);
    known.told(0, instances(0..10), &discovery(), at(0));
    known.told(0, instances(0..5), &discovery(), at(1));
    assert_eq!(ports(&known).len(), 5, "half of them are not many");
    known.told(0, vec![], &discovery(), at(2));
    assert_eq!(ports(&known), [0, 1, 2, 3, 4]);
    assert_eq!(known.suspects().len(), 5);
    known.probed(&address(3), false, &discovery(), at(3));
    assert_eq!(ports(&known), [0, 1, 2, 4]);
    known.told(0, instances([0]), &discovery(), at(4));
    assert_eq!(known.held().len(), 3, "one is back");
    known.told(0, vec![], &discovery(), at(5));
    assert_eq!(ports(&known), [0, 1, 2, 4], "and gone, which is all that there was");
    known.look(&discovery(), at(303));
    assert_eq!(ports(&known), [0], "the others were held from the second second on");
    known.look(&discovery(), at(400));
    assert_eq!(ports(&known), [] as [u16; 0]);
}

#[test]
fn who_is_told_to_be_ill_is_not_taken_for_lost() {
    let mut known = known(1);
    known.told(0, instances(1..4), &discovery(), at(0));
    known.told(0, some_out([1], [2, 3]), &discovery(), at(1));
    assert_eq!(ports(&known), [1], "two of three are critical");
    assert!(known.suspects().is_empty());
    known.told(0, some_out([1, 2, 3], []), &discovery(), at(2));
    assert_eq!(ports(&known), [1, 2, 3]);
}

#[test]
fn who_is_told_to_be_ill_by_one_registry_is_not_lost_for_another() {
    let mut known = known(2);
    known.told(0, instances(1..3), &discovery(), at(0));
    known.told(1, instances(5..6), &discovery(), at(0));
    known.told(0, some_out([], [1, 2]), &discovery(), at(1));
    assert_eq!((known.source(), ports(&known)), (Some(1), vec![5]));
    known.told(0, some_out([1, 2], []), &discovery(), at(2));
    assert_eq!(ports(&known), [1, 2]);
}

#[test]
fn where_all_are_told_to_be_ill_those_that_answer_are_called() {
    let mut known = known(1);
    known.told(0, instances(1..4), &discovery(), at(0));
    known.told(0, some_out([], [1, 2, 3]), &discovery(), at(1));
    assert_eq!(ports(&known), [1, 2, 3]);
    known.probed(&address(3), false, &discovery(), at(2));
    assert_eq!(ports(&known), [1, 2]);
    // The first that is well again does not carry the load of all alone at once, and not for long.
    known.told(0, some_out([1], [2, 3]), &discovery(), at(10));
    known.told(0, some_out([1], [2, 3]), &discovery(), at(20));
    assert_eq!(ports(&known), [1, 2]);
    known.look(&discovery(), at(25));
    assert_eq!(ports(&known), [1]);
}

#[test]
fn removal_off_takes_the_registry_at_its_word() {
    let discovery = Discovery { removal: None, ..discovery() };
    let mut known = Known::new(1, None, &discovery, at(0));
    known.told(0, instances(0..10), &discovery, at(0));
    known.told(0, vec![], &discovery, at(1));
    assert!(known.instances().is_empty());
}

#[test]
fn what_has_expired_is_left_out_where_it_is_silent() {
    let mut known = known(1);
    known.told(0, instances(1..4), &discovery(), at(0));
    known.failed(0, error(), &discovery(), at(1));
    known.look(&discovery(), at(3599));
    assert!(known.suspects().is_empty());
    known.look(&discovery(), at(3600));
    assert_eq!(known.state(&discovery(), at(3600)), State::Expired);
    assert_eq!(known.suspects().len(), 3);
    known.probed(&address(2), false, &discovery(), at(3601));
    assert_eq!(ports(&known), [1, 3]);
    assert_eq!(known.suspects().len(), 3, "the silent one is asked on");
    known.probed(&address(2), true, &discovery(), at(3602));
    assert_eq!(ports(&known), [1, 2, 3], "it was away for a moment");
    for port in 1..4 {
        known.probed(&address(port), false, &discovery(), at(3603));
    }
    assert_eq!(ports(&known), [1, 2, 3], "where none answers it may be us");
    known.told(0, instances(1..4), &discovery(), at(3700));
    assert_eq!(ports(&known), [1, 2, 3]);
    assert!(known.suspects().is_empty());
}

#[test]
fn what_the_disk_had_counts_until_a_registry_tells() {
    let mut known = Known::new(1, on_disk(1..4), &discovery(), at(0));
    known.look(&discovery(), at(0));
    assert!(known.instances().is_empty(), "the registry may be about to answer");
    known.failed(0, error(), &discovery(), at(1));
    assert_eq!(ports(&known), [1, 2, 3]);
    assert_eq!(known.state(&discovery(), at(1)), State::Stale);
    known.told(0, instances(1..3), &discovery(), at(2));
    assert_eq!(ports(&known), [1, 2]);
    let mut silent = Known::new(1, on_disk(1..4), &discovery(), at(0));
    silent.look(&discovery(), at(2));
    assert_eq!(ports(&silent), [1, 2, 3], "it hangs");
}

#[test]
fn what_the_disk_had_outlives_an_empty_answer_of_another_registry() {
    let mut known = Known::new(2, on_disk(1..4), &discovery(), at(0));
    known.told(0, vec![], &discovery(), at(0));
    known.failed(1, error(), &discovery(), at(0));
    assert_eq!(ports(&known), [1, 2, 3]);
    assert_eq!(known.state(&discovery(), at(0)), State::Stale);
    known.look(&discovery(), at(900));
    assert_eq!(ports(&known), [1, 2, 3], "the one that had them is away still");
    known.told(1, instances(2..4), &discovery(), at(901));
    assert_eq!(ports(&known), [2, 3]);
    assert_eq!(known.source(), Some(1));
}

#[test]
fn an_address_is_there_once() {
    let mut known = known(1);
    let mut twice = instances([1, 1, 2]);
    twice[1].weight = 7;
    known.told(0, twice, &discovery(), at(0));
    assert_eq!(ports(&known), [1, 2]);
    assert_eq!(known.instances()[0].weight, 1);
}

#[derive(Debug, Clone)]
enum Event {
    /// The ports that may be called, and those that may not.
    Told(usize, Vec<u16>, Vec<u16>),
    Failed(usize),
    Silent(u16),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (
            0_usize..3,
            prop::collection::vec(0_u16..12, 0..12),
            prop::collection::vec(12_u16..16, 0..4)
        )
            .prop_map(|(at, ports, out)| Event::Told(at, ports, out)),
        (0_usize..3).prop_map(Event::Failed),
        (0_u16..12).prop_map(Event::Silent),
        (0_u64..2000).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever happens: no address is there twice; who is there was told or restored once; all that the
    /// telling registry told last is there, unless that is long ago; what is held is not told and has an end.
    #[test]
    fn whatever_happens(events in prop::collection::vec(event(), 0..60), restored in any::<bool>()) {
        let discovery = discovery();
        let restored = restored.then(|| on_disk(20..25)).flatten();
        let mut known = Known::new(3, restored, &discovery, at(0));
        let mut seconds = 0;
        let mut told: [Option<Vec<u16>>; 3] = Default::default();
        for event in events {
            let now = at(seconds);
            match event {
                Event::Told(by, mut ports, out) => {
                    // Some are ill at one time and well at another.
                    let turn = if seconds % 2 == 0 { 4 } else { 0 };
                    ports.iter_mut().filter(|port| **port >= 8).for_each(|port| *port += turn);
                    ports.retain(|port| !out.contains(port));
                    told[by] = Some(ports.clone());
                    known.told(by, some_out(ports, out), &discovery, now);
                }
                Event::Failed(by) => known.failed(by, error(), &discovery, now),
                Event::Silent(port) => known.probed(&address(port), false, &discovery, now),
                Event::Wait(more) => {
                    seconds += more;
                    known.look(&discovery, at(seconds));
                }
            }
            let now = at(seconds);
            let there = ports(&known);
            prop_assert!(there.windows(2).all(|pair| pair[0] != pair[1]), "{there:?}");
            if let Some(by) = known.source() && known.state(&discovery, now) != State::Expired {
                let last = told[by].clone().expect("it told");
                prop_assert!(last.iter().all(|port| there.contains(port)));
                let held = |port: &u16| known.held().any(|held| *held == address(*port));
                let all = there.iter().all(|port| last.contains(port) || held(port));
                prop_assert!(all);
            }
            known.look(&discovery, now);
            prop_assert_eq!(&ports(&known), &there, "looking again changes nothing");
        }
        // Nothing is held for ever.
        known.look(&discovery, at(seconds + 301));
        prop_assert_eq!(known.held().len(), 0);
    }
}

#[test]
fn a_registry_that_was_started_empty_does_not_empty_what_the_disk_had() {
    let mut empty = Known::new(1, on_disk(1..4), &discovery(), at(0));
    empty.told(0, vec![], &discovery(), at(0));
    assert_eq!(ports(&empty), [1, 2, 3]);
    assert_eq!(empty.held().len(), 3);
    // What it tells is newer than the disk, whose addresses may be those of others by now.
    let mut told = Known::new(1, on_disk(1..4), &discovery(), at(0));
    told.told(0, instances([9]), &discovery(), at(0));
    assert_eq!(ports(&told), [9]);
}

#[test]
fn other_registries_do_not_empty_what_was_known_by_those_before() {
    let before = Restored { instances: instances(1..4), is_old: false, age: Duration::ZERO };
    let mut known = Known::new(1, Some(before), &discovery(), at(0));
    known.look(&discovery(), at(0));
    known.told(0, instances([9]), &discovery(), at(0));
    assert_eq!(ports(&known), [1, 2, 3, 9]);
}

#[test]
fn what_was_told_long_before_a_restart_is_tried_first() {
    let late = 100 * 3600;
    let discovery = discovery();
    let mut known = Known::new(1, Some(told_before(5)), &discovery, at(late));
    known.look(&discovery, at(late));
    assert_eq!(known.state(&discovery, at(late)), State::Expired);
    assert_eq!(at(late) - known.told_at(), Duration::from_secs(5 * 3600));
    assert_eq!(known.suspects(), [address(1), address(2)]);
    known.probed(&address(1), false, &discovery, at(late));
    known.probed(&address(2), true, &discovery, at(late));
    known.failed(0, error(), &discovery, at(late));
    assert_eq!(ports(&known), [2]);
    // Not so long ago it is as good as any.
    let young = Restored { age: Duration::from_secs(3500), ..told_before(0) };
    let mut known = Known::new(1, Some(young), &discovery, at(late));
    known.failed(0, error(), &discovery, at(late));
    assert_eq!((known.state(&discovery, at(late)), ports(&known)), (State::Stale, vec![1, 2]));
    assert_eq!(known.state(&discovery, at(late + 100)), State::Expired);
}

#[test]
fn what_the_disk_tells_late_is_what_is_known_unless_somebody_has_told() {
    let late = 100 * 3600;
    let discovery = discovery();
    let mut known = Known::new(1, None, &discovery, at(late));
    known.failed(0, error(), &discovery, at(late));
    known.restore(told_before(0), at(late + 1));
    known.look(&discovery, at(late + 1));
    assert_eq!(ports(&known), [1, 2]);
    let mut known = Known::new(1, None, &discovery, at(late));
    known.told(0, vec![], &discovery, at(late));
    known.restore(told_before(0), at(late + 1));
    known.look(&discovery, at(late + 1));
    assert_eq!((ports(&known), known.state(&discovery, at(late + 1))), (vec![], State::Fresh));
}
