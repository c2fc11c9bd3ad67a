//! How a subscriber comes, stays registered with the mobile core, and leaves.
//!
//! [`Enrolment`] is what the web pages and the server use. Behind it: `sign_in` (a browser comes back
//! from the identity server), [`keeper`] (every registration is refreshed before its life ends),
//! `grants` (access tokens of subscribers), `leaving` (departures, resumed after a crash) and
//! `consents` (consents that vanish out of band).

mod config;
mod consents;
mod grants;
pub mod keeper;
pub mod keys;
mod leaving;
mod sign_in;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use url::Url;

use crate::clock::Clock;
use crate::domain::{DepartureCause, Registration, Subscriber, SubscriberId, Timestamp};
use crate::enrolment::grants::Grants;
use crate::enrolment::keeper::schedule::{Limits, Schedule};
use crate::enrolment::keeper::{Attempts, Command, Keeper, Run};
use crate::enrolment::leaving::Leaving;
use crate::mobile_core;
use crate::mobile_core::{GrpcCore, MobileCore, TokenKind};
use crate::oauth;
use crate::storage::{Storage, StorageError};
use crate::vault::Vault;

pub use crate::enrolment::config::Config;
pub(crate) use crate::enrolment::sign_in::PENDING_SECS;

/// Subscribers whose consent is gone and who wait to be let go; more wait with the keeper.
const LOST: usize = 64;
const LET_GO_PAUSE: Duration = Duration::from_secs(5);

/// What the enrolment is made of.
pub struct Parts {
    /// The `[enrolment]` section.
    pub config: Config,
    /// The database.
    pub storage: Arc<dyn Storage>,
    /// Seals grants and what browsers carry.
    pub vault: Arc<Vault>,
    /// The identity server; without it nobody can sign in.
    pub oauth: Option<oauth::Client>,
    /// The mobile core; without it nothing is registered.
    pub core: Option<Arc<dyn MobileCore>>,
    /// The core whose consent events are followed, if any.
    pub consents: Option<GrpcCore>,
    /// How the core is used: whose tokens, how many registrations a minute.
    pub core_config: mobile_core::Config,
    /// What is registered with the core: `sip.uri`.
    pub sip_uri: Option<String>,
    /// Where the identity server sends a subscriber who has revoked his consent.
    pub left_url: Url,
    /// Of the prompts of a newcomer: `greeting.language`.
    pub language: String,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Seed of nonces and jitter; must be unpredictable.
    pub seed: [u8; 32],
}

/// How subscribers come and leave: a handle, cheap to clone.
#[derive(Clone)]
pub struct Enrolment(Arc<Shared>);

struct Shared {
    parts: Parts,
    grants: Grants,
    keeper: Keeper,
    leaving: Leaving,
    /// Sign-ins whose code was sent to the identity server, by the hash of their state, until the
    /// sign-in would have ended.
    claimed: Mutex<HashMap<[u8; 32], Timestamp>>,
    chance: Mutex<StdRng>,
}

impl Enrolment {
    /// Puts the parts together and begins to keep registrations alive, to finish departures and to
    /// follow consents. What goes on beside requests runs in `tasks` until `stop`.
    pub fn start(parts: Parts, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let mut chance = StdRng::from_seed(parts.seed);
        let grants = Grants::new(
            parts.storage.clone(),
            parts.vault.clone(),
            parts.oauth.clone(),
            parts.core_config.token,
            parts.clock.clone(),
            tasks.clone(),
            chance.random(),
        );
        let (keeper, commands) = Keeper::new(parts.storage.clone());
        let seed = chance.random();
        let enrolment = Self(Arc::new(Shared {
            parts,
            grants,
            keeper,
            leaving: Leaving::default(),
            claimed: Mutex::default(),
            chance: Mutex::new(chance),
        }));
        enrolment.keep_registrations(commands, seed, tasks, stop);
        enrolment.follow_consents(tasks, stop);
        let leaving = enrolment.clone().work_off_departures();
        tasks.spawn(stop.clone().run_until_cancelled_owned(leaving));
        let sealing = enrolment.clone().seal_anew();
        tasks.spawn(stop.clone().run_until_cancelled_owned(sealing));
        enrolment
    }

