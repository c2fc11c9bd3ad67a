//! A subscriber leaves. He is gone with one transaction; what is to be done elsewhere (the registration
//! at the core, the grant at the identity server, his data after the time of grace) is written down in
//! it as a departure, and a task works departures off, also those of another process or of one that
//! crashed. Every step may be repeated.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time;
use tracing::{info, warn};
use url::Url;

use crate::domain::{
    Departure, DepartureCause, Grant, Secret, SubscriberId, Timestamp, Withdrawal,
};
use crate::enrolment::grants::GrantError;
use crate::enrolment::{Enrolment, Left};
use crate::mobile_core::{CoreError, MobileCore, TokenKind, Wish};
use crate::oauth;
use crate::secret::hash_secret;
use crate::storage::{DepartureProgress, StorageError};
use crate::telemetry;

/// Between two looks for departures that nobody announced: those of another process, those due again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Departures worked off at a time.
const AT_A_TIME: usize = 8;
/// Departures read at once.
const PORTION: u32 = 64;
/// Subscribers erased in one transaction, so that no deposit is kept waiting for long.
const ERASED_AT_ONCE: u32 = 16;
/// How long one attempt may take in all; each request has a shorter deadline of its own.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(60);
/// How long somebody who leaves waits for the page at which he revokes his consent.
const LINK_DEADLINE: Duration = Duration::from_secs(4);
/// How long he waits, before he is sent there, for his registration to be deleted.
const WITHDRAW_DEADLINE: Duration = Duration::from_secs(4);
/// How long he may take until he comes back from there.
const RETURN_WITHIN_MS: i64 = 60 * 60 * 1000;
/// The core's registrations live so long after the last upsert, which may have been under way.
const REGISTRATION_LIFE_MS: i64 = 60 * 60 * 1000;
/// After so long a grant that could not be revoked is left to end by itself.
const REVOKE_WITHIN_MS: i64 = 24 * 60 * 60 * 1000;
/// The first pause after a failed attempt; each further one doubles it.
const FIRST_PAUSE_MS: i64 = 1_000;
/// The longest.
const LONGEST_PAUSE_MS: i64 = 5 * 60 * 1000;

/// What wakes the task that works off departures.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    work: Notify,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// It may go well later.
    Failed,
    /// It never will, or need not any more; why, for the log and metrics.
    GivenUp(&'static str),
}

impl Step {
    const fn is_over(self) -> bool {
        !matches!(self, Self::Failed)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::GivenUp(_) => "given-up",
        }
    }
}

impl Enrolment {
    /// Ends everything of a subscriber: his sessions and API tokens at once, then his registration and
    /// his grant, and after the time of grace his data. Safe to repeat.
    pub async fn leave(
        &self,
        subscriber: SubscriberId,
        cause: DepartureCause,
    ) -> Result<Left, StorageError> {
        let parts = &self.0.parts;
        let now = parts.clock.now();
        let erase_at = parts.config.erase_at(cause, now);
        let registration = parts.storage.registration(subscriber).await?;
        let departure = parts
            .storage
            .depart(subscriber, cause, erase_at, now)
            .await?;
        if let Some(registration) = registration {
            self.0.keeper.forget(registration.seq).await;
        }
        let mut left = Left {
            revoke_consent_at: None,
        };
        if let Some(departure) = &departure {
            metrics::counter!(telemetry::DEPARTURES, "cause" => cause.as_str()).increment(1);
            info!(%subscriber, cause = cause.as_str(), %erase_at, "A subscriber leaves");
            // Before the grant is revoked: it tells whose consent it is.
            if cause == DepartureCause::Subscriber {
                left.revoke_consent_at = self.link_to_revoke(departure).await;
            }
            // Before he revokes his consent: without it the core lets us delete nothing. What takes
            // too long goes on in the task.
            if left.revoke_consent_at.is_some() {
                let attempt = self.work_off(departure.clone());
                drop(time::timeout(WITHDRAW_DEADLINE, attempt).await);
            }
        }
        self.0.leaving.work.notify_one();
        Ok(left)
    }

    /// Whether `state` is one that [`Enrolment::leave`] gave to the page where consents are revoked,
    /// and has not come back yet.
    pub async fn complete_leaving(&self, state: &str) -> Result<bool, StorageError> {
        let (storage, now) = (&self.0.parts.storage, self.0.parts.clock.now());
        storage.take_return(&hash_secret(state), now).await
    }

