//! One run: clients call through their proxies, endpoints answer, time goes on from event to event.

use std::collections::VecDeque;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::StatusCode;
use pilotfish::clock::Instant;
use pilotfish::policy::End;
use pilotfish::policy::health::Finding;
use pilotfish::policy::retry::Situation;
use pilotfish::policy::slots::{Asked, Turn};

use crate::call::{Call, PATIENCE, Rival};
use crate::caller::{Caller, Flight, OfService, ServiceSlot};
use crate::clock::{Attempt, Clock, Event};
use crate::measure::{Figures, Meter};
use crate::scenario::{Change, Scenario};
use crate::settings::Settings;
use crate::world::{self, Endpoint, Health, Reception};

/// How often control looks whether an interval has passed.
const LOOK: Duration = Duration::from_secs(1);

pub fn run(scenario: &Scenario, settings: &Settings, seed: u64) -> Figures {
    Run::new(scenario, settings, seed).play()
}

struct Run {
    clock: Clock,
    /// Of what happens in the world: the same for all settings, for as long as they do the same.
    random: fastrand::Rng,
    endpoints: Vec<Endpoint>,
    callers: Vec<Caller>,
    /// Those who wait for their caller's bulkhead, in order.
    queues: Vec<VecDeque<(Attempt, Turn<OfService>)>>,
    calls: Vec<Call>,
    free: Vec<u32>,
    changes: Vec<Change>,
    rate: f64,
    end: Instant,
    meter: Meter,
}

impl Run {
    fn new(scenario: &Scenario, settings: &Settings, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let caller = |_| Caller::new(settings, scenario.endpoints, random.fork());
        let callers: Vec<_> = (0..scenario.callers).map(caller).collect();
        let mut run = Self {
            clock: Clock::default(),
            endpoints: (0..scenario.endpoints).map(|_| Endpoint::default()).collect(),
            queues: callers.iter().map(|_| VecDeque::new()).collect(),
            calls: Vec::new(),
            free: Vec::new(),
            changes: scenario.changes(),
            rate: scenario.rate / scenario.callers as f64,
            end: scenario.times.over,
            meter: Meter::new(scenario),
            callers,
            random,
        };
        run.prepare();
        run
    }

    fn prepare(&mut self) {
        for (index, change) in self.changes.iter().enumerate() {
            self.clock.at(change.at, Event::Change { index: index as u16 });
        }
        for caller in 0..self.callers.len() as u16 {
            let pause = self.pause();
            self.clock.after(pause, Event::Arrival { caller });
            // Proxies do not start at the same moment, and so their intervals do not either.
            let first = Duration::from_secs(10).mul_f64(self.random.f64());
            self.clock.after(first, Event::Look { caller });
            let checks = self.callers[usize::from(caller)].first_checks();
            for (endpoint, first) in (0..).zip(checks) {
                self.clock.after(first, Event::Check { caller, endpoint });
            }
        }
    }

    /// Until the next client of a caller calls. Many clients that do not know of each other are a Poisson
    /// process, and one that does not wait for answers: a slow service does not keep them from calling.
    fn pause(&mut self) -> Duration {
        world::exponential(self.rate, &mut self.random)
    }

    fn play(mut self) -> Figures {
        while let Some(event) = self.clock.next(self.end) {
            match event {
                Event::Arrival { caller } => self.arrival(caller),
                Event::Served { endpoint, attempt } => self.served(endpoint, attempt),
                Event::Ended { attempt, end } => self.ended(attempt, end),
                Event::Overdue { attempt } => self.overdue(attempt),
                Event::Again { attempt } if self.is_current(attempt) => self.send(attempt.call),
                Event::Again { .. } => {}
                Event::Impatient { attempt } => self.impatient(attempt),
                Event::Look { caller } => self.look(caller),
                Event::Slow { attempt } => self.hedge(attempt),
                Event::Check { caller, endpoint } => self.check(caller, endpoint),
                Event::Checked { caller, endpoint, finding } => {
                    self.checked(caller, endpoint, finding);
                }
                Event::Change { index } => self.change(index),
            }
        }
        self.meter.figures()
    }

    fn arrival(&mut self, index: u16) {
        let pause = self.pause();
        self.clock.after(pause, Event::Arrival { caller: index });
        let (now, caller) = (self.clock.now(), usize::from(index));
        let place = self.free.pop().unwrap_or_else(|| {
            self.calls.push(Call::default());
            self.calls.len() as u32 - 1
        });
        let call = &mut self.calls[place as usize];
        (call.caller, call.began) = (caller, now);
        match self.callers[caller].begin(now) {
            Asked::Taken(slot) => {
                call.slot = Some(slot);
                self.send(place);
            }
            Asked::Wait(turn, patience) => {
                let attempt = Attempt { call: place, serial: call.serial };
                self.queues[caller].push_back((attempt, turn));
                self.clock.after(patience, Event::Impatient { attempt });
            }
            Asked::Refused(_) => self.over(place, false),
        }
    }

