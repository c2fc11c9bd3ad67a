//! The task that keeps registrations: it owns the schedule, runs the attempts it asks for, and
//! notes how they ended.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::domain::{Registration, RegistrationState, SubscriberId, Timestamp};
use crate::enrolment::keeper::Command;
use crate::enrolment::keeper::attempt::{Attempts, Ended};
use crate::enrolment::keeper::schedule::{Change, Job, Outcome, Schedule};
use crate::storage::{RegistrationChange, StorageError};
use crate::telemetry;

/// New registrations are looked for, and changes noted, so often.
const TICK: Duration = Duration::from_secs(1);
/// Registrations read at once.
const PAGE: u32 = 2000;
/// Everything is counted, and who has no registration yet is looked for, each so many ticks.
const CENSUS_TICKS: u32 = 10;
/// At the end, attempts under way get so long.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// What the keeper is made of.
pub(crate) struct Run {
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) schedule: Schedule,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Registers whoever is not yet, without being asked: client-credentials mode.
    pub(crate) registers_everyone: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
    /// Who has lost his consent, to whom lets them go. Full: the others wait here.
    pub(crate) lost: mpsc::Sender<SubscriberId>,
}

impl Run {
    /// Keeps registrations until `stop`.
    pub(crate) async fn until(self, stop: CancellationToken) {
        let mut keeping = Keeping {
            time: SteadyTime::new(self.clock.clone()),
            run: self,
            under_way: FuturesUnordered::new(),
            jobs: HashMap::new(),
            changes: HashMap::new(),
            served: Vec::new(),
            waiting: HashMap::new(),
            settling: Vec::new(),
            last_seq: 0,
            ticks: 0,
            lost: VecDeque::new(),
            refused: 0,
            is_noting: true,
        };
        keeping.run_until(stop).await;
    }
}

type UnderWay = Pin<Box<dyn Future<Output = (u64, Ended)> + Send>>;

struct Keeping {
    run: Run,
    time: SteadyTime,
    under_way: FuturesUnordered<UnderWay>,
    jobs: HashMap<u64, Job>,
    /// To be noted, by registration.
    changes: HashMap<i64, RegistrationChange>,
    /// Who hears of it when the changes are noted.
    served: Vec<oneshot::Sender<()>>,
    /// Who waits for a registration's next attempt to end.
    waiting: HashMap<i64, Vec<oneshot::Sender<()>>>,
    settling: Vec<(SubscriberId, oneshot::Sender<()>)>,
    /// The last registration taken over from the storage.
    last_seq: i64,
    ticks: u32,
    lost: VecDeque<SubscriberId>,
    /// Since the last log line about it.
    refused: u64,
    /// Whether the last changes could be noted.
    is_noting: bool,
}