    /// Where the subscriber revokes his consent, if the identity server has such a page and can be
    /// reached.
    async fn link_to_revoke(&self, departure: &Departure) -> Option<Url> {
        let link = time::timeout(LINK_DEADLINE, self.ask_for_link(departure)).await;
        match link {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                warn!(
                    subscriber = %departure.subscriber,
                    error = &error as &dyn std::error::Error,
                    "The identity server gave no page to revoke the consent at"
                );
                None
            }
            Err(_) => {
                warn!(
                    subscriber = %departure.subscriber,
                    "The identity server took too long to give a page to revoke the consent at"
                );
                None
            }
        }
    }

    async fn ask_for_link(&self, departure: &Departure) -> Result<Option<Url>, LeavingError> {
        let parts = &self.0.parts;
        let (Some(oauth), Some(grant)) = (&parts.oauth, &departure.grant) else {
            return Ok(None);
        };
        let token = self
            .0
            .grants
            .of_person_by(departure.subscriber, grant, None);
        let token = token.await?;
        let secret: [u8; 32] = self.random();
        let state = URL_SAFE_NO_PAD.encode(secret);
        let Some(link) = oauth
            .revoke_consent_link(&token, &parts.left_url, &state)
            .await?
        else {
            return Ok(None);
        };
        let ends_at = parts.clock.now().plus_millis(RETURN_WITHIN_MS);
        parts
            .storage
            .add_return(&hash_secret(&state), ends_at)
            .await?;
        Ok(Some(link))
    }

    /// Works off departures for ever.
    pub(super) async fn work_off_departures(self) {
        loop {
            if let Err(error) = self.work_off_what_is_due().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "Departures could not be worked off; they are tried again"
                );
            }
            // A timeout says that nobody announced one.
            drop(time::timeout(LOOK_EVERY, self.0.leaving.work.notified()).await);
        }
    }

    /// Works off everything that is due now.
    async fn work_off_what_is_due(&self) -> Result<(), StorageError> {
        self.erase_who_is_due().await?;
        let parts = &self.0.parts;
        loop {
            let now = parts.clock.now();
            let due = parts.storage.departures_due(now, PORTION).await?;
            let is_all = due.len() < PORTION as usize;
            let worked_off = stream::iter(due)
                .map(|departure| self.work_off(departure))
                .buffer_unordered(AT_A_TIME);
            let failed = worked_off.filter_map(async |noted| noted.err());
            if let Some(error) = failed.collect::<Vec<_>>().await.pop() {
                return Err(error);
            }
            if is_all {
                return Ok(());
            }
        }
    }

    async fn erase_who_is_due(&self) -> Result<(), StorageError> {
        let parts = &self.0.parts;
        loop {
            let now = parts.clock.now();
            let erased = parts.storage.erase_departed(now, ERASED_AT_ONCE).await?;
            if erased > 0 {
                info!(subscribers = erased, "Erased the data of who had left");
            }
            if erased < u64::from(ERASED_AT_ONCE) {
                return Ok(());
            }
        }
    }

    /// One attempt at what is left to do for a departure.
    async fn work_off(&self, departure: Departure) -> Result<(), StorageError> {
        let attempt = time::timeout(ATTEMPT_DEADLINE, self.attempt(&departure)).await;
        let (withdrawn, revoked) = attempt.unwrap_or((Step::Failed, Step::Failed));
        let now = self.0.parts.clock.now();
        let failures = match withdrawn.is_over() && revoked.is_over() {
            true => 0,
            false => departure.failures.saturating_add(1),
        };
        let progress = DepartureProgress {
            withdrawn: withdrawn.is_over(),
            revoked: revoked.is_over(),
            next_attempt_at: now.plus_millis(pause_ms(failures, self.random())),
            failures,
        };
        let storage = &self.0.parts.storage;
        storage.note_departure(&departure, &progress, now).await
    }

    /// The registration goes first: the core may be asked by the grant.
    async fn attempt(&self, departure: &Departure) -> (Step, Step) {
        let withdrawn = match &departure.withdrawal {
            None => Step::Done,
            Some(withdrawal) => {
                let step = self.withdraw(departure, withdrawal).await;
                told("withdraw", departure, step)
            }
        };
        let revoked = match &departure.grant {
            None => Step::Done,
            Some(_) if !withdrawn.is_over() => Step::Failed,
            Some(_) => told("revoke", departure, self.revoke(departure).await),
        };
        (withdrawn, revoked)
    }

    /// Deletes the registration at the core, unless it has lapsed.
    async fn withdraw(&self, departure: &Departure, withdrawal: &Withdrawal) -> Step {
        let Some(core) = &self.0.parts.core else {
            return Step::GivenUp("no core is configured");
        };
        if lapses_at(departure, withdrawal) <= self.0.parts.clock.now() {
            return Step::GivenUp("it has lapsed by itself");
        }
        // An upsert that is under way would come after.
        self.0.keeper.settle(departure.subscriber).await;
        let wish = Wish {
            number: departure.number.clone(),
            sip_uri: withdrawal.sip_uri.clone(),
        };
        match self.delete(&**core, departure, &wish).await {
            Ok(()) => Step::Done,
            Err(error) => {
                log_failure("delete the registration at the core", departure, &error);
                error.step()
            }
        }
    }

    /// Deletes by the token at hand, or by a fresh one where the core does not take that.
    async fn delete(
        &self,
        core: &dyn MobileCore,
        departure: &Departure,
        wish: &Wish,
    ) -> Result<(), LeavingError> {
        let token = self.token(departure, None).await?;
        match core.delete(wish, &token).await {
            Err(CoreError::Unauthenticated) => {
                let fresh = self.token(departure, Some(&token)).await?;
                Ok(core.delete(wish, &fresh).await?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// A token to ask the core with. Never a later grant of the same person: that may be for another
    /// number.
    async fn token(
        &self,
        departure: &Departure,
        rejected: Option<&Secret>,
    ) -> Result<Secret, LeavingError> {
        let (of, grants) = (departure.subscriber, &self.0.grants);
        let Some(grant) = self.grant_now(departure).await? else {
            return match self.0.parts.core_config.token {
                TokenKind::Client => Ok(grants.access(of, rejected).await?),
                TokenKind::User => Err(GrantError::None.into()),
            };
        };
        let access = grants.access_by(of, &grant, rejected).await;
        if matches!(access, Err(GrantError::Lost)) {
            let now = self.grant_now(departure).await?;
            if now.is_some_and(|now| now.version != grant.version) {
                return Err(GrantError::Replaced.into());
            }
        }
        Ok(access?)
    }

    /// The departure's grant as it is now: a refresh replaces it.
    async fn grant_now(&self, departure: &Departure) -> Result<Option<Grant>, StorageError> {
        let storage = &self.0.parts.storage;
        let departures = storage.departures_of(&departure.number).await?;
        let same = departures.into_iter().find(|now| now.id == departure.id);
        Ok(same.and_then(|departure| departure.grant))
    }

    /// Revokes the grant at the identity server.
    async fn revoke(&self, departure: &Departure) -> Step {
        let Some(oauth) = &self.0.parts.oauth else {
            return Step::GivenUp("no identity server is configured");
        };
        if departure.left_at.plus_millis(REVOKE_WITHIN_MS) <= self.0.parts.clock.now() {
            return Step::GivenUp("it was tried for a day");
        }
        let revoked = async {
            let Some(grant) = self.grant_now(departure).await? else {
                return Ok(());
            };
            let opened = self.0.grants.open(departure.subscriber, &grant)?;
            let token = opened.refresh.unwrap_or(opened.access);
            Ok::<_, LeavingError>(oauth.revoke(&token).await?)
        };
        match revoked.await {
            Ok(()) => Step::Done,
            Err(error) => {
                log_failure("revoke the grant at the identity server", departure, &error);
                Step::Failed
            }
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum LeavingError {
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Issuer(#[from] oauth::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl LeavingError {
    /// What becomes of a withdrawal that failed so.
    fn step(&self) -> Step {
        match self {
            Self::Grant(GrantError::None | GrantError::Lost | GrantError::NoRefreshToken) => {
                Step::GivenUp("there is no grant to delete it by; it lapses by itself")
            }
            Self::Core(CoreError::Forbidden(_) | CoreError::NotAcceptable(_)) => {
                Step::GivenUp("the core does not allow it; it lapses by itself")
            }
            _ => Step::Failed,
        }
    }
}

fn log_failure(attempted: &str, departure: &Departure, error: &LeavingError) {
    warn!(
        subscriber = %departure.subscriber,
        failures = departure.failures,
        error = error as &dyn std::error::Error,
        "Could not {attempted} for one who left"
    );
}

fn told(name: &'static str, departure: &Departure, step: Step) -> Step {
    metrics::counter!(telemetry::DEPARTURE_STEPS, "step" => name, "result" => step.as_str())
        .increment(1);
    if let Step::GivenUp(why) = step {
        info!(subscriber = %departure.subscriber, step = name, why, "Left a step of a departure out");
    }
    step
}

/// When the registration is gone by itself. The last upsert may not have been noted any more.
fn lapses_at(departure: &Departure, withdrawal: &Withdrawal) -> Timestamp {
    let unnoted = departure.left_at.plus_millis(REGISTRATION_LIFE_MS);
    withdrawal.expires_at.map_or(unnoted, |at| at.max(unnoted))
}

/// How long to wait after so many failures; `chance` is from 0 to 1.
fn pause_ms(failures: u32, chance: f64) -> i64 {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = (FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS);
    // So that departures that failed together do not come back together.
    (pause as f64 * (0.75 + chance / 2.0)) as i64
}
