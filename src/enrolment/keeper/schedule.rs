//! When to ask the core for which registration. Pure: time and chance come in.
//!
//! # Rules
//!
//! * A registration is renewed at 40 to 60 % of its life, at a moment that few others have.
//! * What is due waits for the budget of the minute and a free place in flight, in this order:
//!   1. whom a person waits for;
//!   2. by turns: who is reachable still but not for two more minutes, soonest first, and who has
//!      lapsed (or was never registered), longest first. So an outage neither lets more
//!      lapse than it must, nor keeps anyone waiting for ever when the budget does not suffice;
//!   3. the others whose time has come, soonest expiry first.
//!
//!   Every other place belongs to those that failed the last time, so that a few for which the core
//!   never answers neither hold up the others nor pass for an outage.
//! * A failure of the core is tried again after 2 s, doubled each time up to 5 minutes; a failure
//!   of ours (no token, no database) alike. What the core refuses is tried again after hours.
//! * A core that does not answer at all is left alone but for one probe every few seconds. When it
//!   is back, those that failed meanwhile do not wait for their backoff to end, and what is in
//!   flight grows from one, by one with each success.
//!
//! # Size
//!
//! One entry and one place in a queue: some 75 bytes for each registration.

pub mod breaker;
mod budget;
mod job;
mod spread;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::domain::{Registration, RegistrationState, SubscriberId, Timestamp};
use crate::enrolment::keeper::schedule::breaker::Breaker;
use crate::enrolment::keeper::schedule::budget::Budget;
use crate::enrolment::keeper::schedule::spread::Spread;

pub use crate::enrolment::keeper::schedule::job::{Census, Change, Job, Limits, Outcome};

/// Who lapses within this time goes before others whose time has come.
const URGENT_MS: i64 = 120_000;
/// Who lapses within this time will have when the core is reached.
const TOO_LATE_MS: i64 = 2000;
const FIRST_BACKOFF_MS: i64 = 2000;
const LAST_BACKOFF_MS: i64 = 300_000;
const FIRST_REFUSAL_MS: i64 = 300_000;
const LAST_REFUSAL_MS: i64 = 8 * 3_600_000;
/// What failed while the core was down and is tried at once when it is back; others wait for their
/// backoff.
const MOST_STRANDED: usize = 4096;

/// Which registration is asked for when.
#[derive(Debug)]
pub struct Schedule {
    /// By `seq`. What is removed stays as a gap until there are too many.
    entries: Vec<Entry>,
    gaps: usize,
    /// By when they are due.
    waiting: BTreeSet<(Timestamp, i64)>,
    spread: Spread,
    /// Due, by when they lapse or have lapsed.
    ready: BTreeSet<(Timestamp, i64)>,
    /// Due after a failure, by since when.
    retries: BTreeSet<(Timestamp, i64)>,
    /// Due, and a person waits.
    pressing: VecDeque<i64>,
    in_flight: HashMap<u64, i64>,
    next_job: u64,
    /// How many may be in flight now.
    window: usize,
    in_flight_limit: usize,
    budget: Budget,
    breaker: Breaker,
    /// What failed since the core's last success.
    stranded: VecDeque<i64>,
    /// Whose turn it is between those about to lapse and those who have …
    is_turn_of_lapsed: bool,
    /// … and between those that failed the last time and the others.
    is_turn_of_retries: bool,
    chance: StdRng,
}

#[derive(Debug)]
struct Entry {
    seq: i64,
    subscriber: SubscriberId,
    /// While it waits.
    due_at: Timestamp,
    /// When the core forgets it; for one it never had, since when it is wanted.
    expires_at: Timestamp,
    failures: u16,
    was_registered: bool,
    is_refused: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Ready,
    Retry,
    Pressing,
    InFlight,
    /// Removed.
    Nowhere,
}