    fn is_current(&self, attempt: Attempt) -> bool {
        self.calls[attempt.call as usize].serial == attempt.serial
    }

    /// Sends an attempt of a call that has none under way.
    fn send(&mut self, place: u32) {
        let now = self.clock.now();
        let call = &mut self.calls[place as usize];
        let caller = &mut self.callers[call.caller];
        let Some(flight) = caller.send(&call.tried, call.leave.take(), now) else {
            return self.over(place, false);
        };
        let delay = caller.hedge_after(now);
        let attempt = self.sent(place, flight, None);
        if let Some(delay) = delay {
            self.calls[place as usize].delay = delay;
            self.clock.after(delay, Event::Slow { attempt });
        }
    }

    /// An attempt is on its way to an endpoint.
    fn sent(&mut self, place: u32, flight: Flight, slot: Option<ServiceSlot>) -> Attempt {
        let now = self.clock.now();
        let call = &mut self.calls[place as usize];
        let policy = &self.callers[call.caller].policy;
        call.serial = call.serial.wrapping_add(1);
        let attempt = Attempt { call: place, serial: call.serial };
        let (endpoint, overdue) = (flight.endpoint, call.deadline(policy, now));
        call.tried.push(endpoint as u32);
        call.rivals.push(Rival { serial: call.serial, flight, overdue, slot });
        self.meter.attempt(endpoint, now);
        let (event, wait) = match self.endpoints[endpoint].receive(attempt, &mut self.random) {
            Reception::Ends(end, wait) => (Event::Ended { attempt, end }, wait),
            Reception::Begun(work) => (Event::Served { endpoint: endpoint as u16, attempt }, work),
            Reception::Silence => {
                (Event::Ended { attempt, end: End::ConnectFailure }, policy.timeouts.connect)
            }
            Reception::Waits => {
                self.clock.at(overdue, Event::Overdue { attempt });
                return attempt;
            }
        };
        let at = now + wait;
        self.clock.at(at, event);
        // What ends in time needs no timer.
        if at > overdue {
            self.clock.at(overdue, Event::Overdue { attempt });
        }
        attempt
    }

    /// A call whose answer is waited for for long is sent to another endpoint as well.
    fn hedge(&mut self, attempt: Attempt) {
        let now = self.clock.now();
        let call = &mut self.calls[attempt.call as usize];
        // Only the newest attempt of a call is followed by another one.
        if call.serial != attempt.serial || call.rivals.is_empty() {
            return;
        }
        let caller = &mut self.callers[call.caller];
        let max = caller.policy.hedge.as_ref().map_or(0, |hedge| hedge.max);
        if call.hedges >= max {
            return;
        }
        let left = call.left(&caller.policy, now);
        let Some((flight, slot)) = caller.hedge(&call.tried, left, now) else { return };
        call.hedges += 1;
        let delay = call.delay;
        let attempt = self.sent(attempt.call, flight, Some(slot));
        self.clock.after(delay, Event::Slow { attempt });
    }

    fn served(&mut self, endpoint: u16, attempt: Attempt) {
        let served = self.endpoints[usize::from(endpoint)].served(attempt, &mut self.random);
        let (true, next) = served else { return };
        if let Some((next, work)) = next {
            self.clock.after(work, Event::Served { endpoint, attempt: next });
        }
        self.ended(attempt, world::answer(StatusCode::OK));
    }

    /// The caller learns how an attempt ended, if it still waits for it.
    fn ended(&mut self, attempt: Attempt, end: End) {
        let now = self.clock.now();
        let call = &mut self.calls[attempt.call as usize];
        let Some(nth) = call.rivals.iter().position(|rival| rival.serial == attempt.serial) else {
            return;
        };
        let Rival { flight, slot, .. } = call.rivals.swap_remove(nth);
        let (index, endpoint) = (call.caller, flight.endpoint);
        let caller = &mut self.callers[index];
        if slot.is_none() {
            caller.learn(&flight, end, now);
        }
        if caller.ended(flight, end, now) {
            self.meter.left_alone(index, endpoint, now);
        }
        let frees = slot.map(|slot| slot.give_back_at(now)).is_some();
        let good = end == world::answer(StatusCode::OK);
        let is_kept =
            good || matches!(end, End::Answered { .. }) && !caller.policy.retry.on.contains(end);
        if is_kept || call.rivals.is_empty() {
            self.decided(attempt.call, end, good);
        }
        if frees {
            self.admit(index);
        }
    }