impl Keeping {
    async fn run_until(&mut self, stop: CancellationToken) {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_due();
            let timeout = self.next_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                Some((job, ended)) = self.under_way.next() => self.ended(job, ended),
                Some(command) = self.run.commands.recv() => self.obey(command),
                () = timeout => {}
                _ = ticks.tick() => self.tick(&mut ticks).await,
            }
            if !self.served.is_empty() {
                self.note_changes().await;
            }
        }
        let rest = async {
            while let Some((job, ended)) = self.under_way.next().await {
                self.ended(job, ended);
            }
        };
        // Whatever is still under way then is asked for again after the next start.
        drop(time::timeout(LAST_WAIT, rest).await);
        self.note_changes().await;
    }

    fn start_due(&mut self) {
        let now = self.time.now();
        while let Some(job) = self.run.schedule.next(now) {
            self.jobs.insert(job.id, job);
            let attempts = self.run.attempts.clone();
            // A defect in one attempt must not end the others, nor leave its job under way.
            let attempt = AssertUnwindSafe(async move { attempts.run(job).await }).catch_unwind();
            let attempt = self.run.tasks.spawn(attempt);
            self.under_way.push(Box::pin(async move {
                let ended = attempt.await.ok().and_then(Result::ok);
                let ended = ended.unwrap_or_else(|| {
                    let reason = "the attempt was interrupted".to_owned();
                    Ended::with(Outcome::Postponed(reason), "defect")
                });
                (job.id, ended)
            }));
        }
    }

    fn next_timeout(&mut self) -> impl Future<Output = ()> + use<> {
        let now = self.time.now();
        let wait = self.run.schedule.next_timeout().map(|at| {
            let ms = at.as_millis().saturating_sub(now.as_millis());
            // Never at once, so that nothing can make it spin.
            Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))
        });
        async move {
            match wait {
                Some(wait) => time::sleep(wait).await,
                None => pending().await,
            }
        }
    }

    fn ended(&mut self, job: u64, ended: Ended) {
        let Some(job) = self.jobs.remove(&job) else {
            return;
        };
        metrics::counter!(telemetry::REGISTRATION_ATTEMPTS, "result" => ended.result).increment(1);
        self.refused += u64::from(matches!(ended.outcome, Outcome::Refused(_)));
        let (now, was_down) = (self.time.now(), self.run.schedule.is_core_down());
        let reason = match &ended.outcome {
            Outcome::CoreFailed(reason) => reason.clone(),
            _ => String::new(),
        };
        let change = self.run.schedule.finished(job.id, ended.outcome, now);
        match (was_down, self.run.schedule.is_core_down()) {
            (false, true) => warn!(
                reason,
                "The core does not answer; it is asked now and then whether it is back"
            ),
            (true, false) => info!("The core answers again"),
            _ => {}
        }
        if let Some(change) = change {
            if change.state == RegistrationState::ConsentLost {
                self.lost.push_back(job.subscriber);
            }
            let sip_uri = ended.has_moved.then(|| self.run.attempts.sip_uri.clone());
            self.change(change, sip_uri);
        }
        self.served
            .extend(self.waiting.remove(&job.seq).unwrap_or_default());
        self.tell_settled();
    }

    fn change(&mut self, change: Change, sip_uri: Option<String>) {
        let former = self.changes.remove(&change.seq);
        self.changes.insert(
            change.seq,
            RegistrationChange {
                seq: change.seq,
                sip_uri: sip_uri.or(former.and_then(|former| former.sip_uri)),
                state: change.state,
                expires_at: change.expires_at,
                next_attempt_at: change.next_attempt_at,
                failures: change.failures,
                reason: change.reason,
            },
        );
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Register { registration, done } => {
                let seq = registration.seq;
                self.take_over(registration);
                // Where it is unknown even so, it is gone: `done` is dropped, which tells it.
                if self.run.schedule.hurry(seq) {
                    self.waiting.entry(seq).or_default().extend(done);
                }
            }
            Command::Forget { seq } => self.run.schedule.remove(seq),
            Command::Settle { subscriber, done } => {
                self.settling.push((subscriber, done));
                self.tell_settled();
            }
        }
    }

    fn tell_settled(&mut self) {
        if self.settling.is_empty() {
            return;
        }
        let settling = std::mem::take(&mut self.settling);
        for (subscriber, done) in settling {
            let is_busy = self.jobs.values().any(|job| job.subscriber == subscriber);
            if is_busy {
                self.settling.push((subscriber, done));
            } else {
                // Who does not wait any more need not be told.
                done.send(()).ok();
            }
        }
    }

    async fn tick(&mut self, ticks: &mut Interval) {
        self.note_changes().await;
        let is_first = self.ticks == 0;
        self.ticks = self.ticks.wrapping_add(1);
        match self.take_over_new().await {
            // There is more.
            Ok(PAGE) => ticks.reset_immediately(),
            Ok(_) if is_first || self.ticks.is_multiple_of(CENSUS_TICKS) => {
                self.register_everyone(ticks).await;
                self.publish();
            }
            Ok(_) => {}
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "New registrations cannot be read; this is tried again every second"
            ),
        }
        while let Some(subscriber) = self.lost.front() {
            if self.run.lost.try_send(*subscriber).is_err() {
                break;
            }
            self.lost.pop_front();
        }
    }

    /// Takes over what the storage has and the schedule has not; how many rows were read.
    async fn take_over_new(&mut self) -> Result<u32, StorageError> {
        let storage = &self.run.attempts.storage;
        let page = storage.registrations_after(self.last_seq, PAGE).await?;
        let read = u32::try_from(page.len()).unwrap_or(PAGE);
        for registration in page {
            self.last_seq = self.last_seq.max(registration.seq);
            self.take_over(registration);
        }
        Ok(read)
    }

    fn take_over(&mut self, mut registration: Registration) {
        let now = self.time.now();
        if registration.state == RegistrationState::ConsentLost {
            // The process ended before he was let go.
            self.lost.push_back(registration.subscriber);
        } else if registration.sip_uri != self.run.attempts.sip_uri {
            registration.state = RegistrationState::Wanted;
            registration.failures = 0;
            registration.next_attempt_at = now;
        }
        self.run.schedule.insert(&registration, now);
    }

    async fn register_everyone(&mut self, ticks: &mut Interval) {
        if !self.run.registers_everyone {
            return;
        }
        let Attempts {
            storage, sip_uri, ..
        } = &*self.run.attempts;
        match storage
            .register_everyone(sip_uri, self.time.now(), PAGE)
            .await
        {
            Ok(0) => {}
            Ok(_) => {
                // There may be more.
                self.ticks = 0;
                ticks.reset_immediately();
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "Subscribers without a registration cannot be read; this is tried again"
            ),
        }
    }

    /// Notes the changes in one transaction. Where it fails they are kept for the next time, one for
    /// each registration at most.
    async fn note_changes(&mut self) {
        if !self.changes.is_empty() {
            let changes: Vec<_> = self.changes.values().cloned().collect();
            match self.run.attempts.storage.note_registrations(&changes).await {
                Ok(()) => {
                    self.changes.clear();
                    self.is_noting = true;
                }
                Err(error) => {
                    if self.is_noting {
                        error!(
                            error = &error as &dyn std::error::Error,
                            "How registrations stand cannot be noted; they are kept alive all the same"
                        );
                    }
                    self.is_noting = false;
                }
            }
        }
        for done in self.served.drain(..) {
            // Who does not wait any more need not be told.
            done.send(()).ok();
        }
    }

    fn publish(&mut self) {
        let census = self.run.schedule.census(self.time.now());
        for (state, count) in [
            ("live", census.live),
            ("missing", census.missing),
            ("refused", census.refused),
        ] {
            metrics::gauge!(telemetry::REGISTRATIONS, "state" => state).set(count as f64);
        }
        let all = self.run.schedule.len();
        let share = if all == 0 {
            1.0
        } else {
            census.live as f64 / all as f64
        };
        metrics::gauge!(telemetry::REGISTRATIONS_LIVE).set(share);
        let smallest_life = census.smallest_life_ms.unwrap_or(0) as f64 / 1000.0;
        metrics::gauge!(telemetry::REGISTRATION_LIFE).set(smallest_life);
        let is_down = self.run.schedule.is_core_down();
        metrics::gauge!(telemetry::CORE_DOWN).set(f64::from(u8::from(is_down)));
        let refused = std::mem::take(&mut self.refused);
        if refused > 0 {
            warn!(
                refused,
                "The core refused registrations, or there is no grant to ask for them with; \
                 what it said is shown to each subscriber"
            );
        }
    }
}

/// The wall clock, except that it never goes back: a clock that is set back by an hour must not keep
/// every registration waiting for an hour.
struct SteadyTime {
    clock: Arc<dyn Clock>,
    anchor: (Instant, Timestamp),
}

impl SteadyTime {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let anchor = (Instant::now(), clock.now());
        Self { clock, anchor }
    }

    fn now(&mut self) -> Timestamp {
        let (instant, wall) = (Instant::now(), self.clock.now());
        let passed = instant.saturating_duration_since(self.anchor.0).as_millis();
        let steady = i64::try_from(passed).map_or(wall, |ms| self.anchor.1.plus_millis(ms));
        if wall > steady {
            self.anchor = (instant, wall);
        }
        wall.max(steady)
    }
}
