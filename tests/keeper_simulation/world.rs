//! A schedule, a database that keeps what it says, and a core with moods, in virtual time. The core
//! has its own books: whether a registration lives is what it says, not what the schedule believes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use aftertone::domain::{Msisdn, Registration, RegistrationState, SubscriberId, Timestamp};
use aftertone::enrolment::keeper::schedule::{Job, Limits, Outcome, Schedule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The shell gives a job up after so long.
pub(crate) const DEADLINE_MS: i64 = 5000;
const MINUTE_MS: i64 = 60_000;

/// How the core is today.
#[derive(Debug, Clone)]
pub(crate) struct Mood {
    pub(crate) is_down: bool,
    /// A core that is down answers so at once, or not at all.
    pub(crate) refuses_connections: bool,
    /// Share of requests, and of answers, that are lost.
    pub(crate) loss: f64,
    /// Share of answers that make no sense.
    pub(crate) nonsense: f64,
    /// Share of answers that come twice.
    pub(crate) twice: f64,
    pub(crate) latency_ms: std::ops::RangeInclusive<i64>,
}

impl Mood {
    pub(crate) fn calm() -> Self {
        Self {
            is_down: false,
            refuses_connections: false,
            loss: 0.0,
            nonsense: 0.0,
            twice: 0.0,
            latency_ms: 5..=50,
        }
    }
}

/// What one registration is to the core and to the database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) subscriber: SubscriberId,
    /// By the core's books; `i64::MIN` before the first time.
    pub(crate) lives_until: i64,
    pub(crate) is_wanted: bool,
    /// The core answers so, always.
    pub(crate) temper: Temper,
    state: RegistrationState,
    expires_at: Option<Timestamp>,
    next_attempt_at: Timestamp,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Temper {
    Fine,
    Refused,
    Silent,
    WithoutConsent,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    /// Requests in each minute of virtual time.
    pub(crate) by_minute: BTreeMap<i64, u32>,
    /// Registrations that ended at the core before they were renewed.
    pub(crate) lapses: u64,
    pub(crate) longest_lapse_ms: i64,
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Answer(Answer),
    Deadline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Registered,
    Refused,
    Nonsense,
    Unavailable,
    NoConsent,
}

pub(crate) struct World {
    pub(crate) now: i64,
    pub(crate) life_ms: i64,
    pub(crate) mood: Mood,
    pub(crate) rows: Vec<Row>,
    pub(crate) tally: Tally,
    pub(crate) schedule: Schedule,
    limits: Limits,
    under_way: BTreeMap<u64, i64>,
    happenings: BinaryHeap<Reverse<(i64, u64, i64, Happening)>>,
    last_minute: VecDeque<i64>,
    chance: StdRng,
}

impl World {
    pub(crate) fn new(seed: u64, limits: Limits, life_ms: i64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        Self {
            now: 1_790_000_000_000,
            life_ms,
            mood: Mood::calm(),
            rows: Vec::new(),
            tally: Tally::default(),
            schedule: Schedule::new(limits, chance.random()),
            limits,
            under_way: BTreeMap::new(),
            happenings: BinaryHeap::new(),
            last_minute: VecDeque::new(),
            chance,
        }
    }

    pub(crate) fn chance(&mut self) -> &mut StdRng {
        &mut self.chance
    }

    /// The database has one more, of which the schedule does not know.
    pub(crate) fn wish(&mut self, temper: Temper) -> i64 {
        self.rows.push(Row {
            subscriber: SubscriberId::from_bytes(self.chance.random()),
            lives_until: i64::MIN,
            is_wanted: true,
            temper,
            state: RegistrationState::Wanted,
            expires_at: None,
            next_attempt_at: self.time(),
            failures: 0,
        });
        self.rows.len() as i64
    }

    /// Somebody enrols, and is waited for or not.
    pub(crate) fn enrol(&mut self, temper: Temper, is_waited_for: bool) {
        let seq = self.wish(temper);
        let registration = self.registration(seq);
        assert!(self.schedule.insert(&registration, self.time()));
        assert!(!self.schedule.insert(&registration, self.time()), "twice");
        if is_waited_for {
            assert!(self.schedule.hurry(seq));
        }
    }

    /// Somebody leaves; half of the time only the database knows, as when another process did it.
    pub(crate) fn leave(&mut self, seq: i64) {
        self.row(seq).is_wanted = false;
        self.row(seq).lives_until = i64::MIN;
        if self.chance.random_bool(0.5) {
            self.schedule.remove(seq);
            self.schedule.remove(seq);
            assert!(!self.schedule.hurry(seq));
        }
    }

    /// The process ends in mid-flight and starts `later_ms` later. The core may still do what it was
    /// asked; nobody hears of it.
    pub(crate) fn restart(&mut self, later_ms: i64) {
        self.now += later_ms;
        self.happenings.clear();
        self.under_way.clear();
        self.schedule = Schedule::new(self.limits, self.chance.random());
        for seq in 1..=self.rows.len() as i64 {
            if self.row(seq).is_wanted {
                let registration = self.registration(seq);
                self.schedule.insert(&registration, self.time());
            }
        }
    }

    /// Lets `ms` pass.
    pub(crate) fn run_for(&mut self, ms: i64) {
        let end = self.now + ms;
        loop {
            while let Some(job) = self.schedule.next(self.time()) {
                self.ask(job);
            }
            let timeout = self.schedule.next_timeout().map(Timestamp::as_millis);
            let happening = self.happenings.peek().map(|Reverse((at, ..))| *at);
            // What is due and held back by more than time must not be asked for in vain for ever.
            let timeout = timeout.map(|at| at.max(self.now + 1));
            let Some(next) = timeout.into_iter().chain(happening).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            while let Some(Reverse((at, ..))) = self.happenings.peek()
                && *at <= self.now
            {
                let Some(Reverse((_, job, seq, happening))) = self.happenings.pop() else {
                    break;
                };
                self.happens(job, seq, &happening);
            }
        }
        self.now = end;
    }

    /// How many of the wanted ones live at the core.
    pub(crate) fn live(&self) -> usize {
        let wanted = self.rows.iter().filter(|row| row.is_wanted);
        wanted.filter(|row| row.lives_until > self.now).count()
    }

    /// Wanted ones that the core would take and does not have.
    pub(crate) fn missing(&self) -> usize {
        let fine = |row: &&Row| row.is_wanted && row.temper == Temper::Fine;
        let fine = self.rows.iter().filter(fine);
        fine.filter(|row| row.lives_until <= self.now).count()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    fn ask(&mut self, job: Job) {
        while let Some(at) = self.last_minute.front()
            && at + MINUTE_MS <= self.now
        {
            self.last_minute.pop_front();
        }
        self.last_minute.push_back(self.now);
        let budget = self.limits.upserts_per_minute as usize;
        assert!(self.last_minute.len() <= budget, "the budget is exceeded");
        assert!(self.under_way.insert(job.id, job.seq).is_none());
        assert!(self.under_way.len() <= self.limits.in_flight as usize);
        assert_eq!(self.row(job.seq).subscriber, job.subscriber);
        self.tally.asked += 1;
        *self
            .tally
            .by_minute
            .entry(self.now / MINUTE_MS)
            .or_default() += 1;
        if !self.row(job.seq).is_wanted {
            self.end(job.id, Outcome::Gone, "gone");
            return;
        }
        self.happen(DEADLINE_MS, job, Happening::Deadline);
        let there = self.chance.random_range(self.mood.latency_ms.clone());
        if self.mood.is_down {
            if self.mood.refuses_connections {
                self.happen(there.min(20), job, Happening::Answer(Answer::Unavailable));
            }
            return;
        }
        let is_lost = self.chance.random_bool(self.mood.loss);
        if is_lost || self.row(job.seq).temper == Temper::Silent {
            return;
        }
        let answer = match self.row(job.seq).temper {
            Temper::Refused => Answer::Refused,
            Temper::WithoutConsent => Answer::NoConsent,
            Temper::Fine | Temper::Silent => {
                self.renew(job.seq, there);
                let is_nonsense = self.chance.random_bool(self.mood.nonsense);
                if is_nonsense {
                    Answer::Nonsense
                } else {
                    Answer::Registered
                }
            }
        };
        let back = there + self.chance.random_range(self.mood.latency_ms.clone());
        if !self.chance.random_bool(self.mood.loss) {
            self.happen(back, job, Happening::Answer(answer));
            if self.chance.random_bool(self.mood.twice) {
                self.happen(back * 2, job, Happening::Answer(answer));
            }
        }
    }

    /// The core takes the registration.
    fn renew(&mut self, seq: i64, there: i64) {
        let at = self.now + there;
        let life_ms = self.life_ms;
        let ended = self.row(seq).lives_until;
        if ended != i64::MIN && ended < at {
            self.tally.lapses += 1;
            self.tally.longest_lapse_ms = self.tally.longest_lapse_ms.max(at - ended);
        }
        self.row(seq).lives_until = at + life_ms;
    }

    fn happen(&mut self, in_ms: i64, job: Job, happening: Happening) {
        self.happenings
            .push(Reverse((self.now + in_ms, job.id, job.seq, happening)));
    }

    /// Answers come twice, late or after the deadline; the schedule is told of each.
    fn happens(&mut self, job: u64, seq: i64, happening: &Happening) {
        let was_under_way = self.under_way.contains_key(&job);
        let (outcome, name) = match happening {
            Happening::Deadline if !was_under_way => return,
            Happening::Deadline => (Outcome::CoreFailed("deadline".into()), "deadline"),
            Happening::Answer(Answer::Registered) => {
                let life = Duration::from_millis(self.life_ms as u64);
                (Outcome::Registered { life }, "registered")
            }
            Happening::Answer(Answer::Refused) => (Outcome::Refused("no".into()), "refused"),
            Happening::Answer(Answer::Nonsense) => {
                (Outcome::CoreFailed("nonsense".into()), "nonsense")
            }
            Happening::Answer(Answer::Unavailable) => {
                (Outcome::CoreFailed("unavailable".into()), "unavailable")
            }
            Happening::Answer(Answer::NoConsent) => {
                (Outcome::ConsentLost("gone".into()), "consent-lost")
            }
        };
        if !was_under_way {
            let change = self.schedule.finished(job, outcome, self.time());
            assert_eq!(change, None, "job {job} of {seq} ends a second time");
            return;
        }
        self.end(job, outcome, name);
    }

    fn end(&mut self, job: u64, outcome: Outcome, name: &'static str) {
        let seq = self.under_way.remove(&job).unwrap();
        *self.tally.outcomes.entry(name).or_default() += 1;
        let now = self.time();
        let Some(change) = self.schedule.finished(job, outcome, now) else {
            return;
        };
        assert_eq!(change.seq, seq);
        let row = self.row(seq);
        row.state = change.state;
        row.expires_at = change.expires_at;
        row.next_attempt_at = change.next_attempt_at;
        row.failures = change.failures;
        if change.state == RegistrationState::ConsentLost {
            row.is_wanted = false;
        } else {
            assert!(change.next_attempt_at > now);
        }
    }

    fn registration(&self, seq: i64) -> Registration {
        let row = &self.rows[seq as usize - 1];
        Registration {
            seq,
            subscriber: row.subscriber,
            number: Msisdn::parse("+4799990001").unwrap(),
            sip_uri: "sips:voicemail.example.com".into(),
            state: row.state,
            expires_at: row.expires_at,
            next_attempt_at: row.next_attempt_at,
            failures: row.failures,
            reason: None,
        }
    }

    fn row(&mut self, seq: i64) -> &mut Row {
        &mut self.rows[seq as usize - 1]
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }
}