impl Schedule {
    /// An empty schedule.
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        let in_flight_limit = limits.in_flight.max(1) as usize;
        Self {
            entries: Vec::new(),
            gaps: 0,
            waiting: BTreeSet::new(),
            spread: Spread::default(),
            ready: BTreeSet::new(),
            retries: BTreeSet::new(),
            pressing: VecDeque::new(),
            in_flight: HashMap::new(),
            next_job: 0,
            window: in_flight_limit,
            in_flight_limit,
            budget: Budget::per_minute(limits.upserts_per_minute),
            breaker: Breaker::default(),
            stranded: VecDeque::new(),
            is_turn_of_lapsed: false,
            is_turn_of_retries: false,
            chance: StdRng::from_seed(seed),
        }
    }

    /// Takes a registration over as storage knows it. One with time left keeps its place; one whose
    /// time came while nobody kept it is spread over three quarters of what is left of its life.
    /// False where it is known already, or consent is lost.
    pub fn insert(&mut self, registration: &Registration, now: Timestamp) -> bool {
        if registration.state == RegistrationState::ConsentLost {
            return false;
        }
        let Err(position) = self.position(registration.seq) else {
            return false;
        };
        let wanted_since = registration.next_attempt_at.min(now);
        self.entries.insert(
            position,
            Entry {
                seq: registration.seq,
                subscriber: registration.subscriber,
                due_at: now,
                expires_at: registration.expires_at.unwrap_or(wanted_since),
                failures: u16::try_from(registration.failures).unwrap_or(u16::MAX),
                was_registered: registration.expires_at.is_some(),
                is_refused: registration.state == RegistrationState::Refused,
                place: Place::Nowhere,
            },
        );
        match self.first_due(registration, now) {
            Some(due_at) => self.wait(position, due_at),
            None => self.make_ready(position),
        }
        true
    }

    /// When a registration that is taken over is due; `None`: now.
    fn first_due(&mut self, registration: &Registration, now: Timestamp) -> Option<Timestamp> {
        let due_at = registration.next_attempt_at;
        if registration.state != RegistrationState::Active || registration.failures > 0 {
            return (due_at > now).then_some(due_at);
        }
        let left_ms = registration.expires_at?.as_millis() - now.as_millis();
        if left_ms <= 0 {
            None
        } else if due_at > now {
            Some(due_at.min(now.plus_millis(left_ms / 4 * 3)))
        } else {
            let range = 0..=left_ms / 4 * 3;
            Some(self.spread.draw(now, range, &mut self.chance))
        }
    }

    /// Lets a registration be the next one, since a person waits for it. False where it is unknown.
    pub fn hurry(&mut self, seq: i64) -> bool {
        let Ok(position) = self.position(seq) else {
            return false;
        };
        let Some(place) = self.place(position) else {
            return false;
        };
        if matches!(place, Place::Waiting | Place::Ready | Place::Retry) {
            self.take_from_queue(position);
            self.put(position, Place::Pressing);
            self.pressing.push_back(seq);
        }
        place != Place::Nowhere
    }

    /// Forgets a registration. What is in flight for it ends in nothing.
    pub fn remove(&mut self, seq: i64) {
        let Ok(position) = self.position(seq) else {
            return;
        };
        self.take_from_queue(position);
        let Some(entry) = self.entries.get_mut(position) else {
            return;
        };
        if entry.place != Place::Nowhere {
            entry.place = Place::Nowhere;
            self.gaps += 1;
        }
        if self.gaps > 64 && self.gaps > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.place != Place::Nowhere);
            self.entries.shrink_to_fit();
            self.gaps = 0;
        }
    }

    /// The next job, if the core may be asked now and something is due.
    pub fn next(&mut self, now: Timestamp) -> Option<Job> {
        self.wake(now);
        if self.in_flight.len() >= self.window || !self.breaker.permits(now) {
            return None;
        }
        let position = self.most_urgent(now)?;
        if !self.budget.take(now) {
            return None;
        }
        self.take_turns(position, now);
        self.take_from_queue(position);
        self.put(position, Place::InFlight);
        let entry = self.entries.get(position)?;
        let job = Job {
            id: self.next_job,
            seq: entry.seq,
            subscriber: entry.subscriber,
        };
        self.next_job += 1;
        self.in_flight.insert(job.id, job.seq);
        if self.stranded.front() == Some(&job.seq) {
            self.stranded.pop_front();
        }
        self.breaker.asked();
        Some(job)
    }

    /// When [`Schedule::next`] may give a job where it gives none now; `None` where only the end of a
    /// job, or a new registration, can change anything.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        if self.in_flight.len() >= self.window {
            return None;
        }
        let is_any_due =
            !(self.ready.is_empty() && self.retries.is_empty() && self.pressing.is_empty());
        let may_probe = self.breaker.is_open() && !self.stranded.is_empty();
        let something = if is_any_due || may_probe {
            self.budget.next_at()
        } else {
            self.waiting.first()?.0
        };
        match self.breaker.probe_at() {
            Some(probe_at) => Some(something.max(probe_at)),
            None if self.breaker.is_open() => None,
            None => Some(something),
        }
    }

    /// Ends a job. How its registration stands now; `None` where nothing is to be noted: the job is
    /// unknown or ended before, or its registration was removed.
    pub fn finished(&mut self, job: u64, outcome: Outcome, now: Timestamp) -> Option<Change> {
        let seq = self.in_flight.remove(&job)?;
        self.tell_breaker(seq, &outcome, now);
        let position = self.position(seq).ok()?;
        let entry = self.entries.get(position)?;
        if entry.place != Place::InFlight {
            return None;
        }
        let failures = entry.failures.saturating_add(1);
        match outcome {
            Outcome::Registered { life } => {
                let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX / 4);
                let range = life_ms * 2 / 5..=life_ms * 3 / 5;
                let due_at = self.spread.draw(now, range, &mut self.chance);
                let entry = self.entries.get_mut(position)?;
                entry.expires_at = now.plus_millis(life_ms);
                entry.was_registered = true;
                self.change(position, false, 0, due_at, None)
            }
            Outcome::CoreFailed(reason) | Outcome::Postponed(reason) => {
                let is_refused = entry.is_refused;
                let delay_ms = self.backoff(failures, FIRST_BACKOFF_MS, LAST_BACKOFF_MS);
                let due_at = now.plus_millis(delay_ms);
                self.change(position, is_refused, failures, due_at, Some(reason))
            }
            Outcome::Refused(reason) => {
                // What was refused for the first time may have failed for other reasons before.
                let failures = if entry.is_refused { failures } else { 1 };
                let delay_ms = self.backoff(failures, FIRST_REFUSAL_MS, LAST_REFUSAL_MS);
                let due_at = now.plus_millis(delay_ms);
                self.change(position, true, failures, due_at, Some(reason))
            }
            Outcome::ConsentLost(reason) => {
                let change = self.change(position, false, failures, now, Some(reason));
                self.remove(seq);
                change.map(|change| Change {
                    state: RegistrationState::ConsentLost,
                    ..change
                })
            }
            Outcome::Gone => {
                self.remove(seq);
                None
            }
        }
    }

    /// Counts everything: a few milliseconds for a million.
    pub fn census(&self, now: Timestamp) -> Census {
        let mut census = Census::default();
        for entry in &self.entries {
            if entry.place == Place::Nowhere {
                continue;
            }
            if entry.was_registered && entry.expires_at > now {
                let life_ms = entry.expires_at.as_millis() - now.as_millis();
                let smallest = census.smallest_life_ms.unwrap_or(i64::MAX);
                census.smallest_life_ms = Some(smallest.min(life_ms));
                census.live += 1;
            } else if entry.is_refused {
                census.refused += 1;
            } else {
                census.missing += 1;
            }
        }
        census
    }

    /// How many registrations are kept.
    pub fn len(&self) -> usize {
        self.entries.len() - self.gaps
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the core is thought to be down.
    pub fn is_core_down(&self) -> bool {
        self.breaker.is_open()
    }

    fn tell_breaker(&mut self, seq: i64, outcome: &Outcome, now: Timestamp) {
        match outcome {
            // A refusal is an answer too.
            Outcome::Registered { .. } | Outcome::Refused(_) => {
                self.window = (self.window + 1).min(self.in_flight_limit);
                let stranded = std::mem::take(&mut self.stranded);
                if self.breaker.succeeded() {
                    for seq in stranded {
                        self.wake_now(seq);
                    }
                }
            }
            Outcome::CoreFailed(_) => {
                if self.stranded.len() == MOST_STRANDED {
                    self.stranded.pop_front();
                }
                self.stranded.push_back(seq);
                if self.breaker.failed(now, &mut self.chance) {
                    self.window = 1;
                }
            }
            Outcome::Postponed(_) | Outcome::ConsentLost(_) | Outcome::Gone => {
                self.breaker.told_nothing();
            }
        }
    }

    /// Lets a registration wait until `due_at`, and tells how it stands.
    fn change(
        &mut self,
        position: usize,
        is_refused: bool,
        failures: u16,
        due_at: Timestamp,
        reason: Option<String>,
    ) -> Option<Change> {
        let entry = self.entries.get_mut(position)?;
        entry.is_refused = is_refused;
        entry.failures = failures;
        let state = match (is_refused, entry.was_registered) {
            (true, _) => RegistrationState::Refused,
            (false, true) => RegistrationState::Active,
            (false, false) => RegistrationState::Wanted,
        };
        let change = Change {
            seq: entry.seq,
            state,
            expires_at: entry.was_registered.then_some(entry.expires_at),
            next_attempt_at: due_at,
            failures: failures.into(),
            reason,
        };
        self.wait(position, due_at);
        Some(change)
    }

    /// `first` doubled with every failure, up to `last`, and of that from a half to all.
    fn backoff(&mut self, failures: u16, first: i64, last: i64) -> i64 {
        let doublings = u32::from(failures.saturating_sub(1)).min(32);
        let delay = first.saturating_mul(1 << doublings).min(last);
        self.chance.random_range(delay / 2..=delay)
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some(&(due_at, seq)) = self.waiting.first()
            && due_at <= now
        {
            self.waiting.pop_first();
            self.spread.remove(due_at);
            if let Ok(position) = self.position(seq) {
                self.make_ready(position);
            }
        }
    }

    fn wake_now(&mut self, seq: i64) {
        if let Ok(position) = self.position(seq)
            && self.place(position) == Some(Place::Waiting)
        {
            self.take_from_queue(position);
            self.make_ready(position);
        }
    }

    fn most_urgent(&mut self, now: Timestamp) -> Option<usize> {
        if let Some(&seq) = self.pressing.front() {
            return self.position(seq).ok();
        }
        let retry = self.retries.first().map(|(_, seq)| *seq);
        // Whether the core is back, one that did not fail before tells best.
        let is_retries_turn = self.is_turn_of_retries && !self.breaker.is_open();
        let chosen = if is_retries_turn && retry.is_some() {
            retry
        } else {
            self.soonest(now).or(retry)
        };
        match chosen {
            Some(seq) => self.position(seq).ok(),
            None => self.probe_with_stranded(),
        }
    }

    /// By turns who is about to lapse and who has lapsed, then the others.
    fn soonest(&self, now: Timestamp) -> Option<i64> {
        let edge = now.plus_millis(TOO_LATE_MS);
        let lapsed = self.ready.first().filter(|(at, _)| *at <= edge);
        let alive = self.ready.range((edge, i64::MAX)..).next();
        let is_urgent = alive.is_some_and(|(at, _)| *at <= now.plus_millis(URGENT_MS));
        let chosen = match (lapsed, alive) {
            (Some(_), Some(alive)) if is_urgent && !self.is_turn_of_lapsed => alive,
            (Some(lapsed), _) => lapsed,
            (None, alive) => alive?,
        };
        Some(chosen.1)
    }

    fn take_turns(&mut self, position: usize, now: Timestamp) {
        if let Some(entry) = self.entries.get(position) {
            match entry.place {
                Place::Ready => {
                    self.is_turn_of_lapsed = entry.expires_at > now.plus_millis(TOO_LATE_MS);
                    self.is_turn_of_retries = true;
                }
                _ => self.is_turn_of_retries = false,
            }
        }
    }

    /// While the core is down and nothing is due, what failed longest ago asks whether it is back.
    fn probe_with_stranded(&mut self) -> Option<usize> {
        if !self.breaker.is_open() {
            return None;
        }
        while let Some(&seq) = self.stranded.front() {
            if let Ok(position) = self.position(seq)
                && self.place(position) == Some(Place::Waiting)
            {
                return Some(position);
            }
            self.stranded.pop_front();
        }
        None
    }

    fn wait(&mut self, position: usize, due_at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(position) {
            entry.place = Place::Waiting;
            entry.due_at = due_at;
            self.waiting.insert((due_at, entry.seq));
            self.spread.add(due_at);
        }
    }

    fn make_ready(&mut self, position: usize) {
        if let Some(entry) = self.entries.get_mut(position) {
            if entry.failures == 0 {
                entry.place = Place::Ready;
                self.ready.insert((entry.expires_at, entry.seq));
            } else {
                entry.place = Place::Retry;
                self.retries.insert((entry.due_at, entry.seq));
            }
        }
    }

    fn take_from_queue(&mut self, position: usize) {
        let Some(entry) = self.entries.get(position) else {
            return;
        };
        match entry.place {
            Place::Waiting => {
                self.waiting.remove(&(entry.due_at, entry.seq));
                self.spread.remove(entry.due_at);
            }
            Place::Ready => {
                self.ready.remove(&(entry.expires_at, entry.seq));
            }
            Place::Retry => {
                self.retries.remove(&(entry.due_at, entry.seq));
            }
            Place::Pressing => {
                let seq = entry.seq;
                self.pressing.retain(|pressing| *pressing != seq);
            }
            Place::InFlight | Place::Nowhere => {}
        }
    }

    fn put(&mut self, position: usize, place: Place) {
        if let Some(entry) = self.entries.get_mut(position) {
            entry.place = place;
        }
    }

    fn place(&self, position: usize) -> Option<Place> {
        self.entries.get(position).map(|entry| entry.place)
    }

    fn position(&self, seq: i64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq)
    }
}