    /// An attempt has ended, and the others of its call are waited for no more.
    fn decided(&mut self, place: u32, end: End, good: bool) {
        let now = self.clock.now();
        let call = &mut self.calls[place as usize];
        let caller = &mut self.callers[call.caller];
        for rival in call.rivals.drain(..) {
            caller.outrun(rival.flight, rival.slot.is_none(), call.delay, now);
            if let Some(slot) = rival.slot {
                slot.give_back_at(now);
            }
        }
        if good || end == End::Timeout {
            caller.took(now.saturating_duration_since(call.began), now);
        }
        if good {
            return self.over(place, true);
        }
        let situation = Situation {
            end,
            retries: call.tried.len() as u32 - 1 - call.hedges,
            // Clients ask with GET.
            idempotent: true,
            stale: false,
            replayable: true,
            has_other: caller.has_other(&call.tried, now),
            retry_after: None,
            left: call.left(&caller.policy, now),
        };
        match caller.again(&situation, now) {
            Some((wait, leave)) => {
                call.leave = Some(leave);
                let attempt = Attempt { call: place, serial: call.serial };
                match wait {
                    Duration::ZERO => self.send(place),
                    wait => self.clock.after(wait, Event::Again { attempt }),
                }
            }
            None => self.over(place, false),
        }
    }

    fn overdue(&mut self, attempt: Attempt) {
        let call = &self.calls[attempt.call as usize];
        let is_under_way = call.rivals.iter().any(|rival| rival.serial == attempt.serial);
        if !is_under_way && !self.is_current(attempt) {
            return;
        }
        let timeouts = &self.callers[call.caller].policy.timeouts;
        let client_goes = self.clock.now() >= call.began + PATIENCE;
        if timeouts.request.is_none() && client_goes {
            // Nobody knows whether an answer would have come: it says nothing about the endpoint.
            self.over(attempt.call, false);
        } else if is_under_way {
            self.ended(attempt, End::Timeout);
        }
    }

    /// A call has come to its end.
    fn over(&mut self, place: u32, good: bool) {
        let call = &mut self.calls[place as usize];
        let (caller, began) = (call.caller, call.began);
        let serial = call.serial.wrapping_add(1);
        let (mut tried, mut rivals) = (take(&mut call.tried), take(&mut call.rivals));
        tried.clear();
        // By virtual time: dropped, they would be given back at the time of day.
        let of_rivals = rivals.drain(..).filter_map(|rival| rival.slot);
        let now = self.clock.now();
        of_rivals.chain(call.slot.take()).for_each(|slot| slot.give_back_at(now));
        if let Some(Some(leave)) = call.leave.take() {
            leave.give_back_at(now);
        }
        *call = Call { serial, tried, rivals, ..Call::default() };
        self.free.push(place);
        self.meter.call(began, self.clock.now(), good);
        self.admit(caller);
    }

    /// A slot may have become free for who waits for it.
    fn admit(&mut self, caller: usize) {
        let context = &mut Context::from_waker(Waker::noop());
        while let Some((attempt, turn)) = self.queues[caller].front_mut() {
            let Poll::Ready(slot) = Pin::new(turn).poll(context) else { return };
            let attempt = *attempt;
            self.queues[caller].pop_front();
            match slot {
                Ok(slot) => {
                    self.calls[attempt.call as usize].slot = Some(slot);
                    self.send(attempt.call);
                }
                Err(_) => self.over(attempt.call, false),
            }
        }
    }

    fn impatient(&mut self, attempt: Attempt) {
        let caller = self.calls[attempt.call as usize].caller;
        // Who waits longest is first, and all wait equally long.
        if self.queues[caller].front().is_some_and(|(first, _)| *first == attempt) {
            let turn = self.queues[caller].pop_front();
            turn.into_iter().for_each(|(_, turn)| turn.leave_at(self.clock.now()));
            self.over(attempt.call, false);
        }
    }

    fn look(&mut self, index: u16) {
        let now = self.clock.now();
        let caller = &mut self.callers[usize::from(index)];
        for endpoint in caller.look(now) {
            self.meter.left_alone(usize::from(index), endpoint, now);
        }
        self.clock.after(LOOK, Event::Look { caller: index });
    }

    fn check(&mut self, caller: u16, endpoint: u16) {
        let Some(check) = self.callers[usize::from(caller)].check() else { return };
        let checked = &self.endpoints[usize::from(endpoint)];
        let (finding, took) = checked.check(check.timeout, &mut self.random);
        self.clock.after(took, Event::Checked { caller, endpoint, finding });
    }

    fn checked(&mut self, caller: u16, endpoint: u16, finding: Finding) {
        let (now, index) = (self.clock.now(), usize::from(endpoint));
        let of = &mut self.callers[usize::from(caller)];
        let (left_alone, next) = of.checked(index, finding, now);
        if left_alone {
            self.meter.left_alone(usize::from(caller), index, now);
        }
        self.clock.after(next, Event::Check { caller, endpoint });
    }

    fn change(&mut self, index: u16) {
        let Change { endpoint, to, .. } = self.changes[usize::from(index)];
        for attempt in self.endpoints[endpoint].turn(to) {
            match to {
                // Nobody tells the caller.
                Health::Gone => {
                    let rivals = &self.calls[attempt.call as usize].rivals;
                    let rival = rivals.iter().find(|rival| rival.serial == attempt.serial);
                    if let Some(rival) = rival {
                        self.clock.at(rival.overdue, Event::Overdue { attempt });
                    }
                }
                _ => self.ended(attempt, End::Reset),
            }
        }
    }
}