    /// Where there is a core, and something to register with it.
    fn keep_registrations(
        &self,
        commands: mpsc::Receiver<Command>,
        seed: [u8; 32],
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let parts = &self.0.parts;
        let (Some(core), Some(sip_uri)) = (&parts.core, &parts.sip_uri) else {
            return;
        };
        let (lost, received) = mpsc::channel(LOST);
        let run = Run {
            attempts: Arc::new(Attempts {
                storage: parts.storage.clone(),
                core: core.clone(),
                core_timeout: parts.core_config.timeout(),
                grants: self.0.grants.clone(),
                sip_uri: sip_uri.clone(),
            }),
            schedule: Schedule::new(
                Limits::per_minute(parts.core_config.upserts_per_minute),
                seed,
            ),
            commands,
            registers_everyone: parts.core_config.token == TokenKind::Client,
            clock: parts.clock.clone(),
            tasks: tasks.clone(),
            lost,
        };
        tasks.spawn(run.until(stop.clone()));
        let let_go = self.clone().let_go(received);
        tasks.spawn(stop.clone().run_until_cancelled_owned(let_go));
    }

    /// Lets those go whose consent is gone, one after the other. Who could not be let go when the
    /// process ends is so after the next start.
    async fn let_go(self, mut lost: mpsc::Receiver<SubscriberId>) {
        while let Some(subscriber) = lost.recv().await {
            while let Err(error) = self.leave(subscriber, DepartureCause::InvalidGrant).await {
                warn!(
                    subscriber.id = %subscriber,
                    error = &error as &dyn std::error::Error,
                    "A subscriber without consent could not be let go; this is tried again"
                );
                time::sleep(LET_GO_PAUSE).await;
            }
        }
    }

    /// Whether subscribers can sign in: an identity server is configured.
    pub fn is_open(&self) -> bool {
        self.0.parts.oauth.is_some()
    }

    /// A random value: a nonce, a state.
    fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        let mut chance = self.0.chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.random()
    }
}

/// A sign-in has begun.
#[derive(Debug, Clone)]
pub struct SignIn {
    /// Where to send the browser.
    pub url: Url,
    /// What the browser carries until it comes back: sealed, for a cookie of ten minutes.
    pub pending: String,
}

/// What the identity server sent the browser back with (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Debug, Clone, Default)]
pub struct Callback {
    /// The code.
    pub code: Option<String>,
    /// The state of [`Enrolment::begin`].
    pub state: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
    /// Who answers.
    pub iss: Option<String>,
}

/// A subscriber has signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Who.
    pub subscriber: Subscriber,
    /// Whether he was unknown until now.
    pub is_new: bool,
    /// His registration as it is now; `None` where no core is configured.
    pub registration: Option<Registration>,
}

/// Why nobody has signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// No identity server is configured.
    #[error("sign-in is not open: no identity server is configured under [oauth]")]
    NotOpen,
    /// The subscriber said no at the identity server.
    #[error("the subscriber did not consent")]
    ConsentDenied,
    /// The identity server has not verified the number.
    #[error("the identity server has not verified the number")]
    NumberNotVerified,
    /// The identity server tells no usable number.
    #[error("the identity server tells no number")]
    NoNumber,
    /// The answer does not belong to a sign-in that this browser began.
    #[error("the answer does not belong to a sign-in of this browser")]
    Forged,
    /// The sign-in took too long, or its code was used already.
    #[error("the sign-in took too long")]
    Expired,
    /// The identity server is out of reach, or answers what cannot be used.
    #[error("the identity server is out of reach")]
    IssuerUnavailable(#[source] oauth::Error),
    /// The identity server refused for another reason, by its error code.
    #[error("the identity server refused: {0}")]
    IssuerRefused(String),
    /// The identity server's ID token is not to be believed.
    #[error("the ID token is not valid: {0}")]
    InvalidIdToken(&'static str),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A subscriber has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where he revokes his consent at the operator; `None` where the identity server has no such
    /// page, or could not be reached.
    pub revoke_consent_at: Option<Url>,
}
