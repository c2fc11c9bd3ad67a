//! What the parts of the sandbox know in common: who has which number, which tokens hold, who has
//! registered, and what happened. Each part of it stands behind its own lock, which is held for a
//! few instructions and never across an `await`.

mod calls;
mod consents;
mod expiring;
pub(crate) mod kept;
mod modes;
mod numbers;
mod registrations;
mod sms;
pub(crate) mod tokens;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::domain::{Msisdn, Timestamp};
use crate::random::Random;
use crate::sandbox::config::Config;

pub(crate) use calls::{Call, CallLog};
pub(crate) use consents::{ConsentChange, ConsentKind, Consents};
pub(crate) use expiring::Expiring;
pub(crate) use modes::{Mode, Modes};
pub(crate) use numbers::{Number, Numbers};
pub(crate) use registrations::{Registration, Registrations, RouteType, Upserted};
pub(crate) use sms::{Sms, SmsInbox};
pub(crate) use tokens::{Authorization, Issued, Refusal, Scopes, TokenFacts, Tokens};

/// The shared state of the sandbox.
pub(crate) struct World {
    /// Wall-clock time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Chance for tokens, PINs and ids.
    pub(crate) chance: Arc<Chance>,
    /// Who exists, and how his phone behaves.
    pub(crate) numbers: Numbers,
    /// What the identity server has issued.
    pub(crate) tokens: Tokens,
    /// Who lets whom do what, and every change of it.
    pub(crate) consents: Consents,
    /// The virtual registrations that are alive.
    pub(crate) registrations: Registrations,
    /// In which ways the core misbehaves now.
    pub(crate) modes: Modes,
    /// The latest calls.
    pub(crate) calls: CallLog,
    /// The text messages that were sent to the numbers.
    pub(crate) sms: SmsInbox,
    /// Tells that any of it has changed.
    pub(crate) changes: Changes,
}

impl World {
    /// The world as it is configured, before anything has happened. `seed` is of the system's
    /// random generator, because tokens come from it.
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>, seed: [u8; 32]) -> Arc<Self> {
        let chance = Arc::new(Chance::from_seed(seed));
        let changes = Changes::default();
        Arc::new(Self {
            clock,
            numbers: Numbers::new(&config.numbers, changes.clone()),
            tokens: Tokens::new(config, Arc::clone(&chance), changes.clone()),
            consents: Consents::new(changes.clone()),
            registrations: Registrations::new(changes.clone()),
            modes: Modes::new(changes.clone()),
            calls: CallLog::new(changes.clone()),
            sms: SmsInbox::new(changes.clone()),
            chance,
            changes,
        })
    }

    /// The wall-clock time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes back what the subscriber allowed: to `client`, or to everybody. The tokens end, and
    /// the event is told. Whether there was a consent to take back.
    pub(crate) fn revoke_consent(&self, client: Option<&str>, number: &Msisdn) -> bool {
        self.tokens.revoke_all_of(client, number);
        self.consents.revoke(client, number, self.now())
    }
}

/// Tells all who wait that something of the world has changed. What, they look up themselves.
#[derive(Clone, Default)]
pub(crate) struct Changes(watch::Sender<u64>);

impl Changes {
    pub(crate) fn note(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Await `changed()` on it, then look.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Where the secrets of the sandbox come from.
pub(crate) struct Chance(Random);

impl Chance {
    /// A generator that begins with this seed.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(Random::from_seed(seed))
    }

    /// Random bytes.
    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        self.0.bytes()
    }

    /// 256 bits of chance in the alphabet of URLs, after `prefix`.
    pub(crate) fn secret(&self, prefix: &str) -> String {
        let mut text = prefix.to_owned();
        URL_SAFE_NO_PAD.encode_string(self.bytes::<32>(), &mut text);
        text
    }

    /// Six decimal digits.
    pub(crate) fn pin(&self) -> String {
        format!("{:06}", u32::from_be_bytes(self.bytes()) % 1_000_000)
    }
}

/// A lock of the sandbox. What a panic left behind is still whole: every change is one step.
pub(crate) fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
